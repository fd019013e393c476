"""WAIC under Ray Tune."""

from typing import ClassVar

from amatune.detector import Detector
from amatune.detectors.waic import WAIC

from ._base import DetectorTrainable


class WAICTrainable(DetectorTrainable):
    """Trains an ensemble of GANs; four trials share a GPU."""

    detector_class: ClassVar[type[Detector]] = WAIC
    gpu_share: ClassVar[float] = 0.25


TRAINABLE = WAICTrainable
