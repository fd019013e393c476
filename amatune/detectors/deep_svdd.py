"""Deep SVDD: Deep Support Vector Data Description.

Ruff, Vandermeulen, Goernitz, Deecke, Siddiqui, Binder, Mueller, Kloft: Deep One-Class
Classification, ICML 2018 (PMLR 80:4393-4402).

An encoder phi maps normal images close to a fixed centre c. The one-class objective, Eq. 4, is the
mean of ||phi(x) - c||^2; the soft-boundary objective, Eq. 3, is

    R^2 + 1/nu mean max(0, ||phi(x) - c||^2 - R^2)

with a radius R that leaves a share nu of the training images outside. Both with weight decay. The
score, Eq. 7, is ||phi(x) - c||^2; the paper's soft-boundary score subtracts R^2, the same order.

Mapping everything to c must not be possible: no layer has a bias, batch norm has no affine part,
and c is not learnt (Propositions 1 to 3 of the paper). It is the mean code of the training images,
in eval mode, of an encoder that was pretrained as part of an autoencoder; its entries closer to 0
than .1 are moved to .1 or -.1, since a zero is matched by weights of zero. From then on c is fixed.

The epoch budget covers both phases: the autoencoder is trained for a share `pretrain` of the
epochs, with the mean over images of ||x - x'||^2 summed over pixels, then the encoder alone, with a
new optimiser. While there is no centre yet, images are scored by the distance to the one that the
pretraining would leave if it ended now: `calibrate` finds it, and training does not depend on it.

Where this differs from the authors' public code, and why:

- Images are [-1, 1] as everywhere here, and the decoder ends with a tanh. Global contrast
  normalisation, in the code followed by a fixed affine map, is an option, off as in AMA's
  comparison; the autoencoder then rebuilds the normalised image, without a tanh.
- The decoder begins with a linear layer, the mirror of the encoder's last, where the code reshapes
  the code vector to 4x4 maps: that needs fitting sizes.
- An entry of c that is exactly 0 becomes .1 as well.
- Pooling comes before LeakyReLU: both are monotone, the result is the same and cheaper.

As in the code, LeakyReLU has a slope of .01 (paper: .1).
As there, R is the (1 - nu)-quantile of the distances of each batch, after its step, and stays
0 in the first epochs (`radius_warmup`); the paper solves for it every few epochs.

Scores are higher for more anomalous images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn

from amatune.config import DetectorConfig, ImageShape
from amatune.detector import Detector, Optimisation, adam, drops
from amatune.nets.drawing import drawn_from
from amatune.nets.sizes import channel_plan, halve, require_min_side, scaled

MIN_CENTER = 0.1  # of |c_i|
MIN_CONTRAST = 1e-4  # mean absolute deviation, of a range of 2: what has less counts as constant
SLOPE = 0.01  # of LeakyReLU
LR_DECAY = 0.1  # factor of the learning rate at a milestone


@dataclass(frozen=True, kw_only=True)
class DeepSVDDConfig(DetectorConfig):
    """Settings of Deep SVDD; the defaults are those of the authors' code for the paper's MNIST,
    but for the autoencoder's weight decay.

    For CIFAR-10 the autoencoder has 350 epochs there, and its rate drops after 250, where the
    encoder's 150 epochs have one drop after 50: `epochs` 500 and `pretrain` .7.
    """

    epochs: int = 300  # passes over the training images, both phases; published: 150 + 150
    batch_size: int = 200  # images per step

    # Networks
    network: Literal["auto", "mnist", "cifar10"] = "auto"  # auto: mnist for grey, else cifar10
    width: float = 1.0  # multiplies channel counts; 1 is the published size
    latent_dim: int | None = None  # size of a code; None: 32 (mnist) or 128 (cifar10)
    contrast_normalization: bool = False  # of each image, by its L1 norm; paper: True

    # Pretraining
    pretrain: float = 0.5  # share of the epochs spent on the autoencoder; 0: none
    pretrain_lr: float = 1e-4  # of Adam, autoencoder
    pretrain_weight_decay: float = 5e-7  # autoencoder; authors' code for MNIST: 5e-4

    # Objective
    objective: Literal["one-class", "soft-boundary"] = "one-class"  # the paper reports both
    nu: float = 0.1  # soft boundary: share of the training images outside; paper: .1 or .01
    radius_warmup: float = 0.065  # soft boundary: share of its epochs with R = 0; published: 10/150
    lr: float = 1e-4  # of Adam, encoder
    weight_decay: float = 5e-7  # encoder; the paper's lambda / 2
    milestones: tuple[float, ...] = (0.33,)  # shares of each phase where lr drops to a tenth

    def problems(self) -> list[str]:
        """All impossible values, one sentence each."""
        found = super().problems()
        found += self.outside("positive", "width", "pretrain_lr", "lr")
        found += self.outside("0 or more", "pretrain_weight_decay", "weight_decay")
        found += self.outside("in [0, 1)", "pretrain", "radius_warmup")
        found += self.outside("in (0, 1)", "nu")
        if self.latent_dim is not None and self.latent_dim < 1:
            found.append(f"latent_dim must be at least 1, got {self.latent_dim}")
        if any(not 0 < m < 1 for m in self.milestones):
            found.append(f"milestones are shares of a phase in (0, 1), got {self.milestones}")
        return found

    def resolve(self, image_shape: ImageShape) -> Self:
        """Fill in what the images (C, H, W) decide: network and code size."""
        require_min_side(image_shape)
        network = self.network
        if network == "auto":
            network = "mnist" if image_shape[0] == 1 else "cifar10"
        size = self.latent_dim or (32 if network == "mnist" else 128)
        return self.replace(network=network, latent_dim=size)

    @property
    def warmup_epochs(self) -> int:
        """Epochs of pretraining: their share, but never all."""
        return min(math.ceil(self.pretrain * self.epochs), self.epochs - 1)

    @property
    def svdd_epochs(self) -> int:
        """Epochs of the objective proper, after the pretraining."""
        return self.epochs - self.warmup_epochs

    @property
    def radius_epochs(self) -> int:
        """Epochs of the soft boundary with R = 0: the mean distance divided by nu, which Adam does
        not feel."""
        soft = self.objective == "soft-boundary"
        return round(self.radius_warmup * self.svdd_epochs) if soft else 0

    def grace_epochs(self) -> int:
        """The pretraining, and the soft boundary's epochs without a radius: the objective and its
        settings do nothing before they are over. One at least."""
        return max(1, self.warmup_epochs + self.radius_epochs)


# --- networks -------------------------------------------------------------------------------------


class Encoder(nn.Sequential):
    """The paper's LeNets, (N, C, H, W) -> (N, d): 5x5 convolutions, each with batch norm, 2x2 max
    pooling and LeakyReLU, then a linear layer.

    `cifar10` is published for 32x32 pixels with 32, 64 and 128 channels, `mnist` for 28x28 with 8
    and 4. Other sizes change the number of blocks alone: `cifar10` halves until the shorter side is
    4 to 7, `mnist` until it is 7 to 13, each at least once.
    """

    def __init__(
        self,
        channels: int,
        sizes: list[tuple[int, int]],
        plan: list[int],
        latent_dim: int,
        contrast_normalization: bool,
    ) -> None:
        layers: list[nn.Module] = [ContrastNormalization()] if contrast_normalization else []
        for out in plan:
            layers += [_conv(channels, out), _norm(out), nn.MaxPool2d(2), nn.LeakyReLU(SLOPE)]
            channels = out
        layers += [nn.Flatten(), _linear(channels * math.prod(sizes[-1]), latent_dim)]
        super().__init__(*layers)


class Decoder(nn.Sequential):
    """The encoder in reverse, (N, d) -> (N, C, H, W), with nearest upsampling for pooling.

    The code passes through batch norm and LeakyReLU first. With `bounded`, the images are in
    [-1, 1].
    """

    def __init__(
        self,
        channels: int,
        sizes: list[tuple[int, int]],
        plan: list[int],
        latent_dim: int,
        bounded: bool,
    ) -> None:
        start = (plan[-1], *sizes[-1])
        layers: list[nn.Module] = [
            nn.BatchNorm1d(latent_dim, eps=1e-4, affine=False),
            nn.LeakyReLU(SLOPE),
            _linear(latent_dim, math.prod(start)),
            nn.Unflatten(1, start),
        ]
        inner = plan[-1]
        outputs = [*reversed(plan[:-1]), channels]
        for out, size in zip(outputs, reversed(sizes[:-1]), strict=True):
            layers += [_norm(inner), nn.LeakyReLU(SLOPE), nn.Upsample(size), _conv(inner, out)]
            inner = out
        if bounded:
            layers.append(nn.Tanh())
        super().__init__(*layers)


class ContrastNormalization(nn.Module):
    """Global contrast normalisation of each image."""

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> the same, each image with mean 0 and mean absolute value 1.

        An image without contrast becomes (almost) 0.
        """
        centered = images - images.mean(dim=(1, 2, 3), keepdim=True)
        contrast = centered.abs().mean(dim=(1, 2, 3), keepdim=True)
        return centered / contrast.clamp_min(MIN_CONTRAST)


