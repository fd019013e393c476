"""GANomaly: images are rebuilt, and judged by whether their codes are.

Akcay, Atapour-Abarghouei, Breckon: GANomaly: Semi-Supervised Anomaly Detection via Adversarial
Training, ACCV 2018, arXiv 1805.06725.

An encoder E and a decoder rebuild an image, x' = Dec(z) with z = E(x); a second encoder E2 encodes
what was rebuilt, z' = E2(x'). A discriminator tells images from reconstructions; f is what it sees
before its last layer. E, the decoder and E2 together minimise (Eq. 5)

    w_adv mean (f(x) - f(x'))^2  +  w_con mean |x - x'|  +  w_enc mean (z - z')^2

and the discriminator half the sum of its two cross entropies. The autoencoder learns to rebuild
normal images and their codes alone. The score is `code`, the mean of (z - z')^2 (Eq. 6 has the L1
distance; this is the authors' code). `image`, the mean of (x - x')^2, and `features`, that of
(f(x) - f(x'))^2, are the other two distances; `code_c`, `image_c` and `features_c` are all three
divided by the complexity of the image, see `amatune.nets.scores`.

As in the authors' code, one pass serves both players, the autoencoder steps first, and the
discriminator begins anew whenever its loss falls below 1e-5: `resets` is the share of steps after
which it did. Where this differs, and why:

- Scores are made with batch norm in eval mode. The code never leaves training mode, so that a score
  depends on the batch, which there holds either normal images or anomalies, and even moves the
  statistics: its figures are higher by that leak.
- Scores are not scaled to [0, 1] over the test set: it changes no order.
- Images are in [-1, 1], the range of the decoder's tanh; the code shows MNIST up to 2.8.
- Layers without batch norm have biases.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from amatune.config import DetectorConfig, ImageShape
from amatune.detector import Detector, Optimisation
from amatune.nets.adversarial import RESET_BELOW, adam_each, descend_alone, two_sided
from amatune.nets.dcgan import Discriminator, Encoder, ImageGenerator, halving, initialise
from amatune.nets.drawing import drawn_from
from amatune.nets.scores import per_complexity
from amatune.nets.sizes import HalvedConfig, channel_plan, halve

Score = Literal["auto", "code", "image", "features", "code_c", "image_c", "features_c"]

INIT_STD = 0.02  # of all weights
EPS = 1e-5  # of batch norm


@dataclass(frozen=True, kw_only=True)
class GANomalyConfig(HalvedConfig):
    """Settings of GANomaly; the defaults are those of the authors' code."""

    batch_size: int = 64  # images per step

    # Networks
    width: float = 1.0  # multiplies channel counts; 1 is the published size
    latent_dim: int = 100  # size of a code

    # Objective
    w_adv: float = 1.0  # weight of the features' error
    w_con: float = 50.0  # weight of the image's error
    w_enc: float = 1.0  # weight of the code's error

    # Optimisation
    lr: float = 2e-4  # of Adam, all networks
    beta1: float = 0.5  # of Adam
    beta2: float = 0.999  # of Adam

    # Scoring
    score: Score = "auto"  # which score ranks the images; published: code

    def problems(self) -> list[str]:
        """All impossible values, one sentence each."""
        found = super().problems()
        found += self.outside("positive", "width", "lr")
        found += self.outside("0 or more", "w_adv", "w_con", "w_enc")
        found += self.outside("in [0, 1)", "beta1", "beta2")
        found += self.outside("at least 1", "latent_dim")
        return found


