"""Runs side by side: differences against independent calculations, and what is refused."""

import csv
import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_run import ANOMALIES, NORMALS, change, scores, write_leaderboard, write_run

from amatune.cli import main
from amatune.cli.output import make_console
from amatune.cli.tables import print_leaderboard
from amatune.errors import RequestError
from amatune.results.comparison import compare_runs
from amatune.results.difference import holm
from amatune.results.leaderboard import model_folder, read_leaderboard
from amatune.results.scores import TEST, save_scores
from amatune.runs import RunFolder


def problem(**changes: Any) -> dict[str, Any]:
    """A saved problem that nobody opens."""
    request = {"dataset": "digits", "normal_classes": ["0"], "seed": 0}
    splits = {
        "train_normals": [{"source": "digits", "part": "train", "ids": [0, 1]}],
        "validation_normals": [],
        "validation_anomalies": [],
        "test_normals": [{"source": "digits", "part": "test", "ids": list(range(NORMALS))}],
        "test_anomalies": [{"source": "digits", "part": "test", "ids": list(range(200, 240))}],
    }
    counts = {
        "train_normals": 100,
        "validation_normals": 50,
        "validation_anomalies": 50,
        "test_normals": NORMALS,
        "test_anomalies": ANOMALIES,
    }
    values = {"request": request, "image_shape": [1, 8, 8], "counts": counts, "splits": splits}
    return {**values, "warnings": [], "sources": {"digits": {"content": "abc"}}, **changes}


