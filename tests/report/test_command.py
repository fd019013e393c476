"""The command that writes the page."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_run import write_run

from amatune.cli import main
from amatune.data.problem import Problem
from amatune.results.leaderboard import read_leaderboard
from amatune.runs import RunFolder


def test_the_command_writes_the_page(
    tested: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tested.path.parent.parent)
    assert main(["report"]) == 0
    assert re.fullmatch(r"Report: runs/parts/report.html, \d+ KiB\n", capsys.readouterr().out)
    assert (tested.path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    (read_leaderboard(tested).chosen_model / "model.safetensors").unlink()
    assert main(["report", "parts", "--output", "page.html"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("note: no reconstructions, and no scores of training images: ")
    assert "Report: page.html" in told
    assert Path("page.html").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["report", "gone"], "no run 'gone'"),
        (["report", "--output", "no/such/page.html"], "name a file in a folder that exists"),
        (["report", "--output", "runs"], "cannot write to runs"),
    ],
)
def test_a_wrong_request(
    tested: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tested.path.parent.parent)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err


def test_a_run_without_a_study_is_refused(tmp_path: Path, problem: Problem) -> None:
    run = write_run(tmp_path / "runs" / "empty", problem.to_dict())
    run.study_path.unlink()
    assert main(["report", "empty", "--runs-dir", str(tmp_path / "runs")]) == 2


def test_a_report_needs_no_ray() -> None:
    """It is an extra of its own: a run may be reported on where none is searched."""
    program = (
        "import sys\n"
        "for name in ('ray', 'pyarrow', 'tensorboard', 'onnx', 'torchvision'):\n"
        "    sys.modules[name] = None\n"
        "import amatune.report"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
