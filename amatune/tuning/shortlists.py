"""The configurations of a run that are worth training again."""

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from amatune.config import DetectorConfig
from amatune.errors import RequestError
from amatune.registry import Method, SeveralMethods
from amatune.results.crossfit import DEFAULT
from amatune.runs import RunFolder
from amatune.runs.record import RunRecord
from amatune.several import METHOD, of_its_method
from amatune.tuning import study as studies
from amatune.tuning.defaults import defaults
from amatune.tuning.retrainings import Candidate


def shortlist(
    run: RunFolder,
    record: RunRecord,
    method: Method,
    top: int,
    epochs: int,
    ranked: Sequence[FrozenTrial] | None = None,
) -> list[Candidate]:
    """The best `top` full-budget trials, then the default (of several methods: each one's), all
    with a budget of `epochs`.

    The default is in there once and takes no place from another, also when it is among the best;
    a configuration that was tried twice is in there once. `ranked` are the full-budget trials in
    another order, best first. Raises `RequestError` when no trial has
    reached the full budget.
    """
    full = studies.full_trials(studies.open_study(run)) if ranked is None else ranked
    if not full:
        raise RequestError(
            f"no trial of the run {run.name!r} has reached the full budget of "
            f"{record.request.epochs} "
            "epochs yet; continue the search with --resume"
        )
    several = isinstance(method, SeveralMethods)
    controls = defaults(record, method, epochs)
    found: list[Candidate] = []
    aurocs: list[float | None] = [None for _ in controls]
    for trial in full:
        known = trial.user_attrs[studies.SETTINGS if several else studies.CONFIG]
        config = record.configuration(method, known, epochs)
        if config in controls:
            place = controls.index(config)
            aurocs[place] = trial.value if aurocs[place] is None else aurocs[place]
        elif len(found) < top and all(config != other.config for other in found):
            settings = trial.user_attrs[studies.SETTINGS]
            found.append(Candidate(f"trial-{trial.number}", False, settings, config, trial.value))
    return [
        *found,
        *(
            Candidate(*named, config, auroc)
            for named, config, auroc in zip(
                _controls(record, method, controls), controls, aurocs, strict=True
            )
        ),
    ]


def _controls(
    record: RunRecord, method: Method, configs: Sequence[DetectorConfig]
) -> list[tuple[str, bool, dict[str, Any]]]:
    """Names and settings of the default configurations."""
    fixed = record.fixed
    if not isinstance(method, SeveralMethods):
        searched = {name: getattr(configs[0], name) for name in record.searched}
        return [(DEFAULT, True, {**searched, **fixed})]
    return [
        (f"{DEFAULT}-{name}", True, of_its_method({**first, **fixed, METHOD: name}))
        for name, first in zip(method.members, record.first, strict=False)
    ]
