"""Carry a plan out: search, retrain and test what is not there yet, one run after the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from amatune.errors import AmatuneError, ClusterLostError, DiskFullError, RequestError
from amatune.files import read_json, read_text, write_json
from amatune.reproduce.plan import Job, Plan
from amatune.runs.folder import writing
from amatune.runs.request import LOCAL
from amatune.tuning.events import Listener
from amatune.tuning.retrain import run_best
from amatune.tuning.search import run_search
from amatune.wording import visible

FAILED = "failed.json"  # in the table's folder: what could not be done when it was last tried
_MOST_BYTES = 2**20  # of it


@dataclass(frozen=True)
class JobUpdate:
    """A job begins, has been tested, or cannot be done."""

    job: Job
    number: int  # from 1, of `total`
    total: int
    state: Literal["begins", "there", "tested", "failed"]
    reason: str = ""  # why it failed


def carry_out(
    plan: Plan,
    tell: Callable[[JobUpdate], None],
    listener_of: Callable[[Job], Listener | None] = lambda _: None,
) -> None:
    """Do what is left of a plan. Called again it goes on where it stopped.

    `listener_of` makes a listener for each search and for each retraining.

    A job that fails is written down and the next one begins: it is tried again by the next call.
    Raises `DiskFullError` and `ClusterLostError`, which would end all others the same way, and
    `KeyboardInterrupt` after Ctrl-C, with everything finished so far kept.
    """
    with writing(plan.folder):
        plan.folder.mkdir(parents=True, exist_ok=True)
    for number, job in enumerate(plan.jobs, 1):
        about = job, number, len(plan.jobs)
        if job.tested:
            tell(JobUpdate(*about, "there"))
            continue
        tell(JobUpdate(*about, "begins"))
        reason = None
        try:
            _do(job, listener_of)
        except (DiskFullError, ClusterLostError):
            raise
        except AmatuneError as error:
            reason = str(error)
            tell(JobUpdate(*about, "failed", reason))
        else:
            tell(JobUpdate(*about, "tested"))
        # Read anew: another process may do other columns of the same table.
        failed = {name: why for name, why in _written(plan).items() if name != job.name}
        if reason is not None:
            failed[job.name] = reason
        with writing(plan.folder):
            write_json(plan.folder / FAILED, failed)


def failures(plan: Plan) -> dict[str, str]:
    """Run -> why it could not be done when it was last tried, of those that the plan has; not of
    those that were done since."""
    jobs = {job.name: job for job in plan.jobs}
    return {
        name: why for name, why in _written(plan).items() if name in jobs and not jobs[name].tested
    }


def _written(plan: Plan) -> Mapping[str, str]:
    """Of all runs of the table; nothing where that cannot be read, since they are tried again."""
    file = plan.folder / FAILED
    try:
        known = read_json(read_text(file, "what failed", _MOST_BYTES), "it")
    except RequestError:
        return {}
    if not isinstance(known, dict):
        return {}
    return {str(name): visible(str(why)) for name, why in known.items()}


def _do(job: Job, listener_of: Callable[[Job], Listener | None]) -> None:
    there = job.run.run_json.exists()
    request = job.request
    # What methods are known for was found on images of which these tables are made.
    if run_search(request, listener_of(job), resume=there, known=False).interrupted:
        raise KeyboardInterrupt
    run_best(
        job.run,
        top=job.top,
        seeds=job.seeds,
        address=request.address or LOCAL,
        concurrent=request.concurrent,
        listener=listener_of(job),
    )
