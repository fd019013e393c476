"""What a search is asked to do."""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from amatune import fields
from amatune.data.request import ProblemRequest
from amatune.errors import RequestError

Sampler = Literal["tpe", "random", "gp", "qmc"]
Scheduler = Literal["asha", "hyperband", "median", "none"]
Objective = Literal["pooled", "mean", "worst"]  # see `results.objective`
StudyStorage = Literal["sqlite", "journal"]  # see `tuning.study`

LOCAL = "local"  # in the place of an address: this machine alone
HERE = "auto"  # an address: the cluster that this machine is part of
MOST = 10**9  # trials, epochs, steps
SLICES = 25  # of a trial that is given its steps
SCHEMES = ("file", "s3", "gs", "hdfs")  # of a storage path

# Where and for how long, not what: these may change when a run is continued.
CHANGEABLE = frozenset(
    {
        *("time_budget", "gpus_per_trial", "cpus_per_trial", "concurrent", "address"),
        *("name", "runs_dir", "data_dir"),
    }
)


def budget(
    usual_steps: int | None, epochs: int | None, steps: int | None
) -> tuple[int, int | None]:
    """The `epochs` and `steps` of a request where not both are given.

    Neither: the `usual_steps` of the method, in slices that are called epochs, each of which can be
    looked at and stopped after. `steps` alone: these, likewise. `epochs` alone: passes over the
    images, however many steps these are. A method without `usual_steps` has one pass, whatever is
    given: another would teach it nothing.
    """
    if usual_steps is None:
        return 1, None
    if epochs is not None:
        return epochs, steps
    if steps is None:
        steps = usual_steps
    return max(1, min(SLICES, steps)), steps


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """Everything that decides a search, and where it runs.

    Impossible values raise one `RequestError` that lists them all. Of the settings held fixed
    tuples become lists, as `run.json` gives them back.
    """

    problem: ProblemRequest = field(default_factory=ProblemRequest)
    method: str = "ama"
    trials: int = 50  # in total, earlier sessions of the run included
    epochs: int = 25  # full budget of a trial, and where it can be looked at
    steps: int | None = (
        None  # ... in all of them together; None: an epoch is a pass over the images
    )
    time_budget: float | None = None  # seconds of this session; what still runs can be continued
    gpus_per_trial: float | None = None  # None: the method's share where there are GPUs, else 0
    cpus_per_trial: float = 1.0
    concurrent: int | None = None  # trials at a time; None: as many as fit
    seed: int = 0
    sampler: Sampler = "tpe"  # how settings are proposed
    scheduler: Scheduler = "asha"  # how poor trials are stopped
    objective: Objective = "pooled"  # how several anomaly sets become one validation AUROC
    fixed: Mapping[str, Any] = field(default_factory=dict)  # configuration fields held fixed
    space: Mapping[str, Any] | None = None  # as `spaces.read_space` gives it; None: the method's
    stop_at: float | None = None  # validation AUROC of a full-budget trial that is enough
    address: str | None = None  # of a running Ray cluster; None: start one on this machine
    storage_path: str | None = None  # for checkpoints; on several machines: shared, or s3://...
    study_storage: StudyStorage = "sqlite"  # journal: for a run's folder on NFS
    name: str | None = None  # of the run; None: made from the time and the data set
    runs_dir: str = "runs"
    data_dir: str | None = None  # of the named sets; None: AMATUNE_DATA, or ~/.cache/amatune

    def __post_init__(self) -> None:
        found = self._problems()
        if found:
            raise RequestError("; ".join(found))
        plain = {n: list(v) if isinstance(v, tuple) else v for n, v in self.fixed.items()}
        object.__setattr__(self, "fixed", plain)

    @property
    def brings_a_program(self) -> bool:
        """Whether the search space is a Python program, to be run only if its author is trusted."""
        return self.space is not None and "python" in self.space

    def _problems(self) -> list[str]:
        mine = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        listed = (
            "sampler",
            "scheduler",
            "objective",
            "study_storage",
        )  # with messages of their own
        found = fields.wrong_types(type(self), {n: v for n, v in mine.items() if n not in listed})
        if found:
            return found
        for name in ("trials", "epochs", "steps", "concurrent"):
            value = getattr(self, name)
            if value is not None and value < 1:
                found.append(f"{name} must be at least 1, got {value}")
            elif value is not None and value > MOST:
                found.append(f"{name} must be at most {MOST:,}, got {value}")
        if not found and self.steps is not None and self.steps < self.epochs:
            found.append(
                f"{self.steps} steps cannot be cut into {self.epochs} epochs; give at most as many "
                "epochs as steps"
            )
        if self.time_budget is not None and not 0 < self.time_budget < math.inf:
            found.append(f"the time budget must be a positive time, got {self.time_budget} s")
        if not 0 < self.cpus_per_trial < math.inf:
            found.append(f"CPUs per trial must be more than 0, got {self.cpus_per_trial}")
        share = self.gpus_per_trial
        if share is not None and not (0 <= share <= 1 or share == int(share)):
            found.append(
                f"GPUs per trial must be 0, a share of one such as 0.25, or a whole number, got "
                f"{share}"
            )
        if not 0 <= self.seed < 2**63:
            found.append(f"the seed must be in [0, 2^63), got {self.seed}")
        for name, allowed in (
            ("sampler", Sampler),
            ("scheduler", Scheduler),
            ("objective", Objective),
            ("study_storage", StudyStorage),
        ):
            value, names = getattr(self, name), get_args(allowed)
            if value not in names:
                noun = name.replace("_", " ")
                found.append(f"unknown {noun} {value!r}; known: {', '.join(names)}")
        if self.stop_at is not None and not 0.5 < self.stop_at <= 1:
            found.append(f"the AUROC to stop at must be in (0.5, 1], got {self.stop_at}")
        if self.space is not None and not _is_space(self.space):
            found.append('a space is {"python": source} or {"json": settings by name}')
        if "epochs" in self.fixed:
            found.append(
                "epochs cannot be held fixed: the number of epochs is a request of its own"
            )
        if self.steps is not None and "steps_per_epoch" in self.fixed:
            found.append(
                "steps and a fixed steps_per_epoch say the same thing; give one of them, got "
                f"{self.steps} and {self.fixed['steps_per_epoch']}"
            )
        if self.storage_path is not None and (wrong := _wrong_place(self.storage_path)):
            found.append(wrong)
        if self.address is not None and (wrong := _wrong_address(self.address)):
            found.append(wrong)
        return found

    def to_dict(self) -> dict[str, Any]:
        """The request as JSON values, for `run.json`."""
        shallow = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**shallow, "problem": self.problem.to_dict(), "fixed": dict(self.fixed)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The request that `to_dict` wrote; what is not there has its default.

        Raises `RequestError` for names that are not known and values that are not possible.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise RequestError(f"unknown: {', '.join(unknown)}")
        problem = values.get("problem", {})
        if not isinstance(problem, Mapping):
            raise RequestError(f"problem must be an object, got {problem!r}")
        return cls(**{**values, "problem": ProblemRequest.from_dict(problem)})

    def differences(self, other: "SearchRequest") -> list[str]:
        """What decides the search and is not the same in `other`, one phrase each.

        `other` may ask for more trials; CHANGEABLE fields may differ.
        """
        mine, theirs = self.to_dict(), other.to_dict()
        found = []
        if other.trials < self.trials:
            found.append(f"trials was {self.trials}, now fewer: {other.trials}")
        for name in mine.keys() - CHANGEABLE - {"trials", "problem"}:
            if mine[name] != theirs[name]:
                found.append(f"{name} was {mine[name]!r}, now {theirs[name]!r}")
        for name in mine["problem"].keys() | theirs["problem"].keys():
            before, now = mine["problem"].get(name), theirs["problem"].get(name)
            if before != now:
                found.append(f"{name} was {before!r}, now {now!r}")
        return sorted(set(found))  # the seed is in both


