"""The lists of ids that a problem consists of."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from amatune.data.sources.base import Id, Part
from amatune.errors import DataError
from amatune.metrics import Groups


@dataclasses.dataclass(frozen=True)
class Selection:
    """Some images of one part of one source."""

    source: str  # canonical name
    part: Part
    ids: tuple[Id, ...]
    groups: tuple[str, ...] = ()  # of each image, what it belongs to; empty where nobody asked

    def __post_init__(self) -> None:
        if self.groups and len(self.groups) != len(self.ids):
            raise DataError(
                f"{len(self.ids)} images of {self.source} have {len(self.groups)} groups"
            )

    def keep(self, ids: Collection[Id]) -> "Selection":
        """Those of its images that are among `ids`."""
        kept = [place for place, one in enumerate(self.ids) if one in ids]
        return dataclasses.replace(
            self,
            ids=tuple(self.ids[place] for place in kept),
            groups=tuple(self.groups[place] for place in kept) if self.groups else (),
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values = {"source": self.source, "part": self.part, "ids": list(self.ids)}
        return {**values, "groups": list(self.groups)} if self.groups else values

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
                    raise DataError(f"{spoken(name)} come from the {selection.part} part")
                for key in selection.identities():
                    if key in taken:
                        raise DataError(f"{spoken(name)} and {spoken(taken[key])} share {key}")
                    taken[key] = name

    def by_name(self) -> dict[str, Split]:
        """The splits under their field names; without those that nobody asked for."""
        splits = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {n: s for n, s in splits.items() if s or n not in _OPTIONAL}

    def used(self, source: str) -> dict[Part, list[Id]]:
        """The ids of one source in all splits, by part."""
        used: dict[Part, list[Id]] = {"train": [], "test": []}
        for split in self.by_name().values():
            for selection in split:
                if selection.source == source:
                    used[selection.part] += selection.ids
        return used

    def counts(self) -> dict[str, int]:
        """Images per split."""
        return {name: sum(len(s.ids) for s in split) for name, split in self.by_name().items()}


def places(split: Split) -> dict[str, slice]:
    """The positions of each source's images in a split."""
    found, start = {}, 0
    for selection in split:
        found[selection.source] = slice(start, start + len(selection.ids))
        start += len(selection.ids)
    return found


def group_numbers(normals: Sequence[Selection], anomalies: Sequence[Selection]) -> Groups | None:
    """Which of these images belong together, of normal ones (N,) and of anomalies (M,), by number;
    None where nothing was grouped."""
    keys = [[key for one in side for key in one.groups] for side in (normals, anomalies)]
    if not all(keys):
        return None
    _, numbers = np.unique([*keys[0], *keys[1]], return_inverse=True)
    return numbers[: len(keys[0])], numbers[len(keys[0]) :]


def spoken(name: str) -> str:
    """A split's name in a sentence."""
    return name.replace("_", " ")
