"""Carries out work on a Ray cluster: the few classes Ray Tune wants, each a thin adapter.

For every result Tune's controller calls, in this order: the scheduler (not for a last result), the
searcher (only when the trial goes on), the callbacks; then, when the trial ends, the scheduler and
the searcher once more. For a trial that broke: the scheduler, the searcher, the callbacks.
"""

# ruff: noqa: ARG002 (Tune fixes the signatures of what it calls)

import contextlib
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import ray.exceptions
from ray import cloudpickle, tune
from ray.tune.experiment import Trial
from ray.tune.result import SHOULD_CHECKPOINT
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from amatune.cluster import connection
from amatune.cluster.job import Failure, Images, Progress, Trained, Work
from amatune.errors import AmatuneError, DiskFullError, OutOfMemoryError, is_out_of_space

SAVING_SECONDS = 10.0  # how long running trials may take to save when a session is stopped

_INTERRUPTED, _OVER = b"i", b"o"

Ending = Literal["finished", "good enough", "out of time", "interrupted", "disk full"]


class Halt(tune.Stopper):
    """Stops the whole session, on request or when its time is over.

    Running trials first get the chance to finish an epoch and save, for SAVING_SECONDS; that they
    do is told by `saving`, once and at once: from a thread of its own, since this one may be busy
    with proposing a trial.
    """

    def __init__(
        self, seconds: float | None = None, saving: Callable[[], None] | None = None
    ) -> None:
        self.ending: Ending = "finished"
        self._saving = saving
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._limit = 0.0
        self.unsaved: set[str] = set()  # running trials, by Tune's identifier

    def __getstate__(self) -> dict[str, Any]:
        """For Tune's snapshot, of which nothing is read: a listener cannot be pickled."""
        return {**vars(self), "_saving": None}

    @property
    def requested(self) -> bool:
        """Whether the session is coming to its end."""
        return self.ending != "finished"

    def request(self, ending: Ending) -> None:
        """Bring the session to its end."""
        if not self.requested:
            self.ending = ending
            self._limit = time.monotonic() + SAVING_SECONDS

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped by itself."""
        return False

    def stop_all(self) -> bool:
        """Asked by Tune all the time."""
        connection.require_alive()
        now = time.monotonic()
        if self._deadline is not None and now >= self._deadline:
            self.request("out of time")
        return self.requested and (not self.unsaved or now >= self._limit)

    @contextlib.contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """One Ctrl-C or SIGTERM ends the session in good order; a second Ctrl-C is a
        KeyboardInterrupt, a second SIGTERM ends the process."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set a handler, and gets the signal
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        # A signal arrives in the middle of anything, a line or a lock: all that is done there is to
        # write a byte.
        reader, writer = os.pipe()
        teller = threading.Thread(target=self._tell, args=(reader,), daemon=True)
        teller.start()

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def interrupted(_number: int, _frame: FrameType | None) -> None:
            self.request("interrupted")
            restore()
            os.write(writer, _INTERRUPTED)

        for number in before:
            signal.signal(number, interrupted)
        try:
            yield
        finally:
            restore()
            os.write(writer, _OVER)
            teller.join()
            os.close(reader)
            os.close(writer)

    def _tell(self, reader: int) -> None:
        if os.read(reader, 1) == _INTERRUPTED and self._saving is not None:
            self._saving()


class _Proposals(Searcher):
    """Asks the work for jobs and tells it how they ended."""

    def __init__(self, work: Work, halt: Halt, concurrent: int) -> None:
        super().__init__()
        self._work = work
        self._halt = halt
        self._concurrent = concurrent
        self._running: set[str] = set()
        self.failures: dict[str, Failure] = {}  # noted by the scheduler just before
        self._broken: Exception | None = None  # what kept a trial's end from being recorded

    def suggest(self, trial_id: str) -> Any:
        if self._halt.requested:
            return Searcher.FINISHED
        if len(self._running) >= self._concurrent:
            return None
        job = self._work.start(trial_id)
        if job is None:
            # Only once nothing runs: a finished searcher makes Tune drop idle actors.
            return None if self._running else Searcher.FINISHED
        self._running.add(trial_id)
        return {"job": job.to_dict()}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if self._broken is not None:
            raise self._broken  # Tune took it for the trial's failure, which is over
        if error:
            # Else the trial is not to blame, and goes on another day.
            connection.require_alive(at_once=True)
        self._running.discard(trial_id)
        if error or not result:
            without = Failure("it ended without a result")
            failure = self.failures.pop(trial_id, without)
            if failure.kind == "disk":
                self._halt.request("disk full")
            self._work.fail(trial_id, failure)
        else:
            try:
                self._work.finish(trial_id, _progress(result))
            except Exception as error_of_ours:
                self._broken = error_of_ours
                raise

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        return True  # `suggest` keeps to it

    def save(self, checkpoint_path: str) -> None:
        pass  # Tune's snapshot; the work keeps its own state

    def restore(self, checkpoint_path: str) -> None:
        pass


class _Decisions(FIFOScheduler):
    """Lets the work decide after every epoch whether a trial goes on."""

    def __init__(self, work: Work, proposals: _Proposals) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._work = work
        self._proposals = proposals

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        stop = self._work.report(trial.trial_id, _progress(result))
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._proposals.failures[trial.trial_id] = _failure(trial)


