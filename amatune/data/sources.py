"""Where images come from.

A source has two parts, "train" and "test", fixed once and for all whatever the seed. It tells the
ids and classes of both without decoding a test image, and decodes the images of given ids on
demand. A new named set is one entry in `_NAMED`, or in that of `amatune.data.named` when its files
lie in the data folder.
"""

# ruff: noqa: ARG002 - a source need not use every argument of the interface

import dataclasses
import hashlib
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from amatune.data.archives import NPZ_ERRORS, is_image_batch, read_header
from amatune.data.cache import PictureCache
from amatune.data.pictures import (
    MIN_SIDE,
    ImageShape,
    Inspected,
    Pixels,
    find_pictures,
    fit,
    native_shape,
)
from amatune.data.places import DataDir
from amatune.errors import DataError, did_you_mean

Part = Literal["train", "test"]
Id = int | str  # a position in an array, or a path relative to the folder, with forward slashes

PARTS: tuple[Part, Part] = ("train", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """One line of the list of data sets."""

    name: str  # as written in --dataset or --ood
    summary: str
    image: str  # "1 x 28 x 28" (channels, height, width), or in words
    train: int | None = None  # images in the part; None when it depends on the path
    test: int | None = None
    classes: tuple[str, ...] = ()
    download: int | None = None  # bytes; None when there is nothing to fetch
    licence: str = ""  # empty when there is nothing to license
    url: str = ""  # where it comes from


@dataclasses.dataclass(frozen=True, kw_only=True)
class Presence:
    """Whether a data set is at hand. No image was decoded and no checksum made to find out."""

    state: Literal["built in", "complete", "incomplete", "missing", "at its path"]
    place: Path | None = None  # the folder it is in, or that its files belong in
    files: tuple[str, ...] = ()  # what is missing there, with sizes
    by_hand: bool = False  # they cannot be downloaded, the user must put them there


def list_datasets() -> list[DatasetInfo]:
    """Everything `open_source` accepts, named sets first."""
    return [entry.info for entry in (*_named().values(), *_BY_PATH.values())]


def dataset_info(name: str) -> DatasetInfo:
    """The line of one data set, as `list_datasets` names it; raises `DataError` for another."""
    infos = {info.name: info for info in list_datasets()}
    if name not in infos:
        raise DataError(f"unknown data set {name!r}; {did_you_mean(name, infos)}")
    return infos[name]


def find_dataset(name: str, data_dir: DataDir = None) -> Presence:
    """Where the files of a data set lie, for a name of `list_datasets`.

    Named sets are looked for in `data_dir`; see `data_folder` for None.
    """
    named = _named()
    return named[name].find(data_dir) if name in named else Presence(state="at its path")


def open_source(text: str, data_dir: DataDir = None) -> "Source":
    """The source that `text` names: a known name, `folder:PATH` or `npz:PATH`.

    A named set that is not in `data_dir` yet (see `data_folder` for None) is downloaded. Raises
    `DataError` when there is none, it cannot be had or its files are unusable. No image is decoded
    yet.
    """
    named = _named()
    if text in named:
        return named[text].open("", data_dir)
    kind, colon, path = text.partition(":")
    if colon and kind in _BY_PATH:
        if not path:
            raise DataError(f"{text!r} lacks its path: write {_BY_PATH[kind].info.name}")
        return _BY_PATH[kind].open(path, data_dir)
    here = Path(text).expanduser()
    if text and here.is_dir():
        raise DataError(f"unknown data set {text!r}; for the folder, write folder:{text}")
    if here.suffix == ".npz" and here.is_file():
        raise DataError(f"unknown data set {text!r}; for the file, write npz:{text}")
    known = [info.name for info in list_datasets()]
    raise DataError(f"unknown data set {text!r}; {did_you_mean(text, known)}")


class Source(ABC):
    """A set of images in two fixed parts."""

    name: str  # canonical: paths are absolute
    location: Path | None = None  # the file or folder behind it
    # Damaged pictures to pass over: a number, or below 1 a share of all; None: the source's own.
    max_broken: float | None = None
    # Share of the test part of pictures that lie in no train/ and test/; set before they are used.
    test_share: float = 0.3

    @property
    @abstractmethod
    def image_shape(self) -> ImageShape | None:
        """The (C, H, W) that this set decides as the normal set; None when it cannot be one."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """All classes, numbers in numerical order; empty when the images have none."""

    @abstractmethod
    def ids(self, part: Part) -> Sequence[Id]:
        """The ids of a part, sorted."""

    @property
    def why_no_classes(self) -> str:
        """What is missing for `class_names` to have any."""
        return "its images have no classes"

    @abstractmethod
    def labels(self, part: Part) -> Sequence[str]:
        """The class of every id of a part, in the order of `ids`; empty without classes."""

    @abstractmethod
    def read(
        self, part: Part, ids: Sequence[Id], image_shape: ImageShape
    ) -> tuple[Pixels, list[Id]]:
        """Decode images by the geometry rule: uint8 (N, *image_shape), and the N ids read.

        Ids of damaged pictures are left out and noted in `unreadable`. Raises `DataError` when
        there are more of them than can be passed over, or nothing can be read.
        """

    @abstractmethod
    def record(self, used: Mapping[Part, Sequence[Id]]) -> dict[str, Any]:
        """JSON values that change when the images do, without decoding a test image.

        `used` are the ids that matter; a source may vouch for more.
        """

    @property
    def unreadable(self) -> Mapping[Id, str]:
        """Damaged pictures met so far, with the reason."""
        return {}

    @property
    def notes(self) -> Sequence[str]:
        """What else the user should know."""
        return []

    def missing(self, part: Part, ids: Iterable[Id]) -> list[Id]:
        """Those of `ids` that the part does not have."""
        present = set(self.ids(part))
        return [one for one in ids if one not in present]


class _EmbeddedSource(Source):
    """Images that came with a library and are in memory anyway; ids count over both parts."""

    def __init__(
        self, name: str, images: Pixels, labels: Sequence[str], in_test: NDArray[np.bool_]
    ) -> None:
        self.name = name
        self._images = images  # (N, C, H, W)
        self._labels = labels
        self._ids = {
            "train": np.flatnonzero(~in_test).tolist(),
            "test": np.flatnonzero(in_test).tolist(),
        }

    @property
    def image_shape(self) -> ImageShape:
        _, channels, height, width = self._images.shape
        return channels, height, width

    @property
    def class_names(self) -> tuple[str, ...]:
        return sorted_classes(self._labels)

    def ids(self, part: Part) -> Sequence[Id]:
        return self._ids[part]

    def labels(self, part: Part) -> Sequence[str]:
        return [self._labels[i] for i in self._ids[part]]

    def read(
        self, part: Part, ids: Sequence[Id], image_shape: ImageShape
    ) -> tuple[Pixels, list[Id]]:
        return fit(self._images[np.asarray(ids, np.intp)], image_shape), list(ids)

    def record(self, used: Mapping[Part, Sequence[Id]]) -> dict[str, Any]:
        train = self._images[self._ids["train"]]
        return {
            "train images": len(self._ids["train"]),
            "test images": len(self._ids["test"]),
            "content": hashlib.sha256(train.tobytes()).hexdigest(),
        }


class _NoiseSource(Source):
    """Images of independent noise in the shape of the normal set, the same on every call."""

    COUNT = 10_000  # per part

    def __init__(self, name: str, draw: Callable[[np.random.Generator, ImageShape], Any]) -> None:
        self.name = name
        self._draw = draw  # pixel values, on the scale where black is 0 and white is 1

    @property
    def image_shape(self) -> None:
        return None

    @property
    def class_names(self) -> tuple[str, ...]:
        return ()

    def ids(self, part: Part) -> Sequence[Id]:
        return range(self.COUNT)

    def labels(self, part: Part) -> Sequence[str]:
        return []

    def read(
        self, part: Part, ids: Sequence[Id], image_shape: ImageShape
    ) -> tuple[Pixels, list[Id]]:
        images = np.empty((len(ids), *image_shape), np.uint8)
        for row, one in enumerate(ids):
            generator = np.random.default_rng([PARTS.index(part), int(one)])
            values = self._draw(generator, image_shape)
            images[row] = np.round(np.clip(values, 0, 1) * 255)
        return images, list(ids)

    def record(self, used: Mapping[Part, Sequence[Id]]) -> dict[str, Any]:
        # NumPy does not promise the same stream in every version: vouch for a sample.
        sample, _ = self.read("train", range(3), (3, 32, 32))
        return {"content": hashlib.sha256(sample.tobytes()).hexdigest()}


class _NpzSource(Source):
    """Arrays in a NumPy archive.

    `train_images` and `test_images`: uint8, (N, H, W) or (N, H, W, C) with C 1 or 3. Optional
    `train_labels` and `test_labels`: (N,) whole numbers or text. Shapes are read from the headers
    of the archive's members; `test_images` itself is read by `read("test", ...)` alone.
    """

    def __init__(self, path: str) -> None:
        self._path = self.location = Path(path).expanduser().resolve()
        self.name = f"npz:{self.location}"
        try:
            with zipfile.ZipFile(self.location) as archive:
                self._members = {info.filename: info for info in archive.infolist()}
                self._shapes = {part: self._image_header(archive, part) for part in PARTS}
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
        with archive.open(f"{key}.npy") as member:
            header = read_header(member)
        shape, dtype = header.shape, header.dtype
        found = f"{self.name}: {key} is {dtype} of shape {shape}"
        if dtype != np.uint8 or not is_image_batch(shape):
            raise DataError(f"{found}; {_NPZ_RULE}")
        if shape[0] == 0:
            raise DataError(f"{found}: there are no images in it")
        if min(shape[1:3]) < MIN_SIDE:
            raise DataError(f"{found}; images need at least {MIN_SIDE} pixels a side")
        return shape

    def _read_labels(self) -> dict[Part, list[str]]:
        """The class of every image, or nothing unless both parts have labels."""
        if self._absent_labels():
            return {"train": [], "test": []}
        labels: dict[Part, list[str]] = {}
        for part in PARTS:
            values = self._read(f"{part}_labels")
            if values.shape != self._shapes[part][:1] or values.dtype.kind not in "iuU":
                raise DataError(
                    f"{self.name}: {part}_labels is {values.dtype} of shape {values.shape}; it "
                    f"must be whole numbers or text of shape ({self._shapes[part][0]},), one per "
                    "image"
                )
            labels[part] = [str(value) for value in values.tolist()]
        return labels

    def _absent_labels(self) -> list[str]:
        return [f"{p}_labels" for p in PARTS if f"{p}_labels.npy" not in self._members]

    def _read(self, key: str) -> NDArray[Any]:
        try:
            with np.load(self._path, allow_pickle=False) as archive:
                values: NDArray[Any] = archive[key]
                return values
        except NPZ_ERRORS as error:
            raise self._damaged(error, key) from error

    def _damaged(self, error: Exception, key: str = "") -> DataError:
        what = f"{key} of {self.location}" if key else str(self.location)
        return DataError(f"cannot read {what}, it is damaged or no NumPy archive: {error}")


_NPZ_RULE = (
    "an archive needs train_images and test_images, uint8, (N, H, W) or (N, H, W, C) with C 1 or 3"
)


def _is_ours(member: zipfile.ZipInfo) -> bool:
    return member.filename in {f"{p}_{what}.npy" for p in PARTS for what in ("images", "labels")}


class _FolderSource(Source):
    """A folder of pictures of any sizes and modes.

    Parts: the folders `train/` and `test/` directly below, when both are there (anything beside
    them is left alone); else a share of the pictures, `test_share`, is the test part, chosen by the
    SHA-256 of their bytes, so that adding a picture moves no other and copies stay in one part.

    Classes: the names of the folders directly below the part, when every picture lies in one.

    Damaged pictures are passed over while they are at most `max_broken`, by default 5 or 1% of all,
    whichever is more; beyond that the folder is refused.

    Decoded pictures are kept in the user's `PictureCache`.
    """

    TOLERATED = 5  # damaged pictures, or ...
    TOLERATED_SHARE = 0.01  # ... this share of all, whichever is more

    def __init__(self, path: str) -> None:
        root = Path(path).expanduser().resolve()
        self.name = f"folder:{root}"
        if not root.is_dir():
            found = "is a file" if root.exists() else "does not exist"
            raise DataError(f"folder:{path} must name a folder, but {root} {found}")
        pictures = find_pictures([root])
        self._hold(root, {file.relative_to(root).as_posix(): file for file in pictures})

    def _hold(self, root: Path, files: dict[str, Path]) -> None:
        """Begin with these files, none of them looked at."""
        self._root = self.location = root
        self._files = files
        self._cache = PictureCache.default()
        self._inspected: dict[str, Inspected] = {}
        self._unreadable: dict[Id, str] = {}

    @property
    def image_shape(self) -> ImageShape | None:
        return native_shape(self._inspected[str(one)].header for one in self.ids("train"))

    @property
    def class_names(self) -> tuple[str, ...]:
        return sorted_classes([*self.labels("train"), *self.labels("test")])

    def ids(self, part: Part) -> Sequence[Id]:
        return self._parts[part]

    @property
    def why_no_classes(self) -> str:
        return f"not every picture lies in a class folder, see {self._loose[0]}"

    def labels(self, part: Part) -> Sequence[str]:
        if self._loose:
            return []
        depth = 1 if self._is_divided else 0
        return [str(one).split("/")[depth] for one in self.ids(part)]

    def read(
        self, part: Part, ids: Sequence[Id], image_shape: ImageShape
    ) -> tuple[Pixels, list[Id]]:
        files = [self._files[str(one)] for one in ids]
        self._inspect(map(str, ids))
        digests = [
            self._inspected[name].digest if (name := str(one)) in self._inspected else ""
            for one in ids
        ]
        pixels, unreadable = self._cache.read_pictures(files, digests, image_shape)
        for one, file in zip(ids, files, strict=True):
            if file in unreadable:
                self._unreadable[one] = unreadable[file]
        self._refuse_if_many_unreadable()
        return pixels, [one for one, file in zip(ids, files, strict=True) if file not in unreadable]

    def record(self, used: Mapping[Part, Sequence[Id]]) -> dict[str, Any]:
        self._inspect(str(one) for ids in used.values() for one in ids)
        lines = [
            f"{part} {one} {found.digest if (found := self._inspected.get(str(one))) else 'broken'}"
            for part in PARTS
            for one in used[part]
        ]
        return {"content": hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()}

    @property
    def unreadable(self) -> Mapping[Id, str]:
        return self._unreadable

    @property
    def notes(self) -> Sequence[str]:
        return [self._cache.problem] if self._cache.problem else []

    def missing(self, part: Part, ids: Iterable[Id]) -> list[Id]:
        # Only files count: pictures added since a run change neither its ids nor its parts.
        return [one for one in ids if one not in self._files]

    @cached_property
    def _is_divided(self) -> bool:
        """Whether there are train/ and test/ folders. Raises `DataError` when one has a picture
        and the other none."""
        tops = {one.split("/")[0] for one in self._files if "/" in one}
        given = tops & set(PARTS)
        if len(given) == 1:
            (present,) = given
            (absent,) = set(PARTS) - given
            raise DataError(
                f"{self.name} has pictures in {present}/ but none in {absent}/; fill both, or name "
                f"folder:{self._root / present}"
            )
        return bool(given)

    @cached_property
    def _loose(self) -> list[str]:
        """Pictures that lie in no class folder."""
        depth = 1 if self._is_divided else 0
        return [one for part in PARTS for one in self._parts[part] if one.count("/") <= depth]

    @cached_property
    def _parts(self) -> dict[Part, list[str]]:
        """The pictures with a sound header."""
        self._inspect(self._files)
        self._refuse_if_many_unreadable()
        sound = [one for one in self._files if one in self._inspected]
        if self._is_divided:
            return {p: [one for one in sound if one.startswith(f"{p}/")] for p in PARTS}
        if len(sound) > 1 and len({self._inspected[one].digest for one in sound}) == 1:
            raise DataError(
                f"all {len(sound)} pictures of {self.name} are copies of one, so that no part of "
                "them can test what was learned from the others; add different ones"
            )
        in_test = {o for o in sound if _unit(self._inspected[o].digest) < self.test_share}
        return {
            "train": [one for one in sound if one not in in_test],
            "test": [one for one in sound if one in in_test],
        }

    def _inspect(self, ids: Iterable[str]) -> None:
        """Fill `_inspected`; those without a sound header are noted as unreadable."""
        new = [one for one in ids if one not in self._inspected and one not in self._unreadable]
        found, unreadable = self._cache.inspect([self._files[one] for one in new])
        for one in new:
            file = self._files[one]
            if file in unreadable:
                self._unreadable[one] = unreadable[file]
            else:
                self._inspected[one] = found[file]

    def _refuse_if_many_unreadable(self) -> None:
        count, total = len(self._unreadable), len(self._files)
        if count == total:
            raise DataError(f"{self.name} has no readable picture: {_first(self._unreadable)}")
        if self.max_broken is None:
            allowed = max(self.TOLERATED, self.TOLERATED_SHARE * total)
            rule = f"up to {self.TOLERATED} or {self.TOLERATED_SHARE:.0%}"
        else:
            is_share = 0 < self.max_broken < 1
            allowed = self.max_broken * (total if is_share else 1)
            rule = f"up to {self.max_broken:g}{' of all' if is_share else ''}"
        if count > allowed:
            raise DataError(
                f"{self.name} has too many damaged pictures, {count} of {total} ({rule} are passed "
                "over); repair or remove them, or pass over more with --max-broken; the first is: "
                f"{_first(self._unreadable)}"
            )


def _first(unreadable: Mapping[Id, str]) -> str:
    return next(iter(unreadable.values()))


def _unit(digest: str) -> float:
    """A number in [0, 1) from a hexadecimal digest."""
    return int(digest[:13], 16) / 16**13  # 52 bits: exact in a float


def sorted_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """Each class once; whole numbers in numerical order, before the rest."""

    def key(name: str) -> tuple[bool, int, str]:
        is_number = name.removeprefix("-").isdecimal()
        return not is_number, int(name) if is_number else 0, name

    return tuple(sorted(set(labels), key=key))


def _digits() -> Source:
    """Test part: the third, sixth and ninth of every ten images of a class, in file order."""
    # Imported here: it takes seconds, and scoring a picture does not need it.
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    bunch = load_digits()
    small = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]  # 8 x 8, 0 to 16
    seen = np.zeros(10, int)
    in_test = np.zeros(len(small), bool)
    for row, digit in enumerate(bunch.target):
        in_test[row] = seen[digit] % 10 in (2, 5, 8)
        seen[digit] += 1
    return _EmbeddedSource(
        "digits", fit(small, (1, 28, 28)), [str(d) for d in bunch.target], in_test
    )


def _photos() -> Source:
    """32 x 32 patches on a grid, none overlapping. Test part: 6 of the 20 columns of patches."""
    from sklearn.datasets import load_sample_image

    patches, labels, in_test = [], [], []
    for label in ("china", "flower"):
        photo = load_sample_image(f"{label}.jpg")  # (427, 640, 3)
        for top in range(0, photo.shape[0] - 31, 32):
            for left in range(0, photo.shape[1] - 31, 32):
                patches.append(photo[top : top + 32, left : left + 32].transpose(2, 0, 1))
                labels.append(label)
                in_test.append((left // 32) % 10 in (2, 5, 8))
    return _EmbeddedSource("photos", np.stack(patches), labels, np.array(in_test))


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of the registry."""

    info: DatasetInfo
    open: Callable[[str, DataDir], Source]  # the path, "" for named sets; the data folder
    find: Callable[[DataDir], Presence] = lambda _: Presence(state="built in")


def _named() -> Mapping[str, Entry]:
    """Every set that has a name of its own."""
    from amatune.data.named import ENTRIES  # imported late: it builds on this module

    return {**_NAMED, **ENTRIES}


_NAMED: dict[str, Entry] = {
    "digits": Entry(
        DatasetInfo(
            name="digits",
            summary="scikit-learn's handwritten digits, 8 x 8 enlarged; needs no download",
            image="1 x 28 x 28",
            train=1260,
            test=537,
            classes=tuple("0123456789"),
            licence="CC BY 4.0",
            url="https://archive.ics.uci.edu/dataset/80",
        ),
        lambda *_: _digits(),
    ),
    "photos": Entry(
        DatasetInfo(
            name="photos",
            summary="patches of scikit-learn's two photographs; needs no download",
            image="3 x 32 x 32",
            train=364,
            test=156,
            classes=("china", "flower"),
            licence="CC BY 2.0",
            url="https://scikit-learn.org/stable/datasets/loading_other_datasets.html",
        ),
        lambda *_: _photos(),
    ),
    "uniform-noise": Entry(
        DatasetInfo(
            name="uniform-noise",
            summary="every value uniform between black and white; as anomalies only",
            image="as the normal set",
            train=_NoiseSource.COUNT,
            test=_NoiseSource.COUNT,
        ),
        lambda *_: _NoiseSource("uniform-noise", lambda rng, shape: rng.random(shape)),
    ),
    "gaussian-noise": Entry(
        DatasetInfo(
            name="gaussian-noise",
            summary="every value normal, mean 0.5, deviation 1, cut to [0, 1]; as anomalies only",
            image="as the normal set",
            train=_NoiseSource.COUNT,
            test=_NoiseSource.COUNT,
        ),
        lambda *_: _NoiseSource("gaussian-noise", lambda rng, shape: rng.normal(0.5, 1.0, shape)),
    ),
}

_BY_PATH: dict[str, Entry] = {
    "folder": Entry(
        DatasetInfo(
            name="folder:PATH",
            summary="your pictures, any sizes and modes; class folders, train/ and test/ optional",
            image="their one size, or 32 x 32",
        ),
        lambda path, _: _FolderSource(path),
    ),
    "npz": Entry(
        DatasetInfo(
            name="npz:PATH",
            summary="train_images and test_images, uint8, NHW or NHWC; *_labels optional",
            image="the arrays' own",
        ),
        lambda path, _: _NpzSource(path),
    ),
}
