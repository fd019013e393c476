"""`amatune best`, but for the retraining itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from calls import call
from fake_run import finished_run, small_problem

from amatune.errors import DivergedError
from amatune.results.certify import with_thresholds
from amatune.results.leaderboard import Leaderboard, read_leaderboard
from amatune.results.operating import Demand
from amatune.runs import RunFolder
from amatune.tuning.events import RetrainEnded, RetrainStarted, RetrainUpdate


def test_best_looks_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[Any] = []

    def note(_run: RunFolder, *, data_dir: str | None, **_: Any) -> None:
        told.append(data_dir)
        raise DivergedError("noted")

    monkeypatch.setattr("amatune.tuning.retrain.run_best", note)
    Path("runs/one").mkdir(parents=True)
    Path("runs/one/run.json").write_text("{}")
    assert call("best one --data-dir data") == 1
    assert call("best one") == 1
    assert told == [str(tmp_path / "data"), None]
    assert capsys.readouterr().err.count("noted") == 2


def test_best_prints_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(Path("runs/one"), small_problem())
    told: list[Any] = []

    def end(found: RunFolder, *, listener: Any, concurrent: int | None, **_: Any) -> Leaderboard:
        told.append(concurrent)
        facts: dict[str, Any] = {"configurations": ("trial-1", "default"), "seeds": (1, 2)}
        facts |= {"run": found.path, "epochs": 9, "finished": 0, "concurrent": 2}
        listener(RetrainStarted(**facts, warnings=("few images",)))
        done = {"state": "done", "epoch": 9, "epochs": 9, "auroc": 0.9}
        listener(RetrainUpdate(configuration="default", seed=1, **done))
        facts = {"chosen": "trial-1", "score": "bright", "seconds": 3.0, "test_auroc": 0.9}
        listener(RetrainEnded(run=run.path, **facts, test_auroc_low=0.8, test_auroc_high=0.95))
        return read_leaderboard(run)

    monkeypatch.setattr("amatune.tuning.retrain.run_best", end)
    assert call("best one --concurrent 2") == 0
    whole = capsys.readouterr().out
    assert "retraining trial-1, default: 2 seeds of 9 epochs each, 2 at a time" in whole
    assert "default seed 1 done" in whole
    assert "* trial-1, chosen on validation images" in whole
    assert call("best one --quiet") == 0
    quiet = capsys.readouterr().out
    assert quiet.startswith("warning: few images\n")
    assert quiet.removeprefix("warning: few images\n") in whole
    assert call("best one --json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["event"] for e in events] == ["retrain_started", "retrain_update", "retrain_ended"]
    assert events[-1]["test_auroc_low"] == 0.8
    assert events[-1]["thresholds"] == []
    assert events[-1]["guarantee"] is None
    assert told == [2, None, None]
    assert call("best one --json --quiet") == 2
    assert "exclude each other" in capsys.readouterr().err


def test_best_says_what_came_of_a_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(Path("runs/one"), small_problem())

    def end(found: RunFolder, *, demand: Demand, **_: Any) -> Leaderboard:
        board = with_thresholds(read_leaderboard(found), demand)
        board.write()
        return board

    monkeypatch.setattr("amatune.tuning.retrain.run_best", end)
    assert call("best one --max-fpr 0.1") == 0
    told = capsys.readouterr().out
    assert "5% false alarms" in told
    assert "Certified: with 95% confidence at most 0.1 of normal pictures are flagged" in told
    assert call("status one") == 0
    assert "Certified: with 95% confidence" in capsys.readouterr().out
    assert call("best one --min-recall 0.999") == 0
    (line,) = [s for s in capsys.readouterr().out.splitlines() if s.startswith("Not certifiable")]
    assert line.endswith("2,995 anomalous ones would do, if all of them are judged right")
    assert read_leaderboard(run).guarantee is not None
