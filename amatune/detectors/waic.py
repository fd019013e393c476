"""WAIC: several critics of independent GANs, and where they disagree.

Choi, Jang, Alemi: WAIC, but Why? Generative Ensembles for Robust Anomaly Detection, 2018,
arXiv 1810.01392. Here the paper's ensemble of GANs.

Each member is a generator and a critic, trained as a WGAN with gradient penalty (Gulrajani et al.,
2017): the critic minimises mean D(G(z)) - mean D(x) + `gp_weight` times the mean of
(|grad D| - 1)^2 between images and fakes, the generator -mean D(G(z)). In a second phase, the last
`classifier_share` of the epochs, each critic goes on alone as a classifier: binary cross entropy of
its logit, images against its generator's. Of the logits l_1..l_k of an image,

    waic = variance - mean        mean = -mean        variance        single = -l_1

all higher = more anomalous, the variance with divisor k. The authors call it so and note that mean
minus variance is not the criterion that the name is from.

A critic's output has a zero and a scale of its own, and the variance is quadratic in the scale. So
one member can make all of it: `scale_1`.. in the losses are the members' mean |logit| over images,
`logit_spread` the mean standard deviation over the members, and `dominance` the largest share of
one member in the variance, at most (k-1)/k. With `standardise`, an extension, each member's logit
is first brought to mean 0 and deviation 1 over training images.

Where this differs from the authors' public code, and why:

- The members learn side by side, from the same batches, so that an epoch is one for all.
- A step is one of the critics; every `critic_steps`-th is followed by one of the generators. The
  code has 100 critic steps before each of the first 25 of the generators and before every 500th,
  which is more than a whole training here.
- RMSprop is torch's: its mean of squares begins at 0, where TensorFlow's begins at 1, so that the
  first steps of a phase are up to three times as long and not shorter; and its eps, 1e-8, is added
  to the root, where there 1e-10 is under it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, RMSprop

from amatune.config import DetectorConfig, ImageShape
from amatune.detector import Detector, Optimisation, adam
from amatune.nets.adversarial import PenalisedLeakyReLU, safe_norm, two_sided
from amatune.nets.dcgan import SLOPE, glorot
from amatune.nets.dense_gan import Crop
from amatune.nets.drawing import drawn_from
from amatune.nets.sizes import HalvedConfig, scaled

Score = Literal["auto", "waic", "mean", "variance", "single"]

RMS_MEMORY = 0.9  # of RMSprop, TensorFlow's
ADAM_BETAS = (0.5, 0.9)


@dataclass(frozen=True, kw_only=True)
class WAICConfig(HalvedConfig):
    """Settings of WAIC; the defaults are the published ones."""

    batch_size: int = 64  # images per step

    # Networks
    members: int = 5  # generators with their critics
    width: float = 1.0  # multiplies channel and unit counts; 1 is the published size
    latent_dim: int = 128  # numbers a generator starts from

    # Objective
    critic_steps: int = 5  # of the critics for each of the generators
    gp_weight: float = 10.0  # of the gradient penalty
    classifier_share: float = 0.17  # share of the epochs in which the critics classify

    # Optimisation
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"  # published: rmsprop
    lr: float = 5e-5  # of the optimiser, critics and generators

    # Scoring
    score: Score = "auto"  # which score ranks the images; published: waic
    standardise: bool = False  # whether logits are standardised over training images; published: no

    def problems(self) -> list[str]:
        """All impossible values, one sentence each."""
        found = super().problems()
        found += self.outside("positive", "width", "lr")
        found += self.outside("at least 1", "latent_dim", "critic_steps")
        if self.members < 2:
            found.append(f"members must be at least 2, got {self.members}")
        found += self.outside("0 or more", "gp_weight")
        found += self.outside("in [0, 1)", "classifier_share")
        return found

    @property
    def warmup_epochs(self) -> int:
        """Epochs of the game: all but those of the classifiers, of which there is one at least
        unless their share is 0; of a single epoch, that one."""
        classifying = round(self.classifier_share * self.epochs)
        if self.classifier_share > 0:
            classifying = max(1, classifying)
        return max(1, self.epochs - classifying)

    def grace_epochs(self) -> int:
        """The game and an epoch of the classifiers, whose logits score."""
        return min(self.warmup_epochs + 1, self.epochs)


# --- networks -------------------------------------------------------------------------------------


class _Centred(nn.Module):
    """Values in [0, 1], brought to [-1, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * images - 1


class MemberCritic(nn.Sequential):
    """Images (N, C, H, W) in [0, 1] -> logits (N,): 5x5 convolutions with 32, 32, 64 and 64
    channels, every other of stride 2, a valid one with 512 of at most 7x7, 128 units, 1."""

    def __init__(self, channels: int, size: tuple[int, int], width: float) -> None:
        layers: list[nn.Module] = []
        for count, stride in ((32, 1), (32, 2), (64, 1), (64, 2)):
            out = scaled(count, width)
            layers += [nn.Conv2d(channels, out, 5, stride, padding=2), PenalisedLeakyReLU(SLOPE)]
            channels = out
        last, units = scaled(512, width), scaled(128, width)
        quarters = tuple(-(-side // 4) for side in size)
        kernel = (min(7, quarters[0]), min(7, quarters[1]))
        flat = last * (quarters[0] - kernel[0] + 1) * (quarters[1] - kernel[1] + 1)
        super().__init__(
            _Centred(),
            *layers,
            *(nn.Conv2d(channels, last, kernel), PenalisedLeakyReLU(SLOPE), nn.Flatten()),
            *(nn.Linear(flat, units), nn.Linear(units, 1), nn.Flatten(0)),
        )


class MemberGenerator(nn.Sequential):
    """(N, d) -> (N, C, H, W), meant to be in [0, 1], but not forced to: transposed convolutions
    from a quarter of the sides, rounded up, with 64, 64, 64, 32, 32 and 32 channels and a 5x5
    convolution; what is beyond the sides is cut off."""

    def __init__(self, channels: int, size: tuple[int, int], latent_dim: int, width: float) -> None:
        wide, narrow = scaled(64, width), scaled(32, width)
        start = (-(-size[0] // 4), -(-size[1] // 4))
        layers: list[nn.Module] = [
            nn.Unflatten(1, (latent_dim, 1, 1)),
            *(nn.ConvTranspose2d(latent_dim, wide, start), nn.LeakyReLU(SLOPE)),
        ]
        inner = wide
        for out, stride in ((wide, 1), (wide, 2), (narrow, 1), (narrow, 2), (narrow, 1)):
            conv = nn.ConvTranspose2d(
                *(inner, out, 5, stride), padding=2, output_padding=stride - 1
            )
            layers += [conv, nn.LeakyReLU(SLOPE)]
            inner = out
        super().__init__(*layers, nn.Conv2d(inner, channels, 5, padding=2), Crop(size))


# --- objective and scores -------------------------------------------------------------------------


def gradient_penalty(critic: nn.Module, images: Tensor) -> Tensor:
    """Mean (|grad D| - 1)^2 at images (N, C, H, W), the norm over a whole image, a scalar,
    differentiable in the critic's weights."""
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
    return (safe_norm(gradient.flatten(1)) - 1).square().mean()


def waic_scores(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`waic`, `mean`, `variance` and `single`, (N,) each, of the members' logits (k, N)."""
    mean = logits.mean(dim=0)
    variance = (logits - mean).square().mean(dim=0)
    return variance - mean, -mean, variance, -logits[0]


def dominance(logits: Tensor) -> Tensor:
    """The largest share of one member in the variance of logits (k, N), a scalar: at most
    (k - 1) / k, 1/k where all have the same."""
    parts = (logits - logits.mean(dim=0)).square().mean(dim=1)
    return parts.max() / (parts.sum() + 1e-30)


class _Logits(nn.Module):
    """Float images (B, C, H, W) in [-1, 1] to a logit of each member: k times (B,)."""

    def __init__(self, critics: nn.ModuleList) -> None:
        super().__init__()
        self.critics = critics

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        units = (images + 1) / 2
        return tuple(critic(units) for critic in self.critics)


class _Scorer(nn.Module):
    """The scores of float images (B, C, H, W), in the order of their names: (B,) each."""

    means: Tensor
    stds: Tensor

    def __init__(self, critics: nn.ModuleList, means: Tensor, stds: Tensor) -> None:
        super().__init__()
        self.logits = _Logits(critics)
        self.register_buffer("means", means)
        self.register_buffer("stds", stds)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits = torch.stack(self.logits(images))
        return waic_scores((logits - self.means[:, None]) / self.stds[:, None])


class WAIC(Detector):
    """See the module's docstring."""

    name: ClassVar[str] = "waic"
    summary: ClassVar[str] = "WAIC of an ensemble of WGANs (Choi et al., 2018)"
    Config: ClassVar[type[DetectorConfig]] = WAICConfig
    score_names: ClassVar[tuple[str, ...]] = ("waic", "mean", "variance", "single")
    channels_last: ClassVar[bool] = True
    usual_steps: ClassVar[int] = 1000
    most_to_calibrate: ClassVar[int | None] = 2048
    kept: ClassVar[tuple[str, ...]] = ("steps", "classifying")
    fitted: ClassVar[tuple[str, ...]] = ("logit_means", "logit_stds")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "batch_size": 64,
            "members": 5,
            "latent_dim": 128,
            "critic_steps": 5,
            "gp_weight": 10.0,
            "classifier_share": 0.17,
            "optimizer": "rmsprop",
            "lr": 5e-5,
            "score": "waic",
            "standardise": False,
        },
    }
    config: WAICConfig

    def __init__(
        self,
        config: WAICConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(config, image_shape, device, seed)
        channels, height, across = image_shape
        size, width, count = (height, across), config.width, config.members
        with drawn_from(seed):
            self.critics = nn.ModuleList(MemberCritic(channels, size, width) for _ in range(count))
            self.generators = nn.ModuleList(
                MemberGenerator(channels, size, config.latent_dim, width) for _ in range(count)
            )
            for networks in (self.critics, self.generators):
                glorot(networks, nn.init.xavier_uniform_)
        self.hold({"critics": self.critics, "generators": self.generators})
        self.steps = 0  # of the critics in the game
        self.classifying = False  # the second phase
        self.logit_means = torch.zeros(count, device=self.device)
        self.logit_stds = torch.ones(count, device=self.device)

    # --- training ---------------------------------------------------------------------------------

    def begin_epoch(self, images: Tensor) -> None:  # noqa: ARG002 - the images do not matter
        """After the game, begin anew with the classifiers."""
        if self.epoch >= self.config.warmup_epochs and not self.classifying:
            self.classifying = True
            self.restart_optimisation()

    def make_optimisation(self) -> Optimisation:
        """An optimiser of all critics, in the game also one of all generators: they act on each
        weight by itself, so that members do not share anything."""

        def optimizer(network: nn.Module) -> Optimizer:
            lr = self.config.lr
            if self.config.optimizer == "adam":
                return adam(self.device, network.parameters(), lr, betas=ADAM_BETAS)
            return RMSprop(network.parameters(), lr, alpha=RMS_MEMORY, foreach=True)

        players = {"critics": optimizer(self.critics)}
        if not self.classifying:
            players["generators"] = optimizer(self.generators)
        return Optimisation(players)

    def train_step(
        self,
        batch: Tensor,
        anomalies: Tensor | None = None,  # noqa: ARG002 - learns from normal images alone
    ) -> dict[str, Tensor]:
        """A step of all critics, and now and then one of all generators, on a float batch
        (B, C, H, W).

        Returns for each member what its critic (`critic_1`..), generator (`generator_1`..) or
        classifier (`classifier_1`.., 1.386 when it cannot tell) minimises, and of the logits of
        the images `scale_1`.., `logit_spread` and `dominance`.
        """
        units = (batch + 1) / 2
        with torch.no_grad():
            fakes = [generator(self._noise(len(batch))) for generator in self.generators]
        name = "classifier" if self.classifying else "critic"
        own, logits = [], []
        for critic, fake in zip(self.critics, fakes, strict=True):
            true, false = critic(torch.cat([units, fake])).chunk(2)
            loss = two_sided(true, false) if self.classifying else false.mean() - true.mean()
            if not self.classifying and self.config.gp_weight > 0:
                between = torch.lerp(fake, units, self._shares(len(batch)))
                loss = loss + self.config.gp_weight * gradient_penalty(critic, between)
            own.append(loss)
            logits.append(true.detach())
        self.descend(torch.stack(own).sum(), "critics")
        losses = {f"{name}_{number}": loss.detach() for number, loss in enumerate(own, 1)}
        if not self.classifying:
            self.steps += 1
            if self.steps % self.config.critic_steps == 0:
                losses |= self._generators_step(len(batch))
        return losses | self._disagreement(torch.stack(logits))

    def _generators_step(self, count: int) -> dict[str, Tensor]:
        self.critics.requires_grad_(False)
        own = [
            -critic(generator(self._noise(count))).mean()
            for critic, generator in zip(self.critics, self.generators, strict=True)
        ]
        self.descend(torch.stack(own).sum(), "generators")
        self.critics.requires_grad_(True)
        return {f"generator_{number}": loss.detach() for number, loss in enumerate(own, 1)}

    def _disagreement(self, logits: Tensor) -> dict[str, Tensor]:
        scales = logits.abs().mean(dim=1)
        return {
            **{f"scale_{number}": scale for number, scale in enumerate(scales, 1)},
            "logit_spread": logits.std(dim=0, correction=0).mean(),
            "dominance": dominance(logits),
        }

    def _noise(self, count: int) -> Tensor:
        shape = (count, self.config.latent_dim)
        return torch.randn(shape, generator=self.generator, device=self.device)

    def _shares(self, count: int) -> Tensor:
        return torch.rand((count, 1, 1, 1), generator=self.generator, device=self.device)

    # --- scoring ----------------------------------------------------------------------------------

    def prepare(self, images: Tensor) -> None:
        """Mean and deviation of each member's logit over normal images, if they are wanted."""
        if not self.config.standardise:
            return
        names = [str(number) for number in range(self.config.members)]
        found = self._evaluate(_Logits(self.critics), names, images)
        logits = torch.stack(list(found.values())).double()
        self.logit_means = logits.mean(dim=1).float()
        self.logit_stds = logits.std(dim=1, correction=0).clamp(min=1e-12).float()

    def raw_scorer(self) -> nn.Module:
        """The four scores by all critics."""
        return _Scorer(self.critics, self.logit_means, self.logit_stds)

    def scoring_networks(self) -> dict[str, nn.Module]:
        """The critics."""
        return {"critics": self.critics}


DETECTOR = WAIC
