"""From a run to an export: what is written, and what is said before hours of training."""

import dataclasses
from pathlib import Path

import fake_method
import pytest
from fake_method import FakeDetector
from fake_run import finished_run, searched_run, small_problem, trained

from amatune.errors import RequestError
from amatune.export import fingerprint, load
from amatune.export.winner import export_winner, require_exportable
from amatune.extras import MissingExtraError
from amatune.results.certify import with_thresholds
from amatune.results.leaderboard import kept_test_scores, read_leaderboard
from amatune.results.operating import Demand
from amatune.results.scores import TEST, load_scores
from amatune.runs import RunFolder
from amatune.stored import StoredDetector


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_method.install(monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return searched_run(tmp_path / "runs" / "parts", small_problem())


def without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amatune.extras.is_installed", lambda package: package != "onnx")


def test_the_export_tells_what_is_known_of_the_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeDetector, "exports_to_onnx", False)
    problem = small_problem()
    run = finished_run(tmp_path / "runs" / "parts", problem)
    board = read_leaderboard(run)
    assert export_winner(board) == run.best / "export"
    exported = load(run.best / "export")
    assert exported.detector.seed == 2  # the one with the best validation AUROC
    row = board.chosen
    bright, dark = (exported.figures[f"test AUROC of {name}"] for name in ("bright", "dark"))
    assert (bright["value"], bright["note"]) == (row.test["bright"].auroc, "mean of 2 seeds")
    assert dark["note"] == "mean of 2 seeds; not the score in use"
    assert "it is optimistic" in exported.figures["validation AUROC"]["note"]
    assert exported.data["summary"] == problem.describe()
    assert exported.data["training_images"] == fingerprint(problem.train_images())
    # By the test's normal images, which have chosen nothing; they are more than the validation's.
    held_out = load_scores(board.chosen_model / TEST)["bright"]["normal"]
    assert exported.calibration is not None
    assert exported.calibration.scores == pytest.approx(sorted(held_out))
    assert exported.guarantee is None


def test_the_card_counts_the_seeds_behind_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three that were asked for one came to its end."""
    monkeypatch.setattr(FakeDetector, "exports_to_onnx", False)
    run = finished_run(tmp_path / "runs" / "parts", small_problem(), seeds=1)
    board = dataclasses.replace(read_leaderboard(run), seeds=(1, 2, 3))
    export_winner(board)
    figures = load(run.best / "export").figures
    assert figures["test AUROC of bright"]["note"] == "one seed"
    assert figures["validation AUROC"]["note"].startswith("one seed; ")


def test_the_export_keeps_what_was_demanded_of_a_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeDetector, "exports_to_onnx", False)
    run = finished_run(tmp_path / "runs" / "parts", small_problem())
    board = with_thresholds(read_leaderboard(run), Demand(max_fpr=0.1))
    board.write()
    assert read_leaderboard(run) == board
    export_winner(board)
    exported = load(run.best / "export")
    assert exported.guarantee == board.guarantee
    assert exported.guarantee is not None
    assert exported.guarantee.point is not None
    flagged = load_scores(board.chosen_model / TEST)["bright"]["normal"]
    alarms = exported.guarantee.point.false_alarms
    assert alarms.hits == (flagged > exported.guarantee.point.threshold).sum()
    card = (run.best / "export" / "README.md").read_text(encoding="utf-8")
    assert f"| certified | `{exported.guarantee.point.threshold!r}` |" in card
    assert "with 95% confidence at most 0.1 of normal pictures are flagged" in card
    assert "| 5% false alarms |" in card
    assert "Those images have chosen nothing" in card


def test_a_foreign_folder_is_refused_before_the_training(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(RequestError, match=r"notes\.txt"):
        require_exportable(run, tmp_path / "mine")
    require_exportable(run, tmp_path / "new")


def test_missing_packages_are_told_before_the_training(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_onnx(monkeypatch)
    with pytest.raises(MissingExtraError, match=r"pip install 'amatune\[onnx\]'"):
        require_exportable(run, tmp_path / "new")
    monkeypatch.setattr(FakeDetector, "exports_to_onnx", False)
    require_exportable(run, tmp_path / "new")  # such a method needs none


def test_a_model_of_a_retraining_that_did_not_end_is_not_exported(tmp_path: Path) -> None:
    """Another than the one whose thresholds and figures are on the leaderboard."""
    problem = small_problem()
    run = finished_run(tmp_path / "runs" / "parts", problem)
    board = read_leaderboard(run)
    StoredDetector.of(trained(0.1, 2, problem.train_images())).save(board.chosen_model)
    with pytest.raises(RequestError, match=r"seed2 was trained with other .* `amatune best"):
        export_winner(board)
    with pytest.raises(RequestError, match="other settings"):
        kept_test_scores(board, board.chosen, "bright")
