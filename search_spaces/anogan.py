"""What a search of AnoGAN tries. Names and units are those of `AnoGANConfig`.

The ranges lie around what public codes of Schlegl et al. (2017) have, the learning rate up to
twenty times as high for short trainings. Their 500 inversion steps, `--preset published`, make
every score ten times as expensive.
"""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings through an Optuna trial: name -> value, a field of the configuration."""
    return {
        "lr": trial.suggest_float("lr", 1e-4, 4e-3, log=True),
        "latent_dim": trial.suggest_int("latent_dim", 32, 200, log=True),
        "prior": trial.suggest_categorical("prior", ["normal", "uniform"]),
        "ema": trial.suggest_categorical("ema", [0.999, 0.0]),
        "feature_weight": trial.suggest_float("feature_weight", 0.0, 0.5),
        "inversion_lr": trial.suggest_float("inversion_lr", 1e-2, 1e-1, log=True),
        "inversion_steps": trial.suggest_categorical("inversion_steps", [25, 50, 100]),
    }
