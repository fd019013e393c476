"""The running test of drift: its bets by hand, its promise by simulation, and its file."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from amatune.cli import main
from amatune.detectors.ama import AMA
from amatune.errors import RequestError
from amatune.export import Calibration, export_detector
from amatune.export.drift import JUMP, Watch

NORMALS = 20  # scores in a calibration


def watch(scores: np.ndarray, rate: float = 0.1, seed: int = 0) -> Watch:
    return Watch.begin(Calibration.of(scores), rate, seed)


def run(found: Watch, scores: np.ndarray) -> list[float]:
    return [found.take(float(score), str(n)) for n, score in enumerate(scores)]


def test_evidence_is_the_simple_jumpers() -> None:
    rng = np.random.default_rng(0)
    found = watch(rng.normal(size=NORMALS))
    p_values = run(found, rng.normal(0.5, 1, 60))
    capital = {-1: 1 / 3, 0: 1 / 3, 1: 1 / 3}  # as in the paper's Algorithm 1, not scaled
    for p in p_values:
        total = sum(capital.values())
        for slope, own in capital.items():
            capital[slope] = ((1 - JUMP) * own + JUMP / 3 * total) * (1 + slope * (p - 0.5))
    assert found.evidence == pytest.approx(sum(capital.values()))


def test_p_values_count_what_is_higher_and_draw_among_equals() -> None:
    found = watch(np.array([1.0, 2.0, 2.0, 3.0]))
    u = [np.random.default_rng([0, n]).random() for n in range(3)]
    assert found.take(2.0, "") == (1 + u[0] * 3) / 5
    assert found.take(9.0, "") == u[1] / 6
    assert found.take(0.0, "") == (6 + u[2]) / 7


def test_p_values_of_scores_with_many_ties_are_uniform_and_independent() -> None:
    rng = np.random.default_rng(1)
    drawn = [run(watch(rng.integers(0, 4, 20), seed=n), rng.integers(0, 4, 40)) for n in range(60)]
    p_values = np.array(drawn)
    assert stats.kstest(p_values.ravel(), "uniform").pvalue > 0.01
    neighbours = stats.spearmanr(p_values[:, :-1].ravel(), p_values[:, 1:].ravel())
    assert neighbours.pvalue > 0.01


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Also long after the calibration, which is small: its luck does not count as a change."""
    rng = np.random.default_rng(2)
    watches, pictures, rate = 100, 200, 0.1
    alarms = 0
    for seed in range(watches):
        found = watch(rng.exponential(size=NORMALS), rate, seed)
        run(found, rng.exponential(size=pictures))
        alarms += found.alarm is not None
    # Not more than the rate, but for the luck of the simulation at one in a thousand.
    assert alarms <= stats.binom.ppf(0.999, watches, rate)


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_a_shift_is_found(shift: float) -> None:
    rng = np.random.default_rng(3)
    found = watch(rng.normal(size=200), 0.01)
    run(found, rng.normal(size=300))
    assert found.alarm is None
    run(found, rng.normal(shift, 1, 200))
    assert found.alarm is not None
    assert int(found.alarm) < 100


