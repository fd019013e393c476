"""What a report reads of a run, and what it does where something is missing."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_method import FakeDetector
from fake_run import change, change_request, group_images
from parsed_page import Parsed
from PIL import Image

from amatune import report
from amatune.data.problem import Problem
from amatune.report.blocks import Heading, Table, Text
from amatune.report.evidence import PICTURES, gather, threshold_of
from amatune.report.sections import make_sections
from amatune.results.certify import with_thresholds
from amatune.results.groups import group_figures
from amatune.results.leaderboard import read_leaderboard
from amatune.results.operating import Demand
from amatune.results.scores import load_scores
from amatune.runs import RunFolder


def test_the_threshold_lets_few_validation_normals_pass(finished: RunFolder, page: Parsed) -> None:
    (told,) = re.findall(r"The threshold (\S+) on bright", page.text)
    folder = read_leaderboard(finished).chosen_model
    validation = load_scores(folder / "validation.npz")["bright"]["normal"]
    # p = (1 + how many score as high) / (n + 1) is at most .05 above it, and not at it.
    allowed = int(0.05 * (len(validation) + 1)) - 1
    assert float(told) == pytest.approx(np.sort(validation)[::-1][allowed], rel=1e-3)
    own = load_scores(folder / "test.npz")["bright"]
    shares = [f"{(own[side] > np.sort(validation)[::-1][allowed]).mean():.1%}" for side in own]
    assert "for a false positive rate of 5.0%; of the test images" in page.text
    assert f"of the test images it flags {shares[0]} of the normal and {shares[1]}" in page.text
    figure = page.figure("Densities of the score bright")
    assert [t["name"] for t in figure["data"]] == ["training", "test, normal", "test, anomalous"]
    assert figure["layout"]["shapes"][0]["x0"] == pytest.approx(float(told), rel=1e-3)
    assert "shapes" not in page.figure("Densities of the score dark")["layout"]


def test_the_threshold_of_a_tested_run_is_that_of_its_export(tested: RunFolder) -> None:
    """Made of other images than the validation's: a page that had both would contradict itself."""
    board = with_thresholds(read_leaderboard(tested), None)
    board.write()
    (five,) = (point for point in board.thresholds if point.name == "5% false alarms")
    page = Parsed(report.make_report(tested).page)
    alarms, recall = (f"{rate.value:.1%}" for rate in (five.false_alarms, five.recall))
    assert (
        f"The threshold {five.threshold:.4g} on bright is the exported model's for 5% false alarms"
        ", made of normal images, the test's too; of the test images it flags "
        f"{alarms} of the normal and {recall} of the anomalous ones."
    ) in page.text
    drawn = page.figure("Densities of the score bright")["layout"]["shapes"][0]["x0"]
    assert drawn == pytest.approx(five.threshold)

    board = with_thresholds(board, Demand(max_fpr=0.1))
    board.write()
    assert board.guarantee is not None
    assert board.guarantee.point is not None
    judged = gather(tested).judged
    assert judged is not None
    assert judged.threshold == board.guarantee.point.threshold != five.threshold
    assert judged.rule == "is the exported model's certified one, found with the test images"


def test_before_the_test_the_band_draws_whole_groups(untested: RunFolder) -> None:
    def caption() -> str:
        judged = gather(untested).judged
        assert judged is not None
        sections = make_sections(gather(untested))
        (text,) = (b for s in sections if s.name == "roc" for b in s.blocks if isinstance(b, Text))
        return text.text

    assert "bootstrap draws of the images." in caption()
    group_images(untested, 10)
    judged = gather(untested).judged
    assert judged is not None
    assert judged.belonging is not None
    assert len(np.unique(judged.belonging[1])) == 5
    assert "bootstrap draws of the groups of images." in caption()


def test_of_several_methods_the_control_is_named(tested: RunFolder) -> None:
    models = tested.best / "models"
    (models / "default").rename(models / "default-fake")
    file = tested.best / "leaderboard.json"
    board = json.loads(file.read_text(encoding="utf-8"))
    board["rows"][1]["configuration"] = "default-fake"
    file.write_text(json.dumps(board), encoding="utf-8")
    page = Parsed(report.make_report(tested).page)
    drawn = {trace.get("name") for trace in page.figure("ROC curves")["data"]}
    assert {"trial-1", "default-fake"} <= drawn
    assert "default" not in drawn
    assert " (trial-1), " in page.text
    assert " (default-fake). Band:" in page.text


