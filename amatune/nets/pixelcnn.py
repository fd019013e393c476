"""PixelCNN++: an autoregressive density of images, and its discretised logistic mixture.

Salimans, Karpathy, Chen, Kingma: PixelCNN++, ICLR 2017, arXiv 1701.05517. The probability of an
image is the product over its pixels, in raster order, of that of each given those before it. Two
streams of gated residual blocks carry what is known at a pixel:

    u    from all rows above: kernels 2 x 3, one row up
    ul   from the rows above and the pixels to the left: kernels 2 x 2; it also sees u

Blocks run at several resolutions, each half of the one before, and back up with shortcuts (Fig. 2).
A pixel's values are distributed as a mixture of logistics, rounded to the values that a byte can
have (Eq. 1 to 3): of the colours, the means of later channels are linear in the earlier ones.

Where this differs from the authors' public code (openai/pixel-cnn), and why:

- No weight normalisation and no initialisation by data, as in Ren et al.'s variant: weights begin
  as torch's do, those of a block's last convolution at a tenth.
- The learning rate falls to `lr_decay` of itself by the end instead of an average of the weights:
  both take the noise of the last steps out, and this needs no second network.
- On the way up each resolution has a block more than the lowest, as there; sides need not be even:
  what is beyond an odd side is cut off.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import elu, pad, relu, softplus

from amatune.config import ImageShape
from amatune.nets.adversarial import Dropout
from amatune.nets.drawing import drawn_from
from amatune.nets.sizes import HalvedConfig, scaled

LEVELS = 256  # values that a channel of a pixel can have
MIN_LOG_SCALE = -7.0  # of a logistic, images in [-1, 1]; published
MAX_LOG_SCALE = 30.0  # far above any that is learnt: much wider, and a bin's share is 0 in float32
MIN_FILTERS = 4
BETAS = (0.95, 0.9995)  # of Adam; published
LAST_GAIN = 0.1  # of the weights with which a block's last convolution begins; published


# What a CPU can train: 28 x 28 grey pixels in some 5 ms an image.
SMALL: Mapping[str, Any] = {
    "filters": 16,
    "blocks": 1,
    "resolutions": 1,
    "mixtures": 5,
    "dropout": 0.0,
    "lr": 4e-3,
    "lr_decay": 0.1,
}


@dataclass(frozen=True, kw_only=True)
class PixelCNNConfig(HalvedConfig):
    """Settings of a method whose density is a PixelCNN++; the defaults are `SMALL`.

    Published: 160 filters, 5 blocks, 3 resolutions, 10 mixtures, dropout .5, Adam 1e-3.
    """

    batch_size: int = 32  # images per step

    # Density
    width: float = 1.0  # multiplies `filters`
    filters: int = 16  # channels of each of the two streams
    blocks: int = 1  # gated residual blocks per resolution, on the way down and on the way up
    resolutions: int = 1  # each half of the one before; 1: that of the image alone
    mixtures: int = 5  # logistics a pixel's value is mixed of
    dropout: float = 0.0  # share of a block's activations set to 0

    # Optimisation
    lr: float = 4e-3  # of Adam
    lr_decay: float = 0.1  # what is left of lr at the end of a phase

    def problems(self) -> list[str]:
        """All impossible values, one sentence each."""
        found = super().problems()
        found += self.outside("positive", "width", "lr")
        found += self.outside("at least 1", "filters", "blocks", "resolutions", "mixtures")
        found += self.outside("in [0, 1)", "dropout")
        found += self.outside("in (0, 1]", "lr_decay")
        return found

    def score_every(self) -> int:
        """The end alone, beside where trials are compared: scoring takes as long as some steps."""
        return self.epochs


# --- the distribution of a pixel ------------------------------------------------------------------


def parameters_per_mixture(channels: int) -> int:
    """Numbers that describe a logistic of all channels of a pixel: weight, means, log scales, and
    how each mean depends on the channels before it."""
    return 1 + 2 * channels + channels * (channels - 1) // 2


def log_probabilities(parameters: Tensor, images: Tensor, levels: int = LEVELS) -> Tensor:
    """Natural logarithm of the probability of every pixel, all its channels together.

    `images` (B, C, H, W) hold the values 2 v / (levels - 1) - 1 for v = 0 .. levels - 1.
    `parameters` (B, mixtures * `parameters_per_mixture(C)`, H, W): of each mixture the logit of its
    weight, C means, C log scales and the coefficients of the means, before their tanh. Returns
    (B, H, W). Over all values of a pixel, probabilities add up to one: the lowest and the highest
    take what lies beyond them.
    """
    channels = images.shape[1]
    # A chunk per kind of number, (B, mixtures, H, W) each.
    logits, *rest = parameters.chunk(parameters_per_mixture(channels), dim=1)
    means, log_scales = rest[:channels], rest[channels : 2 * channels]
    coefficients = iter(rest[2 * channels :])
    total: Tensor = logits.log_softmax(dim=1)
    for channel in range(channels):
        mean = means[channel]
        for earlier in range(channel):
            known = images[:, earlier : earlier + 1]
            mean = mean + torch.tanh(next(coefficients)) * known
        value = images[:, channel : channel + 1]
        total = total + _log_logistic(value, mean, log_scales[channel], levels)
    return total.logsumexp(dim=1)


def _log_logistic(value: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """log(sigmoid(upper) - sigmoid(lower)), where these are the ends of the value's bin: exact also
    where both sigmoids are 0 or 1."""
    half = 1 / (levels - 1)  # of a bin
    slope = torch.exp(-log_scale.clamp(MIN_LOG_SCALE, MAX_LOG_SCALE))
    gap = value - mean
    upper, lower = (gap + half) * slope, (gap - half) * slope
    width = 2 * half * slope  # upper - lower
    inside = width + torch.log(-torch.expm1(-width)) - softplus(upper) - softplus(-lower)
    lowest, highest = -softplus(-upper), -softplus(lower)
    above = torch.where(value > 1 - half, highest, inside)
    return torch.where(value < half - 1, lowest, above)


# --- the network ----------------------------------------------------------------------------------


class _Shifted(nn.Module):
    """A convolution that sees its own row and the one above: with 3 columns those to both sides
    (`u`), with 2 its own and the one to the left (`ul`)."""

    def __init__(self, inputs: int, outputs: int, columns: int, stride: int = 1) -> None:
        super().__init__()
        self.margins = (1, 1, 1, 0) if columns == 3 else (1, 0, 1, 0)  # left, right, top, bottom
        self.conv = nn.Conv2d(inputs, outputs, (2, columns), stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W), or half of it, rounded up."""
        out: Tensor = self.conv(pad(x, self.margins))
        return out


