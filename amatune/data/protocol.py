"""The problem a detector is judged on: which images it learns from, which it is judged by.

Disjoint lists of ids, decided by the request and its seed alone:

    train normals          the training part of the normal set, less the next
    validation normals     5% of them when classes are normal, 1% when a whole set is; at least 50,
                           never more than 20%
    validation anomalies   50 (`val_anomalies`), from the training part of the anomaly sets
    test normals           the whole test part of the normal set
    test anomalies         20% of their number, at least 10, from the test part of the anomaly sets

and, where asked for, from what is left of the training part of the anomaly sets,

    train anomalies        labelled, to learn from: the share `anomaly_fraction` of them and the
                           train normals together (the paper's semi-supervised case)
    hidden anomalies       unlabelled among the train normals: the share `contamination` of both
                           together (a test of robustness)

Asking for these leaves the other lists as they are.

What is normal and what is not:

    normal_classes alone   those classes of the data set; its other classes are the anomalies
    ood alone              the whole data set; the named sets are the anomalies
    both                   those classes; the named sets alone are the anomalies (naming the data
                           set itself among them adds its other classes)
    neither                `digits`: 0 to 4 are normal, 5 to 9 are not; other sets are refused

`test_ood` names the anomalies of the test, in the place of those above, which then serve for
validation alone: the honest case when nobody knows what the next anomaly will look like.

A folder without train/ and test/ lends half of its pictures to the test when it is an anomaly set,
all of them when it is one for the test alone, and 30% when it is the normal set. Where there are
fewer anomalies than asked for, what is there is used, and a warning says what that costs.

Several anomaly sets, or classes, get equal shares; where one has too few the others share the rest.
A draw takes the ids whose SHA-256 with the seed comes first: the same on every machine and for
every version of NumPy, and an image added later displaces at most one other.

Making a problem decodes the training part, to pass over damaged pictures and to report copies. The
test images are decoded by `Problem.test_images`, never before.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from amatune.data.duplicates import Prints, find_copies
from amatune.data.pictures import MIN_SIDE, ImageShape, Pixels
from amatune.data.places import DataDir
from amatune.data.sources import PARTS, Id, Part, Source, open_source
from amatune.errors import AmatuneError, DataError, did_you_mean
from amatune.metrics import hanley_mcneil

ASKED_ANOMALIES = 10  # fewer cannot be asked for
MIN_ANOMALIES = 5  # fewer say nothing: an AUROC of .90 has a 95% interval of .54 to .99
MIN_TEST_NORMALS = 10
MIN_NORMALS = 50  # in the training part; a fifth of them validate
TEST_SHARE = 0.2  # test anomalies per test normal
MAX_SHARE = 0.5  # of anomalies among the training images

_DEFAULT_NORMAL = {"digits": ("0", "1", "2", "3", "4")}  # the problem of a first run


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProblemRequest:
    """What a user asks for. Raises `DataError` that lists every impossible value."""

    dataset: str = "digits"  # the normal set
    ood: tuple[str, ...] = ()  # anomaly sets
    test_ood: tuple[str, ...] = ()  # anomaly sets of the test alone, in the place of the others
    normal_classes: tuple[str, ...] = ()  # classes of `dataset`
    val_anomalies: int = 50  # images, at least 10
    anomaly_fraction: float = 0.0  # labelled anomalies' share of the training images, at most .5
    contamination: float = 0.0  # hidden anomalies' share of the supposed normals, at most .5
    seed: int = 0  # of the draws
    image_size: int | None = None  # pixels a side, at least 8; None: the normal set's
    channels: int | None = None  # 1 or 3; None: the normal set's
    # Damaged pictures to pass over in each folder: a number, or below 1 a share of all; None: 5 or
    # 1%, whichever is more.
    max_broken: float | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be {rule}, got {value!r}"
            for name, rule, holds in _RULES
            if not holds(value := getattr(self, name))
        ]
        if problems:
            raise DataError("; ".join(problems))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises `DataError` for unknown names and bad values."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            listed = [f"unknown setting {name!r}, {did_you_mean(name, known)}" for name in unknown]
            raise DataError("; ".join(listed))
        fields: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in values.items()
        }
        return cls(**fields)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_share(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value <= MAX_SHARE  # type: ignore[operator]


def _is_count_or_share(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 <= value < 1 or (value >= 1 and float(value).is_integer())


def _is_names(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(name, str) and name for name in value)


_RULES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("dataset", "a name", lambda v: isinstance(v, str) and bool(v)),
    ("ood", "a tuple of names", _is_names),
    ("test_ood", "a tuple of names", _is_names),
    ("normal_classes", "a tuple of class names (text, also for digits)", _is_names),
    (
        "val_anomalies",
        f"a whole number of at least {ASKED_ANOMALIES}",
        lambda v: _is_whole(v, ASKED_ANOMALIES),
    ),
    ("anomaly_fraction", f"a share in [0, {MAX_SHARE}]", _is_share),
    ("contamination", f"a share in [0, {MAX_SHARE}]", _is_share),
    ("seed", "a whole number of at least 0", lambda v: _is_whole(v, 0)),
    (
        "image_size",
        f"a whole number of at least {MIN_SIDE} pixels",
        lambda v: v is None or _is_whole(v, MIN_SIDE),
    ),
    (
        "channels",
        "1 (grey) or 3 (colour)",
        lambda v: v is None or (_is_whole(v, 1) and v in (1, 3)),
    ),
    (
        "max_broken",
        "a whole number of pictures, or a share below 1",
        lambda v: v is None or _is_count_or_share(v),
    ),
)


@dataclasses.dataclass(frozen=True)
class Selection:
    """Some images of one part of one source."""

    source: str  # canonical name
    part: Part
    ids: tuple[Id, ...]

    def identities(self) -> list[tuple[str, Part, Id]]:
        """Each image's identity among all sources."""
        return [(self.source, self.part, one) for one in self.ids]


