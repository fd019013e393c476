"""The folder of one run: where everything that belongs to a search lies.

runs/<name>/  run.json      what was asked, versions, command line, seed, split ids
              study.db      the Optuna study; or study.journal, for a folder on NFS
              trials/       Ray Tune's results and checkpoints
              tensorboard/  one folder of event files per trial
              broken.txt    damaged pictures that were passed over, where there are any
              near-copies.csv  images that are in two lists, or nearly, where there are any
              log.txt       what Ray and Optuna log
              best/         retrained models, leaderboard.json, export/
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from filelock import FileLock, Timeout

from amatune.errors import DiskFullError, RequestError, did_you_mean, is_out_of_space
from amatune.files import opened, read_bytes, read_text, write_json

if TYPE_CHECKING:
    from amatune.runs.record import RunRecord

_MOST_BYTES = 2**30  # of run.json, which lists every image
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class RunFolder:
    """The paths inside a run's folder, and its `run.json`. Making one touches no disk."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).resolve()
        self.name = self.path.name
        self.run_json = self.path / "run.json"
        self.database = self.path / "study.db"
        self.journal = self.path / "study.journal"
        self.trials = self.path / "trials"
        self.tensorboard = self.path / "tensorboard"
        self.broken = self.path / "broken.txt"
        self.near_copies = self.path / "near-copies.csv"
        self.log = self.path / "log.txt"
        self.baselines = self.path / "baselines.json"
        self.best = self.path / "best"
        self.leaderboard = self.best / "leaderboard.json"  # there once the run has been tested

    @property
    def study_path(self) -> Path:
        """The file of the study: the one that is there, SQLite's where none is."""
        journal = self.journal.exists() and not self.database.exists()
        return self.journal if journal else self.database

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def create(cls, runs_dir: str | os.PathLike[str], name: str | None, dataset: str) -> Self:
        """Make a new folder in `runs_dir` and return it.

        Without a name one is made of the time and the data set, and a number when two runs start
        in the same second. Raises `RequestError` for a name that is taken or cannot be a folder.
        """
        base = Path(runs_dir)
        with writing(base):
            return cls._created(base, name, dataset)

    @classmethod
    def _created(cls, base: Path, name: str | None, dataset: str) -> Self:
        base.mkdir(parents=True, exist_ok=True)
        if name is not None:
            _require_possible(name)
            try:
                (base / name).mkdir()
            except FileExistsError:
                raise _taken(base, name) from None
            return cls(base / name)
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", dataset.partition(":")[2] or dataset)
        plain = Path(plain).name.strip("-.") or "images"
        stem = f"{datetime.now():%Y-%m-%d-%H%M%S}-{plain[-40:].strip('-.')}"
        for tail in ("", *(f"-{n}" for n in range(2, 1000))):
            try:
                (base / (stem + tail)).mkdir()
            except FileExistsError:
                continue
            return cls(base / (stem + tail))
        raise RequestError(f"no free name for a run in {base}; choose one with --name")

    @staticmethod
    def require_free(runs_dir: str | os.PathLike[str], name: str | None) -> None:
        """Raise what `create` would for a name that is taken or cannot be a folder."""
        if name is not None:
            _require_possible(name)
            with writing(Path(runs_dir)):  # the system refuses a name that is too long
                taken = (Path(runs_dir) / name).exists()
            if taken:
                raise _taken(Path(runs_dir), name)

    @classmethod
    def open(cls, run: "AnyRun", runs_dir: str | os.PathLike[str]) -> Self:
        """The run of that name in `runs_dir`, or at that path; the newest one for None; a run
        itself as it is.

        Raises `RequestError` that lists what exists when there is no such run.
        """
        if isinstance(run, RunFolder):
            return cls(run.path)
        if not isinstance(run, str | os.PathLike | None):
            raise RequestError(f"a run is named by its name or its folder, got {run!r:.80}")
        text = None if run is None else os.fspath(run)
        existing = all_runs(runs_dir)
        if text is None:
            if not existing:
                raise RequestError(f"there are no runs in {runs_dir}; `amatune search` makes one")
            return cls(existing[-1].path)
        for path in (Path(runs_dir) / text, Path(text)):
            if _is_run(path):
                return cls(path)
        if not existing:
            raise RequestError(f"no run {text!r}: there are no runs in {runs_dir}")
        hint = did_you_mean(text, [run.name for run in existing])
        raise RequestError(f"no run {text!r} in {runs_dir}; {hint}")

    def record(self) -> "RunRecord":
        """What `run.json` holds. Raises `RequestError` when it is not there or not as it should
        be."""
        from amatune.runs.record import RunRecord  # brings torch, which a folder has no use for

        return RunRecord.parse(self._text(), self.run_json)

    def write(self, record: "RunRecord") -> None:
        """Replace `run.json`; a reader sees the old or the new contents, never a part."""
        with writing(self.run_json):
            write_json(self.run_json, record.to_dict())

    def _text(self) -> str:
        if not self.run_json.exists():
            raise RequestError(f"{self.path} is not a run: it holds no run.json")
        try:
            return read_text(self.run_json, "the run", _MOST_BYTES)
        except RequestError as error:
            raise RequestError(
                f"{self.run_json} cannot be read as a run: {error}; put back the file as the "
                "search wrote it, or search anew"
            ) from None

    def event_files(self, storage_path: str | None) -> Path:
        """The folder of TensorBoard's files: on a shared disk, where there is one, else in the run.

        Workers write them, which on a cluster run on other machines. Object stores take no files
        that grow.
        """
        scheme, separator, rest = (storage_path or "").rpartition("://")
        if not storage_path or (separator and scheme != "file"):
            return self.tensorboard
        return Path(rest).resolve() / self.name / "tensorboard"

    @property
    def in_use(self) -> bool:
        """Whether a process works on this run now; False where that cannot be told."""
        lock = self.path / ".lock"
        if not lock.exists():
            return False
        try:
            with FileLock(lock).acquire(blocking=False):
                return False
        except Timeout:
            return True
        except OSError:  # of a run that may be read alone, such as somebody else's
            return _is_locked(lock)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only process that works on this run; the lock goes with the process.

        Raises `RequestError` when another one does.
        """
        lock = FileLock(self.path / ".lock")
        try:
            with writing(self.path):
                lock.acquire(blocking=False)
        except Timeout:
            raise RequestError(
                f"another process is working on the run {self.name!r}; wait for it, or stop it"
            ) from None
        try:
            yield
        finally:
            lock.release()


AnyRun = RunFolder | str | os.PathLike[str] | None  # a name, a folder; None: the newest


def _require_possible(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"a run cannot be called {name!r}: a name is made of letters, digits, '.', '_' and "
            "'-', and starts with a letter or a digit"
        )


def _taken(base: Path, name: str) -> RequestError:
    if not (base / name / "run.json").exists():
        return RequestError(
            f"{base / name} exists already and is not a run; remove it, or choose another --name"
        )
    return RequestError(
        f"the run {name!r} exists already in {base}; continue it with --resume, or choose another "
        "--name"
    )


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Raises `DiskFullError` or `RequestError` for what the system says against writing there."""
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if is_out_of_space(error):
            raise DiskFullError(f"cannot write to {place}: {reason}; free some space") from error
        raise RequestError(
            f"cannot write to {error.filename or place}: {reason}; name another folder or run"
        ) from error


def _is_locked(lock: Path) -> bool:
    """Whether a process holds a lock that cannot be opened for writing."""
    try:
        import fcntl  # not on Windows

        with opened(lock) as file:  # closing it gives a lock back that it got
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False


def _is_run(path: Path) -> bool:
    try:
        return (path / "run.json").is_file()
    except OSError:  # a name that is too long, a folder that may not be read
        return False


def all_runs(runs_dir: str | os.PathLike[str]) -> list[RunFolder]:
    """The runs in a folder, oldest first (by when they were started)."""
    found = [RunFolder(path.parent) for path in Path(runs_dir).glob("*/run.json")]
    return sorted(found, key=lambda run: (_started(run), run.name))


def _started(run: RunFolder) -> str:
    # Without a check: a broken run is listed too, and says what is wrong with it when it is opened.
    try:
        return str(json.loads(read_bytes(run.run_json))["started"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""
