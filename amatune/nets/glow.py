"""Glow: a density of images as an invertible map to a standard normal distribution.

Kingma, Dhariwal: Glow: Generative Flow with Invertible 1x1 Convolutions, NeurIPS 2018,
arXiv 1807.03039. Where z = f(x), log p(x) = log N(z; 0, I) + log |det df / dx|. f has levels: each
squeezes 2 x 2 pixels into channels, makes a number of steps, and gives half of the channels away as
finished, the last level excepted. A step (Table 1) is

    actnorm     a shift and a scale per channel, which on a first batch give mean 0, deviation 1
    mixing      an invertible 1 x 1 convolution, W = P L U with a fixed permutation P (Eq. 10)
    coupling    half of the channels get a shift and a scale that a network sees in the other half

What is given away is normalised by a mean and a scale that a convolution sees in what is kept, the
last channels by learnt constants: the paper's priors, written as a part of f.

A value v = 0 .. 255 of an image becomes (v + u) / 256 - 1/2. In training u is uniform in [0, 1),
which makes the density's mean a bound of the probability of v; at evaluation u is 1/2, so that the
same image has the same likelihood. log p is that of v: less log 256 for each value.

Sides must be even, and each further level needs sides that are even again: 28 x 28 has two levels
(14, 7), 32 x 32 three.
"""

import math
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import conv2d, logsigmoid, pixel_shuffle, pixel_unshuffle
from torch.optim import Adamax
from torch.optim.lr_scheduler import LambdaLR

from amatune.config import ImageShape
from amatune.detector import Optimisation, evenly_spaced, to_unit_range
from amatune.errors import ConfigError
from amatune.nets.drawing import drawn_from
from amatune.nets.sizes import require_min_side, scaled

Coupling = Literal["affine", "additive"]

LEVELS = 256  # values that a channel of a pixel can have
SMALLEST_SIDE = 4  # pixels that are not squeezed any further
INITIAL_DEVIATION = 0.05  # of a coupling's weights; published
LOG_SCALE_GAIN = 3.0  # of what a layer that begins at zero is multiplied by, exp(3 s); published
LEAST_DEVIATION = 1e-6  # of a channel in the first batch
MIN_HIDDEN = 4
MAX_NORM = 1.0  # of a gradient, of bits per dimension: only steps that would throw it out are cut
LR_WARMUP = 0.04  # share of the epochs in which the learning rate rises


def require_even_sides(image_shape: ImageShape) -> None:
    """Raise `ConfigError` for images (C, H, W) that cannot be squeezed: an odd side, or one below
    8 pixels."""
    require_min_side(image_shape)
    _, height, width = image_shape
    if height % 2 or width % 2:
        raise ConfigError(
            f"images of {height}x{width} pixels cannot be squeezed; Glow needs even sides: choose "
            "another image size, such as 28 or 32"
        )


def possible_levels(height: int, width: int, wanted: int) -> int:
    """How many of the wanted levels images of even sides can have: at least one."""
    levels = 0
    while levels < wanted and not (height % 2 or width % 2) and min(height, width) > SMALLEST_SIDE:
        height, width, levels = height // 2, width // 2, levels + 1
    return levels


