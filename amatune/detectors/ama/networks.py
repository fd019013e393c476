"""The two network families of the paper's supplement, for any image size and channel count.

`residual` is published for 3 x 32 x 32, `small` for 1 x 28 x 28. `width` multiplies every channel
and unit count except the latent size. Other image sizes change the number of halvings alone:
`residual` halves until the shorter side is 4 to 7, `small` until it is 4 to 8, each at least once.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate, pad, relu
from torch.nn.utils.parametrizations import spectral_norm

from amatune.config import ImageShape
from amatune.nets.adversarial import PenalisedLeakyReLU
from amatune.nets.drawing import drawn_from
from amatune.nets.sizes import channel_plan, halve, scaled

Family = Literal["residual", "small"]
ConvT = TypeVar("ConvT", bound=nn.Conv2d)


class Networks(NamedTuple):
    """Encoder (N, C, H, W) -> (N, d); generator (N, d) -> (N, C, H, W) in [-1, 1]; critic."""

    encoder: nn.Module
    generator: nn.Module
    critic: "Critic"


def build_networks(
    family: Family,
    image_shape: ImageShape,
    latent_dim: int,
    *,
    width: float = 1.0,
    spectral: bool,
    mirrored: bool = True,
    seed: int,
) -> Networks:
    """Freshly initialised networks on the CPU; the same seed gives the same weights.

    `mirrored` gives the critic a pair of images, 2C channels; otherwise it sees single images.
    """
    channels, height, width_px = image_shape
    critic_channels = 2 * channels if mirrored else channels
    with drawn_from(seed):
        if family == "residual":
            sizes = halve((height, width_px), stop_below=8)
            return Networks(
                ResidualEncoder(channels, sizes, latent_dim, width),
                ResidualGenerator(channels, sizes, latent_dim, width),
                ResidualCritic(critic_channels, (height, width_px), width, spectral),
            )
        sizes = halve((height, width_px), stop_below=9)
        return Networks(
            SmallEncoder(channels, sizes, latent_dim, width),
            SmallGenerator(channels, sizes, latent_dim, width),
            SmallCritic(critic_channels, sizes, width, spectral),
        )


class ResidualEncoder(nn.Sequential):
    """4x4 stride-2 convolutions with batch norm and LeakyReLU, then one valid convolution to d."""

    def __init__(
        self, channels: int, sizes: list[tuple[int, int]], latent_dim: int, width: float
    ) -> None:
        layers: list[nn.Module] = []
        for out in channel_plan(64, 256, len(sizes) - 1, width):
            layers += [
                nn.Conv2d(channels, out, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.LeakyReLU(0.2),
            ]
            channels = out
        layers += [nn.Conv2d(channels, latent_dim, sizes[-1], bias=False), nn.Flatten()]
        super().__init__(*layers)


class ResidualGenerator(nn.Module):
    """A dense layer, one upsampling residual block per halving, then batch norm, conv and tanh."""

    def __init__(
        self, channels: int, sizes: list[tuple[int, int]], latent_dim: int, width: float
    ) -> None:
        super().__init__()
        inner = scaled(256, width)
        self.start = (inner, *sizes[-1])
        self.dense = nn.Linear(latent_dim, math.prod(self.start))
        self.blocks = nn.ModuleList(_UpBlock(inner, size) for size in reversed(sizes[:-1]))
        self.norm = nn.BatchNorm2d(inner)
        self.to_image = nn.Conv2d(inner, channels, 3, padding=1)
        nn.init.xavier_uniform_(self.dense.weight)
        nn.init.xavier_uniform_(self.to_image.weight)

    def forward(self, codes: Tensor) -> Tensor:
        """(N, d) -> (N, C, H, W) in [-1, 1]."""
        x = self.dense(codes).unflatten(1, self.start)
        for block in self.blocks:
            x = block(x)
        return torch.tanh(self.to_image(relu(self.norm(x))))


class _UpBlock(nn.Module):
    """BN, ReLU, nearest upsampling, conv, BN, ReLU, conv; the shortcut upsamples and mixes 1x1."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = _block_conv(UpsampledConv2d, channels, channels)
        self.conv1.odd = (size[0] % 2, size[1] % 2)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = _block_conv(nn.Conv2d, channels, channels)
        self.shortcut = _shortcut_conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        # Batch norm, ReLU and 1x1 convolutions commute with nearest upsampling, so it comes last.
        inner = self.conv1(relu(self.norm1(x)))
        inner = self.conv2(relu(self.norm2(inner)))
        out: Tensor = inner + _upsample(self.shortcut(x), self.size)
        return out


