"""How well maps find *where* pictures are anomalous: pixel AUROC and PRO.

    pixel AUROC  the probability that a pixel inside a mask is higher than one outside of all masks.
                 Large defects decide it.
    PRO          per-region overlap (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV
                 129, 2021): the share of a region that is above a threshold, the mean over all
                 regions of all masks (connected, also over corners), as a function of the share of
                 false positive pixels; its area up to a false positive rate of .3, divided by .3.
                 Every region counts the same, however small.

Pixels of normal pictures and those outside the masks are negative. Pictures whose mask is not known
have no part in either. Instead of pixels, how many of them have which value is kept: `PixelCounts`
takes 24 MiB whatever the number of pictures, and takes values for equal that agree in their first
11 binary digits, one part in 2,048. Equal values count one half, and the curve of PRO is straight
between them.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from amatune.errors import RequestError
from amatune.files import read_json, read_text, write_json
from amatune.reading import build

PIXELS = "pixels.json"  # beside a detector's scores of the test images
FPR_LIMIT = 0.3
BATCH = 16  # pictures whose maps are made at a time
_BITS = 20  # of a float32 that tell values apart: sign, 8 of the exponent, 11 of the fraction
_MOST_BYTES = 2**16  # of a file of figures
_TOUCHING = np.ones((3, 3), int)  # neighbours of a pixel, those over corners too

Maps = NDArray[np.float32]  # (N, H, W), higher = more anomalous
MapsOf = Callable[[NDArray[np.uint8]], Maps | None]  # of images (N, C, H, W); None: none are made


@dataclass(frozen=True, kw_only=True)
class PixelFigures:
    """Figures of one detector's maps of test images."""

    auroc: float
    pro: float  # up to a false positive rate of .3
    masked: int  # anomalous pictures with a mask
    regions: int  # in their masks


@dataclass(frozen=True, kw_only=True)
class PixelSummary:
    """The same over the seeds of a configuration: means, and standard deviations."""

    auroc: float
    auroc_spread: float | None  # None with one seed
    pro: float
    pro_spread: float | None
    masked: int
    regions: int


@dataclass(frozen=True, eq=False)
class Masks:
    """Where the test anomalies are anomalous."""

    pixels: NDArray[np.bool_]  # (M, H, W)
    known: NDArray[np.bool_]  # (M,): which of them have a mask

    @classmethod
    def of(cls, masks: Sequence[NDArray[np.bool_] | None]) -> "Masks | None":
        """Of masks (H, W) or None; an empty one tells nothing and counts as none. None where no
        picture has one."""
        known = np.array([one is not None and bool(one.any()) for one in masks], bool)
        shapes = [one.shape for one in masks if one is not None]
        if not known.any():
            return None
        pixels = np.zeros((len(masks), *shapes[0]), bool)
        for row, one in enumerate(masks):
            if one is not None:
                pixels[row] = one
        return cls(pixels, known)


class PixelCounts:
    """How many pixels have which value, outside of masks and inside."""

    def __init__(self) -> None:
        self._outside = np.zeros(2**_BITS, np.int64)
        self._inside = np.zeros(2**_BITS, np.int64)
        self._shares = np.zeros(2**_BITS, np.float64)  # of regions: all pixels of one sum to 1
        self._masked = self._regions = 0

    def add(self, values: NDArray[np.floating], mask: NDArray[np.bool_] | None = None) -> None:
        """Take in the map of a picture (H, W); without a mask it is normal.

        Raises `ValueError` for values that are not finite.
        """
        order = _order(values)
        if mask is None:
            np.add.at(self._outside, order.ravel(), 1)
            return
        np.add.at(self._outside, order[~mask], 1)
        np.add.at(self._inside, order[mask], 1)
        labels, count = ndimage.label(mask, _TOUCHING)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        np.add.at(self._shares, order[mask], 1 / sizes[labels[mask]])
        self._masked += 1
        self._regions += count

    def figures(self) -> PixelFigures:
        """Raises `ValueError` unless there are pixels on both sides."""
        taken = np.flatnonzero(self._outside + self._inside)[::-1]  # the highest first
        outside, inside, shares = (c[taken] for c in (self._outside, self._inside, self._shares))
        if not outside.sum() or not inside.sum():
            raise ValueError("pixel figures need pixels outside of masks and inside")
        below = outside.sum() - np.cumsum(outside)
        pairs = float(outside.sum()) * float(inside.sum())
        return PixelFigures(
            auroc=float((inside * (below + outside / 2)).sum() / pairs),
            pro=_area(
                np.append(0, np.cumsum(outside) / outside.sum()),
                np.append(0, np.cumsum(shares) / self._regions),
            ),
            masked=self._masked,
            regions=self._regions,
        )


