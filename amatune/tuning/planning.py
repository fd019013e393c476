"""`amatune plan`: what a run could gain, and from what."""

from amatune.errors import RequestError
from amatune.results.leaderboard import (
    Leaderboard,
    LeaderboardRow,
    kept_test_scores,
    read_leaderboard,
)
from amatune.results.plan import Plan, make_plan
from amatune.results.scores import load_scores, validation_file
from amatune.results.selection import SeedScores
from amatune.runs import RunFolder
from amatune.tuning import study as studies
from amatune.wording import counted

_ENDED = ("done", "pruned")


def plan_run(run: RunFolder) -> Plan:
    """By the test scores of the chosen configuration; before `amatune best`, by the validation
    scores of the best trial. Raises `RequestError` where there are neither."""
    trials = [
        one.auroc
        for one in studies.read_trials(run)
        if one.state in _ENDED and one.auroc is not None
    ]
    if run.leaderboard.exists():
        return _by_best(read_leaderboard(run), trials)
    for trial in studies.full_trials(studies.open_study(run)):
        file, primary = validation_file(run, trial.number), trial.user_attrs.get(studies.PRIMARY)
        if primary is not None and file.exists():
            scores = load_scores(file)[primary]
            told = f"trial {trial.number} on {_images(scores)} of the validation, which chose it"
            groups = run.record().problem.groups("validation")
            return make_plan(told, [scores], trials=trials, groups=groups)
    raise RequestError(
        f"the run {run.name!r} has no scores to plan by: no trial has reached the full budget; "
        "continue the search with --resume"
    )


def _by_best(board: Leaderboard, trials: list[float]) -> Plan:
    others = [row for row in board.rows if not row.chosen]
    # The control where there is one, else what came closest.
    control = board.control
    other = control if control and not control.chosen else next(iter(others), None)
    mine = _tested(board, board.chosen)
    return make_plan(
        f"{board.chosen.configuration} on {_images(mine[0])} of the test",
        mine,
        _tested(board, other) if other else (),
        other.configuration if other else "",
        trials,
        board.groups.pair if board.groups else None,
    )


def _tested(board: Leaderboard, row: LeaderboardRow) -> list[SeedScores]:
    try:
        return kept_test_scores(board, row, row.score)
    except RequestError as error:
        told = f"the test scores of {row.configuration} cannot be read: {error}"
        raise RequestError(told) from error


def _images(scores: SeedScores) -> str:
    normal, anomalous = (len(scores[side]) for side in ("normal", "anomaly"))
    return f"{counted(normal, 'normal image')} and {counted(anomalous, 'anomaly', 'anomalies')}"
