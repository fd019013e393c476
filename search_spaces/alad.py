"""What a search of ALAD tries. Names and units are those of `ALADConfig`.

Around the published values (Zenati et al. 2018), the learning rate up to ten times as high for
short trainings. Spectral norm and D_zz are the paper's ablations; how D_xx sees a pair decides more
than anything else.
"""

from typing import Any

# Best by the mean rank over three problems of benchmarks/record_curves.py (digits, the digit 8,
# Fashion-MNIST against MNIST; 250 steps). benchmarks/efficiency.py says what they bring on a
# problem that they were not chosen on.
_PAIRS = {"stacked": "channels", "spectral_norm": True, "d_zz": True}
KNOWN = (
    {"latent_dim": 40, "lr": 7e-4, **_PAIRS, "dropout": 0.47},
    {"latent_dim": 64, "lr": 9.3e-4, **_PAIRS, "dropout": 0.42},
    {"latent_dim": 48, "lr": 1.7e-3, **_PAIRS, "dropout": 0.44},
)


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
