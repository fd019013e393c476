"""The named sets of the literature, in the data folder.

Those that torchvision knows (mnist, fashion-mnist, cifar10, cifar100, svhn, omniglot, gtsrb,
celeba) are used where they lie in one of torchvision's layouts, else downloaded. Addresses and MD5
sums are read from torchvision's classes. The classes are not used beyond that: they read everything
into memory, the test part too, unpickle CIFAR's files without restriction, and wait for a silent
server for ever.

The three sets of the ODIN paper (imagenet-resize, lsun-resize, isun) are put there by hand.

The data folder says where files lie and nothing else: names and ids do not depend on it, so it may
be moved, and a saved problem found in its new place.
"""

import contextlib
import csv
import dataclasses
import fcntl
import gzip
import hashlib
import http.client
import os
import pickle
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

from amatune.data.pictures import SUFFIXES, ImageShape, Pixels, find_pictures, fit
from amatune.data.places import DATA, DataDir, data_folder
from amatune.data.sources import (
    PARTS,
    DatasetInfo,
    Entry,
    Id,
    Part,
    Presence,
    Source,
    _FolderSource,
    sorted_classes,
)
from amatune.errors import DataError

TIMEOUT = 30.0  # seconds that a server may be silent
ATTEMPTS = 2  # at a file that arrives incomplete
PROGRESS_SECONDS = 5.0  # between two lines about a download

# What a set consists of


@dataclasses.dataclass(frozen=True)
class _Made:
    """A file, or a folder of pictures, that is read; its path is relative to the set's home."""

    path: str
    md5: str | None = None
    size: int | None = None  # bytes
    pictures: int | None = None  # in a folder


@dataclasses.dataclass(frozen=True)
class _Download:
    """A file to fetch, and what it makes when it is unpacked."""

    name: str
    size: int  # bytes
    md5: str
    urls: tuple[str, ...]  # tried in this order
    makes: tuple[_Made, ...] = ()  # empty: it is read as it comes

    @property
    def parts(self) -> tuple[_Made, ...]:
        return self.makes or (_Made(self.name, self.md5, self.size),)


@dataclasses.dataclass(frozen=True)
class _Set:
    """A set of torchvision's."""

    info: DatasetInfo
    homes: tuple[str, ...]  # where it may lie in the data folder; it is downloaded into the first
    downloads: Callable[[], Sequence[_Download]]  # late, since torchvision is slow to import
    read: Callable[[Path, str], Source]  # its home, and a digest of its files

    @property
    def name(self) -> str:
        return self.info.name

    def find(self, data_dir: DataDir = None) -> Presence:
        """Where it is, or would be put. Raises `DataError` when the data folder cannot be read."""
        root = data_folder(data_dir)
        downloads = self.downloads()
        homes = [root / home for home in self.homes]
        with _usable(root, self.name):
            states = {home: [_is_there(d, home) for d in downloads] for home in homes}
        for home, there in states.items():
            if all(there):
                return Presence(state="complete", place=home)
        lacking = [d for d, there in zip(downloads, states[homes[0]], strict=True) if not there]
        return Presence(
            state="missing" if len(lacking) == len(downloads) else "incomplete",
            place=homes[0],
            files=tuple(f"{d.name} ({megabytes(d.size)})" for d in lacking),
        )

    def open(self, data_dir: DataDir = None) -> Source:
        """The set, downloaded when it is not there. Raises `DataError` when it cannot be had."""
        root = data_folder(data_dir)
        with _usable(root, self.name):
            home, digest = self._sound(root) or self._fetched(root)
            return self.read(home, digest)

    def _sound(self, root: Path) -> tuple[Path, str] | None:
        """Where the whole set lies, every file verified, and a digest of the files."""
        for home in (root / home for home in self.homes):
            if all(_is_there(d, home) for d in self.downloads()):
                sums = [(m.path, _checksum(m, home)) for d in self.downloads() for m in d.parts]
                if all(checksum is not None for _, checksum in sums):
                    return home, hashlib.sha256(repr(sums).encode()).hexdigest()
        return None

    def _fetched(self, root: Path) -> tuple[Path, str]:
        home = root / self.homes[0]
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root, self.name) as scratch:
            home.mkdir(parents=True, exist_ok=True)
            # Perhaps none any more: another process may have fetched them while this one waited.
            lacking = [d for d in self.downloads() if not _is_sound(d, home)]
            for number, download in enumerate(lacking):
                archive, reasons = _at_hand(download, (home, root))
                if archive is None:
                    archive, refusals = _fetch(download, scratch, self.name)
                    reasons += refusals
                if archive is None:
                    raise self._unavailable(home, lacking[number:], reasons)
                _install(download, archive, home, scratch)
        sound = self._sound(root)
        if sound is None:
            raise DataError(
                f"{self.name} in {home} is not what it should be, although its archives are; "
                "remove it and try again"
            )
        return sound

    def _unavailable(
        self, home: Path, lacking: Sequence[_Download], reasons: Sequence[str]
    ) -> DataError:
        files = ", ".join(f"{d.name} ({megabytes(d.size)}, MD5 {d.md5})" for d in lacking)
        return DataError(
            f"{self.name} is not in the data folder and cannot be downloaded "
            f"({'; '.join(reasons)}); put into {home}: {files}; they come from {self.info.url}; "
            f"the data folder is chosen with --data-dir or {DATA}"
        )


