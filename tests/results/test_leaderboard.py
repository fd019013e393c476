"""What a leaderboard says of its rows, and of a detector against what needs none."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from fake_run import scores, small_problem, write_leaderboard, write_run

from amatune.results.crossfit import CrossFit
from amatune.results.difference import paired_difference
from amatune.results.leaderboard import Leaderboard, against_baseline, read_leaderboard


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    run = write_run(tmp_path_factory.mktemp("runs") / "run", small_problem().to_dict(), study=False)
    by_seed = [{"bright": scores(1.0, seed)} for seed in (1, 2)]
    write_leaderboard(run, {"trial-1": by_seed, "default": by_seed})
    return read_leaderboard(run)


def with_rows(board: Leaderboard, *changes: dict[str, Any]) -> Leaderboard:
    """Its rows changed, those beyond its two made of the default's."""
    rows = [*board.rows, *board.rows[1:] * (len(changes) - 2)]
    changed = (dataclasses.replace(row, **own) for row, own in zip(rows, changes, strict=True))
    return dataclasses.replace(board, rows=tuple(changed))


def test_the_control_is_the_default_that_validation_prefers(board: Leaderboard) -> None:
    assert board.control is board.rows[1]
    assert with_rows(board, {}, {"configuration": "trial-2", "default": False}).control is None
    several = [
        {"configuration": "default-ama", "validation_by_seed": (0.9,), "seeds": (2,)},
        {"configuration": "default-waic", "validation_by_seed": (0.7, 0.7)},
        {"configuration": "default-alad", "validation_by_seed": (0.8, 0.8)},
    ]
    control = with_rows(board, {}, *several).control
    assert control is not None
    assert control.configuration == "default-alad"  # the best failed with a seed
    # A default alone that failed with some seed is still what the verdict is about.
    alone = with_rows(board, {}, {"seeds": (2,), "validation_by_seed": (0.8,)}).control
    assert alone is not None
    assert alone.configuration == "default"


def test_failures_are_told_with_their_configuration(board: Leaderboard) -> None:
    found = with_rows(board, {"failures": ("seed 2: diverged",)}, {})
    found = dataclasses.replace(found, dropped=("trial-7: seed 1: no memory",))
    assert found.failed == ("trial-1: seed 2: diverged", "trial-7: seed 1: no memory")


def test_a_row_of_fewer_seeds_than_the_chosen_one_says_so(board: Leaderboard) -> None:
    found = with_rows(board, {}, {"seeds": (2,)})
    assert [found.title(row) for row in found.rows] == ["trial-1", "default, 1 seed"]
    assert [board.title(row) for row in board.rows] == ["trial-1", "default"]


def test_another_choice_by_all_anomalies_is_told(board: Leaderboard) -> None:
    figures = {"auroc": 0.8, "spread": None, "low": 0.7, "high": 0.9, "choice_error": 0.01}
    counts = {"folds": 5, "anomalies": 60, "normals": 99, "chosen": ("default",) * 5}
    values: dict[str, Any] = {**figures, **counts, "difference": None, "p": None, "remark": ""}
    fitted = [CrossFit(final=final, **values) for final in ("default", "trial-1")]
    other, same = (dataclasses.replace(board, cross_fit=one) for one in fitted)
    assert other.other_choice == "by all anomalies default would be chosen; the export is not that"
    assert same.other_choice == board.other_choice == ""


# --- against what needs no detector ---------------------------------------------------------------


def test_a_baseline_is_beaten_where_p_says_so() -> None:
    baseline = scores(1.0, 9)
    for shift, told in (
        (2.0, "beats the best baseline, PCA (+"),
        (1.2, "gives no evidence that it beats PCA, which needs no detector (+"),
        (0.5, "does not beat PCA, which needs no detector (-"),
    ):
        chosen = [scores(shift, seed) for seed in (1, 2, 3)]
        found = against_baseline(chosen, baseline, "PCA")
        test = paired_difference(chosen, [baseline])
        assert found.verdict.startswith(told)
        assert f"standard error {test.standard_error:.3f}, p = {test.p:.2g})" in found.verdict
        assert (found.difference, found.p) == (test.difference, test.p)
    same = against_baseline([baseline], baseline, "PCA").verdict
    assert same.startswith("does not beat PCA")
    assert same.endswith("it has shown nothing that this does not")


def test_equals_are_seldom_said_to_beat_a_baseline() -> None:
    """One standard error ahead is a sixth of them."""
    generator = np.random.default_rng(0)

    def drawn() -> dict[str, np.ndarray]:
        return {"normal": generator.normal(size=200), "anomaly": generator.normal(1, 1, 50)}

    found = [against_baseline([drawn()], drawn(), "PCA") for _ in range(300)]
    ahead = [one.difference > one.standard_error for one in found]
    assert 0.1 < np.mean(ahead) < 0.22
    assert np.mean([one.verdict.startswith("beats") for one in found]) < 0.05