def pixel_figures(
    maps: MapsOf, normal: NDArray[np.uint8], anomaly: NDArray[np.uint8], masks: Masks
) -> PixelFigures | None:
    """Figures of the maps of test images, uint8 (N, C, H, W), a few of them at a time; None where
    the detector makes no maps."""
    counts = PixelCounts()
    marked = np.flatnonzero(masks.known)
    for start in range(0, len(normal), BATCH):
        found = maps(normal[start : start + BATCH])
        if found is None:
            return None
        for one in found:
            counts.add(one)
    for start in range(0, len(marked), BATCH):
        rows = marked[start : start + BATCH]
        found = maps(anomaly[rows])
        if found is None:
            return None
        for one, row in zip(found, rows, strict=True):
            counts.add(one, masks.pixels[row])
    return counts.figures()


def over_seeds(found: Sequence[PixelFigures | None]) -> PixelSummary | None:
    """The summary of a configuration's seeds; None where one of them has no figures."""
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return None
    aurocs, pros = [one.auroc for one in known], [one.pro for one in known]
    several = len(known) > 1
    return PixelSummary(
        auroc=statistics.fmean(aurocs),
        auroc_spread=statistics.stdev(aurocs) if several else None,
        pro=statistics.fmean(pros),
        pro_spread=statistics.stdev(pros) if several else None,
        masked=known[0].masked,
        regions=known[0].regions,
    )


def write_pixels(file: Path, figures: PixelFigures | None) -> None:
    """Keep the figures of a detector; None says that it makes no maps."""
    write_json(file, {"figures": None if figures is None else dataclasses.asdict(figures)})


def read_pixels(file: Path) -> PixelFigures | None:
    """What `write_pixels` kept. Raises `RequestError` when it is not there, or something else."""
    values = read_json(read_text(file, "the pixel figures", _MOST_BYTES), str(file))
    if not isinstance(values, dict) or "figures" not in values:
        raise RequestError(f"{file} cannot be read as pixel figures: it must hold them")
    found = values["figures"]
    try:
        return None if found is None else build(PixelFigures, found)
    except RequestError as error:
        raise RequestError(f"{file} cannot be read as pixel figures: {error}") from None


def has_pixels(file: Path) -> bool:
    """Whether there is a file of figures that can be read."""
    try:
        read_pixels(file)
    except RequestError:
        return False
    return True


def _order(values: NDArray[np.floating]) -> NDArray[np.uint32]:
    """Whole numbers below 2^20 in the order of the values: the first bits of them as float32."""
    if not np.isfinite(values).all():
        raise ValueError("a map must be finite")
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)  # +0: there is no -0
    negative = bits >> 31 == 1
    ordered = np.where(negative, ~bits, bits | np.uint32(2**31))
    return ordered >> np.uint32(32 - _BITS)


def _area(rates: NDArray[np.float64], overlaps: NDArray[np.float64]) -> float:
    """The area below a curve up to `FPR_LIMIT`, divided by it."""
    within = rates <= FPR_LIMIT
    last = np.interp(FPR_LIMIT, rates, overlaps)
    x, y = np.append(rates[within], FPR_LIMIT), np.append(overlaps[within], last)
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / FPR_LIMIT)
