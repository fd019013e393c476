"""Fence GAN: a discriminator whose generator builds a fence round the normal images.

Ngo, Winarto, Kou, Park, Akram, Lee: Fence GAN: Towards Better Anomaly Detection, ICTAI 2019,
arXiv 1904.01209.

An ordinary generator ends where the images are, and its discriminator can say nothing of what is
beside them. Here the generator G is to end where the discriminator D says `alpha`, and far from its
own mean, so that its points lie round the images:

    cross entropy of D(G(z)) with alpha  +  beta / mean_i |G(z_i) - mean_j G(z_j)|

the second term being the *dispersion* (Eq. 8; the norm is over all values of an image). D minimises
the cross entropy of images with 1, in a step of its own, and in another gamma times that of G(z)
with 0, where gamma < 1 keeps the images well inside. At first, for `warmup_share` of the epochs, D
learns alone, against the untrained G.

The score is minus D's logit, `discriminator`: of the same order as the published 1 - D(x), which
rounds to 0 or 1. Of the losses `fence` is the mean |D(G(z)) - alpha| and `dispersion` that of the
formula: where the method works, the former goes to 0 and the latter grows. D at alpha everywhere,
or a dispersion near 0, is its collapse.

Sides that are divisible by 16 get the networks published for 32 x 32 pixels, others those for 28 x
28. Where this differs from the authors' public code, and why:

- The last epoch is kept. The code keeps the best by the AUROC of labelled images.
- In G's step D is in eval mode, as it will score: it is frozen there, batch norm's statistics too.
- Batch norm's running statistics reach back some 10 steps (the code: 100), since D's fakes are made
  with them, and trainings are short.
- The decay of D's learning rate is brought up to date once an epoch.
- The defaults are the code's for 32 x 32 pixels, preset `cifar10`; those for 28 x 28, `mnist`,
  learn a tenth as fast.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from amatune.config import DetectorConfig, ImageShape
from amatune.detector import Detector, Optimisation, adam
from amatune.nets.adversarial import Dropout, cross_entropy, descend_alone, safe_norm
from amatune.nets.dcgan import SLOPE, Discriminator, glorot, initialise, norm
from amatune.nets.dense_gan import DenseBody, DenseGenerator, halves_often
from amatune.nets.drawing import drawn_from
from amatune.nets.sizes import HalvedConfig, scaled

ADAM_EPS = 1e-7  # Keras'


@dataclass(frozen=True, kw_only=True)
class FenceGANConfig(HalvedConfig):
    """Settings of Fence GAN; the defaults are the published ones for 32 x 32 pixels."""

    batch_size: int = 128  # images per step

    # Networks
    width: float = 1.0  # multiplies channel and unit counts; 1 is the published size
    latent_dim: int = 256  # numbers the generator starts from
    dropout: float = 0.2  # share of the discriminator's features set to 0

    # Objective
    alpha: float = 0.5  # where the fence is: what the discriminator is to say of the generator's
    beta: float = 10.0  # weight of the dispersion
    gamma: float = 0.5  # weight of the generator's images in the discriminator's loss
    warmup_share: float = 0.1  # share of the epochs in which the discriminator learns alone

    # Optimisation
    d_lr: float = 1e-4  # of Adam, discriminator
    d_lr_decay: float = 1e-5  # after t steps of it, d_lr / (1 + d_lr_decay t)
    g_lr: float = 1e-3  # of Adam, generator
    beta1: float = 0.5  # of Adam
    beta2: float = 0.999  # of Adam

    def problems(self) -> list[str]:
        """All impossible values, one sentence each."""
        found = super().problems()
        found += self.outside("positive", "width", "d_lr", "g_lr", "gamma")
        found += self.outside("0 or more", "beta", "d_lr_decay")
        found += self.outside("in [0, 1)", "dropout", "warmup_share", "beta1", "beta2")
        found += self.outside("in (0, 1)", "alpha")
        found += self.outside("at least 1", "latent_dim")
        return found

    @property
    def warmup_epochs(self) -> int:
        """Epochs in which the discriminator learns alone: their share, but never all."""
        return min(math.ceil(self.warmup_share * self.epochs), self.epochs - 1)

    def grace_epochs(self) -> int:
        """Those, and one."""
        return self.warmup_epochs + 1


# --- networks -------------------------------------------------------------------------------------


class ConvGenerator(nn.Sequential):
    """(N, d) -> (N, C, H, W) in [-1, 1]: a dense layer to 256 channels at a sixteenth of the sides,
    transposed 5x5 convolutions of stride 2 to 128, 64, 32 and C, batch norm and LeakyReLU; tanh."""

    def __init__(self, channels: int, size: tuple[int, int], latent_dim: int, width: float) -> None:
        plan = [scaled(count, width) for count in (256, 128, 64, 32)]
        height, across = size[0] // 16, size[1] // 16
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, plan[0] * height * across, bias=False),
            nn.Unflatten(1, (plan[0], height, across)),
        ]
        for inner, out in zip(plan, [*plan[1:], channels], strict=True):
            conv = nn.ConvTranspose2d(
                *(inner, out, 5),
                stride=2,
                padding=2,
                output_padding=1,
                bias=inner == plan[-1],
            )
            layers += [norm(inner), nn.LeakyReLU(SLOPE), conv]
        super().__init__(*layers, nn.Tanh())


class ConvBody(nn.Sequential):
    """(N, C, H, W) -> features (N, F), F being `features`: 5x5 convolutions of stride 2 with 32,
    64, 128 and 256 channels and LeakyReLU, batch norm in all but the last."""

    def __init__(self, channels: int, size: tuple[int, int], width: float) -> None:
        layers: list[nn.Module] = []
        plan = [scaled(count, width) for count in (32, 64, 128, 256)]
        for number, out in enumerate(plan):
            last = number == len(plan) - 1
            layers.append(nn.Conv2d(channels, out, 5, stride=2, padding=2, bias=last))
            layers += [] if last else [norm(out)]
            layers.append(nn.LeakyReLU(SLOPE))
            channels = out
        super().__init__(*layers, nn.Flatten())
        self.features = channels * (size[0] // 16) * (size[1] // 16)


# --- objective ------------------------------------------------------------------------------------


def fence_entropy(logits: Tensor, alpha: float) -> Tensor:
    """Mean binary cross entropy of logits (N,) with the probability `alpha`, a scalar; least, and
    then alpha's own entropy, where all say alpha."""
    return (softplus(logits) - alpha * logits).mean()


