"""The linear autoencoder under Ray Tune."""

from typing import ClassVar

from amatune.detector import Detector
from amatune.trainables import DetectorTrainable
from linear_autoencoder.detector import LinearAutoencoder


class LinearAutoencoderTrainable(DetectorTrainable):
    """Sixteen trials share a GPU."""

    detector_class: ClassVar[type[Detector]] = LinearAutoencoder
    gpu_share: ClassVar[float] = 0.0625
