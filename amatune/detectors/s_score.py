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

The density is PixelCNN++ or Glow, the paper's two; `density` says which. Of the settings, those
that begin with `glow_` have no use with PixelCNN++, and its own none with Glow. The paper's
compressor is FLIF, which is no longer maintained: its heir is JPEG XL, and WebP, which comes with
Pillow, ranks images much alike. JPEG 2000's header is larger than most small pictures. L is of the
one compressor that `compressor` names, where the paper also takes the smallest file of several.

The default sizes are those a CPU can train, the preset `small`; `glow` is as small, `paper` has the
published PixelCNN++.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR

from amatune.config import DetectorConfig, ImageShape
from amatune.detector import Detector, Optimisation, adam
from amatune.nets.bits import to_bits
from amatune.nets.compressors import CompressorName, compressed_bits, version_of
from amatune.nets.glow import (
    Coupling,
    Glow,
    begin,
    build_glow,
    cut_adamax,
    require_even_sides,
    rising_epochs,
)
from amatune.nets.pixelcnn import BETAS, SMALL, PixelCNN, PixelCNNConfig, build_pixelcnn

DensityName = Literal["pixelcnn", "glow"]


@dataclass(frozen=True, kw_only=True)
class SScoreConfig(PixelCNNConfig):
    """Settings of the S score; the preset `paper` is as published."""

    density: DensityName = "pixelcnn"  # what learns the images
    compressor: CompressorName = "webp"  # what knows images in general; published: flif

    # Glow; `width` multiplies `glow_hidden`, and `lr` is of Adamax
    glow_steps: int = 8  # of each level
    glow_hidden: int = 64  # channels of a coupling's network
    glow_levels: int = 3  # at most: fewer where the sides are not even as often
    glow_coupling: Coupling = "affine"  # shifts and scales; additive: shifts alone
    glow_weight_decay: float = 1e-6  # of Adamax, an L2 penalty

    def problems(self) -> list[str]:
        """All impossible values, one sentence each."""
        found = super().problems()
        found += self.outside("at least 1", "glow_steps", "glow_hidden", "glow_levels")
        found += self.outside("0 or more", "glow_weight_decay")
        return found

    def resolve(self, image_shape: ImageShape) -> Self:
        """The configuration itself. Raises `ConfigError` for images that are too small, or of odd
        sides with Glow; `RequestError` where the compressor is not installed."""
        version_of(self.compressor)
        if self.density == "glow":
            require_even_sides(image_shape)
        return super().resolve(image_shape)

    def grace_epochs(self) -> int:
        """With Glow, the epochs in which its learning rate rises, and one."""
        if self.density == "glow" and self.epochs > 2:
            return rising_epochs(self.epochs) + 1
        return super().grace_epochs()


class _Scorer(nn.Module):
    """`s`, `nll` and `simplicity` of float images (B, C, H, W): three (B,)."""

    def __init__(self, density: PixelCNN | Glow, compressor: CompressorName) -> None:
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
        "glow": {"density": "glow", "lr": 2e-3, "lr_decay": 0.1},
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
        config = self.config
        self.density: PixelCNN | Glow
        if config.density == "glow":
            self.density = build_glow(
                image_shape,
                config.glow_steps,
                config.glow_hidden,
                config.glow_levels,
                config.glow_coupling,
                width=config.width,
                seed=seed,
                generator=self.generator,
            )
        else:
            self.density = build_pixelcnn(config, image_shape, seed, self.generator)
        self.hold({"density": self.density})

    def begin_epoch(self, images: Tensor) -> None:
        """Before the first, Glow's actnorms begin by a batch from all over the images."""
        if isinstance(self.density, Glow):
            begin(self.density, images, self.config.batch_size)

    def make_optimisation(self) -> Optimisation:
        """Adam of PixelCNN++, Adamax of Glow."""
        config = self.config
        if isinstance(self.density, Glow):
            return cut_adamax(
                self.density,
                config.lr,
                config.lr_decay,
                config.glow_weight_decay,
                rising_epochs(config.epochs),
                config.epochs,
            )
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
        self.descend(loss, "adamax" if isinstance(self.density, Glow) else "adam")
        return {"nll": loss.detach()}

    def raw_scorer(self) -> nn.Module:
        """`s`, `nll` and `simplicity`."""
        return _Scorer(self.density, self.config.compressor)

    def scored_with(self) -> dict[str, str]:
        """The compressor and its version."""
        return {self.config.compressor: version_of(self.config.compressor)}


DETECTOR = SScore
