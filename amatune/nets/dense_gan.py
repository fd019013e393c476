"""Generator and discriminator with dense layers for images whose sides do not halve often, such as
28 x 28 pixels: those of the public codes of AnoGAN and Fence GAN for MNIST.

Batch norm and ReLU are in the order of either.
"""

from torch import Tensor, nn

from amatune.nets.dcgan import norm
from amatune.nets.sizes import scaled

SLOPE = 0.1  # of LeakyReLU


def halves_often(size: tuple[int, int]) -> bool:
    """Whether both sides can be halved four times, so that purely convolutional networks fit."""
    return all(side % 16 == 0 for side in size)


class Crop(nn.Module):
    """The upper left part of images, of a size (height, width)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, height, width)."""
        height, width = self.size
        return images[:, :, :height, :width]


class DenseGenerator(nn.Sequential):
    """(N, d) -> (N, C, H, W) in [-1, 1]: dense layers of 1024 units and of 128 channels at a
    quarter of the sides, rounded up; transposed 4x4 convolutions of stride 2 with 64 and C
    channels; tanh. What is beyond the sides is cut off.

    Behind all but the last are batch norm and ReLU, or with `relu_first` ReLU and batch norm.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        latent_dim: int,
        width: float,
        *,
        relu_first: bool,
    ) -> None:
        units, first, second = (scaled(count, width) for count in (1024, 128, 64))
        height, across = (-(-side // 4) for side in size)

        def behind(normalised: nn.Module) -> list[nn.Module]:
            return [nn.ReLU(), normalised] if relu_first else [normalised, nn.ReLU()]

        start = nn.Linear(units, first * height * across, bias=relu_first)
        super().__init__(
            nn.Linear(latent_dim, units, bias=relu_first),
            *behind(nn.BatchNorm1d(units, eps=1e-3)),
            start,
            *behind(nn.BatchNorm1d(start.out_features, eps=1e-3)),
            nn.Unflatten(1, (first, height, across)),
            nn.ConvTranspose2d(first, second, 4, stride=2, padding=1, bias=relu_first),
            *behind(norm(second)),
            nn.ConvTranspose2d(second, channels, 4, stride=2, padding=1),
            nn.Tanh(),
            Crop(size),
        )


class DenseBody(nn.Sequential):
    """(N, C, H, W) -> features (N, F), F being `features`: two 4x4 convolutions of stride 2 with 64
    channels and a dense layer of 1024 units, each with LeakyReLU; with `normed`, batch norm before
    that of the second and third."""

    def __init__(self, channels: int, size: tuple[int, int], width: float, *, normed: bool) -> None:
        inner, units = scaled(64, width), scaled(1024, width)
        flat = inner * (size[0] // 4) * (size[1] // 4)

        def normalised(module: nn.Module) -> list[nn.Module]:
            return [module] if normed else []

        super().__init__(
            nn.Conv2d(channels, inner, 4, stride=2, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(inner, inner, 4, stride=2, padding=1, bias=not normed),
            *normalised(norm(inner)),
            nn.LeakyReLU(SLOPE),
            nn.Flatten(),
            nn.Linear(flat, units, bias=not normed),
            *normalised(nn.BatchNorm1d(units, eps=1e-3)),
            nn.LeakyReLU(SLOPE),
        )
        self.features = units
