"""From images to scores: what a network sees, and what is kept as normal."""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amatune.config import ImageShape
from amatune.detectors.features.backbones import digest
from amatune.detectors.features.config import FeaturesConfig
from amatune.detectors.features.patches import (
    Resize,
    join,
    nearest,
    normalised,
    rarity,
    top_mean,
)


class FeatureStore(Protocol):
    """Where maps are kept from one detector to the next."""

    limit: int  # bytes

    def recall(self, key: str) -> Tensor | None:
        """The map kept by this key."""

    def keep(self, key: str, features: Tensor) -> None:
        """Keep a map, as long as there is room."""


class Sight(nn.Module):
    """Images (B, C, H, W) in [-1, 1], whole or tiles, to the maps of the levels in use, the finest
    first."""

    def __init__(self, trunk: nn.Module, config: FeaturesConfig, image_shape: ImageShape) -> None:
        super().__init__()
        _, height, width = image_shape
        size = config.seen(image_shape)
        same = size == (height, width)
        self.resize: nn.Module = nn.Identity() if same else Resize((height, width), size)
        self.trunk = trunk
        self.levels = config.levels
        # The contrast is that of the whole image: a flat tile is not to be made loud.
        self.normalises = config.contrast_normalization and config.tile is None

    def forward(self, images: Tensor) -> list[Tensor]:
        """See the class."""
        if self.normalises:
            images = normalised(images)
        maps = self.trunk(self.resize(images).expand(-1, 3, -1, -1))
        return [maps[level - 1] for level in self.levels]


class Remembered(nn.Module):
    """The same, but maps that a store has are taken from there. `about` says for each level in use
    what its maps depend on beside the images."""

    def __init__(self, sight: Sight, store: FeatureStore, about: Sequence[str]) -> None:
        super().__init__()
        self.sight, self.store, self.about = sight, store, about

    def forward(self, images: Tensor) -> list[Tensor]:
        """See the class."""
        seen = digest({"images": images})
        keys = [f"{about}-{seen}" for about in self.about]
        found = [self.store.recall(one) for one in keys]
        kept = [one.to(images.device).permute(0, 3, 1, 2) for one in found if one is not None]
        if len(kept) == len(keys):
            return kept
        maps: list[Tensor] = self.sight(images)
        for key, there, features in zip(keys, found, maps, strict=True):
            if there is None:
                # Channels last, as they are on a CPU: what comes back is laid out as what was kept.
                self.store.keep(key, features.permute(0, 2, 3, 1).cpu())
        return maps


class Coreset(nn.Module):
    """Patches (B, P, D) to their distances from a memory (K, D') (B, P), and the image's two."""

    space: Tensor
    offset: Tensor
    memory: Tensor

    def __init__(
        self, space: Tensor, offset: Tensor, memory: Tensor, neighbours: int, reweighting: int
    ) -> None:
        super().__init__()
        self.register_buffer("space", space)  # (D, D'): projection and whitening in one
        self.register_buffer("offset", offset)  # (D',)
        self.register_buffer("memory", memory)
        self.neighbours = min(neighbours, memory.shape[0])
        self.reweighting = reweighting if memory.shape[0] > 1 else 0

    def map(self, patches: Tensor) -> Tensor:
        """(B, P, D) -> the distances of patches (B, P)."""
        return self._look(patches @ self.space - self.offset)[0]

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        patches = patches @ self.space - self.offset
        distances, first, place = self._look(patches)
        highest, at = distances.max(dim=1)
        if self.reweighting:
            at = at.unsqueeze(1)
            patch = patches.gather(1, at.unsqueeze(2).expand(-1, -1, patches.shape[2])).squeeze(1)
            nearest_one = first.gather(1, at).squeeze(1)
            own = place.gather(1, at).squeeze(1)
            highest = highest * rarity(patch, nearest_one, own, self.memory, self.reweighting)
        return highest, top_mean(distances)

    def _look(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean distance to the neighbours, and distance and place of the nearest, (B, P) each."""
        distances, places = nearest(patches, self.memory, self.neighbours)
        return distances.mean(dim=-1), distances[..., 0], places[..., 0]


class Gaussians(nn.Module):
    """Patches (B, P, D) to their Mahalanobis distances (B, P), and the image's two."""

    projection: Tensor
    centre: Tensor
    whitening: Tensor

    def __init__(self, projection: Tensor, centre: Tensor, whitening: Tensor) -> None:
        super().__init__()
        self.register_buffer("projection", projection)
        self.register_buffer("centre", centre)  # (P, D')
        self.register_buffer("whitening", whitening)  # (P, D', D')

    def map(self, patches: Tensor) -> Tensor:
        """(B, P, D) -> the distances of patches (B, P)."""
        centred = (patches @ self.projection - self.centre).transpose(0, 1)  # (P, B, D')
        return (centred @ self.whitening).square().sum(dim=2).sqrt().T

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        distances = self.map(patches)
        return distances.amax(dim=1), top_mean(distances)


class Mean(nn.Module):
    """Patches (B, P, D) to the Mahalanobis distance of their mean, twice (B,)."""

    projection: Tensor | None
    centre: Tensor
    whitening: Tensor

    def __init__(
        self, projection: Tensor | None, centre: Tensor, whitening: Tensor, pooling: str
    ) -> None:
        super().__init__()
        self.register_buffer("projection", projection)  # None: all dimensions are there
        self.register_buffer("centre", centre)  # (E,)
        self.register_buffer("whitening", whitening)  # (E, E)
        self.pooling = pooling

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        if self.projection is not None:
            patches = patches @ self.projection
        pooled = pool(patches, self.pooling)
        distances = ((pooled - self.centre) @ self.whitening).square().sum(dim=1).sqrt()
        return distances, distances


def pool(patches: Tensor, pooling: str) -> Tensor:
    """Patches (B, P, D) to their mean (B, D), or mean and standard deviation (B, 2 D)."""
    mean = patches.mean(dim=1)
    if pooling == "mean":
        return mean
    variance = (patches - mean.unsqueeze(1)).square().mean(dim=1)
    return torch.cat([mean, variance.sqrt()], dim=1)


class Scorer(nn.Module):
    """The scores of float images (B, C, H, W) in [-1, 1]: two of (B,)."""

    def __init__(
        self, sight: nn.Module, neighbourhood: int, model: Coreset | Gaussians | Mean
    ) -> None:
        super().__init__()
        self.sight, self.neighbourhood, self.model = sight, neighbourhood, model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        scores: tuple[Tensor, Tensor] = self.model(self.patches(images))
        return scores

    def patches(self, images: Tensor) -> Tensor:
        """(B, P, D), P places row by row."""
        return see_patches(self.sight, images, self.neighbourhood)


class PatchMap(nn.Module):
    """Float images (B, C, H, W) in [-1, 1] to the distances of their patches, which lie in rows and
    columns of `places`, interpolated to (B, *size)."""

    def __init__(
        self,
        sight: Scorer,
        model: Coreset | Gaussians,
        places: tuple[int, int],
        size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.sight, self.model, self.places, self.size = sight, model, places, size

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        distances = self.model.map(self.sight.patches(images)).view(-1, 1, *self.places)
        return F.interpolate(distances, size=self.size, mode="bilinear").squeeze(1)


def see_patches(sight: nn.Module, images: Tensor, neighbourhood: int) -> Tensor:
    """Float images (B, C, H, W) to patches (B, P, D), P places row by row."""
    return join(sight(images), neighbourhood).flatten(2).transpose(1, 2)