def test_a_watch_goes_on_from_its_file_as_if_never_interrupted(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    calibration, scores = Calibration.of(rng.normal(size=30)), rng.normal(0.3, 1, 50)
    whole = Watch.begin(calibration, 0.05, 7)
    run(whole, scores)
    part = Watch.begin(calibration, 0.05, 7)
    run(part, scores[:20])
    part.save(tmp_path / "w")
    again = Watch.resume(tmp_path / "w", calibration)
    run(again, scores[20:])
    assert again == whole


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "other"}, "is no watch that"),
        ({"schema_version": 2}, "schema version 2"),
        ({"calibration": "00"}, "begun with another export, or before it was recalibrated"),
        ({"shares": [0.5, 0.5]}, "edited"),
        ({"shares": [0.5, 0.5, 0.5]}, "edited"),
        ({"scores": [1.0, "2"]}, "edited"),
        ({"scores": [True]}, "edited"),
        ({"scores": [10**400]}, "edited"),
        ({"log_evidence": None}, "edited"),
        ({"alarm_rate": 2}, "edited"),
        ({"seed": -1}, "edited"),
        ({"alarm": 3}, "edited"),
    ],
)
def test_a_file_that_is_no_such_watch_is_refused(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    calibration = Calibration.of([1.0, 2.0])
    Watch.begin(calibration, 0.05, 0).save(tmp_path / "w")
    text = json.loads((tmp_path / "w").read_text())
    (tmp_path / "w").write_text(json.dumps({**text, **change}))
    with pytest.raises(RequestError, match=told):
        Watch.resume(tmp_path / "w", calibration)


# --- amatune score --watch ------------------------------------------------------------------------


@pytest.fixture
def model(exported: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(exported.parent)
    rng = np.random.default_rng(9)
    np.savez("same.npz", images=rng.integers(0, 256, (25, 12, 12), np.uint8))
    np.savez("plain.npz", images=rng.integers(100, 110, (40, 12, 12), np.uint8))
    Image.new("L", (12, 12)).save("one.png")
    return exported.name


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_an_alarm_is_told_and_kept(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", model, "same.npz", "--watch", "w"]) == 0
    captured = capsys.readouterr()
    found = rows(captured.out)
    assert list(found[0])[-4:] == ["flag", "evidence", "drift", "error"]
    assert {row["drift"] for row in found} == {"false"}
    assert captured.err.startswith("amatune: watch: 25 pictures, evidence ")
    assert captured.err.endswith("alarm at 100\n")
    first = float(found[-1]["evidence"])

    assert main(["score", model, "plain.npz", "--watch", "w", "--json"]) == 0
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert 0.45 < lines[0]["evidence"] / first < 1.55  # it went on
    where = next(n for n, line in enumerate(lines) if line["evidence"] >= 100)
    assert [line["drift"] for line in lines] == [n >= where for n in range(40)]
    assert f"watch: ALARM at plain.npz[{where}]: the pictures are no longer" in captured.err
    assert "65 pictures" in captured.err

    Path("broken.png").write_bytes(b"damaged")  # counts as nothing, and the alarm stays
    assert main(["score", model, "one.png", "broken.png", "--watch", "w"]) == 1
    captured = capsys.readouterr()
    assert [row["drift"] for row in rows(captured.out)] == ["true", "true"]
    assert "66 pictures" in captured.err
    assert math.isfinite(json.loads(Path("w").read_text())["log_evidence"])


def test_a_call_that_fails_leaves_the_watch_as_it_was(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", model, "same.npz", "--watch", "w"]) == 0
    before = Path("w").read_bytes()
    Path("broken.png").write_bytes(b"damaged")
    assert main(["score", model, "broken.png", "--watch", "w"]) == 2
    assert Path("w").read_bytes() == before
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--alarm-rate", "0.1"], "give --watch FILE too"),
        (["--watch", "new", "--alarm-rate", "0"], "--alarm-rate must be between 0 and 1, got 0"),
        (["--watch", "new", "--alarm-rate", "1.5"], "between 0 and 1, got 1.5"),
        (["--watch", "no/such/file"], "there is no folder no/such"),
        (["--watch", "one.png"], "it is not UTF-8 text"),
        (["--watch", "model"], "cannot read the watch model"),
        (["--watch", "old", "--alarm-rate", "0.1"], "was begun with --alarm-rate 0.01"),
    ],
)
def test_wrong_requests(
    model: str, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", model, "one.png", "--watch", "old"]) == 0
    capsys.readouterr()
    assert main(["score", model, "one.png", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert not Path("new").exists()


def test_without_a_calibration_there_is_nothing_to_compare_with(
    model: str, detector: AMA, capsys: pytest.CaptureFixture[str]
) -> None:
    export_detector(detector, model, figures={}, data={})
    assert main(["score", model, "one.png", "--watch", "w"]) == 2
    assert "there is nothing to compare pictures with" in capsys.readouterr().err