class Critic(nn.Module):
    """A critic in two parts: `features` (N, 2C, H, W) -> (N, F), which the scores compare, and a
    last linear layer on top of them. `forward` gives the critic's value, (N,)."""

    head: nn.Module

    def features(self, pairs: Tensor) -> Tensor:
        """What stands before the last linear layer, (N, F)."""
        raise NotImplementedError

    def forward(self, pairs: Tensor) -> Tensor:
        """The critic's value of each pair, (N,)."""
        value: Tensor = self.head(self.features(pairs))
        return value.squeeze(1)


class ResidualCritic(Critic):
    """Residual blocks of 128 channels, ReLU, global sum pooling, a linear layer without bias.

    The first blocks halve the image until its shorter side is at most 8; two more keep the size.
    """

    def __init__(self, channels: int, size: tuple[int, int], width: float, spectral: bool) -> None:
        super().__init__()
        inner = scaled(128, width)
        halvings = 2
        while min(size) >> halvings > 8:
            halvings += 1
        wrap: Callable[[nn.Module], nn.Module] = spectral_norm if spectral else lambda m: m
        blocks = [_DownBlock(channels, inner, wrap, halve=True, first=True)]
        blocks += [_DownBlock(inner, inner, wrap, halve=True) for _ in range(halvings - 1)]
        blocks += [_DownBlock(inner, inner, wrap, halve=False) for _ in range(2)]
        self.blocks = nn.Sequential(*blocks)
        head = nn.Linear(inner, 1, bias=False)
        nn.init.xavier_uniform_(head.weight)
        self.head = wrap(head)

    def features(self, pairs: Tensor) -> Tensor:
        """(N, 2C, H, W) -> (N, 128 width)."""
        return relu(self.blocks(pairs)).sum(dim=(2, 3))


class _DownBlock(nn.Module):
    """conv, ReLU, conv, 2x2 mean where it halves; the first block has no ReLU in front."""

    def __init__(
        self,
        channels: int,
        out: int,
        wrap: Callable[[nn.Module], nn.Module],
        *,
        halve: bool,
        first: bool = False,
    ) -> None:
        super().__init__()
        self.halve = halve
        self.first = first
        self.conv1 = wrap(_block_conv(nn.Conv2d, channels, out))
        self.conv2 = wrap(_block_conv(PooledConv2d if halve else nn.Conv2d, out, out))
        self.shortcut = wrap(_shortcut_conv(channels, out)) if halve or channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(relu(self.conv1(x if self.first else relu(x))))
        # The mean commutes with the 1x1 convolution and makes it four times cheaper.
        short = avg_pool2d(x, 2) if self.halve else x
        if self.shortcut is not None:
            short = self.shortcut(short)
        out: Tensor = short + inner
        return out


class PooledConv2d(nn.Conv2d):
    """A 3x3 convolution followed by a 2x2 mean, (N, C, H, W) -> (N, out, H // 2, W // 2).

    Computed as one 4x4 convolution of stride 2, whose kernel is the mean of the 3x3 kernel at the
    four positions: the same sums with 4/9 of the multiplications.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, H // 2, W // 2)."""
        return conv2d(x, _at_four_positions(self.weight) / 4, self.bias, stride=2, padding=1)


