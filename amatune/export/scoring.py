"""An exported detector at work: pictures, folders of them and NumPy archives in, scores out.

What computes the scores is an engine's own: `exported` has that of torch, `runtime` that of ONNX.
Nothing here imports either.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amatune.config import ImageShape
from amatune.data.archives import ImageArray, find_arrays
from amatune.data.pictures import Pixels, find_pictures, read_pictures
from amatune.data.resizing import Resizing, resize
from amatune.errors import DataError
from amatune.export.calibration import Calibration
from amatune.files import AnyPaths, usable_paths
from amatune.results.operating import Guarantee

BATCH = 256  # images in memory at a time, and as many again that are being read ...
_MOST_VALUES = 2**26  # ... of at most so many values: bytes, and four times that as floats


@dataclass(frozen=True)
class ScoredPicture:
    """The scores of one picture, or the reason why there are none."""

    path: Path  # of an image in an archive: parts.npz[12], parts.npz:test_images[12]
    score: float | None  # the detector's primary score, higher = more anomalous
    scores: dict[str, float]  # every score by name
    problem: str | None = None  # why it could not be scored
    p_value: float | None = None  # among the calibration's normal images; None without one
    # What the detector saw, uint8 (C, H, W): part of a batch, so copy it to keep it.
    image: Pixels | None = field(default=None, repr=False, compare=False)


# A picture, an array of an archive, or an archive whose header cannot be read, and why.
Source = Path | ImageArray | ScoredPicture


@dataclass(frozen=True)
class Inputs:
    """What is to be scored, found but not read: see `find_inputs`."""

    sources: tuple[Source, ...]  # sorted by path

    @property
    def count(self) -> int:
        """Pictures and images, as far as headers tell, and broken archives."""
        arrays = [source for source in self.sources if isinstance(source, ImageArray)]
        found = sum(array.shape[0] for array in arrays)
        return found + len(self.sources) - len(arrays)


def find_inputs(paths: AnyPaths) -> Inputs:
    """Picture files, those below folders, and the image arrays of .npz files named by themselves.

    Each is found once, sorted by path. Raises `DataError` for a path that does not exist, for a
    file that is neither, and when nothing is found.
    """
    asked = usable_paths(paths, DataError)
    archives = sorted({path for path in asked if _is_archive(path)})
    others = [path for path in asked if path not in archives]
    sources: list[Source] = []
    if others or not archives:
        sources += find_pictures(others)
    for path in archives:
        try:
            sources += find_arrays(path)
        except DataError as error:
            sources.append(ScoredPicture(path, None, {}, str(error)))
    return Inputs(tuple(sorted(sources, key=_place)))


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() == ".npz" and path.exists() and not path.is_dir()


def _place(source: Source) -> tuple[str, str]:
    if isinstance(source, Path):
        return source.as_posix(), ""
    return source.path.as_posix(), source.key if isinstance(source, ImageArray) else ""


@dataclass(frozen=True)
class _Batch:
    """Images that were read, and in their places what could not be."""

    images: Pixels  # (n, C, H, W)
    paths: list[Path]  # of n images and of those that could not be read
    problems: dict[Path, str]


@dataclass(frozen=True)
class AnyExport(ABC):
    """An export read back from its folder, ready to score by some engine."""

    folder: Path
    method: str
    figures: dict[str, Any]  # as passed to `export_detector`
    data: dict[str, Any]
    calibration: Calibration | None = None  # None: exported without one
    warnings: tuple[str, ...] = ()  # why scores may differ from those where it was exported
    guarantee: Guarantee | None = None  # what was demanded of a threshold when it was exported
    resizing: Resizing = resize  # that of its training

    @property
    @abstractmethod
    def image_shape(self) -> ImageShape:
        """(C, H, W) every picture is brought to."""

    @property
    @abstractmethod
    def score_names(self) -> tuple[str, ...]:
        """The names of all scores."""

    @property
    @abstractmethod
    def primary_score(self) -> str:
        """The name of the one in use."""

    @abstractmethod
    def scores(self, images: Pixels) -> dict[str, NDArray[np.float32]]:
        """Every score of images (N, C, H, W), by name, (N,); higher = more anomalous."""

    @abstractmethod
    def pixel_map(self, images: Pixels) -> NDArray[np.float32] | None:
        """Where images (N, C, H, W) look anomalous, (N, H, W); None where that cannot be told."""

    @abstractmethod
    def reconstruct(self, images: Pixels) -> NDArray[np.float32] | None:
        """Images (N, C, H, W) as they are rebuilt, in [-1, 1]; None where there is no such."""

    def score_files(self, paths: AnyPaths, batch_size: int = BATCH) -> Iterator[ScoredPicture]:
        """Score picture files, those in folders, and the images of .npz files, in order of paths.

        An archive holds `images`, or `train_images` and `test_images`: uint8, (N, H, W) or
        (N, H, W, C). At most two batches of images are in memory, smaller ones where images are
        large. What cannot be read, or has no finite score, is reported in its place and does not
        stop the others. Raises `DataError` when there is nothing to score.
        """
        yield from self.score_inputs(find_inputs(paths), batch_size)

    def score_inputs(self, inputs: Inputs, batch_size: int = BATCH) -> Iterator[ScoredPicture]:
        """`score_files` of what has been found already."""
        size = min(batch_size, max(1, _MOST_VALUES // math.prod(self.image_shape)))
        for batch in _read_ahead(self._batches(inputs.sources, size)):
            yield from self._score_batch(batch)

    def _batches(self, sources: Sequence[Source], size: int) -> Iterator[_Batch]:
        """Everything in order; pictures in a row share batches, each array has its own."""
        start = 0
        while start < len(sources):
            source = sources[start]
            if isinstance(source, ImageArray):
                yield from self._of_array(source, size)
                start += 1
                continue
            if isinstance(source, ScoredPicture):
                yield self._nothing(source.path, source.problem or "")
                start += 1
                continue
            files = []
            for file in sources[start : start + size]:
                if not isinstance(file, Path):
                    break
                files.append(file)
            images, unreadable = read_pictures(files, self.image_shape, self.resizing)
            yield _Batch(images, files, unreadable)
            start += len(files)

    def _of_array(self, array: ImageArray, size: int) -> Iterator[_Batch]:
        first = 0
        try:
            for images in array.batches(self.image_shape, size, self.resizing):
                rows = range(first, first + len(images))
                yield _Batch(images, [Path(f"{array.label}[{row}]") for row in rows], {})
                first += len(images)
        except DataError as error:
            yield self._nothing(Path(array.label), str(error))

    def _nothing(self, path: Path, why: str) -> _Batch:
        """In the place of what cannot be read."""
        return _Batch(np.empty((0, *self.image_shape), np.uint8), [path], {path: why})

    def _score_batch(self, batch: _Batch) -> Iterator[ScoredPicture]:
        scores = self.scores(batch.images)
        columns = np.stack([values.astype(np.float64) for values in scores.values()], axis=1)
        finite = np.atleast_1d(np.isfinite(columns).all(axis=1))
        primary = columns[:, list(scores).index(self.primary_score)]
        p_values: Sequence[float | None] = [None] * len(primary)
        if self.calibration is not None:
            p_values = self.calibration.p_values(primary).tolist()
        row = 0
        for path in batch.paths:
            if path in batch.problems:
                yield ScoredPicture(path, None, {}, batch.problems[path])
                continue
            if finite[row]:
                own = dict(zip(scores, columns[row].tolist(), strict=True))
                image = batch.images[row]
                yield ScoredPicture(path, float(primary[row]), own, None, p_values[row], image)
            else:
                why = f"cannot score {path}: the detector gives it no finite score"
                yield ScoredPicture(path, None, {}, why)
            row += 1


def printable(path: Path) -> str:
    """The path as text that can be encoded: bytes of a name that are no UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _read_ahead(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """The same batches, each read in another thread while the one before it is scored."""
    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(next, batches, None)
        while (batch := waiting.result()) is not None:
            waiting = reader.submit(next, batches, None)
            yield batch
