"""Frozen features: patches of a network trained on ImageNet, and how far they are from normal ones.

Nothing is trained: one pass over the normal images takes their features and keeps what is normal,

    coreset    some of the patches, such that no other is far from all of them; a patch scores its
               distance from the nearest. PatchCore: Roth et al., "Towards Total Recall in
               Industrial Anomaly Detection", CVPR 2022
    gaussians  mean and covariance of the patches at each place; a patch scores its Mahalanobis
               distance. PaDiM: Defard et al., ICPR 2021 workshops
    mean       mean and covariance of a whole image's mean patch, after Rippel et al., "Modeling the
               Distribution of Normal Data in Pre-Trained Deep Features", ICPR 2020

Scores of an image, higher = more anomalous: `max`, that of its highest patch, as published, and
`top`, the mean of its highest 5%. An image of `mean` has one distance, which both names give.

Where it differs from the authors. PatchCore's code averages neighbourhoods and channels in one
adaptive pooling to 1,024 values; here places are averaged (its Eq. 2) and all channels kept. By
default distances are Mahalanobis' with the covariance of all training patches: features differ in
scale, and Euclidean distance sees the loud ones alone; `metric` is euclidean as published. PaDiM
draws channels at random; here `dims` is a random projection with orthonormal columns (Kim et al.,
"Semi-Orthogonal Embedding for Efficient Unsupervised Anomaly Segmentation", 2021), for all models.
The greedy choice sees at most 100,000 patches, as many of each image, drawn with the seed; the
covariance is theirs, and `radius`, measured in at most 128 random dimensions as the choice is. Both
papers smooth maps (sigma 4), and PaDiM takes an image's score from the smoothed one and repeats
deep maps; here maps are as they come, deep ones are interpolated. Rippel et al. pool the maps of a
network as they are, without deviations and without a ridge beside the shrinkage.

Large pictures may be seen in tiles, `tile` pixels a side: what is normal is learnt of the tiles of
all pictures alike, wherever they lie; Gaussians then are at the places of a tile. A picture scores
the maximum over its tiles. They are part of the detector, and not of the data, so that an export,
its ONNX form included, takes whole pictures.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from amatune.config import DetectorConfig, ImageShape
from amatune.detector import SCORING_BATCH, Detector, Optimisation, is_constant
from amatune.detectors.features.backbones import (
    STRIDES,
    Trunk,
    credit,
    find_weights,
    folded,
    level_digest,
    load_weights,
    make_trunk,
)
from amatune.detectors.features.config import FeaturesConfig
from amatune.detectors.features.patches import (
    Moments,
    greedy_coreset,
    regularised,
    semi_orthogonal,
    shrunk_covariance,
    whitening,
)
from amatune.detectors.features.scorers import (
    Coreset,
    FeatureStore,
    Gaussians,
    Mean,
    PatchMap,
    Remembered,
    Scorer,
    Sight,
    pool,
    see_patches,
)
from amatune.detectors.features.tiles import TiledMap, TiledScores, Tiling
from amatune.errors import ConfigError, DataError, DivergedError, RequestError
from amatune.nets.drawing import drawn_from

MOST_PATCHES = 100_000  # of the training images that a coreset is chosen from ...
MOST_VALUES = 2**26  # ... with as many values in all
MOST_KEPT = 10_000  # patches of a coreset
PLACES_AT_ONCE = 512  # whose covariances are inverted together
VALUE = 4  # bytes of a value of a map
# That the network sees at a time: bounds the memory of its maps. On a CPU they stay below 32 MiB,
# above which glibc asks the system for each anew, and half of the time goes into that.
PIXELS_AT_ONCE, PIXELS_AT_ONCE_GPU = 2**17, 2**20


class Features(Detector):
    """Frozen features; see the module's docstring."""

    name: ClassVar[str] = "features"
    summary: ClassVar[str] = (
        "Frozen ImageNet features: PatchCore (Roth et al., CVPR 2022), PaDiM (Defard et al., 2021)"
    )
    Config: ClassVar[type[DetectorConfig]] = FeaturesConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "patchcore": {
            "backbone": "wide-resnet50-2",
            "resolution": 224,
            "layers": "2+3",
            "neighbourhood": 3,
            "model": "coreset",
            "metric": "euclidean",
            "coreset": 0.1,
            "neighbours": 1,
            "reweighting": 9,
            "score": "max",
        },
        "padim": {
            "backbone": "resnet18",
            "resolution": 224,
            "layers": "1+2+3",
            "neighbourhood": 1,
            "dims": 100,
            "model": "gaussians",
            "score": "max",
        },
    }
    score_names: ClassVar[tuple[str, ...]] = ("max", "top")
    usual_steps: ClassVar[int | None] = None
    largest_side: ClassVar[int | None] = 256
    channels_last: ClassVar[bool] = True
    most_to_calibrate: ClassVar[int | None] = 256
    kept: ClassVar[tuple[str, ...]] = ("has_weights", "has_learnt", "spread", "radius")
    fitted: ClassVar[tuple[str, ...]] = ("projection", "centre", "whitening", "memory")
    config: FeaturesConfig

    def __init__(
        self,
        config: FeaturesConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(config, image_shape, device, seed)
        config = self.config
        with drawn_from(seed):
            trunk = make_trunk(config.backbone, config.levels[-1])
        self.trunk = trunk.requires_grad_(False)
        self.hold({"trunk": self.trunk})
        # Of the weights as they are, made when first needed.
        self._folded: Trunk | None = None
        self._digests: tuple[str, ...] = ()  # of the levels in use
        # Read when it first learns: a detector that is loaded has its own.
        self.has_weights = config.backbone == "random"
        self.store: FeatureStore | None = None  # where maps are kept between detectors
        self.has_learnt = False
        self.spread = self._zeros()  # root mean square distance of patches from their mean
        self.radius = self._zeros()  # of a coreset: the largest distance from it of a patch

        channels = sum(trunk.channels[level - 1] for level in config.levels)
        dims = min(config.dims or channels, channels)
        height, width = config.places(image_shape)
        pooled = dims * (2 if config.pooling == "mean+std" else 1)
        places, values = {
            "coreset": ((), dims),
            "gaussians": ((height * width,), dims),
            "mean": ((), pooled),
        }[config.model]
        self.projection = self._zeros(channels, dims)
        self.centre = self._zeros(*places, values)
        self.whitening = self._zeros(*places, values, values)
        self.memory = self._zeros(int(config.model == "coreset"), values)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self.device)

    @classmethod
    def require_available(cls, config: Any) -> None:
        """Raise `RequestError` when the backbone's weights are not to be had on this machine;
        those that are published elsewhere are downloaded."""
        find_weights(config.backbone, config.weights)

    def credits(self) -> tuple[str, ...]:
        """Of whose work the backbone is, and its licence."""
        return (f"Features of {credit(self.config.backbone, self.config.weights)}",)

    # --- learning -----------------------------------------------------------------------------

    def make_optimisation(self) -> Optimisation:
        """None: the features are as they are."""
        return Optimisation({})

    def begin_epoch(self, images: Tensor) -> None:
        """In the first epoch, learn what is normal from all images (N, C, H, W)."""
        if len(images) < 2:
            raise DataError(f"training needs at least 2 images, got {len(images)}")
        if self.has_learnt:
            return
        if not self.has_weights:
            load_weights(self.trunk, self.config.backbone, self.config.weights)
            self.has_weights = True
            self._forget()
        with torch.no_grad():
            self._draw_projection()
            {
                "coreset": self._learn_coreset,
                "gaussians": self._learn_gaussians,
                "mean": self._learn_mean,
            }[self.config.model](images)
        if not all(bool(torch.isfinite(getattr(self, name)).all()) for name in self.fitted):
            raise DivergedError(f"the features of {self.config.backbone} are not finite")
        length = float(self.centre.square().sum(dim=-1).mean().sqrt())
        if is_constant(float(self.spread), length):
            raise DivergedError(
                f"to {self.config.backbone} all training images are the same: their patches are "
                f"{float(self.spread):.3g} from their mean"
            )
        self.has_learnt = True

    def _epoch(self, count: int) -> Iterator[Tensor]:  # noqa: ARG002 - as many as there are
        """One image: whole batches of large ones would be brought to floating point for nothing."""
        yield torch.zeros(1, dtype=torch.int64)

    def train_step(
        self,
        batch: Tensor,  # noqa: ARG002 - all has been learnt when the epoch began
        anomalies: Tensor | None = None,  # noqa: ARG002 - learns from normal images alone
    ) -> dict[str, Tensor]:
        """What was learnt: `spread`, the root mean square distance of the training patches from
        their mean, and of a coreset `radius`, the largest distance of any from the nearest kept."""
        losses = {"spread": self.spread}
        return {**losses, "radius": self.radius} if self.config.model == "coreset" else losses

    @property
    def _projects(self) -> bool:
        """Whether patches have fewer dimensions than the maps have channels."""
        channels, dims = self.projection.shape
        return dims < channels

    def _draw_projection(self) -> None:
        channels, dims = self.projection.shape
        if self._projects:
            self.projection = semi_orthogonal(channels, dims, self.generator)
        else:
            self.projection = torch.eye(channels, device=self.device)

    def _patches(self, images: Tensor) -> Iterator[Tensor]:
        """Batch by batch, the projected patches (B, P, D') of all images, or of all their tiles."""
        tiling = self._tiling()
        sight = self._sight(remember=self._can_be_kept(len(images)))
        for batch in self._batches(images, SCORING_BATCH):
            for views in (batch,) if tiling is None else tiling.few(tiling(batch)):
                patches = see_patches(sight, views, self.config.around)
                yield patches @ self.projection if self._projects else patches

    def _views(self, images: int) -> int:
        """Of so many images, all their tiles, or themselves."""
        tiling = self._tiling()
        return images * (1 if tiling is None else len(tiling.corners))

    def _can_be_kept(self, images: int) -> bool:
        """Whether the store has room for the maps of all: else each would drive out another before
        it is asked for again."""
        height, width = self.config.seen(self.image_shape)
        each = sum(
            self.trunk.channels[level - 1]
            * (height // STRIDES[level - 1])
            * (width // STRIDES[level - 1])
            for level in self.config.levels
        )
        return self.store is None or VALUE * each * self._views(images) <= self.store.limit

    def _learn_coreset(self, images: Tensor) -> None:
        """Keep the patches of a greedy coreset, in the space where distances are measured."""
        dims = self.projection.shape[1]
        height, width = self.config.places(self.image_shape)
        most = min(MOST_PATCHES, MOST_VALUES // dims)
        views = self._views(len(images))
        each = max(1, min(height * width, most // views))
        drawn = []
        for batch in self._patches(images):
            if each < batch.shape[1]:
                noise = torch.rand(batch.shape[:2], generator=self.generator, device=self.device)
                places = noise.topk(each, dim=1).indices
                drawn.append(batch.take_along_dim(places.unsqueeze(2), dim=1).flatten(0, 1))
            else:
                drawn.append(batch.flatten(0, 1))
        patches = torch.cat(drawn)
        if len(patches) > most:  # more tiles than patches that can be looked at
            order = torch.randperm(len(patches), generator=self.generator, device=self.device)
            patches = patches[order[:most]]
        self.centre = patches.mean(dim=0)
        centred = patches - self.centre
        self.spread = centred.square().sum(dim=1).mean().sqrt()
        self.whitening = torch.eye(dims, device=self.device)
        if self.config.metric == "mahalanobis":
            covariance = (centred.T @ centred).double() / len(centred)
            self.whitening = whitening(regularised(covariance)).float()
        patches = centred @ self.whitening
        wanted = round(self.config.coreset * views * height * width)
        count = max(1, min(wanted, MOST_KEPT, len(patches)))
        chosen, self.radius = greedy_coreset(patches, count, self.generator)
        self.memory = patches[chosen]

    def _learn_gaussians(self, images: Tensor) -> None:
        moments = Moments()
        for batch in self._patches(images):
            moments.add(batch)
        mean, covariance = moments.read()
        self.spread = covariance.diagonal(dim1=1, dim2=2).sum(dim=1).mean().sqrt().float()
        self.centre = mean.float()
        # In parts, each to its place: for many places these are most of the memory.
        variance = covariance.diagonal(dim1=1, dim2=2).mean()
        self.whitening = torch.empty_like(covariance, dtype=torch.float32)
        for start in range(0, len(covariance), PLACES_AT_ONCE):
            part = slice(start, start + PLACES_AT_ONCE)
            self.whitening[part] = whitening(regularised(covariance[part], variance))

    def _learn_mean(self, images: Tensor) -> None:
        pooled = [pool(batch, self.config.pooling) for batch in self._patches(images)]
        values = torch.cat(pooled).double()
        centre = values.mean(dim=0)
        centred = values - centre
        self.spread = centred.square().sum(dim=1).mean().sqrt().float()
        self.centre = centre.float()
        self.whitening = whitening(regularised(shrunk_covariance(centred))).float()

    # --- scoring ------------------------------------------------------------------------------

    def at_most(self, batch_size: int) -> int:
        """As many images at a time as the network's maps leave room for."""
        return min(batch_size, max(1, self._at_once() // self._views(1)))

    def _at_once(self) -> int:
        """How many images, or tiles, the network sees at a time."""
        height, width = self.config.seen(self.image_shape)
        most = PIXELS_AT_ONCE if self.device.type == "cpu" else PIXELS_AT_ONCE_GPU
        return max(1, most // (height * width))

    def calibrate(self, images: Tensor) -> None:
        """There is nothing to fit: no image is scored. Raises `RequestError` where nothing has been
        learnt yet."""
        self._check_images(images)
        if not self.has_learnt:
            raise RequestError("nothing is learnt yet: call train_epoch(images) before calibrate")
        self.is_calibrated = True

    def raw_scorer(self) -> nn.Module:
        """The scores of float images: network, and what was learnt to be normal."""
        tiling = self._tiling()
        return self._scorer() if tiling is None else TiledScores(tiling, self._scorer())

    def _tiling(self) -> Tiling | None:
        """How images are cut into tiles; None where they are seen whole."""
        config, size = self.config, self.image_shape[1:]
        if config.tile is None:
            return None
        return Tiling(
            size,
            config.tile,
            config.tile_overlap,
            self._at_once(),
            normalises=config.contrast_normalization,
        ).to(self.device)

    def _scorer(self) -> Scorer:
        """The scores of whole images, or of tiles."""
        config = self.config
        model: Coreset | Gaussians | Mean
        if config.model == "coreset":
            space, offset = self.projection @ self.whitening, self.centre @ self.whitening
            model = Coreset(space, offset, self.memory, config.neighbours, config.reweighting)
        elif config.model == "gaussians":
            model = Gaussians(self.projection, self.centre, self.whitening)
        else:
            projection = self.projection if self._projects else None
            model = Mean(projection, self.centre, self.whitening, config.pooling)
        return Scorer(self._sight(), config.around, model)

    def mapper(self) -> nn.Module | None:
        """How far patches are from normal ones, interpolated to pixels, in the unit of the scores.
        None of the model `mean`, which knows whole images alone. Raises `RequestError` before
        `calibrate`."""
        self._require_calibration()
        scorer = self._scorer()
        if isinstance(scorer.model, Mean):
            return None
        size = self.config.view(self.image_shape)[1:]
        patches = PatchMap(scorer, scorer.model, self.config.places(self.image_shape), size)
        tiling = self._tiling()
        return patches if tiling is None else TiledMap(tiling, patches)

    def _sight(self, *, remember: bool = True) -> nn.Module:
        view = self.config.view(self.image_shape)
        if self._folded is None:
            self._folded = folded(self.trunk)
        sight = Sight(self._folded, self.config, view).to(self.device)
        if self.store is None or not remember:
            return sight
        config = self.config
        if not self._digests:
            self._digests = tuple(
                level_digest(self.trunk, config.backbone, level) for level in config.levels
            )
        # What maps depend on, and how they are laid out in the store.
        height, width = config.seen(self.image_shape)
        about = [
            f"folded-last-{own}-{height}-{width}-{sight.normalises}-{level}"
            for level, own in zip(config.levels, self._digests, strict=True)
        ]
        return Remembered(sight, self.store, about)

    def _forget(self) -> None:
        """What was made of weights that are others now."""
        self._folded, self._digests = None, ()

    # --- state --------------------------------------------------------------------------------

    def require_fitting(self, state: Mapping[str, Tensor]) -> None:
        """Raise `ConfigError` unless `state` has the names and shapes of `inference_state`; how
        many patches are kept is for the training images to say."""
        own, given = self.memory, state.get("memory")
        wanted = self.config.model == "coreset"
        if given is not None and given.ndim == 2 and (given.shape[0] > 0) == wanted:
            self.memory = own.new_empty(given.shape[0], own.shape[1])
        try:
            super().require_fitting(state)
        except ConfigError:
            self.memory = own
            raise

    def load_inference_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore `inference_state`; weights and what is normal are there from then on."""
        super().load_inference_state(state)
        self._forget()
        self.has_weights = self.has_learnt = True

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        super().load_state_dict(state)
        self._forget()
