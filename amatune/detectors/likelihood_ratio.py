"""Likelihood ratio: how much likelier an image is under a density of nothing in particular.

Ren, Liu, Fertig, Snoek, Poplin, DePristo, Dillon, Lakshminarayanan: Likelihood Ratios for
Out-of-Distribution Detection, NeurIPS 2019, arXiv 1906.02845.

A density of images says mostly how plain an image is: much of log p is background, and a plain
anomaly is likelier than the normal images. Two PixelCNN++ of the same kind are trained, the
*foreground* on the images, the *background* on images in which each value was replaced, with
probability `mutation_rate`, by one drawn at random (Eq. 4 and below), so that it learns what is
left of them: the background statistics. What these say of an image cancels in the ratio, Eq. 5,

    llr = (log p_background - log p_foreground) / (dimensions log 2)

in bits per dimension, higher = more anomalous. `nll` is -log p_foreground, the same unit: the
control that the paper begins with.

The foreground has the first half of the epochs, the background the second. Before the background
has trained an epoch, `llr` is `nll`.

Where this differs from the authors' public code (google-research, genomics_ood), and why:

- Weight decay of the background is real: AdamW, of the convolutions' weights. There it is an L2
  penalty that is collected and never added to the loss.
- Batches are drawn anew in every epoch. There they are formed before the shuffling.
- Images are in [-1, 1] and a scale is at least e^-7 there, as in PixelCNN++; the code has bytes
  and a scale of 255 sigmoid, at least .25.
- The default sizes are those a CPU can train, the preset `small`; `paper` has the published ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import ExponentialLR

from amatune.config import DetectorConfig, ImageShape
from amatune.detector import Detector, Optimisation, to_unit_range
from amatune.nets.bits import to_bits
from amatune.nets.pixelcnn import BETAS, LEVELS, SMALL, PixelCNNConfig, build_pixelcnn


@dataclass(frozen=True, kw_only=True)
class LikelihoodRatioConfig(PixelCNNConfig):
    """Settings of the likelihood ratio, for both densities; the preset `paper` is as published."""

    # Background
    mutation_rate: float = 0.1  # probability that a value is replaced; published: .1, .2 and .3
    background_weight_decay: float = 1.0  # of AdamW; the weights shrink by lr times it in a step

    def problems(self) -> list[str]:
        """All impossible values, one sentence each."""
        found = super().problems()
        if not 0 <= self.mutation_rate <= 1:
            found.append(f"mutation_rate must be in [0, 1], got {self.mutation_rate}")
        if self.background_weight_decay < 0:
            found.append(
                f"background_weight_decay must be 0 or more, got {self.background_weight_decay}"
            )
        return found

    @property
    def warmup_epochs(self) -> int:
        """Epochs of the foreground: half of them, rounded up."""
        return (self.epochs + 1) // 2

    def grace_epochs(self) -> int:
        """The foreground and a third of the background, which before that knows too little for the
        ratio to tell settings apart."""
        return self.warmup_epochs + max(1, (self.epochs - self.warmup_epochs) // 3)


def mutate(images: Tensor, rate: float, generator: Generator) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] in which each value, with probability `rate`, got a number
    drawn uniformly from 0 to 255 added, modulo 256: it becomes uniform."""
    device = images.device
    hit = torch.rand(images.shape, generator=generator, device=device) < rate
    drawn = torch.randint(0, LEVELS, images.shape, generator=generator, device=device)
    values = ((images + 1) * ((LEVELS - 1) / 2)).round().long()
    mutated = to_unit_range(((values + drawn) % LEVELS).to(torch.uint8))
    return torch.where(hit, mutated, images)


class _Scorer(nn.Module):
    """`llr` and `nll` of float images (B, C, H, W): two (B,)."""

    ready: Tensor

    def __init__(self, foreground: nn.Module, background: nn.Module, ready: Tensor) -> None:
        super().__init__()
        self.foreground, self.background = foreground, background
        self.register_buffer("ready", ready)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        dimensions = images.shape[1:].numel()
        foreground = self.foreground(images)
        ratio = foreground - self.ready * self.background(images)
        return (
            to_bits(ratio.sum(dim=(1, 2)), dimensions),
            to_bits(foreground.sum(dim=(1, 2)), dimensions),
        )


