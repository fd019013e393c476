"""Skip-GANomaly: images are rebuilt by a U-Net, and judged by image and features together.

Akcay, Atapour-Abarghouei, Breckon: Skip-GANomaly: Skip Connected and Adversarially Trained
Encoder-Decoder Anomaly Detection, IJCNN 2019, arXiv 1901.08954.

A U-Net rebuilds an image x as x'. A discriminator tells images from reconstructions; f is what it
sees before its last layer. The U-Net minimises

    w_adv (cross entropy of x' taken for an image)  +  w_con mean |x - x'|
    +  w_lat mean (f(x) - f(x'))^2

and the discriminator the sum of its two cross entropies. With skip connections the U-Net can come
to copy what it has never seen, so that longer training may make it worse: `noise_error` in the
losses, its error on uniform noise, falls where it copies even that. The score, `combined`, is

    score_weight mean (x - x')^2  +  (1 - score_weight) mean (f(x) - f(x'))^2

`image` and `features` are its two parts; `combined_c`, `image_c` and `features_c` are all three
divided by the complexity of the image, see `amatune.nets.scores`.

As in the authors' code, one pass serves both players, the U-Net steps first, and the discriminator
begins anew whenever its loss falls below 1e-5: `resets` is the share of steps after which it did.
Where this differs, and why:

- The discriminator's loss has no term for the features. The code adds the U-Net's, so that the
  discriminator *shrinks* the difference it is to see; and there its gradient cannot be taken with a
  current torch, since the U-Net has changed in between.
- Scores are made with batch norm in eval mode. The code never leaves training mode, so that a score
  depends on the batch, which there holds either normal images or anomalies, and even moves the
  statistics: its figures are higher by that leak.
- Scores are not scaled to [0, 1] over the test set: it changes no order.
- `input_noise` is of the paper; in the code its buffer is never filled, hence the default 0.
- Layers of the discriminator without batch norm have biases.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from amatune.config import DetectorConfig, ImageShape
from amatune.detector import Detector, Optimisation
from amatune.nets.adversarial import RESET_BELOW, adam_each, cross_entropy, descend_alone, two_sided
from amatune.nets.dcgan import SLOPE, Discriminator, Encoder, Sizes, initialise
from amatune.nets.drawing import drawn_from
from amatune.nets.scores import per_complexity
from amatune.nets.sizes import HalvedConfig, channel_plan, halve

Score = Literal["auto", "combined", "image", "features", "combined_c", "image_c", "features_c"]

INIT_STD = 0.02  # of all weights
EPS = 1e-5  # of batch norm
NOISE_IMAGES = 16  # that `noise_error` is the mean over


@dataclass(frozen=True, kw_only=True)
class SkipGANomalyConfig(HalvedConfig):
    """Settings of Skip-GANomaly; the defaults are those of the authors' code."""

    batch_size: int = 64  # images per step

    # Networks
    width: float = 1.0  # multiplies channel counts; 1 is the published size
    latent_dim: int = 100  # features of the discriminator
    skips: bool = True  # skip connections; False leaves an autoencoder

    # Objective
    w_adv: float = 1.0  # weight of being taken for an image
    w_con: float = 50.0  # weight of the image's error
    w_lat: float = 1.0  # weight of the features' error
    input_noise: float = 0.0  # standard deviation of what is added to the U-Net's input in training

    # Optimisation
    lr: float = 2e-4  # of Adam, both networks
    beta1: float = 0.5  # of Adam
    beta2: float = 0.999  # of Adam

    # Scoring
    score: Score = "auto"  # which score ranks the images; published: combined
    score_weight: float = 0.9  # of the image in the score `combined`

    def problems(self) -> list[str]:
        """All impossible values, one sentence each."""
        found = super().problems()
        found += self.outside("positive", "width", "lr")
        found += self.outside("0 or more", "w_adv", "w_con", "w_lat", "input_noise")
        found += self.outside("in [0, 1)", "beta1", "beta2")
        found += self.outside("in [0, 1]", "score_weight")
        found += self.outside("at least 1", "latent_dim")
        return found


