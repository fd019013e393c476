"""What a search of Fence GAN tries. Names and units are those of `FenceGANConfig`.

Ngo et al. (2019) choose alpha, beta, gamma and both learning rates for each data set; the ranges
contain all that they chose.
"""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings through an Optuna trial: name -> value, a field of the configuration."""
    return {
        "alpha": trial.suggest_float("alpha", 0.1, 0.9),
        "beta": trial.suggest_float("beta", 1.0, 50.0, log=True),
        "gamma": trial.suggest_float("gamma", 0.05, 1.0, log=True),
        "d_lr": trial.suggest_float("d_lr", 1e-5, 5e-4, log=True),
        "g_lr": trial.suggest_float("g_lr", 1e-5, 2e-3, log=True),
        "latent_dim": trial.suggest_int("latent_dim", 64, 256, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.4),
    }
