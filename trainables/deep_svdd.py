"""Deep SVDD under Ray Tune."""

from typing import ClassVar

from amatune.detector import Detector
from amatune.detectors.deep_svdd import DeepSVDD

from ._base import DetectorTrainable


class DeepSVDDTrainable(DetectorTrainable):
    """Trains Deep SVDD. Its networks are tiny: eight trials share a GPU."""

    detector_class: ClassVar[type[Detector]] = DeepSVDD
    gpu_share: ClassVar[float] = 0.125


TRAINABLE = DeepSVDDTrainable
