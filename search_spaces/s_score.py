"""What a search of the S score tries. Names and units are those of `SScoreConfig`.

Serra et al. (2020) compare compressors, and train one density of each of two kinds; the ranges are
those of the likelihood ratio's densities and of typicality's. Glow is tried where it is named,
`--fix density=glow`: it needs even sides and many more steps. So are JPEG XL and FLIF, `--fix
compressor=jxl`: they need more than amatune's base installation.
"""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings through an Optuna trial: name -> value, each a field of `SScoreConfig`."""
    settings: dict[str, Any] = {
        "compressor": trial.suggest_categorical("compressor", ["webp", "png", "jpeg2000"]),
        "density": trial.suggest_categorical("density", ["pixelcnn"]),
    }
    if settings["density"] == "glow":
        settings["glow_steps"] = trial.suggest_int("glow_steps", 4, 16)
        settings["glow_hidden"] = trial.suggest_int("glow_hidden", 32, 128, log=True)
        settings["glow_levels"] = trial.suggest_int("glow_levels", 1, 3)
        settings["lr"] = trial.suggest_float("lr", 2e-4, 5e-3, log=True)
    else:
        settings["mixtures"] = trial.suggest_categorical("mixtures", [1, 3, 5, 10])
        settings["resolutions"] = trial.suggest_int("resolutions", 1, 3)
        settings["dropout"] = trial.suggest_float("dropout", 0.0, 0.5)
        settings["lr"] = trial.suggest_float("lr", 1e-3, 1e-2, log=True)
    return settings
