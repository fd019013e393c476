"""MNIST and the sets in its format: IDX files, packed by gzip."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from amatune.data.dataset import DatasetInfo
from amatune.data.pictures import Pixels
from amatune.data.published.dataset import PublishedDataset
from amatune.data.published.files import Download, Made
from amatune.data.sources.arrays import ArraySource
from amatune.data.sources.base import PARTS, Part, Source
from amatune.errors import DataError

_SIZES = {  # bytes, unpacked
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}


def mnist_like(
    info: DatasetInfo,
    folder: str,
    mirrors: Sequence[str],
    files: Mapping[str, tuple[int, str]],
    classes: Sequence[str],
) -> PublishedDataset:
    """A set in MNIST's format.

    `folder` is where torchvision puts it; `files` are the packed files of `mirrors` with their
    bytes and MD5 sums, and `classes` the names of the labels 0, 1, ...
    """
    return PublishedDataset(
        info,
        homes=(f"{folder}/raw", f"{info.name}/{folder}/raw", info.name),
        downloads=tuple(
            Download(
                name,
                size,
                md5,
                tuple(mirror + name for mirror in mirrors),
                (Made(unpacked := name.removesuffix(".gz"), size=_SIZES[unpacked]),),
            )
            for name, (size, md5) in files.items()
        ),
        read=partial(_read, info, classes),
    )


def _read(info: DatasetInfo, classes: Sequence[str], home: Path, digest: str) -> Source:
    """The files are mapped, not read: what is not asked for costs nothing."""
    stems: dict[Part, str] = {"train": "train", "test": "t10k"}
    images = {part: _idx(home / f"{stem}-images-idx3-ubyte", 3) for part, stem in stems.items()}
    labels = {part: _idx(home / f"{stem}-labels-idx1-ubyte", 1) for part, stem in stems.items()}
    for part in PARTS:
        if len(images[part]) != len(labels[part]) or labels[part].max() >= len(classes):
            raise DataError(f"{home}: the labels of the {part} part do not fit its images")
    return ArraySource(
        info.name,
        home / "train-images-idx3-ubyte",
        digest,
        (1, *images["train"].shape[1:]),
        {part: [classes[one] for one in labels[part]] for part in PARTS},
        lambda part, rows: images[part][rows][:, None],
    )


def _idx(path: Path, dimensions: int) -> Pixels:
    """The array of an IDX file of bytes, mapped into memory."""
    header = np.fromfile(path, ">u4", 1 + dimensions).tolist()
    offset = 4 * (1 + dimensions)
    if header[:1] != [0x800 | dimensions] or path.stat().st_size != offset + int(
        np.prod(header[1:])
    ):
        raise DataError(f"{path} is damaged: its header and its size do not agree; remove it")
    return np.memmap(path, np.uint8, "r", offset, tuple(header[1:]))
