"""What a search of the S score tries. Names and units are those of `SScoreConfig`.

Serra et al. (2020) compare compressors, and train one density; the ranges are those of the
likelihood ratio's densities. JPEG XL and FLIF are tried where they are named, `--fix
compressor=jxl`: they need more than amatune's base installation.
"""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings through an Optuna trial: name -> value, each a field of `SScoreConfig`."""
    return {
        "compressor": trial.suggest_categorical("compressor", ["webp", "png", "jpeg2000"]),
        "mixtures": trial.suggest_categorical("mixtures", [1, 3, 5, 10]),
        "resolutions": trial.suggest_int("resolutions", 1, 3),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "lr": trial.suggest_float("lr", 1e-3, 1e-2, log=True),
    }
