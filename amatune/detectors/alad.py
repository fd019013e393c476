"""ALAD: Adversarially Learned Anomaly Detection.

Zenati, Romain, Foo, Lecouat, Chandrasekhar: Adversarially Learned Anomaly Detection, ICDM 2018,
arXiv 1812.02288.

A bidirectional GAN: an encoder E maps images to codes, a generator G maps codes z ~ N(0, I) to
images. Three discriminators tell

    D_xz   (x, E(x)) from (G(z), z)        so that E and G become each other's inverse,
    D_xx   (x, x)    from (x, G(E(x)))     so that images are rebuilt,
    D_zz   (z, z)    from (z, E(G(z)))     so that codes are.

The value of the game, Eq. 4, is the sum of three binary cross entropies, which the discriminators
maximise; E and G do what fools them, with labels exchanged ("non-saturating"), as in the authors'
code. Spectral normalisation (of the discriminators and of E, except for their last layers) and D_zz
are the paper's two stabilisers.

The score, Algorithm 1, is the L1 distance between what D_xx sees last, before its linear layer, of
(x, x) and of (x, G(E(x))): `features`. Of the scores the paper compares it with, `logits` is
-log D_xx(x, G(E(x))) and `l1` the error |x - G(E(x))| summed over pixels; the L2 error, whose order
is much like that of `l1`, is left out. `features_c` and `l1_c` are these errors divided by the
complexity of the image, see `amatune.nets.scores`. Scores come from weights averaged over training,
with batch norm in eval mode.

`stacked` says how D_xx gets its pairs. The published way, one image above the other, keeps the two
apart until the linear layer, which adds up what it makes of each: D_xx can tell images from
reconstructions, but not whether the two halves agree, and E and G learn to make likely images
rather than the same. Side by side as channels, the first convolution compares pixel by pixel.

Where this differs from the authors' public code, and why:

- One draw of x and z serves both the discriminators' step and that of E and G, which do not change
  in between; the code draws anew.
- The memory of the averaged weights grows to `ema` as min(ema, (1 + n) / (10 + n)) with the steps
  n, so that short trainings are not judged by their initial weights. Batch norm's statistics are
  averaged like the weights; spectrally normalised weights are averaged as normalised.
- Batch norm's running statistics reach back some 10 steps (the code: 100), for the same reason.
- E's and G's loss has no term for D_xx(x, x) and D_zz(z, z): these do not depend on E and G.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from amatune.config import DetectorConfig, ImageShape
from amatune.detector import Detector, Optimisation, adam
from amatune.nets.adversarial import Dropout, average_into, cross_entropy, two_sided
from amatune.nets.dcgan import (
    SLOPE,
    Encoder,
    ImageGenerator,
    Sizes,
    Wrap,
    halving,
    initialised,
    plain,
)
from amatune.nets.drawing import drawn_from
from amatune.nets.scores import per_complexity, r_score
from amatune.nets.sizes import HalvedConfig, channel_plan, halve, scaled

Stacked = Literal["height", "channels"]
Score = Literal["auto", "features", "logits", "l1", "features_c", "l1_c"]


@dataclass(frozen=True, kw_only=True)
class ALADConfig(HalvedConfig):
    """Settings of ALAD; the defaults are the paper's for images."""

    batch_size: int = 32  # images per step

    # Networks
    width: float = 1.0  # multiplies channel and unit counts; 1 is the published size
    latent_dim: int = 100  # size of a code
    spectral_norm: bool = True  # of the discriminators and the encoder
    d_zz: bool = True  # the discriminator of pairs of codes; False is the paper's ablation
    stacked: Stacked = "height"  # how D_xx sees a pair of images; published: height
    dropout: float = 0.2  # share of the discriminators' activations set to 0

    # Optimisation
    lr: float = 2e-4  # of Adam, all networks
    beta1: float = 0.5  # of Adam
    beta2: float = 0.999  # of Adam
    ema: float = 0.999  # weight of the past in the averaged weights, per step

    # Scoring
    score: Score = "auto"  # which score ranks the images; published: features

    def problems(self) -> list[str]:
        """All impossible values, one sentence each."""
        found = super().problems()
        found += self.outside("positive", "width", "lr")
        found += self.outside("in [0, 1)", "dropout", "beta1", "beta2", "ema")
        found += self.outside("at least 1", "latent_dim")
        return found


