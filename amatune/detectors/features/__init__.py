"""Frozen features: see `amatune.detectors.features.detector`."""

from amatune.detectors.features.config import FeaturesConfig
from amatune.detectors.features.detector import Features

__all__ = ["DETECTOR", "Features", "FeaturesConfig"]

DETECTOR = Features
