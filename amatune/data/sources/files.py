"""Pictures, each in a file of its own."""

# ruff: noqa: ARG002, D102 - as `Source` says; not every source needs every argument

import hashlib
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from amatune.data.cache import PictureCache
from amatune.data.groups import NEAR_COPIES, keys_of
from amatune.data.pictures import Header, ImageShape, Inspected, Pixels, native_shape
from amatune.data.sources.base import PARTS, Id, Part, Source, sorted_classes
from amatune.errors import DataError


class PictureFiles(Source):
    """Pictures of any sizes and modes below one folder; ids are their paths relative to it.

    Damaged pictures are passed over while they are at most `max_broken`, by default 5 or 1% of all,
    whichever is more; beyond that the source is refused.

    Decoded pictures are kept in the user's `PictureCache`.
    """

    TOLERATED = 5  # damaged pictures, or ...
    TOLERATED_SHARE = 0.01  # ... this share of all, whichever is more

    def __init__(self, name: str, root: Path, ids: Iterable[str]) -> None:
        self.name = name
        self.location: Path = root
        self._files = {one: root / one for one in ids}
        self._cache = PictureCache.default()
        self._inspected: dict[str, Inspected] = {}
        self._unreadable: dict[Id, str] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        return sorted_classes([*self.labels("train"), *self.labels("test")])

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
        return {"content": digest_of(sorted(lines))}

    @property
    def unreadable(self) -> Mapping[Id, str]:
        return self._unreadable

    @property
    def notes(self) -> Sequence[str]:
        return [self._cache.problem] if self._cache.problem else []

    def headers(self) -> Mapping[Header, int]:
        return Counter(found.header for found in self._inspected.values())

    def digests(self) -> Mapping[Id, str]:
        """SHA-256 of the files' bytes, of the pictures met so far."""
        return {one: found.digest for one, found in self._inspected.items()}

    def missing(self, part: Part, ids: Iterable[Id]) -> list[Id]:
        # Only files count: pictures added since a run change neither its ids nor its parts.
        return [one for one in ids if one not in self._files]

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


class OwnPictures(PictureFiles):
    """Pictures of a user, which belong to a part once their headers have been read."""

    @property
    @abstractmethod
    def _parts(self) -> Mapping[Part, Sequence[str]]:
        """The pictures with a sound header, by part."""

    @property
    def image_shape(self) -> ImageShape | None:
        return self._native(self._parts["train"])

    def ids(self, part: Part) -> Sequence[Id]:
        return self._parts[part]

    def _native(self, ids: Iterable[str]) -> ImageShape:
        """What such pictures are brought to."""
        return native_shape((self._inspected[one].header for one in ids), self.largest_side)

    def _sound(self) -> list[str]:
        """The pictures with a sound header; raises `DataError` when there are too few."""
        self._inspect(self._files)
        self._refuse_if_many_unreadable()
        return [one for one in self._files if one in self._inspected]

    def _shared_out(self, sound: Sequence[str]) -> dict[Part, list[str]]:
        """Pictures that nobody has divided, by their content: the share `test_share` is the test
        part. With `group_by` whole groups are shared out, by the names of these."""
        if len(sound) > 1 and len({self._inspected[one].digest for one in sound}) == 1:
            raise DataError(
                f"all {len(sound)} pictures of {self.name} are copies of one, so that no part of "
                "them can test what was learned from the others; add different ones"
            )
        digests = {one: self._inspected[one].digest for one in sound}
        if self.group_by is not None:
            by_key: dict[str, list[str]] = {}
            for (_, one), key in keys_of(self, {"train": sound}, self.group_by).items():
                by_key.setdefault(key, []).append(str(one))
            for key, own in by_key.items():
                # Copies by content, as without groups.
                called = min(map(digests.__getitem__, own)) if self.group_by == NEAR_COPIES else key
                digest = hashlib.sha256(os.fsencode(f"group {called}")).hexdigest()
                digests.update(dict.fromkeys(own, digest))
        in_test = {one for one in sound if _unit(digests[one]) < self.test_share}
        return {
            "train": [one for one in sound if one not in in_test],
            "test": [one for one in sound if one in in_test],
        }


def digest_of(lines: Iterable[str]) -> str:
    """The SHA-256 of lines, in hexadecimal."""
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def real_files(root: Path, ids: Iterable[Id]) -> list[str]:
    """Where pictures below `root` lie, each file under one name: absolute, without `..` and links.

    Each folder is followed once: file by file, 100,000 pictures would take ten seconds.
    """
    folders: dict[str, str] = {}
    found = []
    for one in ids:
        path = os.path.join(root, str(one))
        if os.path.islink(path):
            found.append(os.path.realpath(path))
            continue
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        found.append(os.path.join(folders[folder], name))
    return found


def _unit(digest: str) -> float:
    """A number in [0, 1) from a hexadecimal digest."""
    return int(digest[:13], 16) / 16**13  # 52 bits: exact in a float


def _first(unreadable: Mapping[Id, str]) -> str:
    return next(iter(unreadable.values()))
