"""The problem a detector is judged on: its images, and what was decided about them.

The test images are decoded by `Problem.test_images`, never before, but for a request to keep near
copies together: see `Problem.separate`.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from amatune.data.catalogue import open_source
from amatune.data.duplicates import (
    Found,
    Prints,
    find_all_copies,
    find_copies,
    list_copies,
)
from amatune.data.pictures import ImageShape, Pixels, shape_text, sizes_text
from amatune.data.places import DataDir
from amatune.data.request import ProblemRequest
from amatune.data.sources.base import PARTS, Id, Part, Source
from amatune.data.splits import Selection, Splits, group_numbers, places, spoken
from amatune.errors import AmatuneError, DataError
from amatune.metrics import Groups
from amatune.wording import visible

GROUPED_SHARE = 0.4  # of groups in the test: one for all sets, whose groups may be the same
# What it means that a hash of a source is another.
_HASHES = {
    "content": "other images under the same names",
    "masks": "other masks than then",
    "kinds": "other kinds of defect than then",
}
_LATER = frozenset({"kinds"})  # what records of older runs do not have, and are not asked for
_SIDES = (
    ("test_normals", "test_anomalies"),
    ("validation_normals", "validation_anomalies"),
    ("train_normals", "train_anomalies", "hidden_anomalies"),
)


class Problem:
    """A request with its splits decided; made by `make_problem` or `Problem.from_dict`.

    Images are uint8 (N, *image_shape). They are decoded once and kept; treat them as read-only.
    """

    request: ProblemRequest
    image_shape: ImageShape
    splits: Splits
    warnings: list[str]  # what the user should know; grows when the test part is opened
    test_opened: bool  # whether test images have been decoded

    def __init__(
        self,
        request: ProblemRequest,
        image_shape: ImageShape,
        splits: Splits,
        sources: Mapping[str, Source],
        warnings: Iterable[str] = (),
    ) -> None:
        self.request = request
        self.image_shape = image_shape
        self.splits = splits
        self.warnings = list(warnings)
        self.test_opened = False
        self._sources = sources
        self._images: dict[str, Pixels] = {}
        self._copies: list[Found] = []  # met so far
        self._told_copies: set[str] = set()  # what `warnings` may say of them
        self._damage: dict[str, str] = {}  # source -> what `warnings` says of its damaged pictures

    def train_images(self) -> Pixels:
        """The images to learn from as normal ones: the train normals, then the hidden anomalies."""
        parts = [self.images("train_normals"), self.images("hidden_anomalies")]
        return np.concatenate(parts) if len(parts[1]) else parts[0]

    def train_anomalies(self) -> Pixels:
        """The labelled anomalies to learn from; none, (0, C, H, W), unless asked for."""
        return self.images("train_anomalies")

    def validation_images(self) -> tuple[Pixels, Pixels]:
        """Normal images and anomalies to choose settings by."""
        return self.images("validation_normals"), self.images("validation_anomalies")

    def test_images(self) -> tuple[Pixels, Pixels]:
        """Normal images and anomalies for the final figures. The only reader of the test part."""
        self.test_opened = True
        images = self.images("test_normals"), self.images("test_anomalies")
        self.update_warnings()
        return images

    def validation_sets(self) -> dict[str, slice]:
        """Where each anomaly set lies among the validation anomalies, by its name."""
        self.validation_images()  # damaged pictures count no more
        return places(self.splits.validation_anomalies)

    def test_sets(self) -> dict[str, slice]:
        """Where each anomaly set lies among the test anomalies, by its name. Opens the test
        part."""
        self.test_images()
        return places(self.splits.test_anomalies)

    def test_kinds(self) -> dict[str, NDArray[np.intp]]:
        """Where each kind of defect lies among the test anomalies, by its name, of sources that
        tell kinds. Opens the test part."""
        self.test_images()
        kinds: dict[str, list[int]] = {}
        start = 0
        for selection in self.splits.test_anomalies:
            source = self._sources[selection.source]
            for place, one in enumerate(selection.ids, start):
                # Not by the source's parts: pictures added since move others to the other one.
                if (kind := source.kind(one)) is not None:
                    kinds.setdefault(kind, []).append(place)
            start += len(selection.ids)
        return {kind: np.array(places, np.intp) for kind, places in sorted(kinds.items())}

    def require_masks(self) -> None:
        """Raise `DataError` when `test_masks` would; opens no test image."""
        for selection in self.splits.test_anomalies:
            self._sources[selection.source].require_masks(selection.ids)

    def test_masks(self) -> list[NDArray[np.bool_] | None]:
        """Where each test anomaly is anomalous, (H, W), or None where that is not known. Opens the
        test part. Raises `DataError` for a mask that cannot be used."""
        self.test_images()
        size = self.image_shape[1:]
        return [
            self._sources[selection.source].mask(one, size)
            for selection in self.splits.test_anomalies
            for one in selection.ids
        ]

    def test_duplicates(self, file: Path | None = None) -> list[str]:
        """Copies between the test images and the others, or between normal and anomalous ones.

        One sentence per pair of splits; empty when there are none. Opens the test part. A file is
        as for `list_copies`.
        """
        self.test_images()
        tests = ("test_normals", "test_anomalies")
        seen = [name for name in self.splits.by_name() if name not in tests]
        pairs = [(old, new) for new in tests for old in seen]
        told = self.duplicates([*pairs, ("test_normals", "test_anomalies")])
        if file is None or not told:
            return told
        list_copies(self._copies, file)
        return [f"{one}; all are listed in {file}" for one in told]

    def groups(self, which: Literal["validation", "test"]) -> Groups | None:
        """Which of its images belong together, by number: of the normal ones and of the anomalies.
        None where nobody has asked for groups."""
        return self.groups_of([f"{which}_normals"], [f"{which}_anomalies"])

    def groups_of(self, normals: Sequence[str], anomalies: Sequence[str]) -> Groups | None:
        """The same of the images in several lists, by the names of these."""
        sides = (
            [one for name in names for one in getattr(self.splits, name)]
            for names in (normals, anomalies)
        )
        return group_numbers(*sides)

    def describe(self) -> str:
        """One line: what is normal, what is not, how many, and what they are brought to."""
        shape = shape_text(self.image_shape)
        headers = self._sources[self.splits.train_normals[0].source].headers()
        if {(header.height, header.width) for header in headers} - {self.image_shape[1:]}:
            shape += f" (they have {sizes_text(headers)}; see --image-size)"
        grouped = ""
        if self.request.group_by is not None:
            sides = {which: self.groups(which) for which in ("validation", "test")}
            told = [
                f"{len(np.unique(np.concatenate(own)))} in the {which}"
                for which, own in sides.items()
                if own is not None
            ]
            grouped = f"; grouped by {self.request.group_by}, {' and '.join(told)}"
        return f"{self.request.describe(self.splits.counts())}{grouped}; {shape}"

    def to_dict(self) -> dict[str, Any]:
        """All that `from_dict` needs, as JSON values."""
        return {
            "request": self.request.to_dict(),
            "image_shape": list(self.image_shape),
            "counts": self.splits.counts(),
            "splits": {
                name: [selection.to_dict() for selection in split]
                for name, split in self.splits.by_name().items()
            },
            "sources": {
                name: source.record(self.splits.used(name))
                for name, source in self._sources.items()
            },
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], data_dir: DataDir = None) -> Self:
        """The very same problem again, without drawing anew.

        Named sets are read from `data_dir`; see `data_folder` for None.

        Raises `DataError` that says what changed when the data is no longer what it was. Pictures
        added to a folder do not matter, those that were used do. Test images are not decoded.
        """
        try:
            request = ProblemRequest.from_dict(values["request"])
            channels, height, width = values["image_shape"]
            splits = Splits(
                **{
                    name: tuple(
                        Selection(
                            s["source"], s["part"], tuple(s["ids"]), tuple(s.get("groups", ()))
                        )
                        for s in split
                    )
                    for name, split in values["splits"].items()
                }
            )
            records = dict(values["sources"])
            warnings = list(values["warnings"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a saved problem: {type(error).__name__} {error}") from error
        sources = {name: open_for(request, name, data_dir) for name in records}
        for name, source in sources.items():
            used = splits.used(name)
            gone = [str(one) for part in PARTS for one in source.missing(part, used[part])]
            if gone:
                more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
                raise DataError(
                    f"{name} has changed since the problem was made, it no longer has "
                    f"{', '.join(gone[:3])}{more}; restore it or search anew"
                )
            then, now = records[name], source.record(used)
            changed = [
                key
                for key in {**then, **now}
                if then.get(key) != now.get(key) and (key in then or key not in _LATER)
            ]
            if changed:
                listed = "; ".join(
                    _HASHES[key]
                    if key in _HASHES
                    else f"{key} were {then.get(key)}, are now {now.get(key)}"
                    for key in changed
                )
                raise DataError(
                    f"{name} has changed since the problem was made ({listed}); restore it or "
                    "search anew"
                )
        return cls(request, (channels, height, width), splits, sources, warnings)

    def images(self, name: str) -> Pixels:
        """The images of a split; ids that turn out to be damaged leave it."""
        if name not in self._images:
            parts, sound = [], []
            for selection in getattr(self.splits, name):
                source = self._sources[selection.source]
                pixels, ids = source.read(selection.part, selection.ids, self.image_shape)
                parts.append(pixels)
                sound.append(selection.keep(set(ids)))
            self.splits = dataclasses.replace(self.splits, **{name: tuple(sound)})
            nothing = np.empty((0, *self.image_shape), np.uint8)
            # One array is not copied: it may be most of the memory.
            self._images[name] = parts[0] if len(parts) == 1 else np.concatenate([nothing, *parts])
        return self._images[name]

    def list_damaged(self, file: Path) -> list[str]:
        """Add the damaged pictures met so far to a text file, one line each with the reason.

        Those that it lists already stay; it is not made when there are none. The warnings about
        damaged pictures then name it; they are returned. Raises `AmatuneError` when the file
        cannot be written.
        """
        reasons = [
            visible(reason)  # a file's name may hold anything
            for source in self._sources.values()
            for reason in source.unreadable.values()
        ]
        if not reasons:
            return []
        try:
            listed = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
            lines = sorted({*listed, *reasons})
            file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        except OSError as error:
            raise AmatuneError(f"cannot write {file}: {error.strerror}") from error
        for name, told in self._damage.items():
            if not told.endswith(where := f"; all are listed in {file}"):
                self._damage[name] = told + where
                self.warnings[self.warnings.index(told)] = told + where
        return list(self._damage.values())

    def list_copies(self, file: Path) -> None:
        """Add the copies met so far to a CSV file, made when there are any; warnings about them
        then name it. Raises `AmatuneError` when it cannot be written."""
        list_copies(self._copies, file)
        self.warnings = [
            f"{told}; all are listed in {file}" if told in self._told_copies else told
            for told in self.warnings
        ]

    def update_warnings(self) -> None:
        """Bring the warnings up to date with what the sources met."""
        for name, source in self._sources.items():
            if source.unreadable:
                reasons = list(source.unreadable.values())
                more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
                told = f"{name}: damaged pictures passed over ({len(reasons)}): " + "; ".join(
                    reasons[:5]
                )
                if not self._damage.get(name, "").startswith(told):
                    self._damage[name] = told + more
                    self.warnings.append(told + more)
            for note in source.notes:
                self._warn_once(note)

    def _warn_once(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)

    def duplicates(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """A sentence for each pair of splits that have the same, or nearly the same, images."""
        pairs = [pair for pair in pairs if all(getattr(self.splits, name) for name in pair)]
        names = {name for pair in pairs for name in pair}
        prints = {name: Prints.of(self.images(name)) for name in names}
        keys = self._keys()
        found = []
        for first, second in pairs:
            copies = find_copies(prints[first], prints[second])
            for exact, word in ((True, "identical"), (False, "nearly identical")):
                those = [copy for copy in copies if copy.exact is exact]
                self._copies += [
                    Found(keys[second][copy.copy], second, keys[first][copy.original], first, exact)
                    for copy in those
                ]
                if those:
                    original, copy = keys[first][those[0].original], keys[second][those[0].copy]
                    found.append(
                        f"{len(those)} of {len(keys[second])} {spoken(second)} are {word} to "
                        f"{spoken(first)}, for example {copy[2]} to {original[2]}"
                    )
        self._told_copies.update(found)
        return found

    def separate(self) -> None:
        """Leave out of the training what nearly is an image of the validation or the test, and of
        the validation what nearly is one of the test.

        All images are looked at for that, those of the test as well: their prints, 16 x 16 pixels,
        decide about others, and they are read anew when the test is opened.
        """
        known: list[tuple[str, Prints]] = []  # of the sides before
        for side in _SIDES:
            new = []
            for name in side:
                if not getattr(self.splits, name):
                    continue
                prints = Prints.of(self.images(name))
                gone: dict[int, Found] = {}
                keys = self._keys()
                for other, originals in known:
                    for original, copy, exact in find_all_copies(originals, prints):
                        place = (keys[name][copy], name, keys[other][original], other, exact)
                        gone.setdefault(copy, Found(*place, left_out=True))
                self._leave_out(name, list(gone))
                self._copies += gone.values()
                if gone:
                    told = f"{len(gone)} {spoken(name)} left out, copies of images on other sides"
                    self._told_copies.add(told)
                    self.warnings.append(told)
                kept = [row for row in range(len(prints.digests)) if row not in gone]
                left = Prints([prints.digests[row] for row in kept], prints.small[kept])
                new.append((name, left))
            known += new
        for name in _SIDES[0]:
            self._images.pop(name, None)

    def _leave_out(self, name: str, rows: Collection[int]) -> None:
        """Remove some images from a split, by their positions."""
        if not rows:
            return
        images = self.images(name)
        start, selections = 0, []
        for selection in getattr(self.splits, name):
            ids = {one for i, one in enumerate(selection.ids, start) if i not in rows}
            start += len(selection.ids)
            selections.append(selection.keep(ids))
        self.splits = dataclasses.replace(self.splits, **{name: tuple(selections)})
        self._images[name] = np.delete(images, list(rows), axis=0)

    def _keys(self) -> dict[str, list[tuple[str, Part, Id]]]:
        """What each image of each split is."""
        return {
            name: [key for selection in split for key in selection.identities()]
            for name, split in self.splits.by_name().items()
        }


def open_for(request: ProblemRequest, name: str, data_dir: DataDir) -> Source:
    """A source of a request, with what the request allows of damaged pictures."""
    source = open_source(name, data_dir)
    source.max_broken = request.max_broken
    source.group_by = request.group_by
    if request.group_by is not None:
        source.test_share = GROUPED_SHARE
    return source
