"""Typicality under Ray Tune."""

from typing import ClassVar

from amatune.detector import Detector
from amatune.detectors.typicality import Typicality

from ._base import DetectorTrainable


class TypicalityTrainable(DetectorTrainable):
    """Trains the density. A small one leaves most of a GPU idle: four trials share one."""

    detector_class: ClassVar[type[Detector]] = Typicality
    gpu_share: ClassVar[float] = 0.25


TRAINABLE = TypicalityTrainable
