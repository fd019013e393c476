"""AnoGAN: how well a generator of normal images can be made to show an image.

Schlegl, Seeboeck, Waldstein, Schmidt-Erfurth, Langs: Unsupervised Anomaly Detection with Generative
Adversarial Networks to Guide Marker Discovery, IPMI 2017, arXiv 1703.05921.

A DCGAN learns the normal images: a generator G of codes z and a discriminator D, f being what D
sees before its last layer. An image x is then *inverted*: from a start that is the same for all
images, `inversion_steps` of Adam change z alone, down (its lambda is `feature_weight`)

    l(z) = (1 - feature_weight) sum |x - G(z)|  +  feature_weight sum |f(x) - f(G(z))|

The score, `inversion`, is l where they end, `image` and `features` its two sums; `inversion_c`,
`image_c` and `features_c` are all three divided by the complexity of the image, see
`amatune.nets.scores`. Adam treats every number by itself, so that a score does not depend on the
other images of its batch; with their number its rounding changes, which the steps let grow, to some
1e-4 of a score after a hundred long ones.

An inversion that has not converged says how bright an image is, and may well be worse than chance.
So the rate begins high and falls to 0 along a cosine, and `inversion_gap`, in the losses of the
epoch in the middle and of the last, is the share of l that twice as many steps would still take
away on some training images; above a fifth `calibrate` warns. `z_movement` is how far z has come,
in units of the prior's deviation, in the mean over its numbers. Of the other losses, `diversity`
compares G's images with those of the batch: the distance from their own mean. Near 0, G makes one
picture; after 200 steps `calibrate` takes that for a collapse.

Sides that are divisible by 16 get the networks of ALAD's authors (32 x 32 pixels), others those of
Efficient GAN's (28 x 28), whose codes hold an AnoGAN. Where this differs from them:

- All images start from one z, drawn once. There it is drawn for each batch.
- The weights of the two sums are the paper's. The former code has them exchanged.
- D is averaged over training like G. The former means to, and then copies G's averages.
- The memory of the averaged weights grows to `ema` as min(ema, (1 + n) / (10 + n)) with the steps
  n, and batch norm's running statistics reach back some 10 steps, for short trainings.
- The learning rate is one at which small networks learn in a thousand steps; published is 2e-4 for
  32 x 32 pixels and 1e-5 for 28 x 28. The preset `published` has the former.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from amatune.config import DetectorConfig, ImageShape
from amatune.detector import Detector, Optimisation, adam, evenly_spaced, to_unit_range
from amatune.errors import DivergedError, TrainingWarning
from amatune.nets.adversarial import (
    adam_each,
    average_into,
    cross_entropy,
    descend_alone,
    safe_norm,
    two_sided,
)
from amatune.nets.dcgan import Discriminator, ImageGenerator, halving, initialise
from amatune.nets.dense_gan import DenseBody, DenseGenerator, halves_often
from amatune.nets.drawing import drawn_from
from amatune.nets.scores import per_complexity
from amatune.nets.sizes import HalvedConfig, channel_plan, halve

Prior = Literal["normal", "uniform"]
Score = Literal["auto", "inversion", "image", "features", "inversion_c", "image_c", "features_c"]

PROBES = 16  # training images that convergence is measured on
CONVERGED = 0.2  # share of l that twice the steps may take away
ONE_PICTURE = 0.05  # diversity below which a generator has collapsed ...
COLLAPSE_AFTER = 200  # ... once it has trained so many steps


@dataclass(frozen=True, kw_only=True)
class AnoGANConfig(HalvedConfig):
    """Settings of AnoGAN; the defaults are those of public code for 32 x 32 pixels, except for the
    learning rate and the inversion."""

    batch_size: int = 32  # images per step

    # Networks
    width: float = 1.0  # multiplies channel and unit counts; 1 is the published size
    latent_dim: int = 100  # numbers of a z
    prior: Prior = "normal"  # of z: N(0, 1), or uniform in [-1, 1]

    # Optimisation
    lr: float = 1e-3  # of Adam, both networks; published: 2e-4
    beta1: float = 0.5  # of Adam
    beta2: float = 0.999  # of Adam
    ema: float = 0.999  # weight of the past in the averaged weights, per step; 0: no averages

    # Scoring
    inversion_steps: int = 50  # of each image; published: 500
    inversion_lr: float = 0.05  # of Adam on z, falls to 0 along a cosine
    feature_weight: float = 0.1  # of the features in l; the paper's lambda
    score: Score = "auto"  # which score ranks the images; published: inversion

    def problems(self) -> list[str]:
        """All impossible values, one sentence each."""
        found = super().problems()
        found += self.outside("positive", "width", "lr", "inversion_lr")
        found += self.outside("in [0, 1)", "beta1", "beta2", "ema")
        found += self.outside("at least 1", "latent_dim", "inversion_steps")
        found += self.outside("in [0, 1]", "feature_weight")
        return found

    def score_every(self) -> int:
        """The end alone, beside where trials are compared: a score takes as long as many steps."""
        return self.epochs


def draw(prior: Prior, count: int, size: int, generator: torch.Generator) -> Tensor:
    """Codes (count, size) of a prior, on the generator's device."""
    if prior == "normal":
        return torch.randn((count, size), generator=generator, device=generator.device)
    return torch.rand((count, size), generator=generator, device=generator.device) * 2 - 1


