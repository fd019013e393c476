"""The S score: how much better a general compressor does than the density that was learnt.

Serra, Alvarez, Gomez, Slizovskaia, Nunez, Luque: Input Complexity and Out-of-Distribution Detection
with Likelihood-Based Generative Models, ICLR 2020, arXiv 1909.11480.

A plain image is likely under a density of images whatever it shows. How plain it is says the size
of its file under a lossless compressor, L bits per dimension, which is itself -log p of a density
that knows images in general. What is left is a likelihood ratio between the two, Eq. 4:

    s = nll - L            nll = -log p / (dimensions log 2)

both in bits per dimension, higher = more anomalous. `nll` alone is the control that the paper
begins with; `simplicity` = -L is the other, which has nothing to learn: where the anomalies are
plainer than the normal images it can be all there is to s.

The density is one of `DENSITIES`; the published one is PixelCNN++ (Glow is the paper's other). The
paper's compressor is FLIF, which is no longer maintained: its heir is JPEG XL, and WebP, which
comes with Pillow, ranks images much alike. JPEG 2000's header is larger than most small pictures.

The default sizes are those a CPU can train, the preset `small`; `paper` has the published ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR

from amatune.config import DetectorConfig, ImageShape
from amatune.detector import Detector, Optimisation, adam
from amatune.nets.bits import to_bits
from amatune.nets.compressors import CompressorName, compressed_bits, version_of
from amatune.nets.pixelcnn import BETAS, SMALL, PixelCNNConfig, build_pixelcnn

DensityName = Literal["pixelcnn"]


@dataclass(frozen=True, kw_only=True)
class SScoreConfig(PixelCNNConfig):
    """Settings of the S score; the preset `paper` is as published."""

    density: DensityName = "pixelcnn"  # what learns the images
    compressor: CompressorName = "webp"  # what knows images in general; published: flif

    def resolve(self, image_shape: ImageShape) -> Self:
        """The configuration itself. Raises `ConfigError` for too small images, `RequestError` where
        the compressor is not installed."""
        version_of(self.compressor)
        return super().resolve(image_shape)


class Density(Protocol):
    """What a density has to offer, beside being a module."""

    def log_prob(self, images: Tensor) -> Tensor:
        """log p in nats of images (B, C, H, W) whose values are those of bytes in [-1, 1]: (B,)."""


# Each makes a module that is a `Density`, freshly initialised on the CPU, of the seed; randomness
# in training is the generator's.
DENSITIES: Mapping[DensityName, Callable[[SScoreConfig, ImageShape, int, Generator], Any]] = {
    "pixelcnn": build_pixelcnn
}


class _Scorer(nn.Module):
    """`s`, `nll` and `simplicity` of float images (B, C, H, W): three (B,)."""

    def __init__(self, density: Any, compressor: CompressorName) -> None:
        super().__init__()
        self.density, self.compressor = density, compressor

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        nll = to_bits(self.density.log_prob(images), images.shape[1:].numel())
        size = compressed_bits(self.compressor, images)
        return nll - size, nll, -size


class SScore(Detector):
    """See the module's docstring."""

    name: ClassVar[str] = "s-score"
    summary: ClassVar[str] = "S, likelihood against a compressor (Serra et al., ICLR 2020)"
    Config: ClassVar[type[DetectorConfig]] = SScoreConfig
    score_names: ClassVar[tuple[str, ...]] = ("s", "nll", "simplicity")
    usual_steps: ClassVar[int] = 500
    exports_to_onnx: ClassVar[bool] = False
    why_no_onnx: ClassVar[str] = "its score needs the size of a file that a compressor writes"
    most_to_calibrate: ClassVar[int | None] = 256  # nothing is fitted
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": SMALL,
        "paper": {
            "filters": 160,
            "blocks": 5,
            "resolutions": 3,
            "mixtures": 10,
            "dropout": 0.5,
            "lr": 1e-3,
            "lr_decay": 0.78,
        },
    }
    config: SScoreConfig

    def __init__(
        self,
        config: SScoreConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(config, image_shape, device, seed)
        build = DENSITIES[self.config.density]
        self.density = build(self.config, image_shape, seed, self.generator)
        self.hold({"density": self.density})

    def make_optimisation(self) -> Optimisation:
        """Adam of the density."""
        config = self.config
        optimizer = adam(self.device, self.density.parameters(), config.lr, betas=BETAS)
        schedule = ExponentialLR(optimizer, config.lr_decay ** (1 / config.epochs))
        return Optimisation({"adam": optimizer}, [schedule])

    def train_step(
        self,
        batch: Tensor,
        anomalies: Tensor | None = None,  # noqa: ARG002 - learns from normal images alone
    ) -> dict[str, Tensor]:
        """A step down `nll`, in bits per dimension."""
        loss = to_bits(self.density.log_prob(batch).mean(), batch.shape[1:].numel())
        self.descend(loss, "adam")
        return {"nll": loss.detach()}

    def raw_scorer(self) -> nn.Module:
        """`s`, `nll` and `simplicity`."""
        return _Scorer(self.density, self.config.compressor)

    def scored_with(self) -> dict[str, str]:
        """The compressor and its version."""
        return {self.config.compressor: version_of(self.config.compressor)}


DETECTOR = SScore
