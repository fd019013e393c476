"""Image arrays in NumPy archives (.npz): headers, and rows without the whole array in memory."""

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from amatune.data.pictures import MAX_PIXELS, ImageShape, Pixels, fit
from amatune.errors import DataError

# What damaged archives raise, from the directory of the zip file down to an array's header.
NPZ_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)

IMAGE_KEYS = ("images", "train_images", "test_images")  # arrays that are looked for, in this order

_CHUNK = 2**25  # bytes read at once: bounds the memory that large rows take


@dataclass(frozen=True)
class ArrayHeader:
    """What the header of an archive's member says of its array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool  # whether the first index runs fastest


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

    def batches(self, image_shape: ImageShape, most: int) -> Iterator[Pixels]:
        """All images by the geometry rule, in order: uint8 (at most `most`, *image_shape) each.

        Raises `DataError` where the archive turns out to be damaged.
        """
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.key}.npy") as member:
                read_header(member)
                yield from self._read(member, image_shape, most)
        except NPZ_ERRORS as error:
            raise _damaged(self.label, error) from error

    def _read(self, member: IO[bytes], image_shape: ImageShape, most: int) -> Iterator[Pixels]:
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
            yield fit(images.transpose(0, 3, 1, 2).copy(), image_shape)
        member.read(1)  # at the end the checksum of the whole is compared


def find_arrays(path: Path) -> list[ImageArray]:
    """The arrays to score of an archive: `images`, else `train_images` and `test_images`.

    Only headers are read. Raises `DataError` when there is none, or one is not of images.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy") for name in archive.namelist()}
            keys = [key for key in IMAGE_KEYS if key in members]
            keys = keys[:1] if keys[:1] == ["images"] else keys
            headers = {}
            for key in keys:
                with archive.open(f"{key}.npy") as member:
                    headers[key] = read_header(member)
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
    return DataError(f"cannot read {what}, it is damaged or no NumPy archive: {error}")