class _Enlarged(nn.Module):
    """The reverse of a `_Shifted` with stride 2."""

    def __init__(self, filters: int, columns: int) -> None:
        super().__init__()
        margins = ((0, 1), (0, 1)) if columns == 3 else (0, 0)
        self.conv = nn.ConvTranspose2d(filters, filters, (2, columns), 2, *margins)

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """(B, F, h, w) -> (B, F, H, W) as `like`, whose halves, rounded up, are h and w."""
        out: Tensor = self.conv(x)
        return out[:, :, : like.shape[2], : like.shape[3]]


def _concat_elu(x: Tensor) -> Tensor:
    """ELU of x and of -x, (B, F, H, W) -> (B, 2F, H, W)."""
    # exp is vectorised on a CPU, the expm1 of torch's own ELU is not: less than half the time.
    positive, negative = relu(x), relu(-x)
    both = [positive + torch.exp(-negative), negative + torch.exp(-positive)]
    return torch.cat(both, dim=1) - 1


class _Block(nn.Module):
    """A gated residual block of one stream, which may look at `other` features of its own place."""

    def __init__(
        self, filters: int, columns: int, others: int, dropout: float, generator: Generator | None
    ) -> None:
        super().__init__()
        self.first = _Shifted(2 * filters, filters, columns)
        self.look = nn.Conv2d(2 * others, filters, 1) if others else None
        self.dropout = Dropout(dropout, generator)
        self.second = _Shifted(2 * filters, 2 * filters, columns)
        with torch.no_grad():
            self.second.conv.weight.mul_(LAST_GAIN)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(B, F, H, W), (B, others, H, W) -> (B, F, H, W)."""
        hidden = self.first(_concat_elu(x))
        if self.look is not None and other is not None:
            hidden = hidden + self.look(_concat_elu(other))
        gated: Tensor = self.second(self.dropout(_concat_elu(hidden)))
        value, gate = gated.chunk(2, dim=1)
        return x + value * torch.sigmoid(gate)


class PixelCNN(nn.Module):
    """The density of images (B, C, H, W) of `levels` values from -1 to 1.

    Dropout draws from `generator`; without one there is none.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        blocks: int,
        resolutions: int,
        mixtures: int,
        dropout: float = 0.0,
        generator: Generator | None = None,
        levels: int = LEVELS,
    ) -> None:
        super().__init__()
        self.levels = levels

        def stream(columns: int, others: int, count: int) -> nn.ModuleList:
            made = (_Block(filters, columns, others, dropout, generator) for _ in range(count))
            return nn.ModuleList(made)

        # One channel of ones, so that margins can be told from black.
        self.above = nn.Conv2d(channels + 1, filters, (2, 3))
        self.above_too = nn.Conv2d(channels + 1, filters, (1, 3))
        self.left = nn.Conv2d(channels + 1, filters, (2, 1))
        self.down_u, self.down_ul = nn.ModuleList(), nn.ModuleList()
        self.halve_u, self.halve_ul = nn.ModuleList(), nn.ModuleList()
        self.up_u, self.up_ul = nn.ModuleList(), nn.ModuleList()
        self.double_u, self.double_ul = nn.ModuleList(), nn.ModuleList()
        for resolution in range(resolutions):
            self.down_u.append(stream(3, 0, blocks))
            self.down_ul.append(stream(2, filters, blocks))
            # Back up, a shortcut more is to be taken in where the size was halved.
            back = blocks if resolution == resolutions - 1 else blocks + 1
            self.up_u.append(stream(3, filters, back))
            self.up_ul.append(stream(2, 2 * filters, back))
            if resolution < resolutions - 1:
                self.halve_u.append(_Shifted(filters, filters, 3, stride=2))
                self.halve_ul.append(_Shifted(filters, filters, 2, stride=2))
                self.double_u.append(_Enlarged(filters, 3))
                self.double_ul.append(_Enlarged(filters, 2))
        self.head = nn.Conv2d(filters, mixtures * parameters_per_mixture(channels), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Natural logarithm of the probability of every pixel given those before it: (B, H, W)."""
        return log_probabilities(self.parameters_of(images), images, self.levels)

    def log_prob(self, images: Tensor) -> Tensor:
        """Natural logarithm of the probability of every image: (B,)."""
        pixels: Tensor = self(images)
        return pixels.sum(dim=(1, 2))

    def parameters_of(self, images: Tensor) -> Tensor:
        """What `log_probabilities` takes: at each pixel, from those before it in raster order."""
        us, uls = self._down(images)
        u, ul = us.pop(), uls.pop()
        for resolution in reversed(range(len(self.up_u))):
            both = zip(_blocks(self.up_u[resolution]), _blocks(self.up_ul[resolution]), strict=True)
            for of_u, of_ul in both:
                u = of_u(u, us.pop())
                ul = of_ul(ul, torch.cat([u, uls.pop()], dim=1))
            if resolution:
                u = self.double_u[resolution - 1](u, us[-1])
                ul = self.double_ul[resolution - 1](ul, uls[-1])
        parameters: Tensor = self.head(elu(ul))
        return parameters

    def _down(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Both streams after every step of the way down."""
        x = pad(torch.cat([images, torch.ones_like(images[:, :1])], dim=1), (1, 1, 1, 0))
        # A row up: the last row of the image is never looked at from above.
        rows_above = pad(x[:, :, :-1], (0, 0, 1, 0))
        u = self.above(rows_above)
        ul = self.above_too(x[:, :, :-1]) + self.left(x[:, :, :, :-2])
        us, uls = [u], [ul]
        for resolution in range(len(self.down_u)):
            if resolution:
                us.append(self.halve_u[resolution - 1](us[-1]))
                uls.append(self.halve_ul[resolution - 1](uls[-1]))
            down = (self.down_u[resolution], self.down_ul[resolution])
            for of_u, of_ul in zip(*map(_blocks, down), strict=True):
                us.append(of_u(us[-1]))
                uls.append(of_ul(uls[-1], us[-1]))
        return us, uls


def _blocks(modules: nn.Module) -> Iterator[nn.Module]:
    yield from modules.children()


def build_pixelcnn(
    config: PixelCNNConfig, image_shape: ImageShape, seed: int, generator: Generator
) -> PixelCNN:
    """Freshly initialised on the CPU; the same seed gives the same weights. Dropout draws from
    `generator`."""
    with drawn_from(seed):
        return PixelCNN(
            image_shape[0],
            max(MIN_FILTERS, scaled(config.filters, config.width)),
            config.blocks,
            config.resolutions,
            config.mixtures,
            config.dropout,
            generator,
        )
