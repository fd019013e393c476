"""Arrays in a NumPy archive."""

# ruff: noqa: ARG002, D102 - as `Source` says; not every source needs every argument

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amatune.data.archives import NPZ_ERRORS, checked_header, is_image_batch, open_archive
from amatune.data.pictures import MIN_SIDE, ImageShape, Pixels, fit
from amatune.data.sources.base import PARTS, Id, Part, Source, sorted_classes
from amatune.errors import DataError
from amatune.files import opened, usable_path
from amatune.wording import visible

_MOST_LETTERS = 256  # of a label


class NpzSource(Source):
    """Arrays in a NumPy archive.

    `train_images` and `test_images`: uint8, (N, H, W) or (N, H, W, C) with C 1 or 3. Optional
    `train_labels` and `test_labels`: (N,) whole numbers or text of at most 256 letters. Shapes are
    read from the headers of the archive's members; `test_images` itself is read by
    `read("test", ...)` alone.
    """

    def __init__(self, path: str) -> None:
        self._path = self.location = usable_path(path, DataError).resolve()
        self.name = f"npz:{self.location}"
        try:
            with open_archive(self.location) as archive:
                self._members = {info.filename: info for info in archive.infolist()}
                self._shapes = {part: self._image_header(archive, part) for part in PARTS}
                self._check_labels(archive)
        except FileNotFoundError:
            raise DataError(f"no such file: {self.location}") from None
        except NPZ_ERRORS as error:
            raise self._damaged(error) from error
        if self._shapes["train"][1:] != self._shapes["test"][1:]:
            raise DataError(
                f"{self.name}: train_images {self._shapes['train']} and test_images "
                f"{self._shapes['test']} must have the same height, width and channels"
            )
        self._labels = self._read_labels()

    @property
    def image_shape(self) -> ImageShape:
        _, height, width, *channels = self._shapes["train"]
        return (channels[0] if channels else 1), height, width

    @property
    def class_names(self) -> tuple[str, ...]:
        return sorted_classes([*self._labels["train"], *self._labels["test"]])

    def ids(self, part: Part) -> Sequence[Id]:
        return range(self._shapes[part][0])

    @property
    def why_no_classes(self) -> str:
        return f"it has no {' and no '.join(self._absent_labels())}"

    def labels(self, part: Part) -> Sequence[str]:
        return self._labels[part]

    def read(
        self, part: Part, ids: Sequence[Id], image_shape: ImageShape
    ) -> tuple[Pixels, list[Id]]:
        images = self._read(f"{part}_images")[np.asarray(ids, np.intp)]
        if images.ndim == 3:
            images = images[..., None]
        channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return fit(channels_first, image_shape), list(ids)

    def record(self, used: Mapping[Part, Sequence[Id]]) -> dict[str, Any]:
        # The archive's directory holds a checksum of every member, so that even the test images
        # are vouched for without being read.
        sums = [(m.filename, m.CRC, m.file_size) for m in self._members.values() if _is_ours(m)]
        return {
            "train images": self._shapes["train"][0],
            "test images": self._shapes["test"][0],
            "image shape": list(self.image_shape),
            "content": hashlib.sha256(repr(sorted(sums)).encode()).hexdigest(),
        }

    def _image_header(self, archive: zipfile.ZipFile, part: Part) -> tuple[int, ...]:
        """The shape of a part's images, from the member's header."""
        key = f"{part}_images"
        if f"{key}.npy" not in self._members:
            held = ", ".join(name.removesuffix(".npy") for name in self._members) or "nothing"
            raise DataError(f"{self.name} has no {key!r}, it holds {held}; {_NPZ_RULE}")
        header = checked_header(archive, key)
        shape, dtype = header.shape, header.dtype
        found = f"{self.name}: {key} is {dtype} of shape {shape}"
        if dtype != np.uint8 or not is_image_batch(shape):
            raise DataError(f"{found}; {_NPZ_RULE}")
        if shape[0] == 0:
            raise DataError(f"{found}: there are no images in it")
        if min(shape[1:3]) < MIN_SIDE:
            raise DataError(f"{found}; images need at least {MIN_SIDE} pixels a side")
        return shape

    def _check_labels(self, archive: zipfile.ZipFile) -> None:
        """Raise `DataError` for labels of another kind, and one of `NPZ_ERRORS` for those that are
        not all there, before any is read: packed, a small file can hold very many or very long
        ones."""
        for part in () if self._absent_labels() else PARTS:
            header = checked_header(archive, f"{part}_labels")
            dtype, count = header.dtype, self._shapes[part][0]
            is_long = dtype.kind == "U" and dtype.itemsize > _MOST_LETTERS * np.dtype("U1").itemsize
            if header.shape != (count,) or dtype.kind not in "iuU" or is_long:
                raise DataError(
                    f"{self.name}: {part}_labels is {dtype} of shape {header.shape}; it must be "
                    f"whole numbers or text of at most {_MOST_LETTERS} letters, of shape "
                    f"({count},), one per image"
                )

    def _read_labels(self) -> dict[Part, list[str]]:
        """The class of every image, or nothing unless both parts have labels."""
        if self._absent_labels():
            return {"train": [], "test": []}
        return {part: [str(v) for v in self._read(f"{part}_labels").tolist()] for part in PARTS}

    def _absent_labels(self) -> list[str]:
        return [f"{p}_labels" for p in PARTS if f"{p}_labels.npy" not in self._members]

    def _read(self, key: str) -> NDArray[Any]:
        try:
            with opened(self._path) as file, np.load(file, allow_pickle=False) as archive:
                values: NDArray[Any] = archive[key]
                return values
        except NPZ_ERRORS as error:
            raise self._damaged(error, key) from error

    def _damaged(self, error: Exception, key: str = "") -> DataError:
        what = f"{key} of {self.location}" if key else str(self.location)
        return DataError(visible(f"cannot read {what}, it is damaged or no NumPy archive: {error}"))


_NPZ_RULE = (
    "an archive needs train_images and test_images, uint8, (N, H, W) or (N, H, W, C) with C 1 or 3"
)


def _is_ours(member: zipfile.ZipInfo) -> bool:
    return member.filename in {f"{p}_{what}.npy" for p in PARTS for what in ("images", "labels")}
