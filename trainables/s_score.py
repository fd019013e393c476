"""The S score under Ray Tune."""

from typing import ClassVar

from amatune.detector import Detector
from amatune.detectors.s_score import SScore

from ._base import DetectorTrainable


class SScoreTrainable(DetectorTrainable):
    """Trains the density. A small one leaves most of a GPU idle: four trials share one."""

    detector_class: ClassVar[type[Detector]] = SScore
    gpu_share: ClassVar[float] = 0.25


TRAINABLE = SScoreTrainable
