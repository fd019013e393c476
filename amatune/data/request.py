"""What a user asks of a problem: what is normal and what is not.

    normal_classes alone   those classes of the data set; its other classes are the anomalies
    ood alone              the whole data set; the named sets are the anomalies
    both                   those classes; the named sets alone are the anomalies (naming the data
                           set itself among them adds its other classes)
    neither                `digits`: 0 to 4 are normal, 5 to 9 are not; `mvtec:` and `visa:`: good
                           is normal, defects are not; other sets are refused

`test_ood` names the anomalies of the test, in the place of those above, which then serve for
validation alone: the honest case when nobody knows what the next anomaly will look like.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from amatune.data.groups import RULE as GROUP_RULE
from amatune.data.groups import is_grouping
from amatune.data.pictures import MAX_SIDE, MIN_SIDE
from amatune.errors import DataError, did_you_mean

ASKED_ANOMALIES = 10  # fewer cannot be asked for
MAX_SHARE = 0.5  # of anomalies among the training images

KEEP_TOGETHER = ("near-copies",)

_DEFAULT_NORMAL = {"digits": ("0", "1", "2", "3", "4")}  # the problem of a first run
_WITH_DEFECTS = ("mvtec", "visa")  # kinds of sources whose classes are good and defects


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
    # Pixels a side, 8 to 2048, or (height, width); None: the normal set's.
    image_size: int | tuple[int, int] | None = None
    channels: int | None = None  # 1 or 3; None: the normal set's
    keep_together: str | None = None  # KEEP_TOGETHER: what must not lie on both sides of a split
    group_by: str | None = None  # what belongs together, see `data.groups`
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

    @property
    def normal(self) -> tuple[str, ...]:
        """The classes that are normal, each once; empty when the whole set is."""
        default: tuple[str, ...] = () if self.ood else _DEFAULT_NORMAL.get(self.dataset, ())
        if self.dataset.partition(":")[0] in _WITH_DEFECTS:
            default = ("good",)
        return tuple(dict.fromkeys(self.normal_classes)) or default

    def describe(self, counts: Mapping[str, int]) -> str:
        """The problem in one line, given the images per split; opens no source."""
        normal = self.normal
        what = self.dataset
        if normal:
            what += f": {'class' if len(normal) == 1 else 'classes'} {_ranges(normal)} normal"
        if self.ood:
            what += f"{',' if normal else ''} against {', '.join(self.ood)}"
        of = f" of {', '.join(self.test_ood)}" if self.test_ood else ""
        added = {"labelled": "train_anomalies", "hidden": "hidden_anomalies"}
        extra = "".join(f" + {counts[n]} {k} anomalies" for k, n in added.items() if n in counts)
        return (
            f"{what}{',' if normal else ':'} {counts['train_normals']} train{extra}, "
            f"{counts['validation_normals']}+{counts['validation_anomalies']} validation; "
            f"test {counts['test_normals']} + {counts['test_anomalies']}{of}"
        )

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


def _is_side(value: object) -> bool:
    return _is_whole(value, MIN_SIDE) and value <= MAX_SIDE  # type: ignore[operator]


def _is_height_and_width(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_side, value))


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
    ("ood", "names of data sets, none of them empty", _is_names),
    ("test_ood", "names of data sets, none of them empty", _is_names),
    ("normal_classes", "names of classes (text, also for digits), none empty", _is_names),
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
        f"a whole number of {MIN_SIDE} to {MAX_SIDE} pixels, or a height and a width of such",
        lambda v: v is None or _is_side(v) or _is_height_and_width(v),
    ),
    (
        "channels",
        "1 (grey) or 3 (colour)",
        lambda v: v is None or (_is_whole(v, 1) and v in (1, 3)),
    ),
    (
        "keep_together",
        " or ".join(map(repr, KEEP_TOGETHER)),
        lambda v: v is None or (isinstance(v, str) and v in KEEP_TOGETHER),
    ),
    ("group_by", GROUP_RULE, lambda v: v is None or is_grouping(v)),
    (
        "max_broken",
        "a whole number of pictures, or a share below 1",
        lambda v: v is None or _is_count_or_share(v),
    ),
)


def _ranges(classes: Sequence[str]) -> str:
    """ "0-4" for consecutive numbers, "cat, dog" for anything else."""
    if all(c.isdecimal() for c in classes):
        numbers = sorted(map(int, classes))
        if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
            return f"{numbers[0]}-{numbers[-1]}"
    return ", ".join(classes)
