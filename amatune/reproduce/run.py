"""Carry a plan out: search, retrain and test what is not there yet, one run after the other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from amatune.errors import AmatuneError, ClusterLostError, DiskFullError
from amatune.files import read_json, read_text, write_json
from amatune.reproduce.plan import Job, Plan
from amatune.runs.request import LOCAL
from amatune.tuning.events import Listener
from amatune.tuning.retrain import run_best
from amatune.tuning.search import run_search

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
    plan.folder.mkdir(parents=True, exist_ok=True)
    failed = failures(plan)
    for number, job in enumerate(plan.jobs, 1):
        about = job, number, len(plan.jobs)
        if job.tested:
            tell(JobUpdate(*about, "there"))
            continue
        tell(JobUpdate(*about, "begins"))
        failed.pop(job.name, None)
        try:
            _do(job, listener_of)
        except (DiskFullError, ClusterLostError):
            raise
        except AmatuneError as error:
            failed[job.name] = str(error)
            tell(JobUpdate(*about, "failed", str(error)))
        else:
            tell(JobUpdate(*about, "tested"))
        write_json(plan.folder / FAILED, failed)


def failures(plan: Plan) -> dict[str, str]:
    """Run -> why it could not be done when it was last tried; not of those that were since."""
    file = plan.folder / FAILED
    if not file.exists():
        return {}
    known = read_json(read_text(file, "what failed", _MOST_BYTES), f"what failed in {file}")
    if not isinstance(known, dict):
        return {}
    there = plan.taken.union(job.name for job in plan.jobs if job.tested)
    return {str(name): str(why) for name, why in known.items() if name not in there}


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
