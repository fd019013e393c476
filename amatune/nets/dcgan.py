"""Convolutional encoders, generators and discriminators in the manner of DCGAN, for any image size.

Layers begin as ALAD's do (`initialised`); `initialise` gives a network the beginning of another
paper.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Generator, Tensor, nn

INIT_STD = 0.01  # of all weights
SLOPE = 0.2  # of LeakyReLU
EPS = 1e-3  # of batch norm, as in TensorFlow: weights that start small need it

Sizes = list[tuple[int, int]]
Wrap = Callable[[nn.Module], nn.Module]


def plain(module: nn.Module) -> nn.Module:
    """Wraps a layer in nothing."""
    return module


def halving(
    channels: int, plan: list[int], wrap: Wrap = plain, *, norm_first: bool, eps: float = EPS
) -> list[nn.Module]:
    """A 4x4 convolution of stride 2 for each entry of `plan`, its output channels, each with batch
    norm and LeakyReLU; the first has a bias in the place of batch norm unless `norm_first`."""
    layers: list[nn.Module] = []
    for number, out in enumerate(plan):
        normed = norm_first or number > 0
        conv = nn.Conv2d(channels, out, 4, stride=2, padding=1, bias=not normed)
        layers += [wrap(initialised(conv)), *([norm(out, eps)] if normed else [])]
        layers.append(nn.LeakyReLU(SLOPE))
        channels = out
    return layers


class Encoder(nn.Sequential):
    """4x4 stride-2 convolutions with batch norm and LeakyReLU, then one valid convolution,
    (N, C, H, W) -> (N, d).

    Published for 32x32 pixels with 128, 256 and 512 channels. Other sizes change the number of
    halvings alone: until the shorter side is 4 to 7, at least once.
    """

    def __init__(
        self,
        channels: int,
        sizes: Sizes,
        plan: list[int],
        latent_dim: int,
        wrap: Wrap = plain,
        *,
        norm_first: bool = True,
        eps: float = EPS,
    ) -> None:
        layers = halving(channels, plan, wrap, norm_first=norm_first, eps=eps)
        last = nn.Conv2d(plan[-1], latent_dim, sizes[-1])
        super().__init__(*layers, initialised(last), nn.Flatten())


class ImageGenerator(nn.Sequential):
    """The encoder in reverse, with transposed convolutions, batch norm, ReLU and a tanh at the end,
    (N, d) -> (N, C, H, W) in [-1, 1]."""

    def __init__(
        self, channels: int, sizes: Sizes, plan: list[int], latent_dim: int, eps: float = EPS
    ) -> None:
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
            layers += [norm(inner, eps), nn.ReLU(), initialised(conv)]
            inner = out
        super().__init__(*layers, nn.Tanh())


class Discriminator(nn.Module):
    """A `body`, images (N, C, H, W) -> features (N, F), and a linear layer on them."""

    def __init__(self, body: nn.Module, features: int) -> None:
        super().__init__()
        self.body = body
        self.head = initialised(nn.Linear(features, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> features (N, F) and logits (N,), positive = real."""
        features: Tensor = self.body(images)
        return features, self.head(features).squeeze(1)


def initialised(layer: nn.Module) -> nn.Module:
    """Normal weights, no bias to begin with."""
    nn.init.normal_(cast(Tensor, layer.weight), std=INIT_STD)
    if layer.bias is not None:
        nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


def norm(channels: int, eps: float = EPS) -> nn.BatchNorm2d:
    """Batch norm of images."""
    return nn.BatchNorm2d(channels, eps=eps)


@torch.no_grad()
def initialise(
    module: nn.Module,
    std: float,
    generator: Generator | None = None,
    when: Tensor | None = None,
) -> None:
    """DCGAN's beginning, in place: weights ~ N(0, std), those of images' batch norm ~ N(1, std),
    biases 0; batch norm's statistics stay, and so do the weights, 1, of that of vectors.

    Drawn from `generator`, or the process's own stream. With `when`, a bool scalar on the device,
    only where it is true, which is not waited for.
    """
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm2d):
            continue
        mean = 1.0 if isinstance(layer, nn.BatchNorm2d) else 0.0
        for name, tensor in layer.named_parameters(recurse=False):
            fresh = torch.zeros_like(tensor)
            if name == "weight":
                fresh.normal_(mean, std, generator=generator)
            tensor.copy_(fresh if when is None else torch.where(when, fresh, tensor))


def glorot(module: nn.Module, weights: Callable[[Tensor], Tensor]) -> None:
    """Glorot's weights, normal or uniform ones, and no biases, in place; batch norm stays 1 and 0.

    `weights` is of `torch.nn.init`, and draws from the process's own stream.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            weights(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
