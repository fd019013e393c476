"""A linear autoencoder for amatune."""

from typing import Any

from amatune.registry import Method
from linear_autoencoder.detector import LinearAutoencoder


def space(trial: Any) -> dict[str, Any]:
    """What a search of it tries."""
    return {
        "latent_dim": trial.suggest_int("latent_dim", 1, 16),
        "lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True),
    }


METHOD = Method(
    name="linear-autoencoder",
    detector=LinearAutoencoder,
    space=space,
    trainable="linear_autoencoder.trainable:LinearAutoencoderTrainable",
)