def _conv(channels: int, out: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out, 5, padding=2, bias=False)
    nn.init.xavier_uniform_(conv.weight, gain=nn.init.calculate_gain("leaky_relu", SLOPE))
    return conv


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_uniform_(linear.weight)
    return linear


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-4, affine=False)


def build_autoencoder(
    config: DeepSVDDConfig, image_shape: ImageShape, seed: int
) -> tuple[Encoder, Decoder]:
    """Freshly initialised networks of a resolved configuration on the CPU; the same seed gives the
    same weights."""
    channels, *size = image_shape
    small = config.network == "mnist"
    sizes = halve((size[0], size[1]), stop_below=14 if small else 8)
    blocks = len(sizes) - 1
    if small:
        plan = [scaled(8, config.width)] * (blocks - 1) + [scaled(4, config.width)]
    else:
        plan = channel_plan(32, 128, blocks, config.width)
    latent_dim = cast(int, config.latent_dim)
    normalized = config.contrast_normalization
    with drawn_from(seed):
        encoder = Encoder(channels, sizes, plan, latent_dim, normalized)
        return encoder, Decoder(channels, sizes, plan, latent_dim, bounded=not normalized)


# --- objective and score --------------------------------------------------------------------------


def squared_distances(codes: Tensor, center: Tensor) -> Tensor:
    """||phi(x) - c||^2, codes (N, d) and centre (d,) -> (N,)."""
    return (codes - center).square().sum(dim=1)


