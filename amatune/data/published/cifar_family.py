"""CIFAR-10 and CIFAR-100: pickles of arrays."""

import pickle
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amatune.data.dataset import DatasetInfo
from amatune.data.pictures import Pixels
from amatune.data.published.dataset import PublishedDataset
from amatune.data.published.files import Download, Made
from amatune.data.sources.arrays import ArraySource
from amatune.data.sources.base import PARTS, Part, Source
from amatune.errors import DataError


def cifar_like(
    info: DatasetInfo,
    url: str,
    size: int,
    md5: str,
    files: Mapping[Part, Mapping[str, str]],
    labels: str,
) -> PublishedDataset:
    """A set in CIFAR's format.

    `url`, `size` (bytes) and `md5` are the archive's. `files` of it, with their MD5 sums, hold the
    images of a part and, under the key `labels`, numbers that count the classes of `info`.
    """
    makes = tuple(Made(path, sum_) for part in PARTS for path, sum_ in files[part].items())
    return PublishedDataset(
        info,
        homes=("", info.name),
        downloads=(Download(url.rsplit("/", 1)[-1], size, md5, (url,), makes),),
        read=partial(_read, info, {part: list(files[part]) for part in PARTS}, labels),
    )


def _read(
    info: DatasetInfo,
    files: Mapping[Part, Sequence[str]],
    key: str,
    home: Path,
    digest: str,
) -> Source:
    """A pickle holds images and labels together: labels cost reading both, a file at a time. Only
    the images that are asked for are kept."""
    paths = {part: [home / name for name in files[part]] for part in PARTS}

    def labels(path: Path) -> list[str]:
        return [info.classes[number] for number in _unpickle(path)[key]]

    def images(part: Part, rows: NDArray[np.intp]) -> Pixels:
        found = np.empty((len(rows), 3, 32, 32), np.uint8)
        start = 0
        for path in paths[part]:
            data = _unpickle(path)["data"].reshape(-1, 3, 32, 32)
            here = (start <= rows) & (rows < start + len(data))
            found[here] = data[rows[here] - start]
            start += len(data)
        return found

    return ArraySource(
        info.name,
        paths["train"][0],
        digest,
        (3, 32, 32),
        {part: [one for path in paths[part] for one in labels(path)] for part in PARTS},
        images,
    )


class _ArrayUnpickler(pickle.Unpickler):
    """Admits NumPy arrays beside numbers, text, lists and dictionaries: nothing that acts.

    The MD5 of a file has been checked before; this holds should it ever be forged.
    """

    _ADMITTED: Mapping[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._ADMITTED[module, name]


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            contents: dict[str, Any] = _ArrayUnpickler(file, encoding="latin1").load()
            return contents
    except pickle.UnpicklingError as error:
        raise DataError(f"{path} is not CIFAR's, it is not loaded: {error}") from error