@contextlib.contextmanager
def _usable(root: Path, name: str) -> Iterator[None]:
    """Errors of the disk become a `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot use {name} in the data folder {root}: {error}; choose another with "
            f"--data-dir or {DATA}"
        ) from error


def megabytes(size: int) -> str:
    """A number of bytes as people read it, with 10^6 bytes in a MB."""
    if size < 100_000:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.1f} MB" if size < 10_000_000 else f"{size / 1e6:,.0f} MB"


def _is_there(download: _Download, home: Path) -> bool:
    """Whether what a download makes exists, without reading it."""

    def exists(made: _Made) -> bool:
        path = home / made.path
        if made.pictures is not None:
            return path.is_dir() and any(path.iterdir())
        return path.is_file() and made.size in (None, path.stat().st_size)

    return all(map(exists, download.parts))


def _is_sound(download: _Download, home: Path) -> bool:
    return _is_there(download, home) and None not in [_checksum(m, home) for m in download.parts]


def _checksum(made: _Made, home: Path) -> str | None:
    """The MD5 of a file, "" for a complete folder; None when it is not the right one.

    Raises `DataError` for a folder that lacks pictures. It may be somebody's own: we remove none.
    """
    path = home / made.path
    if made.pictures is not None:
        found = sum(
            name.lower().endswith(SUFFIXES) for _, _, names in os.walk(path) for name in names
        )
        if found < made.pictures:
            raise DataError(
                f"{path} has {found:,} of {made.pictures:,} pictures; remove this folder, and it "
                "is fetched or unpacked anew"
            )
        return ""
    checksum = _md5(path)
    return checksum if made.md5 in (None, checksum) else None


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


# Downloading


@contextlib.contextmanager
def _alone(root: Path, name: str) -> Iterator[Path]:
    """Be the only process that fetches or unpacks this set; gives an empty folder to work in.

    Both go with the process: a lock is released by its end, and the next one clears the folder.
    """
    scratch = root / f".{name}.partial"
    with (root / f".{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _tell(f"{name}: waiting for another process that fetches it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _at_hand(download: _Download, folders: Sequence[Path]) -> tuple[Path | None, list[str]]:
    """The file where somebody has put it already, and why others by its name are not used."""
    damaged = []
    for path in dict.fromkeys(folder / download.name for folder in folders):
        if path.is_file():
            if _md5(path) == download.md5:
                return path, []
            damaged.append(
                f"{path} is there but damaged, {path.stat().st_size:,} of {download.size:,} bytes "
                "and another MD5"
            )
    return None, damaged


def _fetch(download: _Download, folder: Path, name: str) -> tuple[Path | None, list[str]]:
    """Download a file into a folder and verify it; None and the reasons when it cannot be had."""
    target = folder / download.name
    reasons = []
    for url in download.urls:
        for _ in range(ATTEMPTS):
            try:
                _retrieve(url, target, download, name)
            except (OSError, http.client.HTTPException, RuntimeError) as error:
                reasons.append(f"{url}: {_said(error)}")
                if not isinstance(error, http.client.HTTPException | TimeoutError):
                    break  # refused: a second attempt would be, too
                continue
            if _md5(target) == download.md5:
                return target, []
            reasons.append(
                f"{url}: got {target.stat().st_size:,} of {download.size:,} bytes, and another MD5"
            )
    return None, list(dict.fromkeys(reasons))


def _said(error: Exception) -> str:
    """The message of an error without urllib's wrapping."""
    wrapped = isinstance(error, urllib.error.URLError) and not isinstance(
        error, urllib.error.HTTPError
    )
    return str(error.reason if wrapped else error)  # type: ignore[attr-defined]


