"""The configurations of a run that are worth training again."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial

from amatune.errors import RequestError
from amatune.registry import Method
from amatune.runs import RunFolder
from amatune.runs.record import RunRecord
from amatune.tuning import study as studies
from amatune.tuning.retrainings import Candidate


def shortlist(
    run: RunFolder,
    record: RunRecord,
    method: Method,
    top: int,
    epochs: int,
    ranked: Sequence[FrozenTrial] | None = None,
) -> list[Candidate]:
    """The best `top` full-budget trials, then the default, all with a budget of `epochs`.

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
    fixed = record.request.fixed
    default = record.configuration(method, fixed, epochs)
    found: list[Candidate] = []
    default_auroc = None
    for trial in full:
        config = record.configuration(method, trial.user_attrs[studies.CONFIG], epochs)
        if config == default:
            default_auroc = trial.value if default_auroc is None else default_auroc
        elif len(found) < top and all(config != other.config for other in found):
            settings = trial.user_attrs[studies.SETTINGS]
            found.append(Candidate(f"trial-{trial.number}", False, settings, config, trial.value))
    settings = {**{name: getattr(default, name) for name in record.searched}, **fixed}
    return [*found, Candidate("default", True, settings, default, default_auroc)]
