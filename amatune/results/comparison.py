"""Tested runs side by side, and whether their chosen detectors differ.

Two runs are compared image by image where both were tested on the same images; among more than two
p is Holm's, so that the chance of any false alarm stays at 5%.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from amatune.data.sources.base import Id, Part
from amatune.errors import RequestError
from amatune.results.difference import SIGNIFICANT, holm, paired_difference
from amatune.results.leaderboard import (
    Leaderboard,
    LeaderboardRow,
    TestFigures,
    kept_test_scores,
    read_leaderboard,
)
from amatune.runs import RunFolder
from amatune.runs.record import ProblemRecord


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run's chosen configuration and its test figures."""

    name: str  # unique among the compared
    run: RunFolder
    problem: str  # one line: data set, counts
    board: Leaderboard
    group: int  # runs with the same number were tested on the same images; the first has 0

    @property
    def row(self) -> LeaderboardRow:
        """The chosen configuration."""
        return self.board.chosen

    @property
    def test(self) -> TestFigures:
        """Of the primary score."""
        return self.row.test[self.row.score]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "run": self.name,
            "folder": str(self.run.path),
            "method": self.board.method,
            "problem": self.problem,
            "test_images": self.group,
            "configuration": self.row.configuration,
            "settings": self.row.settings,
            "epochs": self.board.epochs,
            "seeds": len(self.row.seeds),
            "score": self.board.primary_score,
            "search": dataclasses.asdict(self.board.effort) if self.board.effort else None,
            "test": {name: vars(test) for name, test in self.row.test.items()},
        }


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The test AUROC of one run minus that of another, on the same images."""

    first: str
    second: str
    difference: float
    standard_error: float
    degrees: float  # of freedom; infinite where no spread over seeds is known
    p: float  # two-sided, of this pair alone
    p_holm: float  # corrected for the number of pairs

    @property
    def significant(self) -> bool:
        """Whether it counts as a difference."""
        return self.p_holm < SIGNIFICANT

    def verdict(self, pairs: int) -> str:
        """A sentence; `pairs` is how many were compared."""
        corrected = f" after Holm's correction for {pairs} pairs" if pairs > 1 else ""
        how = f"p = {self.p_holm:.2g}{corrected}"
        if not self.significant:
            return (
                f"no evidence of a difference between {self.first} and {self.second} "
                f"({self.difference:+.3f} AUROC, {how})"
            )
        better, worse = (
            (self.first, self.second) if self.difference > 0 else (self.second, self.first)
        )
        return f"{better} is better than {worse} by {abs(self.difference):.3f} AUROC ({how})"


@dataclass(frozen=True)
class RunComparison:
    """The runs in the order they were named, and the differences that could be tested."""

    runs: tuple[ComparedRun, ...]
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...] = field(default=())

    def between(self, first: str, second: str) -> Difference | None:
        """The difference of these two, as it was tested."""
        wanted = {first, second}
        return next((d for d in self.differences if {d.first, d.second} == wanted), None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "runs": [run.to_dict() for run in self.runs],
            "differences": [
                {
                    **vars(one),
                    "degrees": one.degrees if math.isfinite(one.degrees) else None,
                    "significant": one.significant,
                    "verdict": one.verdict(len(self.differences)),
                }
                for one in self.differences
            ],
            "warnings": list(self.warnings),
        }


def compare_runs(
    runs: Sequence[RunFolder], *, allow_different_splits: bool = False
) -> RunComparison:
    """Compare the chosen detectors of two or more tested runs.

    Raises `RequestError` for fewer than two runs, for one named twice, for one without a
    leaderboard or without its scores, and, unless `allow_different_splits`, when not all were
    tested on the same images; if allowed, only runs with the same images are tested for a
    difference, and warnings say which are not. Warnings also say where the searches were not given
    the same: other numbers of trials, other images to learn from or to choose by.
    """
    if len(runs) < 2:
        raise RequestError(f"a comparison needs at least two runs, got {len(runs)}")
    twice = [run.name for i, run in enumerate(runs) if run.path in {r.path for r in runs[:i]}]
    if twice:
        raise RequestError(f"the run {twice[0]!r} is named twice; name each once")
    boards = [read_leaderboard(run) for run in runs]
    problems = [run.record().problem for run in runs]
    tested_on = [
        (problem, board.test_normals, board.test_anomalies)
        for problem, board in zip(problems, boards, strict=True)
    ]
    groups: list[int] = []
    for i, images in enumerate(tested_on):
        same = [groups[j] for j in range(i) if _same_test_images(tested_on[j], images)]
        groups.append(same[0] if same else max(groups, default=-1) + 1)
    compared = tuple(
        ComparedRun(
            name=name,
            run=run,
            problem=problem.request.describe(problem.counts),
            board=board,
            group=group,
        )
        for name, run, board, problem, group in zip(
            _names(runs), runs, boards, problems, groups, strict=True
        )
    )
    warnings = []
    if max(groups) > 0:
        listed = "; ".join(
            f"{' and '.join(one.name for one in compared if one.group == group)}: "
            f"{next(one.problem for one in compared if one.group == group)}"
            for group in range(max(groups) + 1)
        )
        told = f"these runs were tested on different images, or in other groups ({listed})"
        if not allow_different_splits:
            raise RequestError(
                f"{told}: their figures cannot be compared; --allow-different-splits lists them "
                "all the same, without tests between them"
            )
        warnings.append(
            f"{told}: figures differ for that reason too; no test was made between them"
        )
    warnings += _unequal_searches(compared, problems)
    scores = {
        one.name: kept_test_scores(one.board, one.row, one.board.primary_score) for one in compared
    }
    pairs = [(a, b) for a, b in itertools.combinations(compared, 2) if a.group == b.group]
    tested = [
        paired_difference(
            scores[a.name], scores[b.name], a.board.groups.pair if a.board.groups else None
        )
        for a, b in pairs
    ]
    corrected = holm([test.p for test in tested])
    single = [one.name for one in compared if len(one.row.seeds) == 1]
    if single:
        warnings.append(
            f"one seed says nothing about the spread over seeds: {', '.join(single)} may do better "
            "or worse when trained again"
        )
    return RunComparison(
        runs=compared,
        differences=tuple(
            Difference(
                first=a.name,
                second=b.name,
                difference=test.difference,
                standard_error=test.standard_error,
                degrees=test.degrees,
                p=test.p,
                p_holm=p_holm,
            )
            for (a, b), test, p_holm in zip(pairs, tested, corrected, strict=True)
        ),
        warnings=tuple(warnings),
    )


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """Names that tell the runs apart: of the folder, and of the one above where they repeat."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.path.parent.name}/{run.name}" for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


