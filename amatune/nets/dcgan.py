"""Convolutional encoders and generators in the manner of DCGAN, for any image size."""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

INIT_STD = 0.01  # of all weights
SLOPE = 0.2  # of LeakyReLU

Sizes = list[tuple[int, int]]
Wrap = Callable[[nn.Module], nn.Module]


class Encoder(nn.Sequential):
    """4x4 stride-2 convolutions with batch norm and LeakyReLU, then one valid convolution,
    (N, C, H, W) -> (N, d).

    Published for 32x32 pixels with 128, 256 and 512 channels. Other sizes change the number of
    halvings alone: until the shorter side is 4 to 7, at least once.
    """

    def __init__(
        self, channels: int, sizes: Sizes, plan: list[int], latent_dim: int, wrap: Wrap
    ) -> None:
        layers: list[nn.Module] = []
        for out in plan:
            conv = nn.Conv2d(channels, out, 4, stride=2, padding=1, bias=False)
            layers += [wrap(initialised(conv)), norm(out), nn.LeakyReLU(SLOPE)]
            channels = out
        last = nn.Conv2d(channels, latent_dim, sizes[-1])
        super().__init__(*layers, initialised(last), nn.Flatten())


class ImageGenerator(nn.Sequential):
    """The encoder in reverse, with transposed convolutions, batch norm, ReLU and a tanh at the end,
    (N, d) -> (N, C, H, W) in [-1, 1]."""

    def __init__(self, channels: int, sizes: Sizes, plan: list[int], latent_dim: int) -> None:
        first = nn.ConvTranspose2d(latent_dim, plan[-1], sizes[-1], bias=False)
        layers: list[nn.Module] = [nn.Unflatten(1, (latent_dim, 1, 1)), initialised(first)]
        inner = plan[-1]
        outputs = [*reversed(plan[:-1]), channels]
        for out, small, large in zip(
            outputs, reversed(sizes[1:]), reversed(sizes[:-1]), strict=True
        ):
            odd = (large[0] - 2 * small[0], large[1] - 2 * small[1])  # what halving rounded off
            last = large == sizes[0]
            conv = nn.ConvTranspose2d(
                inner, out, 4, stride=2, padding=1, output_padding=odd, bias=last
            )
            layers += [norm(inner), nn.ReLU(), initialised(conv)]
            inner = out
        super().__init__(*layers, nn.Tanh())


def initialised(layer: nn.Module) -> nn.Module:
    """Normal weights, no bias to begin with."""
    nn.init.normal_(cast(Tensor, layer.weight), std=INIT_STD)
    if layer.bias is not None:
        nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with the eps of TensorFlow: weights that start small need it."""
    return nn.BatchNorm2d(channels, eps=1e-3)
