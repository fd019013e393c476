"""Unpacking archives: every member a file or folder below the target, all or nothing."""

import contextlib
import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from amatune.data.published.files import Download
from amatune.errors import DataError


def install(download: Download, archive: Path, home: Path, scratch: Path) -> None:
    """Put what a file makes into the set's home, each part complete or not at all.

    `scratch` is an empty folder on the same disk. Raises `DataError` for an archive that is damaged
    or does not hold what it should.
    """
    unpacked = scratch / "unpacked"
    if not download.makes:
        unpacked.mkdir()
        shutil.copyfile(archive, unpacked / download.name)
    elif archive.name.endswith((".zip", ".tar.gz", ".tgz")):
        unpack(archive, unpacked)
    else:
        unpacked.mkdir()
        (made,) = download.makes
        with (
            _unpacking(archive),
            gzip.open(archive) as packed,
            (unpacked / made.path).open("wb") as f,
        ):
            shutil.copyfileobj(packed, f)
    for made in download.parts:
        if not (unpacked / made.path).exists():
            raise DataError(f"{archive} does not hold {made.path}")
        (home / made.path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(unpacked / made.path, home / made.path)
    shutil.rmtree(unpacked)
    (scratch / download.name).unlink(missing_ok=True)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip, .tar.gz or .tgz into a new folder.

    Raises `DataError` for a damaged archive and for one that holds anything but files and folders
    below `folder`: links and paths that lead outside are refused. What was unpacked until then
    stays in `folder`.
    """
    folder.mkdir()
    with _unpacking(archive):
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as packed:
                for info in packed.infolist():
                    if not info.is_dir():
                        with packed.open(info) as member:
                            _write_member(archive, info.filename, member, folder)
        else:
            with tarfile.open(archive) as tar:
                for entry in tar:
                    if not entry.isdir():
                        data = tar.extractfile(entry) if entry.isreg() else None
                        _write_member(archive, entry.name, data, folder)


def _write_member(archive: Path, name: str, data: IO[bytes] | None, folder: Path) -> None:
    target = Path(os.path.normpath(folder / name))
    if data is None or not target.is_relative_to(folder) or target == folder:
        raise DataError(
            f"{archive} is not unpacked: its member {name!r} is a link or leads outside the folder"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(data, file)


@contextlib.contextmanager
def _unpacking(archive: Path) -> Iterator[None]:
    damage = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)
    try:
        yield
    except (*damage, RuntimeError, NotImplementedError) as error:  # the latter: encrypted archives
        raise DataError(f"cannot unpack {archive}, it is damaged or no archive: {error}") from error
