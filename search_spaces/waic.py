"""What a search of WAIC tries. Names and units are those of `WAICConfig`.

Choi et al. (2018) tried no other settings; the ranges lie around theirs, the learning rate up to
twenty times as high for short trainings. Whether logits are standardised decides whether one member
can make all of the variance.
"""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings through an Optuna trial: name -> value, a field of the configuration."""
    return {
        "members": trial.suggest_int("members", 3, 5),
        "critic_steps": trial.suggest_categorical("critic_steps", [1, 2, 5]),
        "gp_weight": trial.suggest_float("gp_weight", 1.0, 20.0, log=True),
        "optimizer": trial.suggest_categorical("optimizer", ["rmsprop", "adam"]),
        "lr": trial.suggest_float("lr", 1e-5, 1e-3, log=True),
        "latent_dim": trial.suggest_int("latent_dim", 32, 128, log=True),
        "classifier_share": trial.suggest_float("classifier_share", 0.05, 0.3),
        "standardise": trial.suggest_categorical("standardise", [False, True]),
    }
