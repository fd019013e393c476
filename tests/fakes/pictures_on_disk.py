"""Archives and folders of random pictures, whole and damaged."""

import zipfile

import numpy as np
from PIL import Image

from amatune.data.sources.base import PARTS

RNG = np.random.default_rng(0)


def write_npz(path, n=(60, 30), shape=(10, 9), labels=True, **changes):
    arrays = {}
    for part, count in zip(PARTS, n, strict=True):
        arrays[f"{part}_images"] = RNG.integers(0, 256, (count, *shape), np.uint8)
        if labels:
            arrays[f"{part}_labels"] = np.arange(count) % 3
    arrays = {key: value for key, value in (arrays | changes).items() if value is not None}
    np.savez(path, **arrays)
    return path


def corrupt_member(path, name):
    """Overwrite the middle of a stored member, leaving its header and the archive's directory."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    content = bytearray(path.read_bytes())
    middle = info.header_offset + 200 + info.file_size // 2
    content[middle : middle + 20] = b"x" * 20
    path.write_bytes(content)


def write_pictures(folder, count, size=(20, 20), mode="L"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = RNG.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{i:03}.png")
    return folder