def dispersion(images: Tensor) -> Tensor:
    """Mean distance of images (N, C, H, W) from their mean, a scalar."""
    return safe_norm((images - images.mean(dim=0)).flatten(1)).mean()


class _Scorer(nn.Module):
    """Minus the discriminator's logit of float images (B, C, H, W): a tuple with one (B,)."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (-self.discriminator(images)[1],)


class FenceGAN(Detector):
    """See the module's docstring."""

    name: ClassVar[str] = "fence-gan"
    summary: ClassVar[str] = "Fence GAN (Ngo et al., ICTAI 2019)"
    Config: ClassVar[type[DetectorConfig]] = FenceGANConfig
    score_names: ClassVar[tuple[str, ...]] = ("discriminator",)
    kept: ClassVar[tuple[str, ...]] = ("steps",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cifar10": {
            "batch_size": 128,
            "latent_dim": 256,
            "dropout": 0.2,
            "alpha": 0.5,
            "beta": 10.0,
            "gamma": 0.5,
            "d_lr": 1e-4,
            "d_lr_decay": 1e-5,
            "g_lr": 1e-3,
        },
        "mnist": {
            "batch_size": 200,
            "latent_dim": 200,
            "dropout": 0.0,
            "alpha": 0.1,
            "beta": 30.0,
            "gamma": 0.1,
            "d_lr": 1e-5,
            "d_lr_decay": 0.0,
            "g_lr": 2e-5,
        },
    }
    config: FenceGANConfig

    def __init__(
        self,
        config: FenceGANConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(config, image_shape, device, seed)
        channels, *sides = image_shape
        size = sides[0], sides[1]
        latent_dim, width = config.latent_dim, config.width
        with drawn_from(seed):
            body: ConvBody | DenseBody
            if halves_often(size):
                self.fence: nn.Module = ConvGenerator(channels, size, latent_dim, width)
                body = ConvBody(channels, size, width)
            else:
                self.fence = DenseGenerator(channels, size, latent_dim, width, relu_first=True)
                body = DenseBody(channels, size, width, normed=False)
            dropped = nn.Sequential(body, Dropout(config.dropout, self.generator))
            self.discriminator = Discriminator(dropped, body.features)
            begin = partial(initialise, std=0.02)
            if halves_often(size):
                begin = partial(glorot, weights=nn.init.xavier_normal_)
            for network in (self.fence, self.discriminator):
                begin(network)
        self.hold({"fence": self.fence, "discriminator": self.discriminator})
        self.steps = 0  # of the discriminator

    # --- training ---------------------------------------------------------------------------------

    def make_optimisation(self) -> Optimisation:
        """Adam of each network."""
        config = self.config
        betas, eps = (config.beta1, config.beta2), ADAM_EPS
        rates = {"fence": config.g_lr, "discriminator": config.d_lr}
        return Optimisation(
            {
                name: adam(self.device, self.networks[name].parameters(), lr, betas=betas, eps=eps)
                for name, lr in rates.items()
            }
        )

    def begin_epoch(self, images: Tensor) -> None:  # noqa: ARG002 - the images do not matter
        """The discriminator's learning rate decays."""
        for group in self.optimisation.optimizers["discriminator"].param_groups:
            group["lr"] = self.config.d_lr / (1 + self.config.d_lr_decay * self.steps)

    def train_step(
        self,
        batch: Tensor,
        anomalies: Tensor | None = None,  # noqa: ARG002 - learns from normal images alone
    ) -> dict[str, Tensor]:
        """Two steps of the discriminator, on the float batch (B, C, H, W) and on as many of the
        generator's images; after the warm-up one of the generator.

        Returns the cross entropies `real` and `fake` that these minimise, the latter without
        gamma; then `generator`, what that minimises, `fence` and `dispersion`.
        """
        players = self.optimisation.optimizers
        real = cross_entropy(self.discriminator(batch)[1], 1)
        descend_alone(real, players["discriminator"])

        self.fence.eval()
        with torch.no_grad():
            generated = self.fence(self._noise(len(batch)))
        self.fence.train()
        fake = cross_entropy(self.discriminator(generated)[1], 0)
        descend_alone(self.config.gamma * fake, players["discriminator"])
        self.steps += 2

        losses = {"real": real, "fake": fake}
        if self.epoch >= self.config.warmup_epochs:
            losses |= self._fence_step(len(batch))
        return {name: value.detach() for name, value in losses.items()}

    def _fence_step(self, count: int) -> dict[str, Tensor]:
        alpha, beta = self.config.alpha, self.config.beta
        generated = self.fence(self._noise(count))
        self.discriminator.eval()
        _, logits = self.discriminator(generated)
        self.discriminator.train()
        spread = dispersion(generated)
        total = fence_entropy(logits, alpha) + beta / spread
        descend_alone(total, self.optimisation.optimizers["fence"])
        distance = (logits.detach().sigmoid() - alpha).abs().mean()
        return {"generator": total, "fence": distance, "dispersion": spread}

    def _noise(self, count: int) -> Tensor:
        shape = (count, self.config.latent_dim)
        return torch.randn(shape, generator=self.generator, device=self.device)

    # --- scoring ----------------------------------------------------------------------------------

    def raw_scorer(self) -> nn.Module:
        """Minus the logit."""
        return _Scorer(self.discriminator)

    def scoring_networks(self) -> dict[str, nn.Module]:
        """The discriminator alone."""
        return {"discriminator": self.discriminator}


DETECTOR = FenceGAN
