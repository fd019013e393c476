"""`amatune score`: formats, files, and pictures that cannot be read."""

import csv
import io
import json
import os
from pathlib import Path

import pytest
from calls import python

import amatune
from amatune.cli import main
from amatune.detectors.ama import AMA

COLUMNS = ["path", "score", "A", "R", "AC", "RC", "p_value", "flag", "error"]


@pytest.fixture
def model(exported: Path) -> str:
    return exported.name


def test_scores_as_csv(
    model: str, pictures: Path, detector: AMA, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", model, str(pictures)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    assert list(rows[0]) == COLUMNS
    assert {row["error"] for row in rows} == {""}
    assert [Path(row["path"]).name for row in rows] == [f"{n}.png" for n in range(5)]
    expected = list(amatune.load(model).score_files([pictures]))
    assert [float(row["R"]) for row in rows] == pytest.approx(
        [picture.scores["R"] for picture in expected], rel=1e-5
    )
    assert all(row["score"] == row[detector.primary_score] for row in rows)


def test_maps_go_where_a_home_is_written_short(
    model: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert main(["score", model, str(pictures / "1.png"), "--maps=~/maps"]) == 0
    assert len(list((tmp_path / "home" / "maps").iterdir())) == 1
    assert not Path("~").exists()


def test_scores_as_json_lines(
    model: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", model, str(pictures / "1.png"), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert list(json.loads(line)) == COLUMNS
    assert json.loads(line)["error"] is None


def test_other_programs_than_those_of_the_export_are_told_of(
    model: str,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("amatune.export.folder._other_programs", lambda *_: ("it is another",))
    assert main(["score", model, str(pictures)]) == 0
    captured = capsys.readouterr()
    assert captured.err == "amatune: it is another\n"
    assert captured.out.count("\n") == 6


def test_scores_go_to_a_file_complete_or_not_at_all(
    model: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", model, str(pictures), "--output", "scores.csv"]) == 0
    assert capsys.readouterr().out == ""
    before = Path("scores.csv").read_text()
    assert before.count("\n") == 6

    Path("broken.png").write_bytes(b"not a picture")
    assert main(["score", model, "broken.png", "--output", "scores.csv"]) == 2
    assert Path("scores.csv").read_text() == before
    assert sorted(os.listdir()) == ["broken.png", "model", "scores.csv"]

    assert main(["score", model, str(pictures), "--output", "no/such/scores.csv"]) == 2
    assert "no/such/scores.csv" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_broken_picture_is_a_row_with_its_error(
    model: str, pictures: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    Path("broken.png").write_bytes(b"not a picture")
    as_json = ["--json"] if form == "json" else []
    assert main(["score", model, "broken.png", str(pictures), *as_json]) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    rows = [json.loads(line) for line in lines] if as_json else list(csv.DictReader(lines))
    assert len(rows) == 6
    failed = [row for row in rows if row["error"]]
    assert [row["path"] for row in failed] == ["broken.png"]
    assert list(failed[0]) == COLUMNS
    assert failed[0]["error"].startswith("cannot read picture broken.png: not a picture")
    assert {failed[0][name] for name in COLUMNS[1:-1]} == ({None} if as_json else {""})
    assert all(row["score"] for row in rows if not row["error"])
    assert captured.err.count("\n") == 1
    assert "broken.png" in captured.err


@pytest.mark.parametrize("paths", [["none.png"], ["empty"], ["notes.txt"]])
def test_nothing_to_score(model: str, paths: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("notes.txt").touch()
    assert main(["score", model, *paths]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert paths[0] in captured.err


def test_scoring_needs_no_search_tools(model: str, pictures: Path) -> None:
    program = (
        "import sys\nfrom amatune.cli import main\n"
        "code = main(['score', *sys.argv[1:]])\n"
        "print(code, sorted({'ray', 'optuna'} & sys.modules.keys()))"
    )
    done = python("-c", program, model, str(pictures))
    assert done.stdout.splitlines()[-1] == "0 []"
