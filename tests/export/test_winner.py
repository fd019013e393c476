"""What is asked before a retraining whose winner is to be exported."""

from pathlib import Path

import fake_method
import pytest
from calls import call
from fake_run import small_problem, write_run

from amatune.errors import RequestError
from amatune.export.winner import require_exportable
from amatune.extras import EXTRAS
from amatune.runs import RunFolder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run of the fake method, where nothing that writes ONNX models is installed."""
    fake_method.install(monkeypatch)
    monkeypatch.setitem(EXTRAS, "onnx", ("no_such_package",))
    return write_run(tmp_path / "runs" / "one", small_problem().to_dict(), study=False)


def test_without_onnx_nothing_is_trained_for_an_export(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("amatune.tuning.retrain.run_best", lambda *_, **__: pytest.fail("trained"))
    assert call(f"best {run.path} --export") == 2
    assert "pip install 'amatune[onnx]'" in capsys.readouterr().err


def test_a_method_without_an_onnx_form_needs_none(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_method.FakeDetector, "exports_to_onnx", False)
    require_exportable(run, run.best / "export")


def test_what_lies_there_is_not_replaced(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(RequestError, match="other"):
        require_exportable(run, tmp_path / "other")