class JointDiscriminator(nn.Module):
    """D_xz: images (N, C, H, W) and codes (N, d) -> logits (N,).

    The image goes through convolutions like the encoder's (without batch norm after the first), the
    code through two layers of 512, both together through one of 1024.
    """

    def __init__(
        self,
        channels: int,
        sizes: Sizes,
        plan: list[int],
        latent_dim: int,
        width: float,
        wrap: Wrap,
        dropout: Callable[[], Dropout],
    ) -> None:
        super().__init__()
        convolutions = halving(channels, plan, wrap, norm_first=False)
        self.of_image = nn.Sequential(*convolutions, nn.Flatten())
        hidden = scaled(512, width)
        self.of_code = nn.Sequential(
            *_dense(latent_dim, hidden, wrap, dropout), *_dense(hidden, hidden, wrap, dropout)
        )
        joint = scaled(1024, width)
        flat = plan[-1] * math.prod(sizes[-1])
        self.of_both = nn.Sequential(
            *_dense(flat + hidden, joint, wrap, dropout), initialised(nn.Linear(joint, 1))
        )

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        """(N, C, H, W), (N, d) -> (N,)."""
        both = torch.cat([self.of_image(images), self.of_code(codes)], dim=1)
        logits: Tensor = self.of_both(both).squeeze(1)
        return logits


class ImagePairDiscriminator(nn.Module):
    """D_xx: stacked pairs of images through 5x5 stride-2 convolutions of 64 and 128 channels and a
    linear layer."""

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        stacked: Stacked,
        width: float,
        wrap: Wrap,
        dropout: Callable[[], Dropout],
    ) -> None:
        super().__init__()
        height, across = size
        if stacked == "height":
            height *= 2
        else:
            channels *= 2
        layers: list[nn.Module] = []
        for out in (scaled(64, width), scaled(128, width)):
            conv = nn.Conv2d(channels, out, 5, stride=2, padding=2)
            layers += [wrap(initialised(conv)), nn.LeakyReLU(SLOPE), dropout()]
            channels, height, across = out, (height + 1) // 2, (across + 1) // 2
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = initialised(nn.Linear(channels * height * across, 1))

    def features(self, pairs: Tensor) -> Tensor:
        """What stands before the linear layer, pairs as from `stack_pair` -> (N, F)."""
        features: Tensor = self.body(pairs)
        return features

    def forward(self, pairs: Tensor) -> Tensor:
        """Pairs as from `stack_pair` -> logits (N,)."""
        logits: Tensor = self.head(self.features(pairs)).squeeze(1)
        return logits


class CodePairDiscriminator(nn.Sequential):
    """D_zz: pairs of codes, one after the other, (N, 2d) -> logits (N,); layers of 64, 32 and 1."""

    def __init__(
        self, latent_dim: int, width: float, wrap: Wrap, dropout: Callable[[], Dropout]
    ) -> None:
        first, second = scaled(64, width), scaled(32, width)
        super().__init__(
            *_dense(2 * latent_dim, first, wrap, dropout),
            *_dense(first, second, wrap, dropout),
            initialised(nn.Linear(second, 1)),
            nn.Flatten(0),
        )


class Networks(NamedTuple):
    """What scoring needs: encoder, generator and the discriminator of image pairs."""

    encoder: Encoder
    decoder: ImageGenerator
    d_xx: ImagePairDiscriminator


class Game(NamedTuple):
    """All networks of the training, and the averaged ones that score."""

    networks: Networks
    d_xz: JointDiscriminator
    d_zz: CodePairDiscriminator | None
    averaged: Networks


def build_game(
    config: ALADConfig, image_shape: ImageShape, seed: int, generator: Generator
) -> Game:
    """Freshly initialised networks on the CPU; the same seed gives the same weights.

    Dropout draws from `generator`. The averaged networks begin as copies.
    """
    channels, height, across = image_shape
    sizes = halve((height, across), stop_below=8)
    plan = channel_plan(128, 512, len(sizes) - 1, config.width)
    latent_dim, width = config.latent_dim, config.width

    def networks(wrap: Wrap, dropout: Callable[[], Dropout]) -> Networks:
        return Networks(
            Encoder(channels, sizes, plan, latent_dim, wrap),
            ImageGenerator(channels, sizes, plan, latent_dim),
            ImagePairDiscriminator(
                channels, (height, across), config.stacked, width, wrap, dropout
            ),
        )

    dropout = partial(Dropout, config.dropout, generator)
    wrap: Wrap = spectral_norm if config.spectral_norm else plain
    with drawn_from(seed):
        online = networks(wrap, dropout)
        d_xz = JointDiscriminator(channels, sizes, plan, latent_dim, width, wrap, dropout)
        d_zz = CodePairDiscriminator(latent_dim, width, wrap, dropout) if config.d_zz else None
        averaged = networks(plain, partial(Dropout, config.dropout, None))
    for average, module in zip(averaged, online, strict=True):
        average_into(average, module.eval(), memory=0.0)
    return Game(online, d_xz, d_zz, averaged)


