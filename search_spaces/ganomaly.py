"""What a search of GANomaly tries. Names and units are those of `GANomalyConfig`.

Akcay et al. (2018) choose the weights of the losses and the size of a code by such a search, one at
a time; the ranges lie around what they chose.
"""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings through an Optuna trial: name -> value, a field of the configuration."""
    return {
        "w_con": trial.suggest_float("w_con", 1.0, 100.0, log=True),
        "w_adv": trial.suggest_float("w_adv", 0.1, 10.0, log=True),
        "w_enc": trial.suggest_float("w_enc", 0.1, 10.0, log=True),
        "latent_dim": trial.suggest_int("latent_dim", 32, 256, log=True),
        "lr": trial.suggest_float("lr", 5e-5, 2e-3, log=True),
    }