class _Watch(tune.Callback):
    """Passes on what the other two do not see."""

    def __init__(self, work: Work, halt: Halt) -> None:
        self._work = work
        self._halt = halt

    def on_trial_start(self, iteration: int, trials: Any, trial: Trial, **info: Any) -> None:
        self._halt.unsaved.add(trial.trial_id)
        self._work.started(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        # Taken out of the result, which Tune writes into its snapshots.
        trained = result.pop("trained", None)
        if trained is not None:
            self._work.keep(trial.trial_id, Trained(**trained))
        elif self._halt.requested and trial.trial_id in self._halt.unsaved:
            result[SHOULD_CHECKPOINT] = True

    def on_checkpoint(
        self, iteration: int, trials: Any, trial: Trial, checkpoint: Any, **info: Any
    ) -> None:
        if self._halt.requested:
            self._halt.unsaved.discard(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Trial, **info: Any) -> None:
        self._halt.unsaved.discard(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: Any, trial: Trial, **info: Any) -> None:
        self._halt.unsaved.discard(trial.trial_id)


def execute(
    work: Work,
    *,
    trainable: type,
    images: Images,
    cpus_per_trial: float,
    gpus_per_trial: float,
    gpu_memory: float,
    most_cpus: float,
    concurrent: int,
    place: str,
    halt: Halt,
) -> Ending:
    """Carry out all of the work, `concurrent` jobs at a time; how it ended.

    A job that asks for a larger share of the machine gets it, up to one GPU and the `most_cpus` of
    any machine. All jobs on a card together use at most `gpu_memory`, in (0, 1], of its memory.
    Tune's files go to `place`, a folder or URI whose last part names the experiment.

    Raises `ClusterLost` when the cluster dies, unless the session is coming to its end anyway.
    """
    storage, _, name = place.rpartition("/")
    proposals = _Proposals(work, halt, concurrent)

    def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        share = config["job"]["share"]
        cpus = max(cpus_per_trial, min(share * cpus_per_trial, most_cpus))
        gpus = gpus_per_trial if gpus_per_trial > 1 else min(share * gpus_per_trial, 1.0)
        return tune.PlacementGroupFactory([{"CPU": cpus, "GPU": gpus}])

    with_images = tune.with_parameters(trainable, **images.to_dict(), gpu_memory=gpu_memory)
    with halt.on_interrupt():
        try:
            tune.run(
                tune.with_resources(with_images, resources),
                name=name,
                storage_path=storage,
                num_samples=-1,  # the searcher says when it is over
                search_alg=proposals,
                max_concurrent_trials=concurrent,
                scheduler=_Decisions(work, proposals),
                stop=halt,
                callbacks=[_Watch(work, halt)],
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
                reuse_actors=True,  # 0.2 to 0.4 s instead of 2 to 3 s per trial
                raise_on_failed_trial=False,
                trial_name_creator=_folder,
                trial_dirname_creator=_folder,
                verbose=0,
            )
        except connection.ClusterLost:
            # A signal for everybody, or a service manager, ended search and cluster together.
            if not halt.requested:
                raise
    return halt.ending


def _folder(trial: Trial) -> str:
    return str(trial.config["job"]["folder"])


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that no space is left on a disk."""
    while error is not None:
        if is_out_of_space(error):
            return True
        if isinstance(error, DiskFullError) or "database or disk is full" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _progress(result: dict[str, Any]) -> Progress:
    return Progress(
        epoch=result["epoch"],
        auroc=result["auroc"],
        early=result.get("early"),
        gpu_bytes=result.get("gpu_bytes"),
    )


def _failure(trial: Trial) -> Failure:
    """Why a trial broke, in one line, and whether it may go on."""
    path = trial.pickled_error_file
    if path is None or not Path(path).is_file():
        return Failure("its worker could not be started", "lost")
    pickled = _own_bytes(Path(path))
    if pickled is None:
        return Failure(f"it broke; its error in {path} was not read, as other users can write it")
    error = cloudpickle.loads(pickled)
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    if is_disk_full(cause):
        return Failure(str(cause), "disk")
    if isinstance(cause, OutOfMemoryError):
        return Failure(str(cause), "memory")
    if isinstance(cause, AmatuneError):
        return Failure(str(cause))
    if isinstance(cause, ray.exceptions.OutOfMemoryError):
        return Failure("its machine ran out of memory and Ray ended its worker", "memory")
    if isinstance(cause, ray.exceptions.RayActorError) and cause.actor_init_failed:
        return Failure(f"its worker could not be set up: {_last_line(cause)}")
    if isinstance(cause, ray.exceptions.RayActorError | ray.exceptions.NodeDiedError):
        return Failure("its worker process died; it may have run out of memory", "lost")
    return Failure(f"{type(cause).__name__}: {_last_line(cause)}")


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[-1]


def _own_bytes(path: Path) -> bytes | None:
    """The contents of a file of this user's that not everybody can write; None for another one.

    Reading a pickle runs it, and on a cluster that others have started its folder may be open to
    all users of the machine.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(handle, "rb") as file:
        facts = os.fstat(handle)
        mine = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid()
        return file.read() if mine and not facts.st_mode & stat.S_IWOTH else None