def test_several_images_are_judged_at_once_where_the_method_does(
    tested: RunFolder, page: Parsed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Several images at once" not in page.text
    monkeypatch.setattr(FakeDetector, "group_score", "bright")
    evidence = gather(tested)
    assert evidence.judged
    found = evidence.judged.groups
    folder = read_leaderboard(tested).chosen_model
    held_out = load_scores(folder / "validation.npz")["bright"]["normal"]
    own = load_scores(folder / "test.npz")["bright"]
    fewest = min(len(held_out), *map(len, own.values()))
    assert [one.size for one in found] == [size for size in (1, 2, 5, 10) if size <= fewest]
    assert found[1] == group_figures(held_out, own["normal"], own["anomaly"], 2)
    (section,) = (one for one in make_sections(evidence) if one.name == "scores")
    (_, _, heading, _, table) = section.blocks
    assert heading == Heading("Several images at once")
    assert isinstance(table, Table)
    two = found[1]
    assert table.rows[1].cells == (
        "2",
        f"{two.auroc:.3f}",
        *(
            f"{share[rate]:.1%}"
            for rate in (0.01, 0.05)
            for share in (two.rejected, two.false_alarms)
        ),
    )


@pytest.mark.parametrize("normals", [10, 18, 19, 500])
def test_few_validation_normals_have_a_threshold(normals: int) -> None:
    threshold, rule = threshold_of({"normal": np.arange(normals), "anomaly": np.zeros(1)})
    (rate,) = re.findall(r"for a false positive rate of (.*)%", rule)
    assert float(rate) == pytest.approx(max(5, 100 / (normals + 1)), abs=0.06)
    assert threshold == normals - max(1, (normals + 1) // 20)


def test_pictures_are_the_worst_and_the_clearest(
    finished: RunFolder, page: Parsed, problem: Problem
) -> None:
    folder = read_leaderboard(finished).chosen_model
    scores = load_scores(folder / "test.npz")["bright"]
    shown = [a["title"] for a in page.all("figure")]
    expected = []
    for side, sign in (("normal", -1), ("anomaly", 1), ("normal", 1), ("anomaly", -1)):
        (selection,) = getattr(
            problem.splits, "test_normals" if side == "normal" else "test_anomalies"
        )
        ranked = sorted(range(len(scores[side])), key=lambda i: sign * scores[side][i])
        expected += [f"digits {selection.ids[i]}" for i in ranked[:PICTURES]]
    assert shown == expected
    sources = [a["src"] for a in page.all("img")]
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(str(source).partition(",")[2]))))
        for source in sources
    ]
    images, rebuilt, mapped = (np.stack(pictures[place::3]) for place in range(3))
    assert len(images) == len(shown)
    normal, _ = problem.test_images()
    worst = normal[int(np.argmax(scores["normal"]))][0]
    assert np.array_equal(images[0], worst)
    half = ((images / 127.5 - 1) * 0.5 + 1) * 127.5  # what the fake reconstructs
    assert np.abs(rebuilt - half).max() <= 1
    errors = np.abs(images / 127.5 - 1) / 2
    shares = (errors - errors.min()) / (errors.max() - errors.min())  # of all that are shown
    red = images + 0.6 * shares * (255 - images)
    assert np.abs(mapped[..., 0] - red).max() <= 1


def test_without_the_images_the_report_says_why(
    tested: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tested.record().problem.to_dict()
    changed = {"digits": {**saved["sources"]["digits"], "content": "other"}}
    change(tested, problem={**saved, "sources": changed})
    made = report.make_report(tested)
    assert "digits has changed" in made.notes[0]
    page = Parsed(made.page)
    assert page.all("img") == []
    assert "There are no pictures: digits has changed" in page.text
    names = [t["name"] for t in page.figure("Densities of the score bright")["data"]]
    assert names == ["test, normal", "test, anomalous"]

    monkeypatch.setenv("AMATUNE_DATA", str(tmp_path))  # a report downloads nothing
    change(tested, problem={**saved, "sources": {"mnist": {}}})
    made = report.make_report(tested, data_dir=str(tmp_path))
    assert f"mnist is missing in {tmp_path}" in made.notes[0]


def test_other_images_than_those_scored_are_not_shown(tested: RunFolder) -> None:
    saved = tested.record().problem.to_dict()
    splits = saved["splits"]
    splits["test_normals"][0]["ids"] = splits["test_normals"][0]["ids"][1:]
    change(tested, problem={**saved, "splits": splits})
    made = report.make_report(tested)
    assert "normal and 54 anomalous test images can be read" in made.notes[0]
    assert "<img" not in made.page


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_without_the_scores_the_figures_stay(tested: RunFolder, damage: str) -> None:
    file = read_leaderboard(tested).chosen_model / "test.npz"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        file.unlink()
    made = report.make_report(tested)
    assert f"The scores in {file} cannot be read" in made.notes[0]
    page = Parsed(made.page)
    assert [a["id"] for a in page.all("section")] == [
        *("asked", "result", "scores", "search", "trials", "cost")
    ]
    assert page.figure("Test AUROC of every configuration")


def test_without_the_detector_there_are_pictures_alone(tested: RunFolder) -> None:
    (read_leaderboard(tested).chosen_model / "model.safetensors").write_bytes(b"other")
    made = report.make_report(tested)
    assert "is not what was saved there" in made.notes[0]
    assert len(Parsed(made.page).all("img")) == 4 * PICTURES


@pytest.mark.parametrize(
    ("most", "slow", "expected"), [(30, False, 30), (30, True, 10), (10_000, True, 10)]
)
def test_of_the_training_images_a_sample_is_scored(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch, most: int, slow: bool, expected: int
) -> None:
    scored: list[int] = []
    scores = FakeDetector.scores

    def counted(
        self: FakeDetector, images: torch.Tensor, batch_size: int = 256
    ) -> dict[str, torch.Tensor]:
        scored.append(len(images))
        return scores(self, images, batch_size)

    monkeypatch.setattr(FakeDetector, "scores", counted)
    monkeypatch.setattr(FakeDetector, "needs_gradient_to_score", slow)
    monkeypatch.setattr("amatune.report.evidence.TRAINING_IMAGES", most)
    monkeypatch.setattr("amatune.report.evidence.SLOW_IMAGES", 10)
    evidence = gather(finished)
    (found,) = scored
    assert found <= expected
    assert found >= 0.9 * expected
    assert {len(values) for values in evidence.images.training.values()} == {found}
    made = report.make_report(finished)
    assert f"Training: {found} images." in made.page


def test_a_space_written_in_python_is_not_run(tested: RunFolder, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    program = f"open({str(trace)!r}, 'w')\nraise SystemExit"
    change_request(tested, space={"python": program})
    made = report.make_report(tested)
    assert made.notes == ()
    assert not trace.exists()
    assert ("own search space", "yes") in zip(
        *(Parsed(made.page).texts[tag] for tag in ("dt", "dd")), strict=True
    )
