"""What needs no detector: figures that any detector has to beat.

A set of normal and anomalous pictures often differs in something trivial: how bright they are, how
much there is in them. A detector whose AUROC does not exceed that of such a measure has shown
nothing. Each measure takes seconds; those that compare with training images use a sample of them.

    mean brightness       of all pixels
    total variation       mean |dx| plus mean |dy|
    compressed size       bytes of the picture as PNG
    nearest neighbour     smallest mean squared distance to a training image
    PCA                   mean squared error after projection on the first components
    PCA / complexity      the same divided by the total variation

Anomalies may be high or low in a measure, or on both sides of what is usual. The side, and PCA's
number of components, are what validation images find best, as a detector's settings are.
"""

import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amatune.errors import RequestError
from amatune.files import read_json, read_text, write_json
from amatune.nets.scores import COMPLEXITY_FLOOR
from amatune.reading import build
from amatune.results.objective import Objective, validation_auroc

Side = Literal["high", "low", "both"]
Values = NDArray[np.float64]
Measure = Callable[[NDArray[np.uint8]], Values]  # images (N, C, H, W) -> (N,)

PIXELS_AT_ONCE = 2**14  # that PCA centres at a time; more than there are training images
SAMPLE = 2000  # training images that PCA and nearest neighbours are made of
COMPONENTS = (16, 64)
BATCH = 256  # images
_MOST_BYTES = 2**16  # of a file of figures
SIDES: dict[Side, str] = {
    "high": "anomalies are higher",
    "low": "anomalies are lower",
    "both": "anomalies are far from the mean",
}


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A measure with the side that validation images chose, fitted to training images."""

    name: str
    side: Side
    validation_auroc: float  # selection figure: of the best side
    measure: Measure
    mean: float  # of the measure over training images
    std: float

    def scores(self, images: NDArray[np.uint8]) -> Values:
        """Of uint8 images (N, C, H, W): (N,), higher = more anomalous."""
        return _on_side(self.measure(images), self.side, self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class BaselineFigure:
    """What validation images say of a baseline: a selection figure, as a trial's."""

    name: str
    side: str  # a clause of `SIDES`
    validation_auroc: float


def describe_baselines(baselines: Sequence[Baseline]) -> list[BaselineFigure]:
    """Their figures, without what they measure with."""
    return [
        BaselineFigure(name=one.name, side=SIDES[one.side], validation_auroc=one.validation_auroc)
        for one in baselines
    ]


def write_baselines(file: Path, figures: Sequence[BaselineFigure]) -> None:
    """Keep figures as JSON."""
    write_json(file, [dataclasses.asdict(one) for one in figures])


def read_baselines(file: Path) -> list[BaselineFigure]:
    """What `write_baselines` kept; empty where there is no such file.

    Raises `RequestError` when it holds something else.
    """
    if not file.exists():
        return []
    try:
        values = read_json(read_text(file, "the baselines", _MOST_BYTES), "it")
        if not isinstance(values, list):
            raise RequestError(f"it must hold a list, got {values!r:.80}")
        found = [build(BaselineFigure, one) for one in values]
        for one in found:
            if one.side not in SIDES.values():
                raise RequestError(f"there is no side {one.side!r:.80}")
            if not 0 <= one.validation_auroc <= 1:
                raise RequestError(f"an AUROC lies in [0, 1], got {one.validation_auroc:g}")
        return found
    except RequestError as error:
        raise RequestError(
            f"{file} cannot be read as figures of baselines: {error}; remove it, and it is made "
            "anew"
        ) from None


def fit_baselines(
    train: NDArray[np.uint8],
    normal: NDArray[np.uint8],
    anomaly: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    objective: Objective,
) -> list[Baseline]:
    """All baselines for training images, `normal` and `anomaly` validation images, uint8
    (N, C, H, W), best validation AUROC first; `bounds` and `objective` as in `validation_auroc`.
    """
    sample = _spread(train, SAMPLE)
    found: dict[str, Baseline] = {}
    for name, measure in _measures(sample):
        usual = measure(sample)
        mean, std = float(usual.mean()), float(usual.std()) or 1.0
        values = {"normal": measure(normal), "anomaly": measure(anomaly)}
        for side in SIDES:
            scores = {key: _on_side(v, side, mean, std) for key, v in values.items()}
            auroc = validation_auroc(**scores, bounds=bounds, kind=objective)
            best = found.get(name)
            if best is None or auroc > best.validation_auroc:
                found[name] = Baseline(
                    name=name,
                    side=side,
                    validation_auroc=auroc,
                    measure=measure,
                    mean=mean,
                    std=std,
                )
    return sorted(found.values(), key=lambda one: -one.validation_auroc)


def score_baselines(
    baselines: Sequence[Baseline], normal: NDArray[np.uint8], anomaly: NDArray[np.uint8]
) -> dict[str, dict[str, Values]]:
    """Baseline name -> {"normal", "anomaly"} -> (N,)."""
    return {
        one.name: {"normal": one.scores(normal), "anomaly": one.scores(anomaly)}
        for one in baselines
    }


