"""What a search of Deep SVDD tries. Names and units are those of `DeepSVDDConfig`.

Around the published values (Ruff et al. 2018, and the authors' public code), over the ranges in
which later work on deep one-class classification has tuned them.
"""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings through an Optuna trial: name -> value, a field of `DeepSVDDConfig`."""
    settings: dict[str, Any] = {}
    settings["objective"] = trial.suggest_categorical("objective", ["one-class", "soft-boundary"])
    if settings["objective"] == "soft-boundary":
        settings["nu"] = trial.suggest_float("nu", 0.01, 0.2, log=True)  # published: .01 and .1
    settings["latent_dim"] = trial.suggest_int("latent_dim", 32, 256, log=True)
    settings["pretrain"] = trial.suggest_float("pretrain", 0.1, 0.7)
    settings["pretrain_lr"] = trial.suggest_float("pretrain_lr", 1e-4, 3e-3, log=True)
    settings["lr"] = trial.suggest_float("lr", 1e-5, 1e-3, log=True)
    settings["weight_decay"] = trial.suggest_float("weight_decay", 1e-7, 1e-3, log=True)
    return settings
