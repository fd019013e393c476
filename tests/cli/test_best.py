"""`amatune best`, but for the retraining itself."""

from pathlib import Path
from typing import Any

import pytest
from calls import call

from amatune.errors import DivergedError
from amatune.runs import RunFolder


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
