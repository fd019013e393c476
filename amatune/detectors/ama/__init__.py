"""AMA: Adversarial Mirrored Autoencoder; see `amatune.detectors.ama.detector`."""

from amatune.detectors.ama.config import AMAConfig
from amatune.detectors.ama.detector import AMA

__all__ = ["AMA", "DETECTOR", "AMAConfig"]

DETECTOR = AMA
