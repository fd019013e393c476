"""Large pictures, cut into tiles that a network sees one by one.

Tiles are as large as asked, but no larger than the picture; they are spread evenly from edge to
edge, as few as share at least the overlap with their neighbours. A picture scores the maximum over
its tiles; where tiles overlap, its map is their mean.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amatune.detectors.features.patches import normalised

Size = tuple[int, int]  # (height, width)


def starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side of a picture, pixels. `overlap` is less than `tile`."""
    if tile >= side:
        return [0]
    count = -(-(side - overlap) // (tile - overlap))
    return [round(place * (side - tile) / (count - 1)) for place in range(count)]


class Tiling(nn.Module):
    """Images (B, C, H, W) to their T tiles (B x T, C, h, w), row by row, one image after another,
    of images with the same contrast if `normalises`.

    `at_once` bounds how many tiles are looked at together.
    """

    covered: Tensor

    def __init__(
        self, image: Size, tile: int, overlap: int, at_once: int, *, normalises: bool = False
    ) -> None:
        super().__init__()
        self.normalises = normalises
        self.image = image
        self.tile: Size = (min(tile, image[0]), min(tile, image[1]))
        along = [starts(*sides, overlap) for sides in zip(image, self.tile, strict=True)]
        self.corners = list(itertools.product(*along))
        self.at_once = at_once
        ones = torch.ones(len(self.corners), *self.tile)
        self.register_buffer("covered", self._add(ones), persistent=False)  # tiles over each pixel

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        if self.normalises:
            images = normalised(images)
        height, width = self.tile
        tiles = [images[:, :, y : y + height, x : x + width] for y, x in self.corners]
        return torch.stack(tiles, dim=1).flatten(0, 1)

    def few(self, tiles: Tensor) -> tuple[Tensor, ...]:
        """Tiles in parts that bound the memory. A graph of them for another engine holds the
        network once, and sees them all together."""
        return (tiles,) if torch.compiler.is_compiling() else torch.split(tiles, self.at_once)

    def stitch(self, maps: Tensor) -> Tensor:
        """Maps of tiles (B x T, h, w) to those of images (B, H, W)."""
        return self._add(maps.view(-1, len(self.corners), *self.tile)) / self.covered

    def _add(self, maps: Tensor) -> Tensor:
        """(..., T, h, w) to their sums in place (..., H, W)."""
        height, width = self.tile
        total = maps.new_zeros(())
        for number, (y, x) in enumerate(self.corners):
            below, right = self.image[0] - height - y, self.image[1] - width - x
            total = total + F.pad(maps[..., number, :, :], (x, right, y, below))
        return total


class TiledScores(nn.Module):
    """The scores of images, the maximum over their tiles: as many of (B,) as `scorer` gives."""

    def __init__(self, tiling: Tiling, scorer: nn.Module) -> None:
        super().__init__()
        self.tiling, self.scorer = tiling, scorer

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        parts = [self.scorer(tiles) for tiles in self.tiling.few(self.tiling(images))]
        count = len(self.tiling.corners)
        return tuple(
            torch.cat(values).view(-1, count).amax(dim=1) for values in zip(*parts, strict=True)
        )


class TiledMap(nn.Module):
    """The maps of images (B, H, W), put together from those that `mapper` makes of tiles."""

    def __init__(self, tiling: Tiling, mapper: nn.Module) -> None:
        super().__init__()
        self.tiling, self.mapper = tiling, mapper

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        parts = [self.mapper(tiles) for tiles in self.tiling.few(self.tiling(images))]
        return self.tiling.stitch(torch.cat(parts))