def _dense(
    inputs: int, outputs: int, wrap: Wrap, dropout: Callable[[], Dropout]
) -> list[nn.Module]:
    return [wrap(initialised(nn.Linear(inputs, outputs))), nn.LeakyReLU(SLOPE), dropout()]


# --- objective and scores -------------------------------------------------------------------------


def stack_pair(left: Tensor, right: Tensor, stacked: Stacked) -> Tensor:
    """Two images (N, C, H, W), one above the other, (N, C, 2H, W), or on one another as channels,
    (N, 2C, H, W)."""
    return torch.cat([left, right], dim=2 if stacked == "height" else 1)


class _Sample(NamedTuple):
    """What a step plays with, made once per batch."""

    images: Tensor  # x (B, C, H, W)
    codes: Tensor  # E(x) (B, d)
    rebuilt: Tensor  # G(E(x))
    noise: Tensor  # z (B, d)
    generated: Tensor  # G(z)
    recovered: Tensor  # E(G(z))

    def detached(self) -> "_Sample":
        """The same values without their graph."""
        return _Sample(*(tensor.detach() for tensor in self))


class _Scorer(nn.Module):
    """The scores of float images (B, C, H, W), in the order of their names: (B,) each."""

    def __init__(self, networks: Networks, stacked: Stacked) -> None:
        super().__init__()
        self.encoder, self.decoder, self.d_xx = networks
        self.stacked = stacked

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        rebuilt = self.decoder(self.encoder(images))
        pairs = [stack_pair(images, other, self.stacked) for other in (images, rebuilt)]
        features = self.d_xx.features(torch.cat(pairs))
        count = images.shape[0]  # not `chunk`: ONNX could not follow for a batch of any size
        same, other = features[:count], features[count:]
        logits = softplus(-self.d_xx.head(other).squeeze(1))
        errors = [r_score(same, other), (images - rebuilt).abs().flatten(1).sum(dim=1)]
        normalised = [per_complexity(error, images) for error in errors]
        return errors[0], logits, errors[1], *normalised


