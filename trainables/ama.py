"""AMA under Ray Tune."""

from typing import ClassVar

from amatune.detector import Detector
from amatune.detectors.ama import AMA

from ._base import DetectorTrainable


class AMATrainable(DetectorTrainable):
    """Trains AMA. The small networks leave most of a GPU idle: four trials share one."""

    detector_class: ClassVar[type[Detector]] = AMA
    gpu_share: ClassVar[float] = 0.25


TRAINABLE = AMATrainable
