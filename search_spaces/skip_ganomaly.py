"""What a search of Skip-GANomaly tries. Names and units are those of `SkipGANomalyConfig`.

Akcay et al. (2019) choose the weights of the losses by such a search and add noise to the input in
training; whether there are skip connections is what the method is named after.
"""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings through an Optuna trial: name -> value, a field of the configuration."""
    return {
        "w_con": trial.suggest_float("w_con", 1.0, 100.0, log=True),
        "w_adv": trial.suggest_float("w_adv", 0.1, 10.0, log=True),
        "w_lat": trial.suggest_float("w_lat", 0.1, 10.0, log=True),
        "latent_dim": trial.suggest_int("latent_dim", 32, 256, log=True),
        "skips": trial.suggest_categorical("skips", [True, False]),
        "input_noise": trial.suggest_float("input_noise", 0.0, 0.3),
        "lr": trial.suggest_float("lr", 5e-5, 2e-3, log=True),
        "score_weight": trial.suggest_float("score_weight", 0.0, 1.0),
    }
