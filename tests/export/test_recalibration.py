"""`amatune recalibrate`: other good pictures, other p-values and thresholds, the same detector."""

import json
from pathlib import Path

import numpy as np
import pytest

import amatune
from amatune.cli import main
from amatune.detectors.ama import AMA
from amatune.export import export_detector
from amatune.results.operating import Demand, Guarantee, OperatingPoint, Rate
from amatune.sealed import own_hash


@pytest.fixture
def model(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An export, and 40 good pictures of another light in `good.npz`."""
    monkeypatch.chdir(exported.parent)
    images = np.random.default_rng(9).integers(90, 160, (40, 12, 12), np.uint8)
    np.savez("good.npz", images=images)
    return exported


def test_p_values_and_thresholds_are_those_of_the_new_pictures(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "README.md").read_text(encoding="utf-8")
    assert main(["recalibrate", "model", "good.npz"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(
        "calibrated: with 40 normal images in the calibration, rates from 0.0"
    )
    assert told[1] == "Exported model: model-recalibrated"
    before, after = amatune.load("model"), amatune.load("model-recalibrated")
    scores = np.array([row.score for row in before.score_files(["good.npz"])])
    assert after.calibration is not None
    np.testing.assert_array_equal(after.calibration.scores, np.sort(scores).astype(np.float32))
    np.savez("new.npz", images=np.random.default_rng(1).integers(80, 170, (30, 12, 12), np.uint8))
    threshold = after.calibration.threshold(0.05)
    for engine in ("torch", "onnx"):
        words = ["score", "model-recalibrated", "new.npz", "--engine", engine, "--json"]
        assert main(words) == 0
        for line in capsys.readouterr().out.splitlines():
            row = json.loads(line)
            assert row["flag"] == (row["score"] > threshold)
            higher = int((scores >= row["score"]).sum())
            assert row["p_value"] == pytest.approx((1 + higher) / 41, rel=1e-5)

    for name in ("model.safetensors", "model.onnx"):
        assert Path("model", name).read_bytes() == Path("model-recalibrated", name).read_bytes()
    config = json.loads(Path("model-recalibrated/config.json").read_text())
    assert config["calibration"]["images"] == "newer images"
    assert config["calibration"]["normal_images"] == 40
    assert config["recalibrated"]["normal_images_before"] == 30
    card = Path("model-recalibrated/README.md").read_text(encoding="utf-8")
    assert "the scores of 40 normal newer images" in card
    assert f"Since {config['recalibrated']['date']} they come from pictures that" in card
    assert "those of the run, 30 images" in card
    assert repr(threshold) in card  # in the table, and in the example for the ONNX Runtime
    assert f"print(score > {threshold!r})" in card


def test_nothing_is_overwritten_unasked(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = (model / "config.json").read_bytes()
    assert main(["recalibrate", "model", "good.npz", "--output", "model"]) == 2
    assert "is an export already; name another folder" in capsys.readouterr().err
    assert (model / "config.json").read_bytes() == original
    assert main(["recalibrate", "model", "good.npz", "--output", "new"]) == 0
    assert main(["recalibrate", "model", "good.npz", "--output", "new"]) == 2
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    words = ["recalibrate", "model", "good.npz", "--output", "mine", "--replace"]
    assert main(words) == 2
    assert "'notes.txt', which is not part of an export" in capsys.readouterr().err
    assert main(["recalibrate", "model", "good.npz", "--output", "model", "--replace"]) == 0
    loaded = amatune.load("model")
    assert loaded.calibration is not None
    assert len(loaded.calibration.scores) == 40
    assert (model / "config.json").read_bytes() != original


def test_a_certified_threshold_does_not_survive(
    model: Path, detector: AMA, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = Rate(hits=1, of=100, low=0.0, high=0.05)
    point = OperatingPoint(name="certified", threshold=3.0, false_alarms=rate, recall=rate)
    held = Guarantee(demand=Demand(max_fpr=0.05), point=point, statement="at most 5%")
    export_detector(
        detector, model, figures={}, data={}, normal_scores=np.arange(30.0), guarantee=held
    )
    assert amatune.load("model").guarantee == held
    assert main(["recalibrate", "model", "good.npz", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["dropped"] == ["certified"]
    assert told["normal_images"] == 40
    assert [one["false_positive_rate"] for one in told["thresholds"]] == [0.05, 0.1]
    assert amatune.load("model-recalibrated").guarantee is None
    card = Path("model-recalibrated/README.md").read_text(encoding="utf-8")
    assert '`"certified"` is left out' in card
    assert "at most 5%" not in card


def test_what_cannot_be_recalibrated(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.png").write_bytes(b"damaged")
    assert main(["recalibrate", "model", "broken.png"]) == 2
    assert "nothing was scored" in capsys.readouterr().err
    assert not Path("model-recalibrated").exists()
    assert main(["recalibrate", "model", "good.npz", "broken.png"]) == 1
    assert "broken.png" in capsys.readouterr().err
    assert main(["recalibrate", "nowhere", "good.npz"]) == 2
    assert "there is no exported model at nowhere" in capsys.readouterr().err
    path = model / "config.json"
    config = json.loads(path.read_text())
    del config["preprocessing"]["geometry"]
    config["config_sha256"] = own_hash(config)
    path.write_text(json.dumps(config))
    assert main(["recalibrate", "model", "good.npz", "--output", "again"]) == 2
    assert "whose exports cannot be recalibrated" in capsys.readouterr().err


def test_too_few_pictures_for_the_usual_rate_are_told(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("one.npz", images=np.load("good.npz")["images"][:1])
    assert main(["recalibrate", str(model), "one.npz"]) == 0
    told = capsys.readouterr().out.splitlines()[0]
    assert "with 1 normal image in the calibration" in told
    assert "too few for the usual 0.05" in told


@pytest.mark.parametrize(
    ("edits", "told"),
    [
        ({"figures": {"a": 3}}, "no card can be made of it: AttributeError"),
        ({"figures": {"a": {"value": "high"}}}, "no card can be made of it: ValueError"),
        ({"data": {"training_images": {"sha256": ""}}}, "no card can be made of it: KeyError"),
        ({"preprocessing": None}, "whose exports cannot be recalibrated"),
        ({"preprocessing": 3}, "whose exports cannot be recalibrated"),
        ({"int8": 3}, "was edited: missing or unusable int8"),
    ],
)
def test_an_edited_export_is_refused_in_a_sentence(
    model: Path, capsys: pytest.CaptureFixture[str], edits: dict[str, object], told: str
) -> None:
    path = model / "config.json"
    config = {**json.loads(path.read_text()), **edits}
    config["config_sha256"] = own_hash(config)
    path.write_text(json.dumps(config))
    assert main(["recalibrate", "model", "good.npz"]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert not Path("model-recalibrated").exists()