def _retrieve(url: str, target: Path, download: _Download, name: str) -> None:
    address = urlsplit(url)
    if address.netloc == "drive.google.com":
        _retrieve_from_google(parse_qs(address.query)["id"][0], target)
        return
    request = urllib.request.Request(url, headers={"User-Agent": "amatune"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response, target.open("wb") as file:
        _tell(f"{name}: downloading {download.name}, {megabytes(download.size)}")
        received, told = 0, time.monotonic()
        while chunk := response.read(1 << 16):
            file.write(chunk)
            received += len(chunk)
            if time.monotonic() - told >= PROGRESS_SECONDS:
                told = time.monotonic()
                _tell(f"{name}: {download.name}, {received / download.size:.0%}")


def _retrieve_from_google(file_id: str, target: Path) -> None:
    """Raises `RuntimeError` when gdown is not installed, or whatever it says itself."""
    from torchvision.datasets.utils import download_file_from_google_drive

    try:
        download_file_from_google_drive(file_id, target.parent, target.name)
    except Exception as error:  # gdown's own kinds derive from nothing else
        raise RuntimeError(error) from error


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# Unpacking


def _install(download: _Download, archive: Path, home: Path, scratch: Path) -> None:
    """Put what a file makes into the set's home, each part complete or not at all."""
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


# Sets that are arrays


class _ArraySource(Source):
    """Images in a few files that hold many; ids are positions in the part."""

    def __init__(
        self,
        name: str,
        file: Path,
        digest: str,
        image_shape: ImageShape,
        labels: Mapping[Part, Sequence[str]],
        images: Callable[[Part, NDArray[np.intp]], Pixels],  # the images at these positions
    ) -> None:
        self.name = name
        self.location = file
        self._digest = digest
        self._image_shape = image_shape
        self._labels = labels
        self._images = images

    @property
    def image_shape(self) -> ImageShape:
        return self._image_shape

    @property
    def class_names(self) -> tuple[str, ...]:
        return sorted_classes([*self._labels["train"], *self._labels["test"]])

    def ids(self, part: Part) -> Sequence[Id]:
        return range(len(self._labels[part]))

    def labels(self, part: Part) -> Sequence[str]:
        return self._labels[part]

    def read(
        self, part: Part, ids: Sequence[Id], image_shape: ImageShape
    ) -> tuple[Pixels, list[Id]]:
        images = self._images(part, np.asarray(ids, np.intp))
        return fit(np.ascontiguousarray(images), image_shape), list(ids)

    def record(self, used: Mapping[Part, Sequence[Id]]) -> dict[str, Any]:  # noqa: ARG002
        return {
            "train images": len(self._labels["train"]),
            "test images": len(self._labels["test"]),
            "content": self._digest,
        }


def _read_mnist(info: DatasetInfo, classes: Sequence[str], home: Path, digest: str) -> Source:
    """The files are mapped, not read: what is not asked for costs nothing."""
    stems: dict[Part, str] = {"train": "train", "test": "t10k"}
    images = {part: _idx(home / f"{stem}-images-idx3-ubyte", 3) for part, stem in stems.items()}
    labels = {part: _idx(home / f"{stem}-labels-idx1-ubyte", 1) for part, stem in stems.items()}
    for part in PARTS:
        if len(images[part]) != len(labels[part]) or labels[part].max() >= len(classes):
            raise DataError(f"{home}: the labels of the {part} part do not fit its images")
    return _ArraySource(
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


def _read_cifar(
    info: DatasetInfo,
    files: Mapping[Part, Sequence[str]],
    key: str,
    classes: Sequence[str],
    home: Path,
    digest: str,
) -> Source:
    """A pickle holds images and labels together: labels cost reading both, a file at a time. Only
    the images that are asked for are kept."""
    paths = {part: [home / name for name in files[part]] for part in PARTS}

    def labels(path: Path) -> list[str]:
        return [classes[number] for number in _unpickle(path)[key]]

    def images(part: Part, rows: NDArray[np.intp]) -> Pixels:
        found = np.empty((len(rows), 3, 32, 32), np.uint8)
        start = 0
        for path in paths[part]:
            data = _unpickle(path)["data"].reshape(-1, 3, 32, 32)
            here = (start <= rows) & (rows < start + len(data))
            found[here] = data[rows[here] - start]
            start += len(data)
        return found

    return _ArraySource(
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


def _read_svhn(info: DatasetInfo, home: Path, digest: str) -> Source:
    from scipy.io import loadmat

    def member(part: Part, key: str) -> Pixels:
        # Other members are skipped without being decompressed.
        array: Pixels = loadmat(home / f"{part}_32x32.mat", variable_names=[key])[key]
        return array

    def labels(part: Part) -> list[str]:
        return [str(label % 10) for label in member(part, "y").ravel()]  # 10 stands for 0

    return _ArraySource(
        info.name,
        home / "train_32x32.mat",
        digest,
        (3, 32, 32),
        {part: labels(part) for part in PARTS},
        lambda part, rows: member(part, "X")[..., rows].transpose(3, 2, 0, 1),
    )


# Sets that are pictures


class _PictureSource(_FolderSource):
    """Pictures whose part and class are known from elsewhere; they are read when asked for."""

    def __init__(
        self,
        name: str,
        home: Path,
        image_shape: ImageShape,
        labels: Mapping[Part, Mapping[str, str]],  # by id; empty text without classes
    ) -> None:
        self.name = name
        self._image_shape = image_shape
        self._labels = labels
        self._parts = {part: sorted(labels[part]) for part in PARTS}
        self._hold(home, {one: home / one for part in PARTS for one in self._parts[part]})

    @property
    def image_shape(self) -> ImageShape:
        return self._image_shape

    def ids(self, part: Part) -> Sequence[Id]:
        return self._parts[part]

    @property
    def why_no_classes(self) -> str:
        return "its images have no classes"

    def labels(self, part: Part) -> Sequence[str]:
        return [label for one in self._parts[part] if (label := self._labels[part][one])]


def _read_omniglot(info: DatasetInfo, home: Path, digest: str) -> Source:  # noqa: ARG001
    """A class is an alphabet. The background set is the training part, evaluation the test part."""
    folders: dict[Part, str] = {"train": "images_background", "test": "images_evaluation"}
    labels = {
        part: {one: one.split("/")[1] for one in _ids(home, folder)}
        for part, folder in folders.items()
    }
    return _PictureSource(info.name, home, (1, 32, 32), labels)


def _read_gtsrb(info: DatasetInfo, home: Path, digest: str) -> Source:  # noqa: ARG001
    with (home / _GTSRB_LABELS).open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter=";", skipinitialspace=True)
        classes = {row["Filename"]: row["ClassId"] for row in rows}
    test = {one: classes.get(one.rsplit("/")[-1], "") for one in _ids(home, _GTSRB_TEST)}
    if unknown := [one for one, label in test.items() if not label]:
        raise DataError(f"{home / _GTSRB_LABELS} does not tell the class of {unknown[0]}")
    train = {one: str(int(one.split("/")[2])) for one in _ids(home, _GTSRB_TRAIN)}
    return _PictureSource(info.name, home, (3, 32, 32), {"train": train, "test": test})


def _read_celeba(info: DatasetInfo, home: Path, digest: str) -> Source:  # noqa: ARG001
    """The validation part of CelebA is not used."""
    partition: dict[str, dict[str, str]] = {"0": {}, "1": {}, "2": {}}
    for line in (home / _CELEBA_PARTS).read_text(encoding="utf-8").splitlines():
        name, part = line.split()
        partition[part][f"img_align_celeba/{name}"] = ""
    labels: dict[Part, dict[str, str]] = {"train": partition["0"], "test": partition["2"]}
    return _PictureSource(info.name, home, (3, 32, 32), labels)


def _ids(home: Path, folder: str) -> list[str]:
    return [path.relative_to(home).as_posix() for path in find_pictures([home / folder])]


class _OdinSource(_FolderSource):
    """A folder of anomalies. They have no parts: some are the test part, by content, as for any
    folder."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(str(folder))
        self.name = name

    @property
    def image_shape(self) -> None:
        return None

    @property
    def why_no_classes(self) -> str:
        return "its images have no classes"

    def labels(self, part: Part) -> Sequence[str]:  # noqa: ARG002
        return []


@dataclasses.dataclass(frozen=True)
class _Odin:
    """A set that is put into the data folder by hand: a folder of pictures, or its archive."""

    info: DatasetInfo
    folder: str  # also the name of the archive, before its suffix

    @property
    def _archives(self) -> tuple[str, ...]:
        return tuple(self.folder + suffix for suffix in (".tar.gz", ".tgz", ".zip"))

    def _found(self, root: Path) -> Path | None:
        """The folder, else an archive."""
        if (root / self.folder).is_dir():
            return root / self.folder
        return next((root / name for name in self._archives if (root / name).is_file()), None)

    def find(self, data_dir: DataDir = None) -> Presence:
        root = data_folder(data_dir)
        with _usable(root, self.info.name):
            found = self._found(root)
        if found:
            return Presence(state="complete", place=found)
        return Presence(state="missing", place=root, files=(self._archives[0],), by_hand=True)

    def open(self, data_dir: DataDir = None) -> Source:
        """The pictures, unpacked when only their archive is there."""
        root = data_folder(data_dir)
        with _usable(root, self.info.name):
            found = self._found(root)
            if found is None:
                raise DataError(
                    f"{self.info.name} is not in the data folder and cannot be downloaded by "
                    f"amatune: get {self._archives[0]} from {self.info.url} and put it into {root} "
                    f"(as .tgz or .zip, or unpacked to {self.folder}/, will do, too); the data "
                    f"folder is chosen with --data-dir or {DATA}"
                )
            if not found.is_dir():
                self._unpack(root)
            return _OdinSource(self.info.name, root / self.folder)

    def _unpack(self, root: Path) -> None:
        with _alone(root, self.info.name) as scratch:
            archive = self._found(root)
            if archive is None or archive.is_dir():
                return  # by another process, while this one waited
            unpacked = scratch / "unpacked"
            unpack(archive, unpacked)
            find_pictures([unpacked])  # raises when there are none
            inner = unpacked / self.folder
            os.replace(inner if inner.is_dir() else unpacked, root / self.folder)


# Facts. Sizes and numbers of images are those of the published files.


_MNIST_SIZES = (47_040_016, 60_008, 7_840_016, 10_008)  # bytes, unpacked
_GTSRB_TRAIN = "GTSRB/Training"
_GTSRB_TEST = "GTSRB/Final_Test/Images"
_GTSRB_LABELS = "GT-final_test.csv"
_GTSRB_URL = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
_CELEBA_PARTS = "list_eval_partition.txt"
_CIFAR10_FILES: Mapping[Part, Sequence[str]] = {
    "train": [f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)],
    "test": ["cifar-10-batches-py/test_batch"],
}
_CIFAR100_FILES: Mapping[Part, Sequence[str]] = {
    "train": ["cifar-100-python/train"],
    "test": ["cifar-100-python/test"],
}
_FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_CIFAR100_CLASSES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
    crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()  # noqa: SIM905
)
_DIGITS = tuple("0123456789")


def _mnist_downloads(class_name: str, sizes: Sequence[int]) -> list[_Download]:
    from torchvision import datasets

    cls = getattr(datasets, class_name)
    return [
        _Download(
            name,
            size,
            md5,
            tuple(mirror + name for mirror in cls.mirrors),
            (_Made(name.removesuffix(".gz"), size=unpacked),),
        )
        for (name, md5), size, unpacked in zip(cls.resources, sizes, _MNIST_SIZES, strict=True)
    ]


def _cifar_downloads(class_name: str, size: int) -> list[_Download]:
    from torchvision import datasets

    cls = getattr(datasets, class_name)
    files = [*cls.train_list, *cls.test_list]
    makes = tuple(_Made(f"{cls.base_folder}/{name}", md5) for name, md5 in files)
    return [_Download(cls.filename, size, cls.tgz_md5, (cls.url,), makes)]


def _svhn_downloads() -> list[_Download]:
    from torchvision.datasets import SVHN

    sizes: dict[Part, int] = {"train": 182_040_794, "test": 64_275_384}
    return [
        _Download(name, sizes[part], md5, (url,))
        for part in PARTS
        for url, name, md5 in [SVHN.split_list[part]]
    ]


def _omniglot_downloads() -> list[_Download]:
    from torchvision.datasets import Omniglot

    parts = (("images_background", 9_464_212, 19_280), ("images_evaluation", 6_462_886, 13_180))
    return [
        _Download(
            f"{name}.zip",
            size,
            Omniglot.zips_md5[name],
            (f"{Omniglot.download_url_prefix}/{name}.zip",),
            (_Made(name, pictures=pictures),),
        )
        for name, size, pictures in parts
    ]


def _gtsrb_downloads() -> list[_Download]:
    # torchvision has these sums inside a function; a test compares them.
    files = (
        (
            "GTSRB-Training_fixed.zip",
            187_490_228,
            "513f3c79a4c5141765e10e952eaa2478",
            _Made(_GTSRB_TRAIN, pictures=26_640),
        ),
        (
            "GTSRB_Final_Test_Images.zip",
            88_978_620,
            "c7e4e6327067d32654124b0fe9e82185",
            _Made(_GTSRB_TEST, pictures=12_630),
        ),
        (
            "GTSRB_Final_Test_GT.zip",
            99_620,
            "fe31e9c9270bbcd7b84b7f21a9d9d9e5",
            _Made(_GTSRB_LABELS),
        ),
    )
    return [
        _Download(name, size, md5, (_GTSRB_URL + name,), (made,)) for name, size, md5, made in files
    ]


def _celeba_downloads() -> list[_Download]:
    from torchvision.datasets import CelebA

    known = {name: (file_id, md5) for file_id, md5, name in CelebA.file_list}

    def download(name: str, size: int, *makes: _Made) -> _Download:
        file_id, md5 = known[name]
        url = f"https://drive.google.com/uc?id={file_id}"
        return _Download(name, size, md5, (url,), makes)

    return [
        download(
            "img_align_celeba.zip", 1_443_490_838, _Made("img_align_celeba", pictures=202_599)
        ),
        download(_CELEBA_PARTS, 2_836_386),
    ]


_MNIST = DatasetInfo(
    name="mnist",
    summary="handwritten digits",
    image="1 x 28 x 28",
    train=60_000,
    test=10_000,
    classes=_DIGITS,
    download=11_594_722,
    licence="CC BY-SA 3.0",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
)
_FASHION = DatasetInfo(
    name="fashion-mnist",
    summary="articles of clothing",
    image="1 x 28 x 28",
    train=60_000,
    test=10_000,
    classes=sorted_classes(_FASHION_CLASSES),
    download=30_878_645,
    licence="MIT",
    url="https://github.com/zalandoresearch/fashion-mnist",
)
_CIFAR10 = DatasetInfo(
    name="cifar10",
    summary="photographs of ten kinds of animals and vehicles",
    image="3 x 32 x 32",
    train=50_000,
    test=10_000,
    classes=_CIFAR10_CLASSES,
    download=170_498_071,
    licence="see source",
    url="https://www.cs.toronto.edu/~kriz/cifar.html",
)
_CIFAR100 = DatasetInfo(
    name="cifar100",
    summary="photographs of a hundred kinds of things",
    image="3 x 32 x 32",
    train=50_000,
    test=10_000,
    classes=_CIFAR100_CLASSES,
    download=169_001_437,
    licence="see source",
    url="https://www.cs.toronto.edu/~kriz/cifar.html",
)
_SVHN = DatasetInfo(
    name="svhn",
    summary="photographed house numbers, cropped to a digit",
    image="3 x 32 x 32",
    train=73_257,
    test=26_032,
    classes=_DIGITS,
    download=246_316_178,
    licence="non-commercial",
    url="http://ufldl.stanford.edu/housenumbers/",
)
_OMNIGLOT = DatasetInfo(
    name="omniglot",
    summary="handwritten characters, black on white; a class is an alphabet; train is the "
    "background set, test the evaluation set, with other alphabets",
    image="1 x 32 x 32",
    train=19_280,
    test=13_180,
    download=15_927_098,
    licence="MIT",
    url="https://github.com/brendenlake/omniglot",
)
_GTSRB = DatasetInfo(
    name="gtsrb",
    summary="photographed German traffic signs of many sizes",
    image="3 x 32 x 32",
    train=26_640,
    test=12_630,
    classes=tuple(map(str, range(43))),
    download=276_568_468,
    licence="see source",
    url="https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/published-archive.html",
)
_CELEBA = DatasetInfo(
    name="celeba",
    summary="aligned faces of celebrities, without classes; the download needs `pip install gdown`",
    image="3 x 32 x 32",
    train=162_770,
    test=19_962,
    download=1_446_327_224,
    licence="non-commercial",
    url="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
)

_SETS = (
    _Set(
        _MNIST,
        ("MNIST/raw", "mnist/MNIST/raw", "mnist"),
        lambda: _mnist_downloads("MNIST", (9_912_422, 28_881, 1_648_877, 4_542)),
        partial(_read_mnist, _MNIST, _DIGITS),
    ),
    _Set(
        _FASHION,
        ("FashionMNIST/raw", "fashion-mnist/FashionMNIST/raw", "fashion-mnist"),
        lambda: _mnist_downloads("FashionMNIST", (26_421_880, 29_515, 4_422_102, 5_148)),
        partial(_read_mnist, _FASHION, _FASHION_CLASSES),
    ),
    _Set(
        _CIFAR10,
        ("", "cifar10"),
        lambda: _cifar_downloads("CIFAR10", 170_498_071),
        partial(_read_cifar, _CIFAR10, _CIFAR10_FILES, "labels", _CIFAR10_CLASSES),
    ),
    _Set(
        _CIFAR100,
        ("", "cifar100"),
        lambda: _cifar_downloads("CIFAR100", 169_001_437),
        partial(_read_cifar, _CIFAR100, _CIFAR100_FILES, "fine_labels", _CIFAR100_CLASSES),
    ),
    _Set(_SVHN, ("svhn", ""), _svhn_downloads, partial(_read_svhn, _SVHN)),
    _Set(
        _OMNIGLOT,
        ("omniglot-py", "omniglot/omniglot-py"),
        _omniglot_downloads,
        partial(_read_omniglot, _OMNIGLOT),
    ),
    _Set(_GTSRB, ("gtsrb", "gtsrb/gtsrb"), _gtsrb_downloads, partial(_read_gtsrb, _GTSRB)),
    _Set(_CELEBA, ("celeba", "celeba/celeba"), _celeba_downloads, partial(_read_celeba, _CELEBA)),
)


def _odin(name: str, folder: str, number: str, of: str, key: str) -> _Odin:
    return _Odin(
        DatasetInfo(
            name=name,
            summary=f"{number} {of}, scaled to 32 x 32; as anomalies only",
            image="as the normal set",
            licence="see source",
            url=f"https://www.dropbox.com/s/{key}/{folder}.tar.gz",
        ),
        folder,
    )


_ODIN = (
    _odin(
        "imagenet-resize",
        "Imagenet_resize",
        "10,000",
        "images of Tiny ImageNet",
        "kp3my3412u5k9rl",
    ),
    _odin("lsun-resize", "LSUN_resize", "10,000", "scenes of LSUN", "moqh2wh8696c3yl"),
    _odin("isun", "iSUN", "8,925", "scenes of SUN", "ssz7qxfqae0cca5"),
)


def _entry(one: _Set | _Odin) -> Entry:
    return Entry(one.info, lambda _, data_dir: one.open(data_dir), one.find)


ENTRIES: Mapping[str, Entry] = {one.info.name: _entry(one) for one in (*_SETS, *_ODIN)}
