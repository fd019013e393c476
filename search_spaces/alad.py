"""What a search of ALAD tries. Names and units are those of `ALADConfig`.

Around the published values (Zenati et al. 2018), the learning rate up to ten times as high for
short trainings. Spectral norm and D_zz are the paper's ablations; how D_xx sees a pair decides more
than anything else.
"""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings through an Optuna trial: name -> value, each a field of `ALADConfig`."""
    return {
        "latent_dim": trial.suggest_int("latent_dim", 32, 200, log=True),
        "lr": trial.suggest_float("lr", 5e-5, 2e-3, log=True),
        "stacked": trial.suggest_categorical("stacked", ["height", "channels"]),
        "spectral_norm": trial.suggest_categorical("spectral_norm", [True, False]),
        "d_zz": trial.suggest_categorical("d_zz", [True, False]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
    }