def _on_side(values: Values, side: Side, mean: float, std: float) -> Values:
    if side == "both":
        return np.abs(values - mean) / std
    return values if side == "high" else -values


def _spread(images: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """At most so many images, evenly spaced."""
    places = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)
    chosen: NDArray[np.uint8] = images[places]
    return chosen


def _measures(sample: NDArray[np.uint8]) -> list[tuple[str, Measure]]:
    """Names and measures; a name can occur several times, for variants of which one is chosen."""
    flat = _flat(sample)
    components = _principal_components(flat, max(COMPONENTS))
    centre = flat.mean(axis=0)
    named: list[tuple[str, Measure]] = [
        ("mean brightness", _in_batches(lambda images: _flat(images).mean(axis=1))),
        ("total variation", _in_batches(_total_variation)),
        ("compressed size", _compressed_size),
        ("nearest neighbour", _in_batches(_NearestNeighbour(flat))),
    ]
    for count in COMPONENTS:
        if count <= len(components):
            error = _ProjectionError(centre, components[:count])
            named.append(("PCA", _in_batches(error)))
            named.append(("PCA / complexity", _in_batches(_per_complexity(error))))
    return named


def _in_batches(measure: Callable[[NDArray[np.uint8]], NDArray[np.floating]]) -> Measure:
    def whole(images: NDArray[np.uint8]) -> Values:
        parts = [measure(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)

    return whole


def _flat(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """In [-1, 1], (N, C x H x W)."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat /= np.float32(127.5)
    flat -= np.float32(1)
    return flat


def _total_variation(images: NDArray[np.uint8]) -> NDArray[np.floating]:
    values = images.astype(np.float32) / np.float32(127.5)
    across = np.abs(np.diff(values, axis=3)).mean(axis=(1, 2, 3))
    down = np.abs(np.diff(values, axis=2)).mean(axis=(1, 2, 3))
    total: NDArray[np.floating] = across + down
    return total


def _per_complexity(
    measure: Callable[[NDArray[np.uint8]], NDArray[np.floating]],
) -> Callable[[NDArray[np.uint8]], NDArray[np.floating]]:
    return lambda images: measure(images) / (_total_variation(images) + COMPLEXITY_FLOOR)


def _compressed_size(images: NDArray[np.uint8]) -> Values:
    sizes = []
    for image in images:
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        sizes.append(file.tell())
    return np.array(sizes, np.float64)


@dataclass(frozen=True)
class _NearestNeighbour:
    """Mean squared distance to the nearest of `known` (K, D); of one of them, to the next."""

    known: NDArray[np.float32]

    @cached_property
    def lengths(self) -> NDArray[np.float32]:
        """Squared, (K,)."""
        return np.array([np.square(one).sum() for one in self.known])

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.floating]:
        flat = _flat(images)
        squares = self.lengths[None] - 2 * flat @ self.known.T
        squares += (flat**2).sum(axis=1)[:, None]
        squares[squares < 1e-6 * flat.shape[1]] = np.inf  # itself, or a copy of it
        nearest = squares.min(axis=1)
        nearest = np.where(np.isfinite(nearest), nearest, 0.0)
        distances: NDArray[np.floating] = nearest / flat.shape[1]
        return distances


@dataclass(frozen=True)
class _ProjectionError:
    """Mean squared error of what is left outside the span of `components` (K, D)."""

    centre: NDArray[np.float32]
    components: NDArray[np.float32]

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.floating]:
        centred = _flat(images) - self.centre
        left = centred - centred @ self.components.T @ self.components
        error: NDArray[np.floating] = (left**2).mean(axis=1)
        return error


def _principal_components(flat: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """The first components of images (N, D), by falling variance, (K, D) with K at most `most`."""
    count, pixels = flat.shape
    mean = flat.mean(axis=0)

    def blocks() -> Iterator[NDArray[np.float64]]:
        """Centred, some pixels of all images at a time: in double precision they are large."""
        for start in range(0, pixels, PIXELS_AT_ONCE):
            own = slice(start, start + PIXELS_AT_ONCE)
            yield (flat[:, own] - mean[own]).astype(np.float64)

    if count < pixels:
        # From the smaller of the two: X X^T u = s u gives the component X^T u.
        products = np.zeros((count, count))
        for block in blocks():
            products += block @ block.T
        variances, left = np.linalg.eigh(products)
        left = left[:, ::-1][:, :most]
        components = np.hstack([left.T @ block for block in blocks()])
    else:
        (whole,) = blocks()
        variances, vectors = np.linalg.eigh(whole.T @ whole)
        components = vectors.T[::-1][:most]
    kept = variances[::-1][:most] > 1e-9 * max(float(variances[-1]), 1e-30)
    components = components[kept]
    units = components / np.linalg.norm(components, axis=1, keepdims=True)
    return np.asarray(units, np.float32)
