"""`run.json`: what a run was asked, by whom it was started, and the images it was given.

    schema      of this file
    request     of the newest session, with everything that decides the search
    method, seed  of the request, for whoever reads the file
    problem     the images by id: `data.problem.Problem`
    first       settings that are tried first; those of the default configuration begin
    known       how many of them, at the end, are there because the method is known for them
    started, command, versions, machine   of the first session
    gpu_share   measured once; null where that failed
    continued   the sessions after the first
    asked       "auto" where the methods were left to it, and became those of the request
    held        of several methods: all that is held fixed, by their names, budgets included

The file may have come from another person. It is checked when it is read, and what it holds is
never run: a search space written in Python is kept in it as text.
"""

import dataclasses
import importlib.metadata
import math
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from amatune import fields
from amatune.config import DetectorConfig, ImageShape
from amatune.data.places import DataDir
from amatune.data.problem import Problem
from amatune.data.request import ProblemRequest
from amatune.data.splits import Selection, Splits, group_numbers
from amatune.errors import AmatuneError, DataError, RequestError
from amatune.files import read_json
from amatune.metrics import Groups
from amatune.reading import build
from amatune.registry import Method
from amatune.runs.request import SearchRequest
from amatune.version import __version__

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """When, how and with what a session was started."""

    started: str  # ISO 8601, UTC
    command: str
    versions: Mapping[str, str]
    machine: str = ""

    @classmethod
    def now(cls) -> Self:
        """Those of this process."""
        others = ("torch", "ray", "optuna")
        return cls(
            started=datetime.now(UTC).isoformat(timespec="microseconds"),
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            versions={
                "amatune": __version__,
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in others},
            },
            machine=platform.node(),
        )


@dataclass(frozen=True)
class GpuShare:
    """The share of a GPU that a trial gets, and how it was found."""

    gpus: float
    images_per_second: Mapping[int, float]  # of a whole card, by the number of trials on it
    bytes_per_trial: int  # with what a process takes beside PyTorch's own memory
    mps: bool  # whether CUDA's multi-process service was running


