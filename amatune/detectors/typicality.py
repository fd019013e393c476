"""Typicality: how far the likelihood of an image is from that of normal images.

Nalisnick, Matsukawa, Teh, Lakshminarayanan: Detecting Out-of-Distribution Inputs to Deep Generative
Models Using Typicality, 2019, arXiv 1906.02994. A plain image can be likelier than any normal one,
and yet nothing that the density would draw: what it draws lies in its typical set, where -log p is
near the entropy. Estimated by the mean over training images (Eq. 4, here of one image),

    typicality = |nll - mean nll of training images|        nll = -log p / (dimensions log 2)

both in bits per dimension, higher = more anomalous. `nll` alone is the control. The density is
Glow.

The paper's test is of M images at once, | mean nll of the M - mean nll of training images |, and
rejects above a quantile that it bootstraps from normal images: `amatune.results.groups` makes it of
kept scores.

Where this differs from what is published, and why:

- Trained by Adamax, as Glow was, with a rate that rises for some epochs and then falls; the paper
  uses RMSprop, which takes ten times the steps.
- Each actnorm begins by a batch of images from the whole training set, not by its first.
- The latent distribution has learnt means and scales, as Glow's has; the paper's is N(0, I).
- The default sizes are those a CPU can train, the preset `small`; `paper` has the published ones
  for grey images, `paper-colour` those for colour.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from amatune.config import DetectorConfig, ImageShape
from amatune.detector import Detector, Optimisation
from amatune.nets.bits import to_bits
from amatune.nets.glow import (
    LR_WARMUP,
    Coupling,
    Glow,
    begin,
    build_glow,
    cut_adamax,
    require_even_sides,
    rising_epochs,
)


@dataclass(frozen=True, kw_only=True)
class TypicalityConfig(DetectorConfig):
    """Settings of typicality; the defaults are the preset `small`."""

    batch_size: int = 32  # images per step

    # Density
    width: float = 1.0  # multiplies `hidden`
    steps: int = 8  # of each level
    hidden: int = 64  # channels of a coupling's network
    levels: int = 3  # at most: fewer where the sides are not even as often
    coupling: Coupling = "affine"  # shifts and scales; additive: shifts alone

    # Optimisation
    lr: float = 2e-3  # of Adamax
    lr_warmup: float = LR_WARMUP  # share of the epochs, one at least, in which lr rises
    lr_decay: float = 0.1  # what is left of lr at the end
    weight_decay: float = 1e-6  # of Adamax, an L2 penalty

    def problems(self) -> list[str]:
        """All impossible values, one sentence each."""
        found = super().problems()
        found += self.outside("positive", "width", "lr")
        found += self.outside("at least 1", "steps", "hidden", "levels")
        found += self.outside("in [0, 1)", "lr_warmup")
        found += self.outside("in (0, 1]", "lr_decay")
        found += self.outside("0 or more", "weight_decay")
        return found

    def resolve(self, image_shape: ImageShape) -> Self:
        """The configuration itself. Raises `ConfigError` for images with a small or an odd side."""
        require_even_sides(image_shape)
        return self

    @property
    def rising_epochs(self) -> int:
        """Epochs in which the learning rate is below `lr`: none of a single one."""
        return rising_epochs(self.epochs, self.lr_warmup)

    def score_every(self) -> int:
        """The end alone, beside where trials are compared: a thousand images are calibrated on, as
        many as some hundred steps see."""
        return self.epochs

    def grace_epochs(self) -> int:
        """Those in which the learning rate rises, and one."""
        return self.rising_epochs + 1 if self.epochs > 2 else 1


class _Scorer(nn.Module):
    """`nll` of float images (B, C, H, W): a tuple with one (B,)."""

    def __init__(self, density: Glow) -> None:
        super().__init__()
        self.density = density

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (to_bits(self.density.log_prob(images), images.shape[1:].numel()),)


class _Typicality(nn.Module):
    """`typicality` and `nll` of float images (B, C, H, W): two (B,)."""

    mean: Tensor

    def __init__(self, raw: nn.Module, mean: Tensor) -> None:
        super().__init__()
        self.raw = raw
        self.register_buffer("mean", mean)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        (nll,) = self.raw(images)
        return (nll - self.mean).abs(), nll


class Typicality(Detector):
    """See the module's docstring."""

    name: ClassVar[str] = "typicality"
    summary: ClassVar[str] = "Typicality under Glow (Nalisnick et al., 2019)"
    Config: ClassVar[type[DetectorConfig]] = TypicalityConfig
    score_names: ClassVar[tuple[str, ...]] = ("typicality", "nll")
    raw_score_names: ClassVar[tuple[str, ...]] = ("nll",)
    group_score: ClassVar[str | None] = "nll"
    usual_steps: ClassVar[int] = 3000  # it tells little before; see benchmarks/RESULTS.md
    most_to_calibrate: ClassVar[int | None] = 2048  # for a mean
    fitted: ClassVar[tuple[str, ...]] = ("mean_nll",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 28 x 28 grey pixels in some 5 ms an image.
        "small": {"steps": 8, "hidden": 64, "levels": 3, "lr": 2e-3, "lr_decay": 0.1},
        "paper": {"steps": 16, "hidden": 200, "levels": 2, "lr": 1e-3, "lr_decay": 1.0},
        "paper-colour": {"steps": 8, "hidden": 400, "levels": 3, "lr": 1e-3, "lr_decay": 1.0},
    }
    config: TypicalityConfig

    def __init__(
        self,
        config: TypicalityConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(config, image_shape, device, seed)
        config = self.config
        self.density = build_glow(
            image_shape,
            config.steps,
            config.hidden,
            config.levels,
            config.coupling,
            width=config.width,
            seed=seed,
            generator=self.generator,
        )
        self.hold({"density": self.density})
        self.mean_nll = torch.zeros((), device=self.device)  # bits per dimension

    # --- training ---------------------------------------------------------------------------------

    def begin_epoch(self, images: Tensor) -> None:
        """Before the first, actnorms begin by a batch from all over the images."""
        begin(self.density, images, self.config.batch_size)

    def make_optimisation(self) -> Optimisation:
        """Adamax, its gradients cut to `MAX_NORM`; the rate rises, then falls exponentially."""
        config = self.config
        return cut_adamax(
            self.density,
            config.lr,
            config.lr_decay,
            config.weight_decay,
            config.rising_epochs,
            config.epochs,
        )

    def train_step(
        self,
        batch: Tensor,
        anomalies: Tensor | None = None,  # noqa: ARG002 - learns from normal images alone
    ) -> dict[str, Tensor]:
        """A step down `nll` of noisy images, in bits per dimension."""
        loss = to_bits(self.density.log_prob(batch).mean(), batch.shape[1:].numel())
        self.descend(loss, "adamax")
        return {"nll": loss.detach()}

    # --- scoring ----------------------------------------------------------------------------------

    def raw_scorer(self) -> nn.Module:
        """`nll`."""
        return _Scorer(self.density)

    def fit(self, raw: Mapping[str, Tensor]) -> None:
        """The mean `nll` of normal images estimates the density's entropy."""
        self.mean_nll = raw["nll"].mean().float()

    def finish_scorer(self, raw: nn.Module) -> nn.Module:
        """`typicality` and `nll`."""
        return _Typicality(raw, self.mean_nll)


DETECTOR = Typicality