class ALAD(Detector):
    """Adversarially Learned Anomaly Detection; see the module's docstring."""

    name: ClassVar[str] = "alad"
    summary: ClassVar[str] = "Adversarially Learned Anomaly Detection (Zenati et al., ICDM 2018)"
    # Longer, and it detects less: benchmarks/RESULTS.md, steps of Deep SVDD and ALAD.
    usual_steps: ClassVar[int | None] = 300
    Config: ClassVar[type[DetectorConfig]] = ALADConfig
    score_names: ClassVar[tuple[str, ...]] = ("features", "logits", "l1", "features_c", "l1_c")
    # Says most at a sixth and a third of the steps on both problems that it was chosen on:
    # benchmarks/RESULTS.md, search efficiency.
    early_score: ClassVar[str | None] = "l1_c"
    reconstructs: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ("steps",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"score": "features"},
        "pairs-as-channels": {"stacked": "channels"},
        # The paper's ablations.
        "without-spectral-norm": {"spectral_norm": False},
        "without-d-zz": {"d_zz": False},
        "logits-score": {"score": "logits"},
        "l1-score": {"score": "l1"},
    }
    config: ALADConfig

    def __init__(
        self,
        config: ALADConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(config, image_shape, device, seed)
        game = build_game(self.config, image_shape, seed, self.generator)
        self.encoder, self.decoder, self.d_xx = game.networks
        self.d_xz, self.d_zz, self.averaged = game.d_xz, game.d_zz, game.averaged
        self.discriminators: dict[str, nn.Module] = {"d_xz": self.d_xz, "d_xx": self.d_xx}
        if self.d_zz is not None:
            self.discriminators["d_zz"] = self.d_zz
        self.hold(
            {"encoder": self.encoder, "decoder": self.decoder, **self.discriminators},
            {f"averaged_{name}": network for name, network in self.averaged._asdict().items()},
        )
        self.steps = 0

    def make_optimisation(self) -> Optimisation:
        """Adam of all discriminators together, of the encoder and of the generator."""

        def player(*networks: nn.Module) -> torch.optim.Adam:
            parameters = [parameter for network in networks for parameter in network.parameters()]
            betas = (self.config.beta1, self.config.beta2)
            return adam(self.device, parameters, self.config.lr, betas=betas)

        return Optimisation(
            {
                "discriminators": player(*self.discriminators.values()),
                "encoder": player(self.encoder),
                "decoder": player(self.decoder),
            }
        )

    # --- training ---------------------------------------------------------------------------------

    def train_step(
        self,
        batch: Tensor,
        anomalies: Tensor | None = None,  # noqa: ARG002 - learns from normal images alone
    ) -> dict[str, Tensor]:
        """A step of the discriminators, then one of E and G, on one float batch (B, C, H, W).

        Returns `discriminators` what they minimise together, `xz`, `xx` and `zz` its parts (each
        1.386 when a discriminator cannot tell), `encoder` and `generator` what these minimise,
        `reconstruction` the mean |x - x'| per pixel.
        """
        sample = self._make_sample(batch)
        losses = self._discriminators_step(sample.detached())
        losses |= self._autoencoder_step(sample)
        losses["reconstruction"] = (sample.rebuilt - batch).abs().mean().detach()
        memory = min(self.config.ema, (1 + self.steps) / (10 + self.steps))
        online = (self.encoder, self.decoder, self.d_xx)
        for average, module in zip(self.averaged, online, strict=True):
            average_into(average, module, memory)
        self.steps += 1
        return losses

    def _make_sample(self, batch: Tensor) -> _Sample:
        shape = (len(batch), self.config.latent_dim)
        noise = torch.randn(shape, generator=self.generator, device=self.device)
        # Spectral norm's power iteration runs once per step, not once per pass.
        with parametrize.cached():
            codes, generated = self.encoder(batch), self.decoder(noise)
            rebuilt, recovered = self.decoder(codes), self.encoder(generated)
        return _Sample(batch, codes, rebuilt, noise, generated, recovered)

    def _discriminators_step(self, sample: _Sample) -> dict[str, Tensor]:
        images, codes, rebuilt, noise, generated, recovered = sample
        with parametrize.cached():
            # Two passes: batch norm must not mix the two kinds of pairs.
            losses = {"xz": two_sided(self.d_xz(images, codes), self.d_xz(generated, noise))}
            pairs = [stack_pair(images, x, self.config.stacked) for x in (images, rebuilt)]
            losses["xx"] = two_sided(*self.d_xx(torch.cat(pairs)).chunk(2))
            if self.d_zz is not None:
                same, other = torch.cat([noise, noise], 1), torch.cat([noise, recovered], 1)
                losses["zz"] = two_sided(*self.d_zz(torch.cat([same, other])).chunk(2))
            total = torch.stack(list(losses.values())).sum()
            self.descend(total, "discriminators")
        losses = {"discriminators": total, **losses}
        return {name: value.detach() for name, value in losses.items()}

    def _autoencoder_step(self, sample: _Sample) -> dict[str, Tensor]:
        images, codes, rebuilt, noise, generated, recovered = sample
        for module in self.discriminators.values():
            module.requires_grad_(False)
        with parametrize.cached():
            # The first depends on E alone, the second on G, the cycles on both.
            encoder = cross_entropy(self.d_xz(images, codes), 0)
            generator = cross_entropy(self.d_xz(generated, noise), 1)
            pairs = stack_pair(images, rebuilt, self.config.stacked)
            cycles = cross_entropy(self.d_xx(pairs), 1)
            if self.d_zz is not None:
                logits = self.d_zz(torch.cat([noise, recovered], 1))
                cycles = cycles + cross_entropy(logits, 1)
            self.descend(encoder + generator + cycles, "encoder", "decoder")
        for module in self.discriminators.values():
            module.requires_grad_(True)
        losses = {"encoder": encoder + cycles, "generator": generator + cycles}
        return {name: value.detach() for name, value in losses.items()}

    # --- scoring ----------------------------------------------------------------------------------

    def raw_scorer(self) -> nn.Module:
        """The scores of float images: averaged encoder, generator and D_xx."""
        return _Scorer(self.averaged, self.config.stacked)

    def scoring_networks(self) -> dict[str, nn.Module]:
        """The averaged networks, under the names of those they follow."""
        return self.averaged._asdict()

    def rebuild(self, batch: Tensor) -> Tensor:
        """G(E(x)) by the averaged weights: (B, C, H, W) -> the same in [-1, 1]."""
        rebuilt: Tensor = self.averaged.decoder(self.averaged.encoder(batch))
        return rebuilt


DETECTOR = ALAD