def is_uri(place: str) -> bool:
    """Whether a storage path starts with a scheme, such as that of s3://bucket."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", place) is not None


def _wrong_place(place: str) -> str | None:
    scheme, separator, rest = place.partition("://")
    if is_uri(place):
        right = separator and scheme in SCHEMES and rest.strip("/")
    else:
        right = Path(place).is_absolute() and place.strip("/")
    if right and "\0" not in place:
        return None
    listed = ", ".join(f"{one}://" for one in SCHEMES)
    return (
        f"the storage path must be the whole path of a folder, or one of {listed} and what follows "
        f"there, got {place!r}"
    )


def joining(address: str | None) -> list[str]:
    """The words of a command that join the cluster at the address of a run's record; none for this
    machine's own."""
    return [] if address in (None, HERE) else ["--address", str(address)]


def require_confirmed(record: str, address: str | None) -> None:
    """Raise `RequestError` for an address that nobody but a record names, unless it is this
    machine's own: whoever runs the cluster there could run code here."""
    if joining(address):
        raise RequestError(
            f"{record} names the Ray cluster at {address}, and the machines of a cluster can run "
            f"code here; if it is yours, say so with --address {address}, else name another, or "
            "--address local (in Python: address=...)"
        )


def _wrong_address(address: str) -> str | None:
    if address.startswith("ray://"):
        return (
            f"a search cannot run through a Ray client address ({address}); run it on a machine of "
            "the cluster with the address 'auto'"
        )
    host, _, port = address.rpartition(":")
    if address == HERE or (host and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 2**16):
        return None
    return (
        "the address of a Ray cluster is HOST:PORT, or 'auto' on one of its machines; got "
        f"{address!r}"
    )


def _is_space(space: Mapping[str, Any]) -> bool:
    (kind, contents), *others = space.items() or [("", None)]
    kinds = {"python": str, "json": Mapping}
    return not others and kind in kinds and isinstance(contents, kinds[kind])
