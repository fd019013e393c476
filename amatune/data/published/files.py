"""What a published set consists of, and whether it is there and sound."""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from amatune.data.pictures import SUFFIXES
from amatune.data.places import DATA
from amatune.errors import DataError
from amatune.files import opened


@dataclasses.dataclass(frozen=True)
class Made:
    """A file, or a folder of pictures, that is read; its path is relative to the set's home."""

    path: str
    md5: str | None = None
    size: int | None = None  # bytes
    pictures: int | None = None  # in a folder


@dataclasses.dataclass(frozen=True)
class Download:
    """A file to fetch, and what it makes when it is unpacked."""

    name: str
    size: int  # bytes
    md5: str
    urls: tuple[str, ...]  # tried in this order
    makes: tuple[Made, ...] = ()  # empty: it is read as it comes

    @property
    def parts(self) -> tuple[Made, ...]:
        """What is read of it, unpacked or as it comes."""
        return self.makes or (Made(self.name, self.md5, self.size),)


@contextlib.contextmanager
def usable(root: Path, name: str) -> Iterator[None]:
    """Errors of the disk become a `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot use {name} in the data folder {root}: {error}; choose another with "
            f"--data-dir or {DATA}"
        ) from error


def is_there(download: Download, home: Path) -> bool:
    """Whether what a download makes exists, without reading it."""

    def exists(made: Made) -> bool:
        path = home / made.path
        if made.pictures is not None:
            return path.is_dir() and any(path.iterdir())
        return path.is_file() and made.size in (None, path.stat().st_size)

    return all(map(exists, download.parts))


def fault(download: Download, home: Path) -> str | None:
    """Why what a download makes cannot be used, "" when it is not there; None when it is sound."""
    if not is_there(download, home):
        for made in download.parts:
            path = home / made.path
            if made.size is not None and path.is_file() and path.stat().st_size != made.size:
                return f"{made.path} has {path.stat().st_size:,} of {made.size:,} bytes"
        return ""
    for made in download.parts:
        found = _pictures(made, home)
        if made.pictures is not None and found < made.pictures:
            return f"{made.path} has {found:,} of {made.pictures:,} pictures, remove it"
        if made.pictures is None and checksum(made, home) is None:
            return f"{made.path} is damaged, it has another MD5"
    return None


def _pictures(made: Made, home: Path) -> int:
    """The picture files in a folder; 0 for a file."""
    return sum(
        name.lower().endswith(SUFFIXES)
        for _, _, names in os.walk(home / made.path)
        for name in names
    )


def is_sound(download: Download, home: Path) -> bool:
    """Whether what a download makes is there and has the right checksums."""
    return is_there(download, home) and None not in [checksum(m, home) for m in download.parts]


def checksum(made: Made, home: Path) -> str | None:
    """The MD5 of a file, "" for a complete folder; None when it is not the right one.

    Raises `DataError` for a folder that lacks pictures. It may be somebody's own: we remove none.
    """
    path = home / made.path
    if made.pictures is not None:
        count = _pictures(made, home)
        if count < made.pictures:
            raise DataError(
                f"{path} has {count:,} of {made.pictures:,} pictures; remove this folder, and it "
                "is fetched or unpacked anew"
            )
        return ""
    found = md5(path)
    return found if made.md5 in (None, found) else None


def md5(path: Path) -> str:
    """The MD5 of a file, hexadecimal."""
    with opened(path) as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