def find_center(codes: Tensor) -> Tensor:
    """The mean of the codes (N, d), with no entry closer to 0 than `MIN_CENTER`: (d,)."""
    mean = codes.mean(dim=0)
    floor = torch.full_like(mean, MIN_CENTER)
    return torch.where(mean.abs() < MIN_CENTER, torch.where(mean < 0, -floor, floor), mean)


def find_radius(distances: Tensor, nu: float) -> Tensor:
    """R, the (1 - nu)-quantile of the distances, from their squares (N,): a scalar."""
    return torch.quantile(distances.sqrt(), 1 - nu)


def soft_boundary_loss(distances: Tensor, radius: Tensor, nu: float) -> Tensor:
    """R^2 + 1/nu mean max(0, d - R^2) of squared distances d (N,): Eq. 3, no weight decay."""
    square = radius.square()
    return square + (distances - square).clamp_min(0).mean() / nu


class _Scorer(nn.Module):
    """The squared distance to the centre of float images (B, C, H, W): one tensor (B,)."""

    center: Tensor

    def __init__(self, encoder: Encoder, center: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("center", center)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (squared_distances(self.encoder(images), self.center),)


class DeepSVDD(Detector):
    """Deep Support Vector Data Description; see the module's docstring."""

    name: ClassVar[str] = "deep-svdd"
    summary: ClassVar[str] = "Deep Support Vector Data Description (Ruff et al., ICML 2018)"
    Config: ClassVar[type[DetectorConfig]] = DeepSVDDConfig
    score_names: ClassVar[tuple[str, ...]] = ("distance",)
    channels_last: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ("center_is_fixed", "radius")
    fitted: ClassVar[tuple[str, ...]] = ("center",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"contrast_normalization": True},
        "soft-boundary": {"objective": "soft-boundary"},
        "without-pretraining": {"pretrain": 0.0},
    }
    config: DeepSVDDConfig

    def __init__(
        self,
        config: DeepSVDDConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(config, image_shape, device, seed)
        self.encoder, self.decoder = build_autoencoder(self.config, image_shape, seed)
        self.hold({"encoder": self.encoder, "decoder": self.decoder})
        # (d,); provisional while pretraining
        self.center = torch.zeros(cast(int, self.config.latent_dim), device=self.device)
        self.center_is_fixed = False  # from the first epoch after the pretraining on
        self.radius = torch.zeros((), device=self.device)  # R, of the soft boundary

    def make_optimisation(self) -> Optimisation:
        """Adam and its schedule for the phase that `center_is_fixed` tells."""
        config = self.config
        parameters = list(self.encoder.parameters())
        lr, weight_decay, epochs = config.lr, config.weight_decay, config.svdd_epochs
        if not self.center_is_fixed:
            parameters += self.decoder.parameters()
            lr, weight_decay = config.pretrain_lr, config.pretrain_weight_decay
            epochs = config.warmup_epochs
        optimizer = adam(self.device, parameters, lr, weight_decay=weight_decay)
        return Optimisation(
            {"adam": optimizer}, drops([optimizer], config.milestones, epochs, LR_DECAY)
        )

    # --- training ---------------------------------------------------------------------------------

    def begin_epoch(self, images: Tensor) -> None:
        """After the pretraining, fix the centre and begin anew with the encoder alone."""
        if self.epoch >= self.config.warmup_epochs and not self.center_is_fixed:
            self.center = self._center(images)
            self.center_is_fixed = True
            self.restart_optimisation()

    def train_step(
        self,
        batch: Tensor,
        anomalies: Tensor | None = None,  # noqa: ARG002 - learns from normal images alone
    ) -> dict[str, Tensor]:
        """A step of the phase.

        Returns `pretraining`, 1 in an epoch of the autoencoder and 0 after that; while it is 1,
        also `reconstruction`, the squared error of an image; later `objective`, what is minimised
        without the weight decay, `distance`, the squared distance to the centre, and for the soft
        boundary `radius`, R.
        """
        pretraining = not self.center_is_fixed
        losses = self._pretraining_step(batch) if pretraining else self._svdd_step(batch)
        return {"pretraining": torch.full_like(self.radius, float(pretraining)), **losses}

    def _pretraining_step(self, batch: Tensor) -> dict[str, Tensor]:
        target = ContrastNormalization()(batch) if self.config.contrast_normalization else batch
        rebuilt = self.decoder(self.encoder(batch))
        loss = (rebuilt - target).square().flatten(1).sum(dim=1).mean()
        self.descend(loss, "adam")
        return {"reconstruction": loss.detach()}

    def _svdd_step(self, batch: Tensor) -> dict[str, Tensor]:
        config = self.config
        distances = squared_distances(self.encoder(batch), self.center)
        if config.objective == "one-class":
            loss = distances.mean()
            self.descend(loss, "adam")
            return {"objective": loss.detach(), "distance": loss.detach()}
        loss = soft_boundary_loss(distances, self.radius, config.nu)
        self.descend(loss, "adam")
        distances = distances.detach()
        if self.epoch - config.warmup_epochs >= config.radius_epochs:
            self.radius = find_radius(distances, config.nu)
        return {"objective": loss.detach(), "distance": distances.mean(), "radius": self.radius}

    def _center(self, images: Tensor) -> Tensor:
        """The centre that training images (N, C, H, W) give, with the encoder in eval mode."""
        with torch.no_grad():
            return find_center(torch.cat([self.encoder(b) for b in self._batches(images, 256)]))

    # --- scoring ----------------------------------------------------------------------------------

    def prepare(self, images: Tensor) -> None:
        """While pretraining, find the provisional centre from normal images (N, C, H, W)."""
        if not self.center_is_fixed:
            self.center = self._center(images)

    def raw_scorer(self) -> nn.Module:
        """The squared distance of float images to the centre: encoder and centre alone."""
        return _Scorer(self.encoder, self.center)

    def scoring_networks(self) -> dict[str, nn.Module]:
        """The encoder alone."""
        return {"encoder": self.encoder}

    def load_inference_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore `inference_state`; the centre is fixed from then on."""
        super().load_inference_state(state)
        self.center_is_fixed = True


DETECTOR = DeepSVDD