class UpsampledConv2d(nn.Conv2d):
    """Nearest upsampling by two followed by a 3x3 convolution, to 2 H x 2 W or one pixel more.

    Computed as one 4x4 transposed convolution of stride 2, whose kernel adds up the taps that meet
    the same pixel: the same sums with 4/9 of the multiplications. An odd size's last row and column
    continue the upsampled image with zeros.
    """

    odd: tuple[int, int] = (0, 0)  # 1 where the output is one pixel more than twice the input

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, 2 H + odd, 2 W + odd)."""
        kernel = _at_four_positions(self.weight.flip(2, 3)).transpose(0, 1)
        return conv_transpose2d(x, kernel, self.bias, stride=2, padding=1, output_padding=self.odd)


def _at_four_positions(kernel: Tensor) -> Tensor:
    """The sum of a kernel shifted to the four corners of one a pixel larger, 3x3 -> 4x4."""
    rows = pad(kernel, (0, 0, 0, 1)) + pad(kernel, (0, 0, 1, 0))
    return pad(rows, (0, 1)) + pad(rows, (1, 0))


def _upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest upsampling by two; an odd size repeats its last row and column."""
    doubled = interpolate(x, scale_factor=2.0)
    rows, columns = size[0] - doubled.shape[2], size[1] - doubled.shape[3]
    return pad(doubled, (0, columns, 0, rows), mode="replicate") if rows or columns else doubled


def _block_conv(kind: type[ConvT], channels: int, out: int) -> ConvT:
    conv = kind(channels, out, 3, padding=1)
    nn.init.xavier_uniform_(conv.weight, gain=math.sqrt(2))
    return conv


def _shortcut_conv(channels: int, out: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out, 1)
    nn.init.xavier_uniform_(conv.weight)
    return conv


# --- small family ---------------------------------------------------------------------------------


class SmallEncoder(nn.Sequential):
    """4x4 stride-2 convolutions, a dense layer of 1024, a dense layer to d; ReLU between."""

    def __init__(
        self, channels: int, sizes: list[tuple[int, int]], latent_dim: int, width: float
    ) -> None:
        plan = channel_plan(64, 256, len(sizes) - 1, width)
        hidden = scaled(1024, width)
        layers: list[nn.Module] = []
        for out in plan:
            layers += [nn.Conv2d(channels, out, 4, stride=2, padding=1), nn.ReLU()]
            channels = out
        layers += [nn.Flatten(), nn.Linear(channels * math.prod(sizes[-1]), hidden), nn.ReLU()]
        layers += [nn.Linear(hidden, latent_dim)]
        super().__init__(*layers)


class SmallGenerator(nn.Sequential):
    """The encoder in reverse, with transposed convolutions and a tanh at the end."""

    def __init__(
        self, channels: int, sizes: list[tuple[int, int]], latent_dim: int, width: float
    ) -> None:
        plan = channel_plan(64, 256, len(sizes) - 1, width)
        hidden = scaled(1024, width)
        start = (plan[-1], *sizes[-1])
        layers: list[nn.Module] = [nn.Linear(latent_dim, hidden), nn.ReLU()]
        layers += [nn.Linear(hidden, math.prod(start)), nn.ReLU(), nn.Unflatten(1, start)]
        outputs = [*reversed(plan[:-1]), channels]
        inner = plan[-1]
        for out, small, large in zip(
            outputs, reversed(sizes[1:]), reversed(sizes[:-1]), strict=True
        ):
            odd = (large[0] - 2 * small[0], large[1] - 2 * small[1])  # what halving rounded off
            layers += [
                nn.ConvTranspose2d(inner, out, 4, stride=2, padding=1, output_padding=odd),
                nn.ReLU(),
            ]
            inner = out
        layers[-1] = nn.Tanh()
        super().__init__(*layers)


class SmallCritic(Critic):
    """4x4 stride-2 convolutions and a dense layer of 1024, each with LeakyReLU(0.2); linear."""

    def __init__(
        self, channels: int, sizes: list[tuple[int, int]], width: float, spectral: bool
    ) -> None:
        super().__init__()
        wrap: Callable[[nn.Module], nn.Module] = spectral_norm if spectral else lambda m: m
        hidden = scaled(1024, width)
        layers: list[nn.Module] = []
        for out in channel_plan(64, 256, len(sizes) - 1, width):
            layers += [
                wrap(nn.Conv2d(channels, out, 4, stride=2, padding=1)),
                PenalisedLeakyReLU(0.2),
            ]
            channels = out
        flat = channels * math.prod(sizes[-1])
        layers += [nn.Flatten(), wrap(nn.Linear(flat, hidden)), PenalisedLeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        self.head = wrap(nn.Linear(hidden, 1))

    def features(self, pairs: Tensor) -> Tensor:
        """(N, 2C, H, W) -> (N, 1024 width)."""
        features: Tensor = self.body(pairs)
        return features
