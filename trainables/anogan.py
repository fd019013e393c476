"""AnoGAN under Ray Tune."""

from typing import ClassVar

from amatune.detector import Detector
from amatune.detectors.anogan import AnoGAN

from ._base import DetectorTrainable


class AnoGANTrainable(DetectorTrainable):
    """Trains AnoGAN. Batches of 32 leave most of a GPU idle: four trials share one."""

    detector_class: ClassVar[type[Detector]] = AnoGAN
    gpu_share: ClassVar[float] = 0.25


TRAINABLE = AnoGANTrainable
