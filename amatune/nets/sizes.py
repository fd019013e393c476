"""How networks follow the size of the images and the wanted width."""

from typing import Self

from amatune.config import DetectorConfig, ImageShape
from amatune.errors import ConfigError

MIN_SIDE = 8  # pixels; below it there is nothing to halve


def require_min_side(image_shape: ImageShape) -> None:
    """Raise `ConfigError` for images (C, H, W) with a side below `MIN_SIDE`."""
    _, height, width = image_shape
    if min(height, width) < MIN_SIDE:
        raise ConfigError(
            f"images of {height}x{width} pixels are too small; the shorter side must be "
            f"{MIN_SIDE} or more: choose a larger image size"
        )


class HalvedConfig(DetectorConfig):
    """Settings of a method whose networks need sides of at least `MIN_SIDE`, and nothing else."""

    def resolve(self, image_shape: ImageShape) -> Self:
        """The configuration itself. Raises `ConfigError` for too small images."""
        require_min_side(image_shape)
        return self


def halve(size: tuple[int, int], stop_below: int) -> list[tuple[int, int]]:
    """The sizes from the image down, each half of the one before, rounded down; at least two, and
    no further once the shorter side is below `stop_below`."""
    sizes = [size]
    while len(sizes) == 1 or min(sizes[-1]) >= stop_below:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


def scaled(count: int, width: float) -> int:
    """A channel or unit count times `width`, at least 1."""
    return max(1, round(count * width))


def channel_plan(first: int, cap: int, halvings: int, width: float) -> list[int]:
    """Channels after each halving: doubled from `first`, at most `cap`, scaled by `width`."""
    return [scaled(min(first * 2**i, cap), width) for i in range(halvings)]


# --- residual family ------------------------------------------------------------------------------