class Inversion(nn.Module):
    """Looks for the z from which a generator makes given images, and scores how far it comes."""

    start: Tensor

    def __init__(
        self,
        generator: nn.Module,
        discriminator: Discriminator,
        start: Tensor,
        lr: float,
        steps: int,
        feature_weight: float,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.lr, self.steps, self.feature_weight = lr, steps, feature_weight
        self.register_buffer("start", start)  # (1, d)

    def parts(self, images: Tensor, features: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Sums |x - G(z)| and |f(x) - f(G(z))|, (B,) each, of images (B, C, H, W), their features
        (B, F) and z (B, d)."""
        made = self.generator(z)
        seen, _ = self.discriminator(made)
        return (images - made).abs().flatten(1).sum(dim=1), (features - seen).abs().sum(dim=1)

    def loss(self, image: Tensor, features: Tensor) -> Tensor:
        """l of the two sums, (B,)."""
        return (1 - self.feature_weight) * image + self.feature_weight * features

    def invert(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of float images (B, C, H, W): f(x) (B, F), and z (B, d) after the last step."""
        features, _ = self.discriminator(images)
        # The caller may be in inference mode, whose tensors take no part in a gradient.
        with torch.inference_mode(False), torch.enable_grad():
            images, features = images.clone(), features.clone()
            z = self.start.expand(images.shape[0], -1).clone().requires_grad_(True)
            optimizer = adam(images.device, [z], self.lr)
            for step in range(self.steps):
                rate = self.lr * (1 + math.cos(math.pi * step / self.steps)) / 2
                optimizer.param_groups[0]["lr"] = rate
                loss = self.loss(*self.parts(images, features, z)).sum()
                descend_alone(loss, optimizer)
        return features, z.detach()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The scores of float images (B, C, H, W), in the order of their names: (B,) each."""
        features, z = self.invert(images)
        parts = self.parts(images, features, z)
        errors = (self.loss(*parts), *parts)
        return (*errors, *(per_complexity(error, images) for error in errors))


class AnoGAN(Detector):
    """See the module's docstring."""

    name: ClassVar[str] = "anogan"
    summary: ClassVar[str] = "AnoGAN (Schlegl et al., IPMI 2017)"
    Config: ClassVar[type[DetectorConfig]] = AnoGANConfig
    score_names: ClassVar[tuple[str, ...]] = (
        *("inversion", "image", "features"),
        *("inversion_c", "image_c", "features_c"),
    )
    usual_steps: ClassVar[int] = 1000
    exports_to_onnx: ClassVar[bool] = False
    why_no_onnx: ClassVar[str] = "each score is an optimisation of its own"
    reconstructs: ClassVar[bool] = True
    needs_gradient_to_score: ClassVar[bool] = True
    most_to_calibrate: ClassVar[int | None] = 64  # nothing is fitted
    kept: ClassVar[tuple[str, ...]] = ("steps",)
    fitted: ClassVar[tuple[str, ...]] = ("start",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {
            "batch_size": 32,
            "latent_dim": 100,
            "prior": "normal",
            "lr": 2e-4,
            "beta1": 0.5,
            "ema": 0.999,
            "inversion_steps": 500,
            "feature_weight": 0.1,
            "score": "inversion",
        },
    }
    config: AnoGANConfig

    def __init__(
        self,
        config: AnoGANConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(config, image_shape, device, seed)
        with drawn_from(seed):
            self.maker, self.discriminator = self._networks()
            averages = self._networks()
        for average, network in zip(averages, (self.maker, self.discriminator), strict=True):
            average_into(average, network, memory=0.0)
        self.averaged_maker, self.averaged_discriminator = averages
        self.hold(
            {"maker": self.maker, "discriminator": self.discriminator},
            {
                "averaged_maker": self.averaged_maker,
                "averaged_discriminator": self.averaged_discriminator,
            },
        )
        own = torch.Generator().manual_seed(seed)
        self.start = draw(config.prior, 1, config.latent_dim, own).to(self.device)
        self.steps = 0
        self._convergence: dict[str, Tensor] = {}  # in the losses of the epoch

    def _networks(self) -> tuple[nn.Module, Discriminator]:
        channels, height, across = self.image_shape
        size, width, latent_dim = (height, across), self.config.width, self.config.latent_dim
        if halves_often(size):
            sizes = halve(size, stop_below=8)
            plan = channel_plan(128, 512, len(sizes) - 1, width)
            convolutions = nn.Sequential(*halving(channels, plan, norm_first=False), nn.Flatten())
            features = plan[-1] * math.prod(sizes[-1])
            maker: nn.Module = ImageGenerator(channels, sizes, plan, latent_dim)
            return maker, Discriminator(convolutions, features)
        body = DenseBody(channels, size, width, normed=True)
        maker = DenseGenerator(channels, size, latent_dim, width, relu_first=False)
        discriminator = Discriminator(body, body.features)
        for network in (maker, discriminator):
            initialise(network, 0.02)
        return maker, discriminator

    @classmethod
    def limits(cls) -> tuple[str, ...]:
        """No ONNX form, and what a score costs."""
        return (
            *super().limits(),
            f"{cls.name} scores each image by an optimisation of its own, 50 steps by default: a "
            "thousand images take about half a minute on a core at width 0.25, and with the "
            "published 500 steps ten times as long",
        )

    # --- training ---------------------------------------------------------------------------------

    def make_optimisation(self) -> Optimisation:
        """Adam of each network."""
        betas = (self.config.beta1, self.config.beta2)
        return adam_each(self.device, self.networks, self.config.lr, betas=betas)

    def begin_epoch(self, images: Tensor) -> None:
        """In the middle and before the last epoch, measure whether inversions converge."""
        epochs = self.config.epochs
        self._convergence = {}
        if self.epoch + 1 in ((epochs + 1) // 2, epochs):
            gap, movement = self._measure(images)
            self._convergence = {"inversion_gap": gap, "z_movement": movement}

    def train_step(
        self,
        batch: Tensor,
        anomalies: Tensor | None = None,  # noqa: ARG002 - learns from normal images alone
    ) -> dict[str, Tensor]:
        """A step of the discriminator, then one of the generator, on one float batch (B, C, H, W).

        Returns `discriminator` and `generator`, what they minimise (1.386 and .693 where D cannot
        tell), `diversity`, and in some epochs `inversion_gap` and `z_movement`.
        """
        players = self.optimisation.optimizers
        with torch.no_grad():
            made = self.maker(self._draw(len(batch)))
        # Two passes: batch norm must not mix images and fakes.
        told = two_sided(self.discriminator(batch)[1], self.discriminator(made)[1])
        descend_alone(told, players["discriminator"])

        made = self.maker(self._draw(len(batch)))
        fooled = cross_entropy(self.discriminator(made)[1], 1)
        descend_alone(fooled, players["maker"])

        memory = min(self.config.ema, (1 + self.steps) / (10 + self.steps))
        average_into(self.averaged_maker, self.maker, memory)
        average_into(self.averaged_discriminator, self.discriminator, memory)
        self.steps += 1
        losses = {"discriminator": told, "generator": fooled, "diversity": diversity(made, batch)}
        losses |= self._convergence
        return {name: value.detach() for name, value in losses.items()}

    def _draw(self, count: int) -> Tensor:
        return draw(self.config.prior, count, self.config.latent_dim, self.generator)

    def _measure(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`inversion_gap` and `z_movement` over some of the images (N, C, H, W), scalars."""
        batch = to_unit_range(evenly_spaced(images, PROBES).to(self.device))
        single, double = (self._inversion(times * self.config.inversion_steps) for times in (1, 2))
        with torch.no_grad():
            features, z = single.invert(batch)
            reached = single.loss(*single.parts(batch, features, z)).mean()
            further = double(batch)[0].mean()
        deviation = 1.0 if self.config.prior == "normal" else 3**-0.5
        return 1 - further / reached, (z - self.start).abs().mean() / deviation

    # --- scoring ----------------------------------------------------------------------------------

    def prepare(self, images: Tensor) -> None:
        """Warn when inversions do not converge.

        Raises `DivergedError` when the generator makes one picture.
        """
        if self.steps >= COLLAPSE_AFTER:
            own = torch.Generator(self.generator.device).manual_seed(self.seed)
            codes = draw(self.config.prior, 64, self.config.latent_dim, own)
            batch = to_unit_range(evenly_spaced(images, 64).to(self.device))
            with torch.no_grad():
                found = float(diversity(self.averaged_maker(codes), batch))
            if found < ONE_PICTURE:
                raise DivergedError(
                    f"anogan collapsed in epoch {self.epoch}: its generator makes one picture; its "
                    f"images differ by {found:.1%} of what training images do"
                )
        gap = float(self._measure(images)[0])
        if gap > CONVERGED:
            warnings.warn(
                f"anogan: inversions have not converged: twice inversion_steps="
                f"{self.config.inversion_steps} would lower what they minimise by {gap:.0%}, and "
                "scores may say how bright an image is; raise inversion_steps or inversion_lr",
                TrainingWarning,
                stacklevel=3,
            )

    def _inversion(self, steps: int) -> Inversion:
        return Inversion(
            self.averaged_maker,
            self.averaged_discriminator,
            self.start,
            self.config.inversion_lr,
            steps,
            self.config.feature_weight,
        )

    def raw_scorer(self) -> nn.Module:
        """The scores of inverted images, by the averaged networks."""
        return self._inversion(self.config.inversion_steps)

    def scoring_networks(self) -> dict[str, nn.Module]:
        """The averaged networks, under the names of those they follow."""
        return {"maker": self.averaged_maker, "discriminator": self.averaged_discriminator}

    def rebuild(self, batch: Tensor) -> Tensor:
        """G(z) at the end of the inversion: (B, C, H, W) -> the same in [-1, 1]."""
        _, z = self._inversion(self.config.inversion_steps).invert(batch)
        rebuilt: Tensor = self.averaged_maker(z)
        return rebuilt


def diversity(made: Tensor, images: Tensor) -> Tensor:
    """Mean distance of made images (M, C, H, W) from their mean, divided by that of others
    (N, C, H, W), a scalar."""

    def spread(some: Tensor) -> Tensor:
        return safe_norm((some - some.mean(dim=0)).flatten(1)).mean()

    return spread(made.detach()) / spread(images)


DETECTOR = AnoGAN
