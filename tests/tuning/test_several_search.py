"""A search of two methods to its test and its export, on a cluster."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_method import OtherConfig
from fake_search import FakeProblem, install, request

from amatune.errors import DataError, RequestError
from amatune.registry import find_method
from amatune.report import evidence, make_report
from amatune.results.leaderboard import Leaderboard, model_folder, read_leaderboard
from amatune.runs import RunFolder
from amatune.several import METHOD
from amatune.stored import StoredDetector
from amatune.tuning import planning
from amatune.tuning import study as studies
from amatune.tuning.events import SearchStarted
from amatune.tuning.retrain import run_best
from amatune.tuning.search import run_search

pytestmark = pytest.mark.usefixtures("ray_cluster")
# The other one sees little but noise, whatever is tried.
FIXED = {"batch_size": 16, "fake.kind": "plain", "other.quality": 0.21, "other.kind": "plain"}


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.setattr(FakeProblem, "may_test", True)


@pytest.fixture(scope="module")
def tested(
    tmp_path_factory: pytest.TempPathFactory,
    ray_cluster: None,  # noqa: ARG001
) -> tuple[RunFolder, Leaderboard, list[Any]]:
    """A search of five trials with its retraining; tests that change something copy it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch)
        monkeypatch.setattr(find_method("fake").detector, "usual_steps", 40)
        runs, events = tmp_path_factory.mktemp("runs"), list[Any]()
        asked = request(runs, method="fake+other", trials=5, epochs=4, fixed=FIXED)
        run = run_search(asked, events.append).run
        monkeypatch.setattr(FakeProblem, "may_test", True)
        board = run_best(run, top=1, seeds=2)
    return run, board, events


def test_each_trial_is_of_one_method_and_has_its_settings(tested: Any) -> None:
    run, _, events = tested
    trials = studies.read_trials(run)
    assert [trial.settings[METHOD] for trial in trials[:2]] == ["fake", "other"]
    assert {trial.state for trial in trials[:2]} == {"done"}
    for trial in trials:
        name = trial.settings[METHOD]
        assert {key.partition(".")[0] for key in trial.settings} == {METHOD, name}
    # The better one had the rest.
    assert [trial.settings[METHOD] for trial in trials].count("fake") >= 3
    begun = next(event for event in events if isinstance(event, SearchStarted))
    assert begun.method == "fake+other"
    assert "fake 40 steps, other 36 steps" in begun.methods[-1]


def test_the_leaderboard_has_every_default_and_one_choice(tested: Any) -> None:
    run, board, _ = tested
    assert read_leaderboard(run) == board
    names = {row.configuration: row.method for row in board.rows}
    assert {"default-fake": "fake", "default-other": "other"}.items() <= names.items()
    assert len(names) == 3
    assert board.method == board.chosen.method == "fake"
    assert "default-fake" in board.choice
    by_name = {row.configuration: row for row in board.rows}
    assert by_name["default-fake"].test.keys() == {"bright", "dark"}
    assert by_name["default-other"].test.keys() == {"shine"}


def test_a_retrained_model_is_the_members_own(tested: Any) -> None:
    run, _, _ = tested
    stored = StoredDetector.load(model_folder(run, "default-other", 1))
    assert stored.method == "other"
    assert isinstance(stored.build("cpu").config, OtherConfig)


def test_plan_and_report_know_them(
    tested: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_problem(*_: Any) -> None:
        raise DataError("noise is nowhere")

    monkeypatch.setattr(evidence, "_open_problem", open_problem)
    run, board, _ = tested
    shutil.copytree(run.path, tmp_path / "run")
    copy = RunFolder(tmp_path / "run")
    page = make_report(copy).page
    assert "default-other" in page
    assert board.chosen.name in page
    assert planning.plan_run(copy).anomalies


def test_it_goes_on_with_more_trials(tested: Any, tmp_path: Path) -> None:
    run, _, _ = tested
    shutil.copytree(run.path, tmp_path / "run")
    before = studies.read_trials(RunFolder(tmp_path / "run"))
    asked = request(tmp_path, method="fake+other", trials=6, epochs=4, fixed=FIXED)
    run_search(asked, resume=True)
    after = studies.read_trials(RunFolder(tmp_path / "run"))
    assert after[:5] == before
    name = after[5].settings[METHOD]
    # As many steps as the earlier ones had: what was measured once stays.
    assert after[5].settings[f"{name}.steps_per_epoch"] == {"fake": 10, "other": 9}[name]
    assert RunFolder(tmp_path / "run").record().held == run.record().held is not None
    with pytest.raises(RequestError, match="method"):
        run_search(request(tmp_path, method="fake", trials=7, epochs=4), resume=True)


def test_crossfitting_is_refused(tested: Any, tmp_path: Path) -> None:
    run, _, _ = tested
    shutil.copytree(run.path, tmp_path / "run")
    with pytest.raises(RequestError, match="cross-fitting compares with the one default"):
        run_best(RunFolder(tmp_path / "run"), top=1, seeds=2, cross_fit=2)