class _RatioMap(_Scorer):
    """The ratio of each pixel of float images (B, C, H, W) in bits: (B, H, W)."""

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        return to_bits(self.foreground(images) - self.ready * self.background(images), 1)


class LikelihoodRatio(Detector):
    """See the module's docstring."""

    name: ClassVar[str] = "likelihood-ratio"
    summary: ClassVar[str] = "Likelihood ratio of two PixelCNN++ (Ren et al., NeurIPS 2019)"
    Config: ClassVar[type[DetectorConfig]] = LikelihoodRatioConfig
    score_names: ClassVar[tuple[str, ...]] = ("llr", "nll")
    usual_steps: ClassVar[int] = 1000
    most_to_calibrate: ClassVar[int | None] = 256  # nothing is fitted
    fitted: ClassVar[tuple[str, ...]] = ("background_ready",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": SMALL,
        "paper": {
            "filters": 32,
            "blocks": 5,
            "resolutions": 1,
            "mixtures": 1,
            "dropout": 0.0,
            "lr": 1e-4,
            "lr_decay": 0.78,  # .999995 a step, 50,000 steps
            "mutation_rate": 0.3,
            "background_weight_decay": 0.0,
        },
    }
    config: LikelihoodRatioConfig

    def __init__(
        self,
        config: LikelihoodRatioConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(config, image_shape, device, seed)
        self.foreground, self.background = (
            build_pixelcnn(self.config, image_shape, own_seed, self.generator)
            for own_seed in (seed, seed + 1)
        )
        self.hold({"foreground": self.foreground, "background": self.background})
        # 1 once the background trains, else 0.
        self.background_ready = torch.zeros((), device=self.device)

    # --- training ---------------------------------------------------------------------------------

    @property
    def _in_background(self) -> bool:
        return self.epoch >= self.config.warmup_epochs

    def begin_epoch(self, images: Tensor) -> None:  # noqa: ARG002 - the images do not matter
        """After the foreground's epochs, begin anew with the background."""
        if self._in_background and not self.background_ready:
            self.background_ready = torch.ones((), device=self.device)
            self.restart_optimisation()

    def make_optimisation(self) -> Optimisation:
        """AdamW of the density that trains, with decay for the background's convolutions alone."""
        config = self.config
        network, decay, epochs = self.foreground, 0.0, config.warmup_epochs
        if self.background_ready:
            network, decay = self.background, config.background_weight_decay
            epochs = config.epochs - config.warmup_epochs
        biases = [p for p in network.parameters() if p.ndim == 1]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in network.parameters() if p.ndim > 1]},
            {"params": biases, "weight_decay": 0.0},
        ]
        optimizer = AdamW(groups, config.lr, weight_decay=decay, betas=BETAS, fused=True)
        return Optimisation(
            {"adam": optimizer}, [ExponentialLR(optimizer, config.lr_decay ** (1 / epochs))]
        )

    def train_step(
        self,
        batch: Tensor,
        anomalies: Tensor | None = None,  # noqa: ARG002 - learns from normal images alone
    ) -> dict[str, Tensor]:
        """A step of the phase.

        Returns bits per dimension: `foreground` of the images, later `background` of the mutated
        ones.
        """
        if self._in_background:
            network, name = self.background, "background"
            batch = mutate(batch, self.config.mutation_rate, self.generator)
        else:
            network, name = self.foreground, "foreground"
        loss = to_bits(network.log_prob(batch).mean(), batch.shape[1:].numel())
        self.descend(loss, "adam")
        return {name: loss.detach()}

    # --- scoring ----------------------------------------------------------------------------------

    def raw_scorer(self) -> nn.Module:
        """`llr` and `nll` by both densities."""
        return _Scorer(self.foreground, self.background, self.background_ready)

    def mapper(self) -> nn.Module:
        """Where the score comes from: the ratio of each pixel, all its channels together, in bits.
        The mean over the pixels, divided by the channels, is `llr`. Raises `RequestError` before
        `calibrate`."""
        self._require_calibration()
        return _RatioMap(self.foreground, self.background, self.background_ready)


DETECTOR = LikelihoodRatio