class UNet(nn.Module):
    """Images (N, C, H, W) -> the same in [-1, 1].

    4x4 convolutions of stride 2 down to a side of one pixel, `plan` being their channels, and
    transposed ones back; LeakyReLU before the former, ReLU before the latter, batch norm behind all
    but the first, the innermost of the way down and the last. On the way back each gets what the
    way down had at that size, unless not `skips`.
    """

    def __init__(self, channels: int, sizes: Sizes, plan: list[int], skips: bool) -> None:
        super().__init__()
        self.skips = skips
        down: list[nn.Module] = []
        inner = channels
        for number, out in enumerate(plan):
            layers: list[nn.Module] = [nn.LeakyReLU(SLOPE)] if number else []
            layers.append(nn.Conv2d(inner, out, 4, stride=2, padding=1, bias=False))
            if 0 < number < len(plan) - 1:
                layers.append(nn.BatchNorm2d(out, eps=EPS))
            down.append(nn.Sequential(*layers))
            inner = out
        self.down = nn.ModuleList(down)
        up: list[nn.Module] = []
        for number in reversed(range(len(plan))):  # from the innermost
            small, large = sizes[number + 1], sizes[number]
            joined = 2 if skips and number < len(plan) - 1 else 1
            last = number == 0
            out = channels if last else plan[number - 1]
            conv = nn.ConvTranspose2d(
                *(joined * plan[number], out, 4),
                stride=2,
                padding=1,
                output_padding=(large[0] - 2 * small[0], large[1] - 2 * small[1]),
                bias=last,
            )
            behind = nn.Tanh() if last else nn.BatchNorm2d(out, eps=EPS)
            up.append(nn.Sequential(nn.ReLU(), conv, behind))
        self.up = nn.ModuleList(up)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        x, seen = images, []
        for layer in self.down:
            x = layer(x)
            seen.append(x)
        seen.pop()
        for number, layer in enumerate(self.up):
            if number and self.skips:
                x = torch.cat([seen.pop(), x], dim=1)
            x = layer(x)
        return x


class _Scorer(nn.Module):
    """The scores of float images (B, C, H, W), in the order of their names: (B,) each."""

    def __init__(self, unet: UNet, discriminator: Discriminator, weight: float) -> None:
        super().__init__()
        self.unet, self.discriminator, self.weight = unet, discriminator, weight

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        rebuilt = self.unet(images)
        (features, _), (rebuilt_features, _) = map(self.discriminator, (images, rebuilt))
        image = (images - rebuilt).square().flatten(1).mean(dim=1)
        feature = (features - rebuilt_features).square().mean(dim=1)
        errors = self.weight * image + (1 - self.weight) * feature, image, feature
        return (*errors, *(per_complexity(error, images) for error in errors))