_Tested = tuple[ProblemRecord, int, int]  # a saved problem, and what of it could be read


def _same_test_images(mine: _Tested, theirs: _Tested) -> bool:
    """Whether two runs were tested on the same images, all of them, in the same groups: these
    decide how far a difference can be told."""
    (one, *counts), (other, *other_counts) = mine, theirs
    if counts != other_counts:
        return False  # a picture was damaged in between, or mended
    for split in ("test_normals", "test_anomalies"):
        if one.splits.get(split) != other.splits.get(split):
            return False
        for name in (selection.source for selection in one.splits.get(split, ())):
            # A record of files is of the pictures in use, which validation changes; the others
            # vouch for the whole set.
            in_files = name.startswith(("folder:", "csv:", "mvtec:", "visa:"))
            if in_files and _uses(one, name) != _uses(other, name):
                continue
            if _content(one, name) != _content(other, name):
                return False
    return True


def _content(problem: ProblemRecord, source: str) -> object:
    """What vouches for the images of a source."""
    return problem.sources.get(source, {}).get("content")


def _uses(problem: ProblemRecord, source: str) -> set[tuple[str, Part, Id]]:
    """The images of a source that a problem uses in any way."""
    return {
        identity
        for split in problem.splits.values()
        for selection in split
        if selection.source == source
        for identity in selection.identities()
    }


def _unequal_searches(
    compared: Sequence[ComparedRun], problems: Sequence[ProblemRecord]
) -> list[str]:
    """In what the searches of runs with the same test images were not given the same."""
    found = []
    for group in sorted({one.group for one in compared}):
        members = [(o, p) for o, p in zip(compared, problems, strict=True) if o.group == group]
        trials = {one.name: one.board.effort.trials for one, _ in members if one.board.effort}
        if len(set(trials.values())) > 1:
            listed = ", ".join(f"{name}: {count}" for name, count in trials.items())
            found.append(f"the searches had different numbers of trials ({listed})")
        for splits, what in (
            (("train_normals", "train_anomalies", "hidden_anomalies"), "trained on"),
            (("validation_normals", "validation_anomalies"), "chose their settings by"),
        ):
            used = [[problem.splits.get(name) for name in splits] for _, problem in members]
            if any(images != used[0] for images in used):
                names = ", ".join(one.name for one, _ in members)
                found.append(f"not all of {names} {what} the same images")
    return found
