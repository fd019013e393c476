"""AMA: Adversarial Mirrored Autoencoder; see `amatune.detectors.ama.detector`."""

from amatune.detectors.ama.detector import AMA, AMAConfig

__all__ = ["AMA", "DETECTOR", "AMAConfig"]

DETECTOR = AMA
