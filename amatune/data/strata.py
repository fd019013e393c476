"""What splits are drawn from: strata of images, and the groups that stay on one side.

Groups (`data.groups`) are of one part, day or camera. What is tested is in no group that is learned
from or chosen by, and what is chosen by in none that is learned from.
"""

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from amatune.data.groups import Keys, keys_of
from amatune.data.problem import Problem
from amatune.data.request import ProblemRequest
from amatune.data.sources.base import PARTS, Id, Part, Source
from amatune.data.splits import Splits, spoken
from amatune.errors import DataError
from amatune.wording import counted

FEW_GROUPS = 10  # in a list; fewer are told


@dataclasses.dataclass(frozen=True)
class Stratum:
    """Images to draw from: those of a source, or of some of its classes."""

    source: Source
    classes: frozenset[str] | None = None  # None: all images, with or without classes
    without: frozenset[Id] = frozenset()  # of the training part

    def ids(self, part: Part) -> list[Id]:
        """Its images in a part."""
        ids = self.source.ids(part)
        if self.classes is not None:
            labels = self.source.labels(part)
            ids = [one for one, label in zip(ids, labels, strict=True) if label in self.classes]
        return [one for one in ids if part == "test" or one not in self.without]


@dataclasses.dataclass(frozen=True)
class Sides:
    """A problem's groups of images, each on one side: what is tested is in no training part."""

    normal: Stratum
    anomalies: list[Stratum]
    keys: Mapping[str, Keys]  # by source
    left_out: int  # images of the training part

    @classmethod
    def of(
        cls,
        request: ProblemRequest,
        normal: Stratum,
        anomalies: Sequence[Stratum],
        test_groups: Sequence[Stratum],
    ) -> "Sides | None":
        """None where nobody asks for groups."""
        grouping = request.group_by
        if grouping is None:
            return None
        tested: set[str] = set()
        strata = (normal, *anomalies, *test_groups)
        ids: dict[str, dict[Part, list[Id]]] = {}
        for group in strata:
            images = ids.setdefault(group.source.name, {part: [] for part in PARTS})
            for part in PARTS:
                images[part] = sorted({*images[part], *group.ids(part)}, key=str)
        sources = {group.source.name: group.source for group in strata}
        keys = {name: keys_of(sources[name], ids[name], grouping) for name in ids}
        for group in (normal, *test_groups):
            tested |= {keys[group.source.name]["test", one] for one in group.ids("test")}
        learned = {keys[normal.source.name]["train", one] for one in normal.ids("train")}
        if not learned - tested or not tested:
            where, to_do = ("test", "learn from") if tested else ("training part", "test with")
            names = sorted(learned | tested)
            listed = f"{counted(len(names), 'group')} ({', '.join(names[:5])})"
            raise DataError(
                f"grouped by {grouping}, the normal images of {request.dataset} have {listed}, all "
                f"in the {where}: none is left to {to_do}; group otherwise, or add pictures of "
                "other groups"
            )
        apart = []
        for group in (normal, *anomalies):
            own = keys[group.source.name]
            without = frozenset(one for one in group.ids("train") if own["train", one] in tested)
            apart.append(dataclasses.replace(group, without=without))
        left_out = sum(len(group.without) for group in apart)
        return cls(apart[0], apart[1:], keys, left_out)

    def validation(
        self, request: ProblemRequest, validating: int
    ) -> tuple[set[Id], list[Stratum], list[Stratum]]:
        """The normal images that validate, and where anomalies to choose by and to learn from may
        come from.

        Groups are taken as their SHA-256 with the seed comes until there are enough of both kinds,
        but never more than a third of the normal images.
        """
        normals = Counter(self.key(self.normal, one) for one in self.normal.ids("train"))
        found = Counter(self.key(g, one) for g in self.anomalies for one in g.ids("train"))
        most = max(validating, sum(normals.values()) // 3)
        chosen: set[str] = set()
        have = Counter[str]()
        for key in map(
            str, draw({*normals, *found}, len(normals) + len(found), request.seed, "groups")
        ):
            lacking = (normals[key] and have["normals"] < validating) or (
                found[key] and have["anomalies"] < request.val_anomalies
            )
            if lacking and have["normals"] + normals[key] <= most:
                chosen.add(key)
                have.update(normals=normals[key], anomalies=found[key])
        mine = {i for i in self.normal.ids("train") if self.key(self.normal, i) in chosen}

        def only(inside: bool) -> list[Stratum]:
            return [
                dataclasses.replace(
                    group,
                    without=group.without
                    | {i for i in group.ids("train") if (self.key(group, i) in chosen) != inside},
                )
                for group in self.anomalies
            ]

        return mine, only(True), only(False)

    def key(self, group: Stratum, one: Id) -> str:
        """What an image of the training part belongs to."""
        return self.keys[group.source.name]["train", one]

    def named(self, splits: Splits) -> Splits:
        """The splits with the group of every image."""
        return Splits(
            **{
                name: tuple(
                    dataclasses.replace(
                        selection,
                        groups=tuple(
                            self.keys[selection.source][selection.part, one]
                            for one in selection.ids
                        ),
                    )
                    for selection in split
                )
                for name, split in splits.by_name().items()
            }
        )


def draw(ids: Iterable[Id], count: int, seed: int, purpose: str) -> list[Id]:
    """The `count` ids that come first in the order of their SHA-256 with seed and purpose."""

    def key(one: Id) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}/{purpose}/{one}")).digest()

    return sorted(ids, key=key)[:count]


def require_groups(problem: Problem) -> list[str]:
    """Warnings of lists with few groups; raises `DataError` for one with a single group."""
    warnings = []
    for name in ("validation_normals", "validation_anomalies", "test_normals", "test_anomalies"):
        keys = [key for selection in getattr(problem.splits, name) for key in selection.groups]
        number = len(set(keys))
        if keys and number < 2:
            raise DataError(
                f"grouped by {problem.request.group_by}, all {len(keys)} {spoken(name)} are of one "
                "group, which says nothing about any other; group otherwise, or add pictures of "
                "other groups"
            )
        if keys and number < FEW_GROUPS:
            warnings.append(
                f"the {len(keys)} {spoken(name)} are of {number} groups: few say little about the "
                "next one, and intervals are wide"
            )
    return warnings
