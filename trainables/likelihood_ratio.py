"""The likelihood ratio under Ray Tune."""

from typing import ClassVar

from amatune.detector import Detector
from amatune.detectors.likelihood_ratio import LikelihoodRatio

from ._base import DetectorTrainable


class LikelihoodRatioTrainable(DetectorTrainable):
    """Trains the two densities. Small ones leave most of a GPU idle: four trials share one."""

    detector_class: ClassVar[type[Detector]] = LikelihoodRatio
    gpu_share: ClassVar[float] = 0.25


TRAINABLE = LikelihoodRatioTrainable
