"""Frozen features under Ray Tune."""

from typing import ClassVar

from amatune.data.feature_cache import FeatureCache
from amatune.detector import Detector
from amatune.detectors.features import Features

from ._base import DetectorTrainable


class FeaturesTrainable(DetectorTrainable):
    """Learns from frozen features; four trials share a GPU. On a CPU, where they take most of a
    trial's time, trials share the maps of the network in the user's cache."""

    detector_class: ClassVar[type[Detector]] = Features
    gpu_share: ClassVar[float] = 0.25

    def _new_detector(self) -> Detector:
        detector = super()._new_detector()
        assert isinstance(detector, Features)
        if self._device == "cpu":
            detector.store = FeatureCache.default()
        return detector


TRAINABLE = FeaturesTrainable