class _Scorer(nn.Module):
    """The scores of float images (B, C, H, W), in the order of their names: (B,) each."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoder, self.decoder = networks["encoder"], networks["decoder"]
        self.second_encoder = networks["second_encoder"]
        self.discriminator = networks["discriminator"]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        codes = self.encoder(images)
        rebuilt = self.decoder(codes)
        again = self.second_encoder(rebuilt)
        (features, _), (rebuilt_features, _) = map(self.discriminator, (images, rebuilt))
        pairs = (codes, again), (images, rebuilt), (features, rebuilt_features)
        errors = [(a - b).square().flatten(1).mean(dim=1) for a, b in pairs]
        return (*errors, *(per_complexity(error, images) for error in errors))


class GANomaly(Detector):
    """See the module's docstring."""

    name: ClassVar[str] = "ganomaly"
    summary: ClassVar[str] = "GANomaly (Akcay et al., ACCV 2018)"
    Config: ClassVar[type[DetectorConfig]] = GANomalyConfig
    score_names: ClassVar[tuple[str, ...]] = (
        *("code", "image", "features"),
        *("code_c", "image_c", "features_c"),
    )
    usual_steps: ClassVar[int] = 1500
    channels_last: ClassVar[bool] = True
    reconstructs: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "authors-code": {
            "batch_size": 64,
            "latent_dim": 100,
            "lr": 2e-4,
            "beta1": 0.5,
            "w_adv": 1.0,
            "w_con": 50.0,
            "w_enc": 1.0,
            "score": "code",
        },
    }
    config: GANomalyConfig

    def __init__(
        self,
        config: GANomalyConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(config, image_shape, device, seed)
        channels, height, across = image_shape
        sizes = halve((height, across), stop_below=8)
        plan = channel_plan(64, 512, len(sizes) - 1, config.width)

        def encoder() -> Encoder:
            return Encoder(channels, sizes, plan, config.latent_dim, norm_first=False, eps=EPS)

        with drawn_from(seed):
            self.encoder, self.second_encoder = encoder(), encoder()
            self.decoder = ImageGenerator(channels, sizes, plan, config.latent_dim, eps=EPS)
            body = halving(channels, plan, norm_first=False, eps=EPS)
            features = plan[-1] * math.prod(sizes[-1])
            self.discriminator = Discriminator(nn.Sequential(*body, nn.Flatten()), features)
            self.autoencoder = nn.ModuleList([self.encoder, self.decoder, self.second_encoder])
            for network in (self.autoencoder, self.discriminator):
                initialise(network, INIT_STD)
        self.hold(
            {
                "encoder": self.encoder,
                "decoder": self.decoder,
                "second_encoder": self.second_encoder,
                "discriminator": self.discriminator,
            }
        )

    # --- training ---------------------------------------------------------------------------------

    def make_optimisation(self) -> Optimisation:
        """Adam of the autoencoder with the second encoder, and of the discriminator."""
        players = {"autoencoder": self.autoencoder, "discriminator": self.discriminator}
        betas = (self.config.beta1, self.config.beta2)
        return adam_each(self.device, players, self.config.lr, betas=betas)

    def train_step(
        self,
        batch: Tensor,
        anomalies: Tensor | None = None,  # noqa: ARG002 - learns from normal images alone
    ) -> dict[str, Tensor]:
        """A step of the autoencoder, then one of the discriminator, on one float batch
        (B, C, H, W).

        Returns `autoencoder` what that minimises, `features`, `image` and `code` its parts
        without their weights, `discriminator` what that one minimises (.693 when it cannot tell)
        and `resets`, 1 where it began anew.
        """
        config, players = self.config, self.optimisation.optimizers
        codes = self.encoder(batch)
        rebuilt = self.decoder(codes)
        again = self.second_encoder(rebuilt)
        # Two passes: batch norm must not mix images and reconstructions.
        (features, real), (rebuilt_features, fake) = map(self.discriminator, (batch, rebuilt))

        parts = {
            "features": (features - rebuilt_features).square().mean(),
            "image": (batch - rebuilt).abs().mean(),
            "code": (codes - again).square().mean(),
        }
        total = (
            config.w_adv * parts["features"]
            + config.w_con * parts["image"]
            + config.w_enc * parts["code"]
        )
        descend_alone(total, players["autoencoder"], keep_graph=True)
        told = two_sided(real, fake) / 2
        descend_alone(told, players["discriminator"])

        has_won = told.detach() < RESET_BELOW
        initialise(self.discriminator, INIT_STD, self.generator, when=has_won)
        losses = {"autoencoder": total, **parts, "discriminator": told, "resets": has_won.float()}
        return {name: value.detach() for name, value in losses.items()}

    # --- scoring ----------------------------------------------------------------------------------

    def raw_scorer(self) -> nn.Module:
        """The scores of float images."""
        return _Scorer(self.networks)

    def rebuild(self, batch: Tensor) -> Tensor:
        """x': (B, C, H, W) -> the same in [-1, 1]."""
        rebuilt: Tensor = self.decoder(self.encoder(batch))
        return rebuilt


DETECTOR = GANomaly
