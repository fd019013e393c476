"""Image arrays in NumPy archives (.npz): headers, and rows without the whole array in memory."""

import contextlib
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from amatune.data.pictures import MAX_PIXELS, ImageShape, Pixels, fit
from amatune.data.resizing import Resizing, resize
from amatune.errors import DataError
from amatune.files import opened
from amatune.wording import visible

# What damaged archives raise, from the directory of the zip file down to an array's header, whose
# shape NumPy parses as Python.
NPZ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,  # with NotImplementedError and RecursionError
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)

IMAGE_KEYS = ("images", "train_images", "test_images")  # arrays that are looked for, in this order

_CHUNK = 2**25  # bytes read at once: bounds the memory that large rows take
_DEFLATED = 1032  # times that deflated data can grow, at the very most


@dataclass(frozen=True)
class ArrayHeader:
    """What the header of an archive's member says of its array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool  # whether the first index runs fastest


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An archive, open for reading. Raises one of `NPZ_ERRORS`."""
    with opened(path) as file, zipfile.ZipFile(file) as archive:
        yield archive


def checked_header(archive: zipfile.ZipFile, key: str) -> ArrayHeader:
    """The header of an array, which may be believed: as many bytes as it declares are there. Only
    that of an array of objects is not checked.

    Raises `ValueError` when they are not, or one of `NPZ_ERRORS`.
    """
    info = archive.getinfo(f"{key}.npy")
    with archive.open(info) as member:
        header = read_header(member)
        start = member.tell()
    if header.dtype.hasobject:
        return header
    if min(header.shape, default=0) < 0:
        raise ValueError(f"{key} is of shape {header.shape}")
    size = math.prod(header.shape) * header.dtype.itemsize
    if start + size != info.file_size or info.file_size > _most_bytes(archive, info):
        raise ValueError(
            f"{key} of shape {header.shape} would have {size:,} bytes, the file holds others"
        )
    return header


def _most_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """The bytes that a member can have, whatever the archive's directory says."""
    packed = min(info.compress_size, os.fstat(archive.fp.fileno()).st_size)  # type: ignore[union-attr]
    return packed if info.compress_type == zipfile.ZIP_STORED else _DEFLATED * packed


def read_header(member: IO[bytes]) -> ArrayHeader:
    """The header of an opened member, which is left at the first value."""
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(member)
    return ArrayHeader(tuple(shape), dtype, fortran)


def is_image_batch(shape: tuple[int, ...]) -> bool:
    """Whether a shape is (N, H, W), or (N, H, W, C) with C 1 or 3."""
    return len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))


@dataclass(frozen=True)
class ImageArray:
    """An array of images in an archive: uint8, (N, H, W) or (N, H, W, C) with C 1 or 3."""

    path: Path
    key: str
    shape: tuple[int, ...]

    @property
    def label(self) -> str:
        """The array's name in reports: the key is left out when it is plain `images`."""
        return str(self.path) if self.key == "images" else f"{self.path}:{self.key}"

    def batches(
        self, image_shape: ImageShape, most: int, resizing: Resizing = resize
    ) -> Iterator[Pixels]:
        """All images by the geometry rule, in order: uint8 (at most `most`, *image_shape) each.

        Raises `DataError` where the archive turns out to be damaged.
        """
        try:
            with open_archive(self.path) as archive, archive.open(f"{self.key}.npy") as member:
                read_header(member)
                yield from self._read(member, image_shape, most, resizing)
        except NPZ_ERRORS as error:
            raise _damaged(self.label, error) from error

    def _read(
        self, member: IO[bytes], image_shape: ImageShape, most: int, resizing: Resizing
    ) -> Iterator[Pixels]:
        count, height, width, *rest = self.shape
        channels = rest[0] if rest else 1
        row = height * width * channels
        step = max(1, min(most, _CHUNK // row))
        for start in range(0, count, step):
            rows = min(step, count - start)
            data = member.read(rows * row)
            if len(data) < rows * row:
                raise EOFError(f"it ends after {start + len(data) // row} of {count} images")
            images = np.frombuffer(data, np.uint8).reshape(rows, height, width, channels)
            yield fit(images.transpose(0, 3, 1, 2).copy(), image_shape, resizing)
        member.read(1)  # at the end the checksum of the whole is compared


def find_arrays(path: Path) -> list[ImageArray]:
    """The arrays to score of an archive: `images`, else `train_images` and `test_images`.

    Only headers are read. Raises `DataError` when there is none, or one is not of images.
    """
    try:
        with open_archive(path) as archive:
            members = {name.removesuffix(".npy") for name in archive.namelist()}
            keys = [key for key in IMAGE_KEYS if key in members]
            keys = keys[:1] if keys[:1] == ["images"] else keys
            headers = {key: checked_header(archive, key) for key in keys}
    except NPZ_ERRORS as error:
        raise _damaged(str(path), error) from error
    if not headers:
        held = ", ".join(sorted(members)) or "nothing"
        raise DataError(
            f"{path} holds {held}; name its array of images one of {', '.join(IMAGE_KEYS)}"
        )
    return [_image_array(path, key, header) for key, header in headers.items()]


def _image_array(path: Path, key: str, header: ArrayHeader) -> ImageArray:
    shape = header.shape
    found = f"{path}: {key} is {header.dtype} of shape {shape}"
    if header.dtype != np.uint8 or not is_image_batch(shape):
        raise DataError(f"{found}; it must be uint8, (N, H, W) or (N, H, W, C) with C 1 or 3")
    if not 0 < shape[1] * shape[2] <= MAX_PIXELS:
        raise DataError(f"{found}; an image needs 1 to {MAX_PIXELS:,} pixels")
    if header.fortran and shape[0] > 1:
        raise DataError(f"{found} in Fortran order; save np.ascontiguousarray of it")
    return ImageArray(path, key, shape)


def _damaged(what: str, error: Exception) -> DataError:
    return DataError(visible(f"cannot read {what}, it is damaged or no NumPy archive: {error}"))