@dataclass(frozen=True, kw_only=True)
class ProblemRecord:
    """A saved problem: its images by id. `RunRecord.open_problem` opens it."""

    request: ProblemRequest
    image_shape: tuple[int, ...]  # (C, H, W)
    counts: Mapping[str, int]  # images by split
    splits: Mapping[str, tuple[Selection, ...]]
    sources: Mapping[str, Mapping[str, Any]]  # by name: what vouches for a source's images
    warnings: tuple[str, ...] = ()

    def groups(self, which: Literal["validation", "test"]) -> Groups | None:
        """As `Problem.groups`."""
        sides = (self.splits.get(f"{which}_{kind}", ()) for kind in ("normals", "anomalies"))
        return group_numbers(*sides)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for `Problem.from_dict`."""
        return {
            "request": self.request.to_dict(),
            "image_shape": list(self.image_shape),
            "counts": dict(self.counts),
            "splits": {
                name: [selection.to_dict() for selection in split]
                for name, split in self.splits.items()
            },
            "sources": {name: dict(source) for name, source in self.sources.items()},
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From the JSON values of `Problem.to_dict`. Raises `RequestError` where they are not."""
        request = _object(values, "request")
        splits = {
            name: tuple(_selection(name, one) for one in _list(_object(values, "splits"), name))
            for name in _object(values, "splits")
        }
        for kind in ("counts", "splits"):
            if absent := fields.missing(Splits, _object(values, kind)):
                raise RequestError(f"{kind} must be of every split, there is no {absent[0]}")
        return build(
            cls,
            {
                **values,
                "request": ProblemRequest.from_dict(request),
                "image_shape": tuple(_list(values, "image_shape")),
                "splits": splits,
                "warnings": tuple(_list(values, "warnings")) if "warnings" in values else (),
            },
        )


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The contents of a run's `run.json`."""

    request: SearchRequest
    problem: ProblemRecord
    begun: Circumstances
    first: tuple[Mapping[str, Any], ...] = ()  # settings tried first; the default's begin
    known: int | None = None  # of `first`; None: of a version that did not write it
    share_is_known: bool = False  # whether the share of a GPU was measured, or could not be
    gpu_share: GpuShare | None = None
    continued: tuple[Circumstances, ...] = ()
    asked: str = ""
    held: Mapping[str, Any] | None = None

    @property
    def identity(self) -> str:
        """What no other run has, not even one of the same name."""
        return f"{self.begun.started} on {self.begun.machine}"

    @property
    def fixed(self) -> Mapping[str, Any]:
        """The settings that are held fixed, by the names that the search gives them."""
        return self.request.fixed if self.held is None else self.held

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W) of the run's images."""
        channels, height, width = self.problem.image_shape
        return channels, height, width

    @property
    def searched(self) -> tuple[str, ...]:
        """The settings that the search space draws for the default configuration."""
        return tuple(self.first[0]) if self.first else ()

    def configuration(
        self,
        method: Method,
        settings: Mapping[str, Any],
        epochs: int | None = None,
    ) -> DetectorConfig:
        """What settings, searched and held fixed, make of a method's configuration, resolved.

        Of `epochs`, or the budget of the request for None. Raises `ConfigError` for settings that
        do not go together.
        """
        whole = {**settings, "epochs": epochs or self.request.epochs}
        if self.request.steps is not None:
            whole["steps_per_epoch"] = math.ceil(self.request.steps / self.request.epochs)
        return method.detector.Config.from_dict(whole).resolve(self.image_shape)

    def open_problem(self, data_dir: DataDir = None) -> Problem:
        """The very problem of the run, its images in `data_dir` or where the request says.

        Raises `DataError` when they have changed since.
        """
        return Problem.from_dict(self.problem.to_dict(), data_dir or self.request.data_dir)

    def continue_with(self, request: SearchRequest) -> Self:
        """The record with a new session of this process."""
        continued = (*self.continued, Circumstances.now())
        return dataclasses.replace(self, request=request, continued=continued)

    def with_gpu_share(self, share: GpuShare | None) -> Self:
        """The record with what a measurement found; None where it failed."""
        return dataclasses.replace(self, share_is_known=True, gpu_share=share)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        share = {"gpu_share": self.gpu_share and dataclasses.asdict(self.gpu_share)}
        return {
            "schema": SCHEMA,
            "request": self.request.to_dict(),
            "method": self.request.method,
            "seed": self.request.seed,
            "problem": self.problem.to_dict(),
            "first": [dict(settings) for settings in self.first],
            **({} if self.known is None else {"known": self.known}),
            **({"asked": self.asked} if self.asked else {}),
            **({} if self.held is None else {"held": dict(self.held)}),
            **dataclasses.asdict(self.begun),
            **(share if self.share_is_known else {}),
            "continued": [dataclasses.asdict(one) for one in self.continued],
        }

    @classmethod
    def parse(cls, text: str, place: Path) -> Self:
        """The record in a text, which is that of the file `place`.

        Raises `RequestError` that names the file, what is wrong with it and what to do.
        """
        try:
            return cls._from_dict(read_json(text, "it"))
        except AmatuneError as error:
            told = str(error)
        raise RequestError(
            f"{place} cannot be read as a run: {told}; put back the file as the search wrote it, "
            "or search anew"
        )

    @classmethod
    def _from_dict(cls, values: Any) -> Self:
        if not isinstance(values, dict):
            raise RequestError("it must hold a JSON object")
        if values.get("schema") != SCHEMA:
            found = f"schema {values['schema']!r}" if "schema" in values else "no schema"
            raise RequestError(f"it has {found}, and this version of amatune reads {SCHEMA}")
        try:
            request = SearchRequest.from_dict(_object(values, "request"))
        except AmatuneError as error:
            raise RequestError(f"in its request: {error}") from None
        try:
            problem = ProblemRecord.from_dict(_object(values, "problem"))
        except AmatuneError as error:
            raise RequestError(f"in its problem: {error}") from None
        share = values.get("gpu_share")
        return build(
            cls,
            {
                "request": request,
                "problem": problem,
                "begun": build(Circumstances, values),
                "first": tuple(_list(values, "first")),
                "known": values.get("known"),
                "asked": values.get("asked", ""),
                "held": None if values.get("held") is None else _object(values, "held"),
                "share_is_known": "gpu_share" in values,
                "gpu_share": None if share is None else _share(_object(values, "gpu_share")),
                "continued": tuple(build(Circumstances, one) for one in _list(values, "continued")),
            },
        )


def _object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = _have(values, name, Mapping, "an object")
    return found


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    found: list[Any] = _have(values, name, list, "a list")
    return found


def _have(values: Mapping[str, Any], name: str, kind: type, words: str) -> Any:
    if name not in values:
        raise RequestError(f"{name} is not there")
    if not isinstance(values[name], kind):
        raise RequestError(f"{name} must be {words}, got {values[name]!r:.80}")
    return values[name]


def _selection(split: str, values: Any) -> Selection:
    if not isinstance(values, Mapping):
        raise RequestError(f"{split} must be a list of objects, got {values!r:.80}")
    ids = tuple(_list(values, "ids"))
    try:
        return build(Selection, {**values, "ids": ids})
    except DataError as error:
        raise RequestError(f"in {split}: {error}") from None


def _share(values: Mapping[str, Any]) -> GpuShare:
    rates = _object(values, "images_per_second")
    if not all(name.isdecimal() for name in rates):
        raise RequestError(f"images_per_second must be by the number of trials, got {rates!r:.80}")
    # Numbers cannot be keys in JSON.
    return build(GpuShare, {**values, "images_per_second": {int(n): r for n, r in rates.items()}})
