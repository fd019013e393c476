"""The settings of frozen features."""

from dataclasses import dataclass
from typing import Literal, Self

from amatune.config import DetectorConfig, ImageShape
from amatune.detectors.features.backbones import MULTIPLE, STRIDES, Backbone
from amatune.errors import ConfigError

Layers = Literal["1", "2", "3", "4", "1+2", "2+3", "3+4", "1+2+3", "2+3+4"]
Model = Literal["coreset", "gaussians", "mean"]

# Pixels; the least that is not below the pictures' side is taken.
RESOLUTIONS = (128, 192, 256, 384, 512, 768, 1024)
MAX_RESOLUTION = RESOLUTIONS[-1]
SCALES = (0.25, 2.0)  # the least and the largest
PADIM_DIMS = 100
GAUSSIANS_BYTES = 12  # of a value of the covariances: double precision while learning, and float
MOST_GAUSSIANS = 3 * 2**30  # bytes that they may take


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(DetectorConfig):
    """Settings of frozen features; the published ones are the presets `patchcore` and `padim`."""

    epochs: int = 1  # the first learns all there is to learn; others change nothing

    # Features
    backbone: Backbone = "efficientnet-lite0"  # PatchCore, PaDiM: wide-resnet50-2
    weights: str | None = None  # file of the backbone's weights; None: the published ones
    resolution: int | None = None  # pixels of the longer side seen; None: 128 up; published 224
    scale: float = 1.0  # of the side seen, where resolution is none
    tile: int | None = None  # side of the tiles of large pictures, pixels; None: seen whole
    tile_overlap: int = 32  # pixels that neighbouring tiles share, at least
    contrast_normalization: bool = False  # of each image: its mean brightness and contrast
    layers: Layers = "2+3"  # at 1/4, 1/8, 1/16 and 1/32 of the side; PaDiM: 1+2+3
    # None: for gaussians 1 and 100, as PaDiM's; else 3 and all, as PatchCore's.
    neighbourhood: int | None = None  # side of the square of places a patch is the mean of
    dims: int | None = None  # values of a patch, by random projection

    # What is normal
    model: Model = "gaussians"  # a place each, PaDiM; coreset: PatchCore; mean: one of whole images
    metric: Literal["mahalanobis", "euclidean"] = "mahalanobis"  # of coreset; PatchCore: euclidean
    coreset: float = 0.01  # share of the training patches kept, at most 10,000; published: .01, .1
    neighbours: int = 1  # kept patches whose mean distance counts
    reweighting: int = 0  # b of PatchCore's Eq. 7, for the score max; 0: none
    pooling: Literal["mean", "mean+std"] = "mean+std"  # of mean: what of the patches of an image

    score: Literal["auto", "max", "top"] = "auto"  # of patches: the highest, mean of the highest 5%

    def problems(self) -> list[str]:
        """All impossible values, one sentence each."""
        found = super().problems()
        side = self.resolution
        if side is not None and not (MULTIPLE <= side <= MAX_RESOLUTION and side % MULTIPLE == 0):
            found.append(
                f"resolution must be a multiple of {MULTIPLE} from {MULTIPLE} to {MAX_RESOLUTION}, "
                f"got {side}"
            )
        if not SCALES[0] <= self.scale <= SCALES[1]:
            found.append(f"scale must be from {SCALES[0]:g} to {SCALES[1]:g}, got {self.scale}")
        tile = self.tile
        if tile is not None and not (MULTIPLE <= tile <= MAX_RESOLUTION and tile % MULTIPLE == 0):
            found.append(
                f"tile must be a multiple of {MULTIPLE} from {MULTIPLE} to {MAX_RESOLUTION}, got "
                f"{tile}"
            )
        if not 0 <= self.tile_overlap < (tile or MAX_RESOLUTION):
            found.append(
                f"tile_overlap must be at least 0 and less than tile, got {self.tile_overlap}"
            )
        around = self.neighbourhood
        if around is not None and not (1 <= around <= 9 and around % 2):
            found.append(f"neighbourhood must be 1, 3, 5, 7 or 9, got {around}")
        if self.dims is not None and self.dims < 1:
            found.append(f"dims must be at least 1, got {self.dims}")
        if not 0 < self.coreset <= 1:
            found.append(f"coreset must be a share in (0, 1], got {self.coreset}")
        if self.neighbours < 1:
            found.append(f"neighbours must be at least 1, got {self.neighbours}")
        if self.reweighting < 0 or self.reweighting == 1:
            found.append(f"reweighting must be 0, or 2 and more patches, got {self.reweighting}")
        if self.weights is not None and self.backbone == "random":
            found.append(f"a random backbone has no weights, got {self.weights!r}")
        return found

    def resolve(self, image_shape: ImageShape) -> Self:
        """Fill in what the images (C, H, W) decide, the size at which the network sees them, and
        what the model does.

        Raises `ConfigError` where Gaussians at every place would not fit into memory, and for tiles
        as large as the images.
        """
        _, height, width = image_shape
        if self.tile is not None and self.tile >= max(height, width):
            raise ConfigError(
                f"tiles of {self.tile} pixels are not smaller than the pictures, which are brought "
                f"to {width} x {height}: choose a larger image size, or no tiles"
            )
        resolved = self
        if self.resolution is None:
            longer = max(self.view(image_shape)[1:])
            fitting = [side for side in RESOLUTIONS if side >= longer]
            side = round(self.scale * (fitting or RESOLUTIONS[-1:])[0] / MULTIPLE) * MULTIPLE
            resolved = self.replace(resolution=min(max(side, MULTIPLE), MAX_RESOLUTION))
        places_alone = resolved.model == "gaussians"
        if resolved.neighbourhood is None:
            resolved = resolved.replace(neighbourhood=1 if places_alone else 3)
        if resolved.dims is None and places_alone:
            resolved = resolved.replace(dims=PADIM_DIMS)
        if resolved.model == "gaussians" and resolved.dims is not None:
            height, width = resolved.places(image_shape)
            needed = GAUSSIANS_BYTES * height * width * resolved.dims**2
            if needed > MOST_GAUSSIANS:
                raise ConfigError(
                    f"Gaussians of {resolved.dims} dimensions at {height} x {width} places take "
                    f"{needed / 2**30:.1f} GiB, more than {MOST_GAUSSIANS / 2**30:g}: fewer dims, "
                    "a lower resolution or deeper layers need less"
                )
        return resolved

    @property
    def around(self) -> int:
        """The neighbourhood of a resolved configuration."""
        return self.neighbourhood or 1

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels of the backbone in use, from 1, the finest first."""
        return tuple(int(level) for level in self.layers.split("+"))

    def view(self, image_shape: ImageShape) -> ImageShape:
        """What of images (C, H, W) is looked at by itself: a tile, or the whole."""
        channels, height, width = image_shape
        if self.tile is None:
            return image_shape
        return channels, min(self.tile, height), min(self.tile, width)

    def seen(self, image_shape: ImageShape) -> tuple[int, int]:
        """Height and width at which the network of a resolved configuration sees images
        (C, H, W), or their tiles: the aspect ratio is kept as far as multiples of 32 allow."""
        _, height, width = self.view(image_shape)
        longer = max(height, width)
        side = self.resolution or RESOLUTIONS[0]
        rows, columns = (
            max(MULTIPLE, round(side * own / longer / MULTIPLE) * MULTIPLE)
            for own in (height, width)
        )
        return rows, columns

    def places(self, image_shape: ImageShape) -> tuple[int, int]:
        """Rows and columns of patches of images (C, H, W), or of each of their tiles."""
        height, width = self.seen(image_shape)
        stride = STRIDES[self.levels[0] - 1]
        return height // stride, width // stride
