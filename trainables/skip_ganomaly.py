"""Skip-GANomaly under Ray Tune."""

from typing import ClassVar

from amatune.detector import Detector
from amatune.detectors.skip_ganomaly import SkipGANomaly

from ._base import DetectorTrainable


class SkipGANomalyTrainable(DetectorTrainable):
    """Trains Skip-GANomaly. Batches of 64 leave most of a GPU idle: four trials share one."""

    detector_class: ClassVar[type[Detector]] = SkipGANomaly
    gpu_share: ClassVar[float] = 0.25


TRAINABLE = SkipGANomalyTrainable
