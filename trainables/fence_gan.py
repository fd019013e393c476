"""Fence GAN under Ray Tune."""

from typing import ClassVar

from amatune.detector import Detector
from amatune.detectors.fence_gan import FenceGAN

from ._base import DetectorTrainable


class FenceGANTrainable(DetectorTrainable):
    """Trains Fence GAN. Its networks are small: four trials share a GPU."""

    detector_class: ClassVar[type[Detector]] = FenceGAN
    gpu_share: ClassVar[float] = 0.25


TRAINABLE = FenceGANTrainable