Split = tuple[Selection, ...]
_OPTIONAL = ("train_anomalies", "hidden_anomalies")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splits:
    """The lists of ids, grouped by source. Raises `DataError` when they overlap."""

    train_normals: Split
    validation_normals: Split
    validation_anomalies: Split
    test_normals: Split
    test_anomalies: Split
    train_anomalies: Split = ()  # labelled
    hidden_anomalies: Split = ()  # among the train normals

    def __post_init__(self) -> None:
        taken: dict[tuple[str, Part, Id], str] = {}
        for name, split in self.by_name().items():
            part = "test" if name.startswith("test") else "train"
            for selection in split:
                if selection.part != part:
                    raise DataError(f"{_spoken(name)} come from the {selection.part} part")
                for key in selection.identities():
                    if key in taken:
                        raise DataError(f"{_spoken(name)} and {_spoken(taken[key])} share {key}")
                    taken[key] = name

    def by_name(self) -> dict[str, Split]:
        """The splits under their field names; without those that nobody asked for."""
        splits = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {n: s for n, s in splits.items() if s or n not in _OPTIONAL}

    def counts(self) -> dict[str, int]:
        """Images per split."""
        return {name: sum(len(s.ids) for s in split) for name, split in self.by_name().items()}


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
        self._damage: dict[str, str] = {}  # source -> what `warnings` says of its damaged pictures

    def train_images(self) -> Pixels:
        """The images to learn from as normal ones: the train normals, then the hidden anomalies."""
        parts = [self._read("train_normals"), self._read("hidden_anomalies")]
        return np.concatenate(parts) if len(parts[1]) else parts[0]

    def train_anomalies(self) -> Pixels:
        """The labelled anomalies to learn from; none, (0, C, H, W), unless asked for."""
        return self._read("train_anomalies")

    def validation_images(self) -> tuple[Pixels, Pixels]:
        """Normal images and anomalies to choose settings by."""
        return self._read("validation_normals"), self._read("validation_anomalies")

    def test_images(self) -> tuple[Pixels, Pixels]:
        """Normal images and anomalies for the final figures. The only reader of the test part."""
        self.test_opened = True
        images = self._read("test_normals"), self._read("test_anomalies")
        self._report()
        return images

    def validation_sets(self) -> dict[str, slice]:
        """Where each anomaly set lies among the validation anomalies, by its name."""
        self.validation_images()  # damaged pictures count no more
        return _places(self.splits.validation_anomalies)

    def test_sets(self) -> dict[str, slice]:
        """Where each anomaly set lies among the test anomalies, by its name. Opens the test
        part."""
        self.test_images()
        return _places(self.splits.test_anomalies)

    def test_duplicates(self) -> list[str]:
        """Copies between the test images and the others, or between normal and anomalous ones.

        One sentence per pair of splits; empty when there are none. Opens the test part.
        """
        self.test_images()
        tests = ("test_normals", "test_anomalies")
        seen = [name for name in self.splits.by_name() if name not in tests]
        pairs = [(old, new) for new in tests for old in seen]
        return self._duplicates([*pairs, ("test_normals", "test_anomalies")])

    def describe(self) -> str:
        """One line: what is normal, what is not, how many."""
        return describe(self.request, self.splits.counts())

    def to_dict(self) -> dict[str, Any]:
        """All that `from_dict` needs, as JSON values."""
        return {
            "request": self.request.to_dict(),
            "image_shape": list(self.image_shape),
            "counts": self.splits.counts(),
            "splits": {
                name: [{"source": s.source, "part": s.part, "ids": list(s.ids)} for s in split]
                for name, split in self.splits.by_name().items()
            },
            "sources": {
                name: source.record(_used(self.splits, name))
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
                    name: tuple(Selection(s["source"], s["part"], tuple(s["ids"])) for s in split)
                    for name, split in values["splits"].items()
                }
            )
            records = dict(values["sources"])
            warnings = list(values["warnings"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a saved problem: {type(error).__name__} {error}") from error
        sources = {name: _open_for(request, name, data_dir) for name in records}
        for name, source in sources.items():
            used = _used(splits, name)
            gone = [str(one) for part in PARTS for one in source.missing(part, used[part])]
            if gone:
                more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
                raise DataError(
                    f"{name} has changed since the problem was made, it no longer has "
                    f"{', '.join(gone[:3])}{more}; restore it or search anew"
                )
            now = source.record(used)
            changed = [
                key for key in {**records[name], **now} if records[name].get(key) != now.get(key)
            ]
            if changed:
                listed = "; ".join(
                    "other images under the same names"
                    if key == "content"
                    else f"{key} were {records[name].get(key)}, are now {now.get(key)}"
                    for key in changed
                )
                raise DataError(
                    f"{name} has changed since the problem was made ({listed}); restore it or "
                    "search anew"
                )
        return cls(request, (channels, height, width), splits, sources, warnings)

    def _read(self, name: str) -> Pixels:
        """The images of a split; ids that turn out to be damaged leave it."""
        if name not in self._images:
            parts, sound = [], []
            for selection in getattr(self.splits, name):
                source = self._sources[selection.source]
                pixels, ids = source.read(selection.part, selection.ids, self.image_shape)
                parts.append(pixels)
                sound.append(dataclasses.replace(selection, ids=tuple(ids)))
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
            " ".join(reason.splitlines())  # a file's name may hold anything
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

    def _report(self) -> None:
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

    def _duplicates(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """A sentence for each pair of splits that have the same, or nearly the same, images."""
        pairs = [pair for pair in pairs if all(getattr(self.splits, name) for name in pair)]
        names = {name for pair in pairs for name in pair}
        prints = {name: Prints.of(self._read(name)) for name in names}
        keys = {
            name: [key for selection in split for key in selection.identities()]
            for name, split in self.splits.by_name().items()
        }
        found = []
        for first, second in pairs:
            copies = find_copies(prints[first], prints[second])
            for exact, word in ((True, "identical"), (False, "nearly identical")):
                those = [copy for copy in copies if copy.exact is exact]
                if those:
                    original, copy = keys[first][those[0].original], keys[second][those[0].copy]
                    found.append(
                        f"{len(those)} of {len(keys[second])} {_spoken(second)} are {word} to "
                        f"{_spoken(first)}, for example {copy[2]} to {original[2]}"
                    )
        return found


@dataclasses.dataclass(frozen=True)
class _Group:
    """A stratum of anomalies: a source, or some of its classes."""

    source: Source
    classes: frozenset[str] | None = None  # None: all images, with or without classes

    def ids(self, part: Part) -> list[Id]:
        ids = self.source.ids(part)
        if self.classes is None:
            return list(ids)
        labels = self.source.labels(part)
        return [one for one, label in zip(ids, labels, strict=True) if label in self.classes]


def make_problem(request: ProblemRequest, data_dir: DataDir = None) -> Problem:
    """Decide the splits of a request and decode the training part.

    Named sets are read from `data_dir`, or downloaded into it; see `data_folder` for None.

    Raises `DataError` when a set does not exist or cannot be used, when a class does not exist, or
    when there are too few images. Whatever else the user should know is in `Problem.warnings`.
    """
    normal, anomalies, test_groups, sources = _open(request, data_dir)
    train = normal.ids("train")
    test = normal.ids("test")
    _require_normals(request, len(train), len(test))
    share = 0.05 if normal.classes is not None else 0.01
    held_out = min(max(50, round(share * len(train))), len(train) // 5)
    validation = set(_draw(train, held_out, request.seed, "validation normals"))
    test_anomalies = max(ASKED_ANOMALIES, round(TEST_SHARE * len(test)))
    to_choose_by = _spread(anomalies, "train", request.val_anomalies, request.seed)
    labelled, hidden = _training_anomalies(
        request, len(train) - held_out, anomalies, taken=to_choose_by
    )
    splits = Splits(
        train_normals=_one(normal, "train", [i for i in train if i not in validation]),
        validation_normals=_one(normal, "train", [i for i in train if i in validation]),
        validation_anomalies=to_choose_by,
        train_anomalies=labelled,
        hidden_anomalies=hidden,
        test_normals=_one(normal, "test", test),
        test_anomalies=_spread(test_groups, "test", test_anomalies, request.seed),
    )
    wanted = {"validation_anomalies": request.val_anomalies, "test_anomalies": test_anomalies}
    _require_anomalies(splits, wanted)
    problem = Problem(request, _image_shape(request, normal.source), splits, sources)
    duplicates = problem._duplicates(
        [
            ("train_normals", "validation_normals"),
            ("train_normals", "validation_anomalies"),
            ("validation_normals", "validation_anomalies"),
            ("train_anomalies", "validation_anomalies"),
            ("hidden_anomalies", "validation_anomalies"),
        ]
    )
    problem._report()
    # Once more: damaged ones have left.
    counts = problem.splits.counts()
    _require_normals(
        request, counts["train_normals"] + counts["validation_normals"], counts["test_normals"]
    )
    _require_anomalies(problem.splits, wanted)
    train_normals = problem._read("train_normals")
    if all(np.array_equal(image, train_normals[0]) for image in train_normals):
        raise DataError(
            f"all {len(train_normals)} training images of {request.dataset} look the same at "
            f"{' x '.join(map(str, problem.image_shape))}: there is nothing to learn from them; "
            "add different ones"
        )
    problem.warnings += [*_shortages(problem.splits, wanted), *duplicates]
    return problem


def describe(request: ProblemRequest, counts: Mapping[str, int]) -> str:
    """A problem in one line, from its request and the images per split; opens no source."""
    normal = _normal_classes(request)
    what = request.dataset
    if normal:
        what += f": {'class' if len(normal) == 1 else 'classes'} {_ranges(normal)} normal"
    if request.ood:
        what += f"{',' if normal else ''} against {', '.join(request.ood)}"
    of = f" of {', '.join(request.test_ood)}" if request.test_ood else ""
    added = {"labelled": "train_anomalies", "hidden": "hidden_anomalies"}
    extra = "".join(f" + {counts[n]} {k} anomalies" for k, n in added.items() if n in counts)
    return (
        f"{what}{',' if normal else ':'} {counts['train_normals']} train{extra}, "
        f"{counts['validation_normals']}+{counts['validation_anomalies']} validation; "
        f"test {counts['test_normals']} + {counts['test_anomalies']}{of}"
    )


def share_out(total: int, available: Sequence[int]) -> list[int]:
    """Split `total` as equally as `available` allows; the first get what does not divide.

    The shares sum to `total`, or to everything available when that is less.
    """
    shares = [0] * len(available)
    left = min(total, sum(available))
    while left:
        open_ones = [i for i, most in enumerate(available) if shares[i] < most]
        equal = max(1, left // len(open_ones))
        for i in open_ones:
            given = min(equal, available[i] - shares[i], left)
            shares[i] += given
            left -= given
    return shares


def _open(
    request: ProblemRequest, data_dir: DataDir
) -> tuple[_Group, list[_Group], list[_Group], dict[str, Source]]:
    """What is normal, the strata of what is not, those of the test, and every source by its name.

    All opened anew: a source's parts depend on what it is for.
    """
    source = _open_for(request, request.dataset, data_dir)
    if source.image_shape is None:
        raise DataError(f"{request.dataset} cannot be the normal set, name it as --ood")
    normal = _normal_classes(request)
    if not normal and not request.ood:
        classes = f" (its classes: {_listed(source.class_names)})" if source.class_names else ""
        raise DataError(
            f"{request.dataset} says what is normal but not what is anomalous: add --ood NAME, or "
            f"--normal-class CLASS to make the other classes anomalous{classes}"
        )
    others = _other_classes(request.dataset, source, normal) if normal else ()
    group = _Group(source, frozenset(normal) if normal else None)
    if not request.ood:
        if not others:
            raise DataError(
                f"every class of {request.dataset} is normal, none is left to be anomalous: name "
                "fewer with --normal-class, or add --ood NAME"
            )
        anomalies = [_Group(source, frozenset({c})) for c in others]
    else:
        anomalies = _anomaly_sets(request, data_dir, "ood", group, others, ())
    for_test = anomalies
    if request.test_ood:
        for_test = _anomaly_sets(request, data_dir, "test_ood", group, others, anomalies)
    groups = (group, *anomalies, *for_test)
    return group, anomalies, for_test, {g.source.name: g.source for g in groups}


def _anomaly_sets(
    request: ProblemRequest,
    data_dir: DataDir,
    option: str,
    normal: _Group,
    others: Collection[str],
    known: Sequence[_Group],
) -> list[_Group]:
    """The strata that `option` of the request names; a source in `known` is not opened again."""
    source = normal.source
    anomalies: list[_Group] = []
    for name in getattr(request, option):
        ood = _open_for(request, name, data_dir)
        ood.test_share = 0.5 if option == "ood" else 1.0
        flag = f"--{option.replace('_', '-')}"
        if ood.name in {other.source.name for other in anomalies}:
            raise DataError(f"{flag} {name} is given twice")
        own = ood.name == source.name
        if own and not others:
            raise DataError(
                f"{name} is both the normal set and an anomaly set; name another {flag}, or "
                "classes with --normal-class to make its other classes anomalous"
            )
        again = [g.source for g in known if g.source.name == ood.name]
        new = _Group(source, frozenset(others)) if own else _Group(again[0] if again else ood)
        for other in (normal, *anomalies, *known):
            if other.source is not new.source or other is normal:
                _refuse_common_files(other, new)
        anomalies.append(new)
    return anomalies


def _open_for(request: ProblemRequest, name: str, data_dir: DataDir) -> Source:
    source = open_source(name, data_dir)
    source.max_broken = request.max_broken
    return source


def _normal_classes(request: ProblemRequest) -> tuple[str, ...]:
    """The classes that are normal, each once; empty when the whole set is."""
    default = () if request.ood else _DEFAULT_NORMAL.get(request.dataset, ())
    return tuple(dict.fromkeys(request.normal_classes)) or default


def _other_classes(name: str, source: Source, normal: Collection[str]) -> tuple[str, ...]:
    if not source.class_names:
        raise DataError(f"--normal-class cannot be used with {name}: {source.why_no_classes}")
    unknown = [c for c in normal if c not in source.class_names]
    if unknown:
        raise DataError(
            f"{name} has no class {', '.join(map(repr, unknown))}; its classes: "
            f"{_listed(source.class_names)}"
        )
    return tuple(c for c in source.class_names if c not in normal)


def _refuse_common_files(first: _Group, second: _Group) -> None:
    """Folders may lie within each other, pictures may not be in two sets."""
    files = [
        {group.source.location / str(one) for part in PARTS for one in group.ids(part)}
        for group in (first, second)
        if group.source.location is not None and group.source.location.is_dir()
    ]
    common = files[0] & files[1] if len(files) == 2 else None
    if common:
        raise DataError(
            f"{first.source.name} and {second.source.name} have {len(common)} pictures in common, "
            f"for example {min(common)}; sets must not overlap"
        )


def _image_shape(request: ProblemRequest, source: Source) -> ImageShape:
    shape = source.image_shape
    if shape is None:
        raise DataError(f"{request.dataset} cannot be the normal set, name it as --ood")
    channels, height, width = shape
    if request.image_size is not None:
        height = width = request.image_size
    return request.channels or channels, height, width


def _draw(ids: Iterable[Id], count: int, seed: int, purpose: str) -> list[Id]:
    """The `count` ids that come first in the order of their SHA-256 with seed and purpose."""

    def key(one: Id) -> bytes:
        return hashlib.sha256(f"{seed}/{purpose}/{one}".encode()).digest()

    return sorted(ids, key=key)[:count]


def _one(group: _Group, part: Part, ids: Sequence[Id]) -> Split:
    return (Selection(group.source.name, part, tuple(ids)),)


def _training_anomalies(
    request: ProblemRequest, normals: int, groups: Sequence[_Group], taken: Split
) -> tuple[Split, Split]:
    """The anomalies to learn from, labelled and hidden; raises `DataError` when there are too few.

    Hidden ones are drawn first: they stay the same whatever is labelled.
    """
    drawn: dict[str, Split] = {}
    for name in ("contamination", "anomaly_fraction"):
        share = getattr(request, name)
        wanted = round(share / (1 - share) * normals)
        drawn[name] = _spread(groups, "train", wanted, request.seed, name, taken)
        found = sum(len(selection.ids) for selection in drawn[name])
        if found < wanted:
            raise DataError(
                f"{name} {share:g} needs {wanted} anomalies beside {normals} normal images; the "
                f"training part of {', '.join(sorted({g.source.name for g in groups}))} has "
                f"{found} left, enough for {math.floor(1000 * found / (found + normals)) / 1000:g}"
            )
        taken = (*taken, *drawn[name])
    return drawn["anomaly_fraction"], drawn["contamination"]


def _spread(
    groups: Sequence[_Group],
    part: Part,
    total: int,
    seed: int,
    purpose: str = "anomalies",
    taken: Split = (),
) -> Split:
    """Draw `total` anomalies not `taken`, the same number from each stratum; one selection per
    source."""
    if total == 0:
        return ()
    used = {key for selection in taken for key in selection.identities()}
    available = [
        [one for one in group.ids(part) if (group.source.name, part, one) not in used]
        for group in groups
    ]
    drawn: dict[str, list[Id]] = {}
    for group, ids, share in zip(
        groups, available, share_out(total, [len(ids) for ids in available]), strict=True
    ):
        drawn.setdefault(group.source.name, []).extend(_draw(ids, share, seed, f"{part} {purpose}"))
    order = {g.source.name: {one: i for i, one in enumerate(g.source.ids(part))} for g in groups}
    return tuple(
        Selection(name, part, tuple(sorted(ids, key=order[name].__getitem__)))
        for name, ids in drawn.items()
    )


def _require_normals(request: ProblemRequest, train: int, test: int) -> None:
    if train < MIN_NORMALS or test < MIN_TEST_NORMALS:
        raise DataError(
            f"too few normal images in {request.dataset}: {train} in the training part (at least "
            f"{MIN_NORMALS} needed) and {test} in the test part (at least {MIN_TEST_NORMALS} "
            "needed)"
        )


def _require_anomalies(splits: Splits, wanted: Mapping[str, int]) -> None:
    for name in wanted:
        found = splits.counts()[name]
        if found < MIN_ANOMALIES:
            split = splits.by_name()[name]
            part = "test" if name.startswith("test") else "training"
            raise DataError(
                f"too few anomalies: the {part} part of {', '.join(s.source for s in split)} has "
                f"{found}, at least {MIN_ANOMALIES} are needed; add pictures or another --ood"
            )


def _shortages(splits: Splits, wanted: Mapping[str, int]) -> list[str]:
    """What fewer anomalies than asked for cost."""
    counts = splits.counts()
    messages = []
    for name, asked in wanted.items():
        if counts[name] < asked:
            normals = counts[name.replace("anomalies", "normals")]
            messages.append(
                f"only {counts[name]} of {asked} {_spoken(name)} could be found: an AUROC of .90 "
                f"then has a 95% interval of {_interval(counts[name], normals)}, instead of "
                f"{_interval(asked, normals)}"
            )
    return messages


def _interval(anomalies: int, normals: int) -> str:
    """What to expect around an AUROC of .90, by Hanley and McNeil on the logit scale."""
    error = hanley_mcneil(0.9, anomalies, normals) / (0.9 * 0.1)
    low, high = (1 / (1 + math.exp(-(math.log(9) + z * error))) for z in (-1.96, 1.96))
    return f"{low:.2f} to {high:.2f}"


def _places(split: Split) -> dict[str, slice]:
    """The positions of each source's images in a split."""
    found, start = {}, 0
    for selection in split:
        found[selection.source] = slice(start, start + len(selection.ids))
        start += len(selection.ids)
    return found


def _used(splits: Splits, source: str) -> dict[Part, list[Id]]:
    """The ids of one source in all splits, by part."""
    used: dict[Part, list[Id]] = {"train": [], "test": []}
    for split in splits.by_name().values():
        for selection in split:
            if selection.source == source:
                used[selection.part] += selection.ids
    return used


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _listed(names: Sequence[str], most: int = 40) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _ranges(classes: Sequence[str]) -> str:
    """ "0-4" for consecutive numbers, "cat, dog" for anything else."""
    if all(c.isdecimal() for c in classes):
        numbers = sorted(map(int, classes))
        if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
            return f"{numbers[0]}-{numbers[-1]}"
    return ", ".join(classes)
