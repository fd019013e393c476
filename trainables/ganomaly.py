"""GANomaly under Ray Tune."""

from typing import ClassVar

from amatune.detector import Detector
from amatune.detectors.ganomaly import GANomaly

from ._base import DetectorTrainable


class GANomalyTrainable(DetectorTrainable):
    """Trains GANomaly. Batches of 64 leave most of a GPU idle: four trials share one."""

    detector_class: ClassVar[type[Detector]] = GANomaly
    gpu_share: ClassVar[float] = 0.25


TRAINABLE = GANomalyTrainable
