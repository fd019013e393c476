"""`amatune search`: what its options become, and what it prints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calls import call
from fake_run import searched_run, small_problem
from some_events import started

import amatune.tuning.search
from amatune.cli import main
from amatune.cli.views import QuietView
from amatune.data.request import ProblemRequest
from amatune.detectors.ama import AMA
from amatune.runs import RunFolder
from amatune.runs.request import SearchRequest
from amatune.tuning.search import SearchOutcome


def test_without_options_the_request_has_its_defaults(asked: list[Any]) -> None:
    assert main(["search"]) == 1
    assert asked[0] == SearchRequest(steps=3000)
    assert asked[1] is False


def test_every_option_reaches_the_request(asked: list[Any]) -> None:
    line = (
        "search --dataset photos --ood uniform-noise --ood gaussian-noise --normal-class china "
        "--val-anomalies 40 --image-size 24 --channels 1 --max-broken 0.05 --method ama --trials 7 "
        "--epochs 9 --time-budget 1.5h --width 0.5 --fix k=2 --fix direction=inward "
        "--fix mirrored=false --fix latent_dim=none --fix milestones=[0.5] --sampler random "
        "--scheduler none --seed 3 --stop-at 0.9 --objective worst "
        "--space space.json --enqueue first.json "
        "--test-ood digits --anomaly-fraction 0.1 --contamination 0.05 --quiet "
        "--gpus-per-trial 0.25 --cpus-per-trial 2 --concurrent 4 --address auto "
        "--storage-path /shared --study-storage journal --name mine --runs-dir elsewhere "
        "--data-dir /data"
    )
    Path("space.json").write_text('{"lr": {"low": 0.1, "high": 0.2}}', encoding="utf-8")
    Path("first.json").write_text('[{"lr": 0.1}, {"lr": 0.2}]', encoding="utf-8")
    assert call(line) == 1
    assert asked[3] == [{"lr": 0.1}, {"lr": 0.2}]
    assert isinstance(asked[2], QuietView)
    assert asked[0] == SearchRequest(
        problem=ProblemRequest(
            dataset="photos",
            ood=("uniform-noise", "gaussian-noise"),
            test_ood=("digits",),
            normal_classes=("china",),
            anomaly_fraction=0.1,
            contamination=0.05,
            val_anomalies=40,
            seed=3,
            image_size=24,
            channels=1,
            max_broken=0.05,
        ),
        method="ama",
        trials=7,
        epochs=9,
        time_budget=5400.0,
        gpus_per_trial=0.25,
        cpus_per_trial=2.0,
        concurrent=4,
        seed=3,
        sampler="random",
        scheduler="none",
        stop_at=0.9,
        objective="worst",
        space={"json": {"lr": {"low": 0.1, "high": 0.2}}},
        fixed={
            "k": 2,
            "direction": "inward",
            "mirrored": False,
            "latent_dim": None,
            "milestones": [0.5],
            "width": 0.5,
        },
        address="auto",
        storage_path="/shared",
        study_storage="journal",
        name="mine",
        runs_dir="elsewhere",
        data_dir="/data",
    )
    assert main(["search", "--gpus-per-trial", "auto"]) == 1
    assert asked[0].gpus_per_trial is None


def test_sizes_and_tiles(asked: list[Any]) -> None:
    for text, size in (("256x384", (256, 384)), ("64X64", 64), ("512", 512)):
        assert call(f"search --image-size {text}") == 1
        assert asked[0].problem.image_size == size
    assert call("search --method features --tile 256 --tile-overlap 16") == 1
    assert asked[0].fixed == {"tile": 256, "tile_overlap": 16}


def test_a_preset_holds_its_settings_fixed_and_fix_goes_before(asked: list[Any]) -> None:
    paper = AMA.presets["paper"]
    assert call("search --preset without-mirror --fix k=2") == 1
    assert asked[0].fixed == {**paper, "mirrored": False, "k": 2}
    assert call("search --preset without-simplex --fix k=2") == 1
    assert asked[0].fixed == {**paper, "k": 2}
    assert call("search --preset fast") == 1
    assert asked[0].fixed == {}


def test_resuming_takes_the_run_as_it_was_but_for_given_options(
    asked: list[Any], save_run: Callable[..., RunFolder]
) -> None:
    earlier = SearchRequest(
        problem=ProblemRequest(normal_classes=("0",), seed=5),
        seed=5,
        trials=7,
        time_budget=60.0,
        concurrent=3,
        fixed={"width": 0.5},
        name="mine",
    )
    save_run(earlier)

    assert main(["search", "--resume"]) == 1
    request, resume, *_ = asked
    assert resume is True
    assert (request.trials, request.concurrent, request.fixed) == (7, 3, {"width": 0.5})
    assert request.time_budget is None  # of that session alone
    assert not earlier.differences(request)

    line = "search --resume --name mine --trials 20 --time-budget 10m --concurrent 1"
    assert call(line) == 1
    request = asked[0]
    assert (request.trials, request.time_budget, request.concurrent) == (20, 600.0, 1)
    assert not earlier.differences(request)

    # What decides the search is passed on, for the search to refuse.
    assert call("search --resume --normal-class 1 --width 1 --seed 5") == 1
    assert len(earlier.differences(asked[0])) == 2


def test_an_interruption_tells_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: SearchRequest, listener: Any, **__: Any) -> None:
        listener(started(run=Path("my runs/a").resolve()))
        raise KeyboardInterrupt

    monkeypatch.setattr(amatune.tuning.search, "run_search", interrupted)
    assert main(["search"]) == 130
    line = capsys.readouterr().err
    assert line.endswith("amatune search --resume --name a --runs-dir 'my runs'\n")


def test_a_dry_run_says_what_it_takes_and_ends_well(
    rehearsed: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("search --dry-run --trials 9 --name mine") == 0
    request, resume, _ = rehearsed
    assert (request.trials, request.name, resume) == (9, "mine", False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("dry run: digits")
    assert lines[-1] == (
        "time for 9 trainings: at most about 1:00:00, if no trial is stopped early (500 ms a step, "
        "with scoring)"
    )
    assert call("search --dry-run --quiet") == 0
    assert capsys.readouterr().out.splitlines() == ["warning: few images", lines[-1]]
    assert call("search --dry-run --json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["search_started", "time_estimate"]
    assert (events[0]["run"], events[1]["seconds"]) == (None, 3600.0)


# --- what is printed at the end -------------------------------------------------------------------


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SearchOutcome]:
    """Takes the place of the search: it ends as told, in a run with four trials."""
    run = searched_run(Path("runs/mine"), small_problem(), stop_at=0.9, fixed={"batch_size": 16})

    def end(**changes: Any) -> SearchOutcome:
        facts: dict[str, Any] = {"ending": "finished", "done": 2, "pruned": 1, "failed": 1}
        best: dict[str, Any] = {"best_number": 1, "best_auroc": 0.84, "best_settings": {}}
        best |= {"selection": None, "baselines": ()}
        outcome = SearchOutcome(run=run, **{**facts, **best, **changes})
        monkeypatch.setattr(amatune.tuning.search, "run_search", lambda *_, **__: outcome)
        return outcome

    return end


def test_the_end_of_a_search(
    ends: Callable[..., SearchOutcome], capsys: pytest.CaptureFixture[str]
) -> None:
    ends()
    assert main(["search"]) == 0
    text = capsys.readouterr().out
    assert "trial  state   epochs  validation AUROC  settings" in text
    assert "batch_size" not in text  # held fixed: the same for all
    assert "Best: trial 1, validation AUROC 0.840 (standard error 0.0" in text
    assert "with 50 anomalies), an optimistic figure: the best of 4.\n" in text
    assert "amatune best mine --export" in text
    assert main(["search", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("Best: trial 1")
    assert main(["search", "--json"]) == 0
    assert capsys.readouterr().out == ""


def test_a_perfect_figure_has_no_standard_error_of_zero(
    ends: Callable[..., SearchOutcome], capsys: pytest.CaptureFixture[str]
) -> None:
    ends(best_auroc=1.0)
    assert main(["search", "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "validation AUROC 1.000 (nothing was misranked among 50 anomalies, too few" in text
    assert "0.000" not in text


def test_endings_before_the_last_trial(
    ends: Callable[..., SearchOutcome], capsys: pytest.CaptureFixture[str]
) -> None:
    ends(ending="good enough")
    assert main(["search", "--quiet"]) == 0
    assert "Stopped: a trial has reached 0.9 on validation images." in capsys.readouterr().out
    ends(ending="out of time")
    assert main(["search", "--quiet"]) == 0
    told = "The time is used up; continue with: amatune search --resume --name mine"
    assert told in capsys.readouterr().out
    ends(ending="interrupted")
    assert main(["search", "--quiet"]) == 130
    captured = capsys.readouterr()
    assert captured.err.startswith("amatune: interrupted; continue with: amatune search --resume")
    ends(best_number=None, best_auroc=None)
    assert main(["search", "--json"]) == 1
    told = "amatune: no trial reached the full budget of 9 epochs: 1 were stopped, 1 failed\n"
    assert capsys.readouterr().err == told