class SkipGANomaly(Detector):
    """See the module's docstring."""

    name: ClassVar[str] = "skip-ganomaly"
    summary: ClassVar[str] = "Skip-GANomaly (Akcay et al., IJCNN 2019)"
    Config: ClassVar[type[DetectorConfig]] = SkipGANomalyConfig
    score_names: ClassVar[tuple[str, ...]] = (
        *("combined", "image", "features"),
        *("combined_c", "image_c", "features_c"),
    )
    usual_steps: ClassVar[int] = 500
    channels_last: ClassVar[bool] = True
    reconstructs: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "authors-code": {
            "batch_size": 64,
            "latent_dim": 100,
            "skips": True,
            "lr": 2e-4,
            "beta1": 0.5,
            "w_adv": 1.0,
            "w_con": 50.0,
            "w_lat": 1.0,
            "input_noise": 0.0,
            "score": "combined",
            "score_weight": 0.9,
        },
        "without-skips": {"skips": False},
    }
    config: SkipGANomalyConfig

    def __init__(
        self,
        config: SkipGANomalyConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(config, image_shape, device, seed)
        channels, height, across = image_shape
        with drawn_from(seed):
            sizes = halve((height, across), stop_below=2)
            plan = channel_plan(64, 512, len(sizes) - 1, config.width)
            self.unet = UNet(channels, sizes, plan, config.skips)
            sizes = halve((height, across), stop_below=8)
            plan = channel_plan(64, 512, len(sizes) - 1, config.width)
            features = config.latent_dim
            body = Encoder(channels, sizes, plan, features, norm_first=False, eps=EPS)
            self.discriminator = Discriminator(body, features)
            for network in (self.unet, self.discriminator):
                initialise(network, INIT_STD)
        self.hold({"unet": self.unet, "discriminator": self.discriminator})
        self.noise_error = torch.zeros((), device=self.device)

    # --- training ---------------------------------------------------------------------------------

    def make_optimisation(self) -> Optimisation:
        """Adam of each network."""
        betas = (self.config.beta1, self.config.beta2)
        return adam_each(self.device, self.networks, self.config.lr, betas=betas)

    def begin_epoch(self, images: Tensor) -> None:  # noqa: ARG002 - the images do not matter
        """Measure how well noise is rebuilt, which nothing has taught."""
        shape = (NOISE_IMAGES, *self.image_shape)
        noise = torch.rand(shape, generator=self.generator, device=self.device) * 2 - 1
        with torch.no_grad():
            self.noise_error = (self.unet(noise) - noise).abs().mean()

    def train_step(
        self,
        batch: Tensor,
        anomalies: Tensor | None = None,  # noqa: ARG002 - learns from normal images alone
    ) -> dict[str, Tensor]:
        """A step of the U-Net, then one of the discriminator, on one float batch (B, C, H, W).

        Returns `unet` what that minimises, `adversarial`, `image` and `features` its parts without
        their weights, `discriminator` what that one minimises (1.386 when it cannot tell),
        `resets`, 1 where it began anew, and `noise_error`, the mean |n - n'| of uniform noise n
        before the epoch: as small as `image` where the U-Net copies whatever it is shown.
        """
        config, players = self.config, self.optimisation.optimizers
        shown = batch
        if config.input_noise > 0:
            draws = torch.randn(batch.shape, generator=self.generator, device=self.device)
            shown = batch + config.input_noise * draws
        rebuilt = self.unet(shown)
        # Two passes: batch norm must not mix images and reconstructions.
        (features, real), (rebuilt_features, fake) = map(self.discriminator, (batch, rebuilt))

        parts = {
            "adversarial": cross_entropy(fake, 1),
            "image": (batch - rebuilt).abs().mean(),
            "features": (features - rebuilt_features).square().mean(),
        }
        total = (
            config.w_adv * parts["adversarial"]
            + config.w_con * parts["image"]
            + config.w_lat * parts["features"]
        )
        descend_alone(total, players["unet"], keep_graph=True)
        told = two_sided(real, fake)
        descend_alone(told, players["discriminator"])

        has_won = told.detach() < RESET_BELOW
        initialise(self.discriminator, INIT_STD, self.generator, when=has_won)
        losses = {"unet": total, **parts, "discriminator": told, "resets": has_won.float()}
        losses["noise_error"] = self.noise_error
        return {name: value.detach() for name, value in losses.items()}

    # --- scoring ----------------------------------------------------------------------------------

    def raw_scorer(self) -> nn.Module:
        """The scores of float images."""
        return _Scorer(self.unet, self.discriminator, self.config.score_weight)

    def rebuild(self, batch: Tensor) -> Tensor:
        """x': (B, C, H, W) -> the same in [-1, 1]."""
        rebuilt: Tensor = self.unet(batch)
        return rebuilt


DETECTOR = SkipGANomaly
