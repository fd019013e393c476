"""What a search of AMA tries. Names and units are those of `AMAConfig`."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings through an Optuna trial: name -> value, each a field of `AMAConfig`."""
    settings: dict[str, Any] = {}

    # Atypical selection: none, or with a geometry. A cube has neither a direction nor a size.
    settings["negative_share"] = trial.suggest_categorical("negative_share", [0.0, 0.1])
    if settings["negative_share"] > 0:
        settings["lambda_neg"] = trial.suggest_float("lambda_neg", 0.1, 10.0, log=True)
        settings["geometry"] = trial.suggest_categorical("geometry", ["shell", "ray", "cube"])
        if settings["geometry"] == "shell":
            settings["radius"] = trial.suggest_categorical("radius", ["typical", "codes"])
            settings["direction"] = trial.suggest_categorical("direction", ["inward", "outward"])
            # Latent units: the typical radius is sqrt(latent_dim), 8 for 64 and 11.3 for 128.
            settings["delta"] = trial.suggest_float("delta", 0.1, 4.0, log=True)
        elif settings["geometry"] == "ray":
            settings["direction"] = trial.suggest_categorical("direction", ["inward", "outward"])
            # A share of the code. Log scale like the shell's, so that both are one parameter.
            settings["delta"] = trial.suggest_float("delta", 0.05, 1.0, log=True)

    settings["k"] = trial.suggest_int("k", 2, 6)
    settings["lambda_inter"] = trial.suggest_float("lambda_inter", 0.05, 2.0, log=True)
    settings["lambda_reg"] = trial.suggest_float("lambda_reg", 0.001, 3.0, log=True)
    settings["lr"] = trial.suggest_float("lr", 1e-4, 4e-3, log=True)
    return settings
