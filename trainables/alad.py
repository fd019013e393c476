"""ALAD under Ray Tune."""

from typing import ClassVar

from amatune.detector import Detector
from amatune.detectors.alad import ALAD

from ._base import DetectorTrainable


class ALADTrainable(DetectorTrainable):
    """Trains ALAD. Batches of 32 leave most of a GPU idle: four trials share one."""

    detector_class: ClassVar[type[Detector]] = ALAD
    gpu_share: ClassVar[float] = 0.25


TRAINABLE = ALADTrainable
