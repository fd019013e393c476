"""A search without its trials: what it will take, from a few steps, before anything is paid for.

Whatever a search would refuse is refused here too, and no run is left behind.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from amatune import registry
from amatune.cluster import capacity, connection
from amatune.cluster.job import Images
from amatune.runs import RunFolder
from amatune.runs.request import SearchRequest
from amatune.tuning import study as studies
from amatune.tuning.cost import plan, started
from amatune.tuning.defaults import defaults
from amatune.tuning.events import Listener, TimeEstimate
from amatune.tuning.room import find_room, measured
from amatune.tuning.search import begun, continued
from amatune.tuning.session import FINISHED


def rehearse(
    request: SearchRequest,
    listener: Listener | None = None,
    resume: bool = False,
    *,
    first: Sequence[Mapping[str, Any]] = (),
    trust_space: bool = False,
) -> TimeEstimate:
    """What `run_search` with the same arguments would take; the listener is told as a search would
    tell it, up to its first trial.

    Raises what `run_search` raises before its first trial, and `AmatuneError` where the default
    settings cannot be trained.
    """
    method = registry.searched_method(request.method)
    finished = 0
    if resume:
        run = RunFolder.open(request.name, request.runs_dir)
        record, problem, method = continued(run, request, method, first, trust_space)
        if run.study_path.exists():
            finished = len(studies.open_study(run).get_trials(deepcopy=False, states=FINISHED))
    else:
        record, problem, method = begun(request, method, first)
        RunFolder.require_free(request.runs_dir, request.name)
    with tempfile.TemporaryDirectory(prefix="amatune-") as scratch:
        problem.list_damaged(Path(scratch) / "broken.txt")
        problem.list_copies(Path(scratch) / "near-copies.csv")
        images = Images.of(problem)
        with connection.cluster(request.address, Path(scratch) / "log.txt"):
            record = measured(record, method, images.train)
            configs = defaults(record, method)
            room = find_room(record, method)
            if listener is not None:
                listener(started(None, record, method, problem, images, room, finished))
            paces = [
                capacity.seconds_per_epoch(
                    method.detector, config, images, record.request.cpus_per_trial, room
                )
                for config in configs
            ]
    left = max(record.request.trials - finished, 0)
    each = [
        plan(record, config, images, room, left).estimate(seconds)
        for config, seconds in zip(configs, paces, strict=True)
    ]
    # Of several methods: at most what the costliest would take with all the trials.
    estimate = max(each, key=lambda one: one.seconds)
    if len(each) > 1:
        estimate = replace(estimate, at_most=True)
    if listener is not None:
        listener(estimate)
    return estimate
