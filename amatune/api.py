"""amatune from Python: what the commands `search`, `best` and `plan` do, as functions.

    import amatune

    found = amatune.search(dataset="folder:good", ood="folder:bad", trials=30)
    board = amatune.retrain(found.run)
    exported = amatune.export(found.run, "model")

Each takes the options of its command by their names, prints nothing, tells a `listener` of what
happens (`amatune.tuning.events`), and raises an `AmatuneError` for what cannot be done.
"""

import os
from collections.abc import Sequence
from typing import Unpack

from amatune.data.places import data_folder
from amatune.errors import RequestError
from amatune.export.winner import export
from amatune.results.leaderboard import Leaderboard
from amatune.results.operating import Demand
from amatune.results.plan import Plan
from amatune.runs import AnyRun, RunFolder
from amatune.runs.request import SearchRequest
from amatune.tuning import rehearsal
from amatune.tuning import retrain as retraining
from amatune.tuning import search as searching
from amatune.tuning.events import Listener, TimeEstimate
from amatune.tuning.options import (
    FirstSettings,
    SearchOptions,
    budgeted,
    continued,
    first_settings,
    with_options,
)
from amatune.tuning.search import SearchOutcome

__all__ = ["AnyRun", "estimate", "export", "plan", "retrain", "search"]


def search(
    *,
    resume: bool = False,
    trust_space: bool = False,
    enqueue: Sequence[FirstSettings] | FirstSettings = (),
    warm_start: AnyRun = None,
    listener: Listener | None = None,
    **options: Unpack[SearchOptions],
) -> SearchOutcome:
    """Search the settings of a detector for one problem; `amatune search` from Python.

    `options` are those of the command, by name: `amatune.search(dataset="digits", trials=12)`.
    What is left out has its default. With `resume` the run `name` goes on, a name, a folder or
    the `run` of what a search returned, by default the newest in `runs_dir`, and what is left out
    is as it was.

    A run of somebody else whose space is a Python program is continued, and the program run, only
    with `trust_space`.

    `enqueue` are settings by name, or JSON files with some, to try right after the defaults, and
    `warm_start` is an earlier run, named likewise, whose best settings are tried then.

    Returns when all trials have ended, time is over, or after Ctrl-C. Raises `RequestError` for
    what cannot be done, before anything is started, and `AmatuneError` for what fails.
    """
    request = _request(options, resume)
    return searching.run_search(
        request,
        listener=listener,
        resume=resume,
        first=first_settings(enqueue, warm_start, request.runs_dir, request.method),
        # A space that is given here is the caller's own.
        trust_space=trust_space or options.get("space") is not None,
    )


def estimate(
    *,
    resume: bool = False,
    trust_space: bool = False,
    enqueue: Sequence[FirstSettings] | FirstSettings = (),
    warm_start: AnyRun = None,
    listener: Listener | None = None,
    **options: Unpack[SearchOptions],
) -> TimeEstimate:
    """What a `search` with the same arguments would take; `amatune search --dry-run` from Python.

    Trains a few steps, and leaves no run behind. Refuses what the search would refuse.
    """
    request = _request(options, resume)
    return rehearsal.rehearse(
        request,
        listener=listener,
        resume=resume,
        first=first_settings(enqueue, warm_start, request.runs_dir, request.method),
        trust_space=trust_space or options.get("space") is not None,
    )


def _request(options: SearchOptions, resume: bool) -> SearchRequest:
    if not isinstance(resume, bool):
        raise RequestError(
            f"resume must be True or False, got {resume!r}; give the run to go on with as `name`"
        )
    return continued(options) if resume else with_options(SearchRequest(), budgeted(options))


def retrain(
    run: AnyRun = None,
    *,
    top: int = 3,
    seeds: int = 3,
    epochs: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    address: str | None = None,
    concurrent: int | None = None,
    cross_fit: int | None = None,
    min_recall: float | None = None,
    max_fpr: float | None = None,
    cost_miss: float | None = None,
    cost_alarm: float | None = None,
    anomaly_share: float | None = None,
    runs_dir: str | os.PathLike[str] = "runs",
    listener: Listener | None = None,
) -> Leaderboard:
    """Retrain the best settings of a run over fresh seeds and test them once; `amatune best`.

    The `top` trials and the default settings train from scratch with `seeds` seeds each, for
    `epochs` epochs, by default those of the search. The images are looked for in `data_dir`, by
    default the search's, and at most `concurrent` trainings run at a time, by default as in the
    search. Finished trainings of an earlier call are kept.

    With `cross_fit` folds all anomalies choose and test in turn: `Leaderboard.cross_fit`.

    A threshold is looked for that finds at least the share `min_recall` of the anomalies and flags
    at most the share `max_fpr` of normal pictures, or one that costs least where a missed anomaly
    costs `cost_miss` and a false alarm `cost_alarm`, with the share `anomaly_share` of pictures
    anomalous, by default that of the test. `Leaderboard.guarantee` says what came of it.

    Raises `RequestError` when there is no such run, it has no trial with the full budget, or the
    limits or costs are impossible.
    """
    demand = Demand.of(
        min_recall=min_recall,
        max_fpr=max_fpr,
        cost_miss=cost_miss,
        cost_alarm=cost_alarm,
        anomaly_share=anomaly_share,
    )
    return retraining.run_best(
        RunFolder.open(run, runs_dir),
        top=top,
        seeds=seeds,
        epochs=epochs,
        demand=demand,
        cross_fit=cross_fit,
        data_dir=None if data_dir is None else str(data_folder(data_dir)),
        address=address,
        concurrent=concurrent,
        listener=listener,
    )


def plan(run: AnyRun = None, *, runs_dir: str | os.PathLike[str] = "runs") -> Plan:
    """What more anomalies, seeds and trials would buy in a run; `amatune plan`.

    By the test scores of the chosen configuration, before `retrain` by the validation scores of the
    best trial; `Plan.to_dict` is what the command's `--json` prints. Trains nothing.

    Raises `RequestError` when there is no such run, or no scores to plan by.
    """
    from amatune.tuning import planning  # here: above, it would come before what names the extra

    return planning.plan_run(RunFolder.open(run, runs_dir))