def run_with(folder: Path, shift: float, seeds: Sequence[int], **changes: Any) -> RunFolder:
    """A tested run whose detectors shift the anomalies' scores by about `shift`."""
    run = write_run(folder, problem(**changes), study=False)
    by_seed = [{"bright": scores(shift, seed)} for seed in seeds]
    for number, kept in enumerate(by_seed, 1):
        save_scores(model_folder(run, "trial-3", number) / TEST, kept)
    write_leaderboard(run, {"trial-3": by_seed})
    return run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs with the same test images: good, similar, bad."""
    run_with(tmp_path / "runs" / "good", 2.0, [1, 2, 3])
    run_with(tmp_path / "runs" / "similar", 1.9, [4, 5])
    run_with(tmp_path / "runs" / "bad", 0.7, [6, 7, 8])
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def folders(runs: Path, *names: str) -> list[RunFolder]:
    return [RunFolder(runs / name) for name in names]


# --- runs -----------------------------------------------------------------------------------------


def test_every_two_runs_are_tested_and_corrected(runs: Path) -> None:
    found = compare_runs(folders(runs, "good", "similar", "bad"))
    assert [one.name for one in found.runs] == ["good", "similar", "bad"]
    assert [(d.first, d.second) for d in found.differences] == [
        *(("good", "similar"), ("good", "bad"), ("similar", "bad"))
    ]
    alone = compare_runs(folders(runs, "good", "bad")).differences[0]
    assert alone.p == alone.p_holm
    among = found.between("bad", "good")
    assert among is not None
    assert among.p == alone.p
    assert among.p_holm > among.p
    assert [d.p_holm for d in found.differences] == pytest.approx(
        holm([d.p for d in found.differences])
    )
    good, similar = (read_leaderboard(one.run).chosen.test["bright"] for one in found.runs[:2])
    assert found.differences[0].difference == pytest.approx(good.auroc - similar.auroc)
    verdicts = [d.verdict(3) for d in found.differences]
    assert verdicts[0].startswith("no evidence of a difference between good and similar (-0.0")
    assert re.match(
        r"good is better than bad by 0\.\d{3} AUROC \(p = .* Holm's .* 3 pairs\)", verdicts[1]
    )
    assert found.differences[1].significant
    assert not found.differences[0].significant
    assert found.warnings == ()


def test_the_better_one_is_named_first(runs: Path) -> None:
    (one,) = compare_runs(folders(runs, "bad", "good")).differences
    assert one.difference < 0
    assert one.verdict(1).startswith("good is better than bad by 0.")
    assert "Holm" not in one.verdict(1)


def other_normals() -> dict[str, Any]:
    saved = problem()
    saved["splits"]["test_normals"][0]["ids"][0] = 999
    return saved


@pytest.mark.parametrize(
    "saved", [other_normals(), problem(sources={"digits": {"content": "changed"}})]
)
def test_different_test_images_are_refused_or_told_apart(runs: Path, saved: Any) -> None:
    run_with(runs / "elsewhere", 2.0, [1, 2], **saved)
    three = folders(runs, "good", "bad", "elsewhere")
    with pytest.raises(RequestError, match=r"good and bad: .*; elsewhere: .*--allow-different-spl"):
        compare_runs(three)
    found = compare_runs(three, allow_different_splits=True)
    assert [(d.first, d.second) for d in found.differences] == [("good", "bad")]
    assert found.differences[0].p == found.differences[0].p_holm  # one pair, nothing to correct
    assert found.between("good", "elsewhere") is None
    assert "tested on different images" in found.warnings[0]
    assert [one.group for one in found.runs] == [0, 0, 1]


def test_other_training_images_are_told_and_tested_all_the_same(runs: Path) -> None:
    saved = problem()
    saved["splits"]["train_normals"][0]["ids"] = [5]
    run_with(runs / "validated", 2.0, [1, 2], **saved)
    found = compare_runs(folders(runs, "good", "validated"))
    assert len(found.differences) == 1
    assert found.warnings == ("not all of good, validated trained on the same images",)


def test_a_folder_vouches_for_the_pictures_in_use(tmp_path: Path) -> None:
    """Its record changes with the validation images, which do not matter."""

    def of_folder(train: str, content: str) -> dict[str, Any]:
        name = "folder:/photos"
        saved = json.loads(json.dumps(problem()).replace('"digits"', f'"{name}"'))
        saved["splits"]["train_normals"][0]["ids"] = [train]
        return {**saved, "sources": {name: {"content": content}}}

    first = run_with(tmp_path / "first", 2.0, [1], **of_folder("a.png", "1"))
    other = run_with(tmp_path / "other", 2.0, [1], **of_folder("b.png", "2"))
    changed = run_with(tmp_path / "changed", 2.0, [1], **of_folder("a.png", "3"))
    assert len(compare_runs([first, other]).differences) == 1
    with pytest.raises(RequestError, match="tested on different images"):
        compare_runs([first, changed])


def test_a_damaged_picture_makes_other_test_images(runs: Path) -> None:
    run = RunFolder(runs / "bad")
    kept = {name: values[:-1] for name, values in scores(1.0, 1).items()}
    save_scores(model_folder(run, "trial-3", 1) / TEST, {"bright": kept})
    write_leaderboard(run, {"trial-3": [{"bright": kept}]})
    with pytest.raises(RequestError, match="tested on different images"):
        compare_runs(folders(runs, "good", "bad"))


def test_what_cannot_be_compared(runs: Path) -> None:
    with pytest.raises(RequestError, match="at least two runs, got 1"):
        compare_runs(folders(runs, "good"))
    with pytest.raises(RequestError, match="'good' is named twice"):
        compare_runs(folders(runs, "good", "bad", "good"))
    model_folder(RunFolder(runs / "bad"), "trial-3", 2).joinpath(TEST).write_bytes(b"PK")
    with pytest.raises(RequestError, match=r"seed2/test.npz cannot be read"):
        compare_runs(folders(runs, "good", "bad"))
    save_scores(
        model_folder(RunFolder(runs / "similar"), "trial-3", 1) / TEST,
        {"bright": {"normal": np.zeros(3), "anomaly": np.ones(3)}},
    )
    with pytest.raises(RequestError, match="has the scores of 3 normal and 3 anomalous images"):
        compare_runs(folders(runs, "good", "similar"))


def test_runs_of_one_name_are_told_apart(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "bad", tmp_path / "others" / "good")
    found = compare_runs([RunFolder(runs / "good"), RunFolder(tmp_path / "others" / "good")])
    assert [one.name for one in found.runs] == ["runs/good", "others/good"]


def test_one_seed_is_said_to_be_few(runs: Path) -> None:
    run_with(runs / "once", 2.0, [1])
    found = compare_runs(folders(runs, "once", "good"))
    assert found.warnings[0].startswith("one seed says nothing about the spread over seeds: once")


def test_unequal_searches_are_told(runs: Path) -> None:
    assert compare_runs(folders(runs, "good", "bad")).warnings == ()
    run = run_with(runs / "longer", 1.9, [1, 2])
    by_seed = [{"bright": scores(1.9, seed)} for seed in (1, 2)]
    write_leaderboard(run, {"trial-3": by_seed}, trials=50)
    saved = problem()
    saved["splits"]["validation_anomalies"] = [{"source": "digits", "part": "train", "ids": [7]}]
    change(run, problem=saved)
    found = compare_runs(folders(runs, "good", "longer"))
    assert found.warnings == (
        "the searches had different numbers of trials (good: 4, longer: 50)",
        "not all of good, longer chose their settings by the same images",
    )
    assert len(found.differences) == 1  # of what was tested all the same


# --- the command ----------------------------------------------------------------------------------


def test_the_table(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_settings(runs / "bad", k=3)
    assert main(["compare", "good", "similar", "bad"]) == 0
    text = capsys.readouterr().out
    test = read_leaderboard(RunFolder(runs / "good")).chosen.test["bright"]
    (line,) = [line for line in text.splitlines() if line.startswith("good ")]
    assert f"{test.auroc:.3f} ± {test.auroc_spread:.3f}" in line
    assert f"{test.auroc_low:.3f} to {test.auroc_high:.3f}" in line
    assert f"{test.aupr:.3f} ± {test.aupr_spread:.3f}" in line
    assert f"{test.fpr95:.3f} ± {test.fpr95_spread:.3f}" in line
    assert re.search(r"\nk +- +- +3 *\n", text)
    assert "The same in all: quality=0.9 batch_size=16" in text
    assert "Good is better than bad by " in text
    assert "No evidence of a difference between good and similar" in text
    assert "Problem: digits: class 0 normal" in text
    assert "Search of bad: 4 trials, 0.50 hours of training\n" in text
    # All runs that are there: their folder. Otherwise each by its name.
    assert "Side by side: tensorboard --logdir runs\n" in text
    assert main(["compare", "good", "bad"]) == 0
    text = capsys.readouterr().out
    assert "--logdir_spec good:runs/good/tensorboard,bad:runs/bad/tensorboard" in text


def change_settings(folder: Path, **settings: Any) -> None:
    path = folder / "best" / "leaderboard.json"
    board = json.loads(path.read_text())
    board["rows"][0]["settings"] |= settings
    path.write_text(json.dumps(board))


@pytest.mark.usefixtures("runs")
def test_json_and_csv_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "good", "bad", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main(["compare", "good", "bad", "--format", "csv", "--output", "out.csv"]) == 0
    assert capsys.readouterr().out == "Comparison: out.csv\n"
    rows = list(csv.DictReader(io.StringIO(Path("out.csv").read_text())))
    (difference,) = told["differences"]
    assert difference["significant"]
    assert [row["run"] for row in rows] == ["good", "bad"]
    for row, one in zip(rows, told["runs"], strict=True):
        assert float(row["auroc"]) == one["test"]["bright"]["auroc"]
        assert json.loads(row["settings"]) == one["settings"]
    assert float(rows[0]["minus bad"]) == difference["difference"]
    assert float(rows[1]["minus good"]) == -difference["difference"]
    assert float(rows[0]["p against bad"]) == difference["p_holm"]
    assert rows[0]["minus good"] == ""
    assert (rows[0]["trials"], rows[0]["hours"]) == ("4", "0.5")
    assert told["runs"][0]["search"]["trials"] == 4
    assert told["tensorboard"].startswith("tensorboard --logdir_spec ")


def test_markdown(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_settings(runs / "bad", mode="a|b")
    assert main(["compare", "good", "bad", "--format", "markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| run | method, score | chosen, seeds | test AUROC | 95% interval")
    assert set(lines[1]) == {"|", "-"}
    assert lines[2].count("|") == lines[0].count("|")
    assert r"| mode | - | a\|b |" in lines
    assert any(line.startswith("- Good is better than bad by") for line in lines)


def test_wrong_requests(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str) -> str:
        assert main(["compare", *words]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err

    shutil.rmtree(runs / "similar" / "best")
    told = refused("good", "similar")
    assert "not tested yet: similar; call first: amatune best similar\n" in told
    assert "RUN" in refused()
    assert "at least two runs" in refused("good")
    assert "'gone'" in refused("good", "gone")
    assert "unknown format 'xml'; known: table, markdown, csv, json" in refused(
        *("good", "bad", "--format", "xml")
    )
    assert "name a file in a folder" in refused("good", "bad", "--output", "no/such.md")
    change(RunFolder(runs / "bad"), problem=other_normals())
    assert "tested on different images" in refused("good", "bad")


def test_different_splits_are_listed_with_a_warning(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(RunFolder(runs / "bad"), problem=other_normals())
    words = ["compare", "good", "bad", "--allow-different-splits"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "warning: these runs were tested on different images, or in" in text
    assert "better than" not in text
    assert main([*words, "--format", "csv"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("amatune: warning: these runs were tested on different images")
    assert [row["test_images"] for row in csv.DictReader(io.StringIO(captured.out))] == ["0", "1"]


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_figures_are_whole_on_a_narrow_terminal(
    columns: int, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of a method with three scores."""
    monkeypatch.setenv("COLUMNS", str(columns))
    run = run_with(runs / "three", 2.0, [1, 2])
    by_seed = [
        {name: scores(shift, seed) for name, shift in (("bright", 2), ("dark", 1), ("sharp", 0.5))}
        for seed in (1, 2)
    ]
    write_leaderboard(run, {"trial-3": by_seed, "default": by_seed})
    print_leaderboard(make_console(), read_leaderboard(run))
    words = capsys.readouterr().out.split()
    test = read_leaderboard(run).chosen.test
    for one in test.values():
        assert f"{one.auroc:.3f}" in words
    assert f"{test['bright'].auroc_low:.3f}" in words
    assert f"{test['bright'].auroc_high:.3f}" in words
    assert "…" not in "".join(words)