class ActNorm(nn.Module):
    """Per channel of (B, C, H, W): (x + shift) exp(log_scale)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return (x + self.shift) * torch.exp(self.log_scale)

    def inverse(self, y: Tensor) -> Tensor:
        """What `forward` made y of."""
        return y * torch.exp(-self.log_scale) - self.shift

    def fit(self, x: Tensor) -> None:
        """Bring each channel of x to mean 0 and deviation 1."""
        with torch.no_grad():
            mean = x.mean(dim=(0, 2, 3))[:, None, None]
            deviation = x.std(dim=(0, 2, 3), correction=0)[:, None, None]
            self.shift.copy_(-mean)
            self.log_scale.copy_(-torch.log(deviation + LEAST_DEVIATION))


class Mixing(nn.Module):
    """An invertible 1 x 1 convolution; it begins as a random rotation."""

    permutation: Tensor
    signs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels))
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("signs", diagonal.sign())
        self.log_diagonal = nn.Parameter(diagonal.abs().log())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))

    def weight(self) -> Tensor:
        """W (C, C). log |det W| is the sum of `log_diagonal`: it is never singular."""
        ones = torch.eye(len(self.signs), dtype=self.lower.dtype, device=self.lower.device)
        diagonal = ones * (self.signs * torch.exp(self.log_diagonal))
        lower, upper = self.lower.tril(-1) + ones, self.upper.triu(1) + diagonal
        return self.permutation @ lower @ upper

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return conv2d(x, self.weight()[:, :, None, None])

    def inverse(self, y: Tensor) -> Tensor:
        """What `forward` made y of."""
        return conv2d(y, torch.linalg.inv(self.weight())[:, :, None, None])


class _FromZero(nn.Module):
    """A 3 x 3 convolution whose output is 0 at first, and free to grow."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # there is one
        self.gain = nn.Parameter(torch.zeros(outputs, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out * torch.exp(LOG_SCALE_GAIN * self.gain)


def _hidden_layer(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.normal_(conv.weight, 0.0, INITIAL_DEVIATION)
    return nn.Sequential(conv, ActNorm(outputs), nn.ReLU())


class _Step(nn.Module):
    """Actnorm, mixing and coupling of an even number of channels."""

    def __init__(self, channels: int, hidden: int, coupling: Coupling) -> None:
        super().__init__()
        self.additive = coupling == "additive"
        self.norm, self.mix = ActNorm(channels), Mixing(channels)
        half = channels // 2
        self.network = nn.Sequential(
            _hidden_layer(half, hidden, 3),
            _hidden_layer(hidden, hidden, 1),
            _FromZero(hidden, half if self.additive else channels),
        )

    def _shift_and_log_scale(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        out: Tensor = self.network(seen)
        if self.additive:
            return out, torch.zeros_like(out)
        shift, raw = out.chunk(2, dim=1)
        return shift, logsigmoid(raw + 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> the same, and log |det| (B,)."""
        places = x.shape[2] * x.shape[3]
        seen, changed = self.mix(self.norm(x)).chunk(2, dim=1)
        shift, log_scale = self._shift_and_log_scale(seen)
        out = torch.cat([seen, (changed + shift) * torch.exp(log_scale)], dim=1)
        constant = places * (self.norm.log_scale.sum() + self.mix.log_diagonal.sum())
        return out, log_scale.sum(dim=(1, 2, 3)) + constant

    def inverse(self, y: Tensor) -> Tensor:
        seen, changed = y.chunk(2, dim=1)
        shift, log_scale = self._shift_and_log_scale(seen)
        mixed = torch.cat([seen, changed * torch.exp(-log_scale) - shift], dim=1)
        return self.norm.inverse(self.mix.inverse(mixed))


class _Level(nn.Module):
    """Steps, after which half of the channels are finished: they are normalised by what is kept. Of
    the last level all are, by constants."""

    def __init__(
        self, channels: int, steps: int, hidden: int, coupling: Coupling, *, last: bool
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(_Step(channels, hidden, coupling) for _ in range(steps))
        self.prior = None if last else _FromZero(channels // 2, channels)
        self.constants = nn.Parameter(torch.zeros(2, channels, 1, 1)) if last else None

    def _prior_of(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log scale of what is finished."""
        if self.prior is None:
            assert self.constants is not None
            mean, log_scale = self.constants.expand(2, *kept.shape[1:])
            return mean.expand_as(kept), log_scale.expand_as(kept)
        mean, log_scale = self.prior(kept).chunk(2, dim=1)
        return mean, log_scale

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> what goes on, what is finished, and log |det| (B,)."""
        total = x.new_zeros(x.shape[0])
        for step in self.steps:
            x, log_det = step(x)
            total = total + log_det
        kept, finished = (x, x) if self.prior is None else x.chunk(2, dim=1)
        mean, log_scale = self._prior_of(kept)
        latent = (finished - mean) * torch.exp(-log_scale)
        return kept, latent, total - log_scale.sum(dim=(1, 2, 3))

    def inverse(self, kept: Tensor, latent: Tensor) -> Tensor:
        """What `forward` made these of; of the last level, `kept` is of no account."""
        mean, log_scale = self._prior_of(kept)
        finished = latent * torch.exp(log_scale) + mean
        x = finished if self.prior is None else torch.cat([kept, finished], dim=1)
        for step in reversed(list(self.steps)):
            x = step.inverse(x)  # type: ignore[operator]  # each is a _Step
        return x


class Glow(nn.Module):
    """The density of images (B, C, H, W) of 256 values from -1 to 1, of even sides of at least 8.

    Dequantisation in training draws from `generator`.
    """

    initialised: Tensor

    def __init__(
        self,
        image_shape: ImageShape,
        steps: int,
        hidden: int,
        levels: int,
        coupling: Coupling,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.generator = generator
        channels, height, width = image_shape
        made, levels = [], possible_levels(height, width, levels)
        for level in range(levels):
            channels *= 4
            last = level == levels - 1
            made.append(_Level(channels, steps, hidden, coupling, last=last))
            channels //= 2
        self.levels = nn.ModuleList(made)
        # A buffer: what was loaded must not begin anew.
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def initialise(self, images: Tensor) -> None:
        """Fit every actnorm to what a first batch is at its place; later calls do nothing."""
        if self.initialised:
            return
        hooks = [
            module.register_forward_pre_hook(lambda norm, given: norm.fit(given[0]))
            for module in self.modules()
            if isinstance(module, ActNorm)
        ]
        with torch.no_grad():
            self.encode(self.dequantised(images, noisy=True))
        for hook in hooks:
            hook.remove()
        self.initialised.fill_(True)

    def dequantised(self, images: Tensor, *, noisy: bool) -> Tensor:
        """(v + u) / 256 - 1/2 of images whose values are those of bytes v in [-1, 1]."""
        noise: Tensor | float = 0.5
        if noisy:
            noise = torch.rand(
                images.shape, generator=self.generator, device=images.device, dtype=images.dtype
            )
        return ((images + 1) * ((LEVELS - 1) / 2) + noise) / LEVELS - 0.5

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Of dequantised images (B, C, H, W) the z of each level, as many values as x has together,
        and log |det dz / dx| (B,)."""
        latents, total = [], x.new_zeros(x.shape[0])
        for level in self.levels:
            x, latent, log_det = level(pixel_unshuffle(x, 2))
            latents.append(latent)
            total = total + log_det
        return latents, total

    def decode(self, latents: list[Tensor]) -> Tensor:
        """The inverse of `encode`: what has these z."""
        x = latents[-1]
        for level, latent in zip(reversed(list(self.levels)), reversed(latents), strict=True):
            x = pixel_shuffle(level.inverse(x, latent), 2)  # type: ignore[operator]  # a _Level
        return x

    def log_prob(self, images: Tensor) -> Tensor:
        """Natural logarithm of the probability of images whose values are those of bytes, (B,): in
        training of noisy ones."""
        latents, total = self.encode(self.dequantised(images, noisy=self.training))
        for latent in latents:
            total = total - (latent.square() + math.log(2 * math.pi)).sum(dim=(1, 2, 3)) / 2
        return total - math.log(LEVELS) * images.shape[1:].numel()


def build_glow(
    image_shape: ImageShape,
    steps: int,
    hidden: int,
    levels: int,
    coupling: Coupling,
    *,
    width: float,
    seed: int,
    generator: Generator,
) -> Glow:
    """Freshly initialised on the CPU, `hidden` times `width`; the same seed gives the same weights.
    Noise in training is drawn from `generator`."""
    with drawn_from(seed):
        wide = max(MIN_HIDDEN, scaled(hidden, width))
        return Glow(image_shape, steps, wide, levels, coupling, generator)


def begin(density: Glow, images: Tensor, count: int) -> None:
    """Before the first step, fit actnorms to `count` of the images (N, C, H, W), from all over
    them; later calls do nothing."""
    sample = evenly_spaced(images, count).to(density.initialised.device)
    density.initialise(to_unit_range(sample))


def rising_epochs(epochs: int, share: float = LR_WARMUP) -> int:
    """Epochs in which the learning rate is not yet at its height: one at least, none of one."""
    return min(max(1, round(share * epochs)), epochs - 1)


def cut_adamax(
    density: Glow, lr: float, lr_decay: float, weight_decay: float, rising: int, epochs: int
) -> Optimisation:
    """Adamax, its gradients cut to `MAX_NORM`. The rate rises for some epochs, while it falls
    exponentially, to `lr_decay` of `lr` at the end."""
    parameters = list(density.parameters())
    optimizer = Adamax(parameters, lr, weight_decay=weight_decay, foreach=True)

    def cut(*_: Any) -> None:
        nn.utils.clip_grad_norm_(parameters, MAX_NORM)

    optimizer.register_step_pre_hook(cut)

    def share(epoch: int) -> float:
        risen = min(1.0, (epoch + 1) / (rising + 1))
        return float(risen * lr_decay ** (epoch / epochs))

    return Optimisation({"adamax": optimizer}, [LambdaLR(optimizer, share)])
