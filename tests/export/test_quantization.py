"""`amatune quantize`: what is in 8 bits, what its scores are worth, and that nothing mixes them."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import amatune
from amatune import metrics
from amatune.cli import main
from amatune.detectors.features import Features, FeaturesConfig
from amatune.export import export_detector
from amatune.export.quantization import quantised
from amatune.results.operating import Demand, Guarantee, OperatingPoint, Rate
from amatune.sealed import own_hash

SHAPE = (1, 32, 32)


def blobs(count: int, seed: int, defect: bool = False) -> np.ndarray:
    """Smooth grey pictures (count, 32, 32); those with a defect have a bright square."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 190, (count, 4, 4), np.uint8)
    pictures = coarse.repeat(8, axis=1).repeat(8, axis=2)
    if defect:
        pictures[:, 10:17, 5:14] = 250
    return pictures


@pytest.fixture(scope="module")
def learnt() -> Features:
    images = torch.from_numpy(blobs(40, 0))[:, None]
    config = FeaturesConfig(backbone="random", layers="2+3", dims=16, resolution=64)
    detector = Features(config, SHAPE)
    detector.train_epoch(images)
    detector.calibrate(images)
    return detector


@pytest.fixture(autouse=True)
def model(learnt: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export with a certified threshold, 80 good pictures and 30 with a defect."""
    monkeypatch.chdir(tmp_path)
    np.savez("good.npz", images=blobs(80, 1))
    np.savez("bad.npz", images=blobs(30, 2, defect=True))
    rate = Rate(hits=1, of=100, low=0.0, high=0.05)
    point = OperatingPoint(name="certified", threshold=3.0, false_alarms=rate, recall=rate)
    held = Guarantee(demand=Demand(max_fpr=0.05), point=point, statement="at most 5%")
    export_detector(
        learnt, "model", figures={}, data={}, normal_scores=np.arange(30.0), guarantee=held
    )


def primary(folder: str, archive: str, engine: str) -> np.ndarray:
    exported = amatune.load(folder, engine=engine)
    return np.array([row.score for row in exported.score_files([archive])])


def test_what_it_loses_is_what_both_forms_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "model", "good.npz", "--anomalies", "bad.npz", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dropped"] == ["certified"]
    assert found["unreadable"] == []
    # By hand: every fourth of 80 gave the ranges.
    held = np.arange(80) % 4 != 0
    good, bad = (
        [primary("model-int8", f"{name}.npz", engine) for engine in ("onnx", "onnx-int8")]
        for name in ("good", "bad")
    )
    good = [scores[held] for scores in good]
    gaps = np.abs(np.concatenate([good[1] - good[0], bad[1] - bad[0]]))
    assert 0 < found["mean_difference"] == pytest.approx(gaps.mean(), rel=1e-4)
    assert found["largest_difference"] == pytest.approx(gaps.max(), rel=1e-4)
    assert (found["pictures"], found["ranges"]) == (90, 20)
    areas = [metrics.auroc(*sides) for sides in zip(good, bad, strict=True)]
    assert areas[0] > 0.7
    assert found["auroc"]["before"] == pytest.approx(areas[0])
    assert found["auroc"]["value"] == pytest.approx(areas[1])
    assert found["auroc"]["loss"] == pytest.approx(areas[0] - areas[1])
    flagged = [
        np.concatenate([g, b]) > metrics.conformal_threshold(g, 0.05)
        for g, b in zip(good, bad, strict=True)
    ]
    assert found["decisions"]["changed"] == (flagged[0] != flagged[1]).sum()
    assert found["bytes"] == Path("model-int8/model.int8.onnx").stat().st_size

    loaded = amatune.load("model-int8", engine="onnx-int8")
    assert loaded.calibration is not None
    assert loaded.guarantee is None
    np.testing.assert_allclose(loaded.calibration.scores, np.sort(good[1]), rtol=1e-6)
    for engine in ("torch", "onnx"):
        before, after = (amatune.load(f, engine=engine) for f in ("model", "model-int8"))
        assert after.guarantee == before.guarantee is not None
        np.testing.assert_array_equal(before.calibration.scores, after.calibration.scores)
    for name in ("model.safetensors", "model.onnx", "calibration.safetensors"):
        assert Path("model", name).read_bytes() == Path("model-int8", name).read_bytes()


def test_it_is_scored_by_its_own_thresholds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "model", "good.npz"]) == 0
    told = capsys.readouterr().out
    assert "the threshold 'certified' is one of the other forms alone" in told
    assert "AUROC" not in told
    words = ["score", "model-int8", "bad.npz", "--engine", "onnx-int8", "--json"]
    assert main(words) == 0
    calibration = amatune.load("model-int8", engine="onnx-int8").calibration
    assert calibration is not None
    threshold = calibration.threshold(0.05)
    for line in capsys.readouterr().out.splitlines():
        row = json.loads(line)
        assert row["flag"] == (row["score"] > threshold)
        assert row["p_value"] == pytest.approx(calibration.p_values([row["score"]])[0], rel=1e-5)
    card = Path("model-int8/README.md").read_text(encoding="utf-8")
    assert repr(threshold) in card
    assert "from 60 good pictures" in card

    # A new calibration is one of both forms.
    np.savez("newer.npz", images=blobs(50, 7))
    assert main(["recalibrate", "model-int8", "newer.npz"]) == 0
    again = amatune.load("model-int8-recalibrated", engine="onnx-int8").calibration
    assert again is not None
    scores = primary("model-int8", "newer.npz", "onnx-int8")
    np.testing.assert_allclose(again.scores, np.sort(scores), rtol=1e-6)
    assert "from 50 good pictures" in Path("model-int8-recalibrated/README.md").read_text()


def test_verify_tells_of_both_and_demands_no_agreement_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.fromarray(blobs(1, 5)[0]).save("one.png")
    assert main(["quantize", "model", "good.npz"]) == 0
    capsys.readouterr()
    assert main(["verify", "model-int8", "one.png", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    in_int8 = {one["engine"].split()[0]: one for one in found["engines"] if one["int8"]}
    assert set(in_int8) >= {"onnxruntime"}
    for one in in_int8.values():
        assert one["engine"].endswith(", 8 bits")
        assert one["difference"] > found["tolerance"]
    assert found["int8"]["ranges"] == 20
    assert main(["verify", "model-int8", "one.png"]) == 0
    told = capsys.readouterr().out
    assert "all in 32 bits agree within 0.0001" in told
    assert "when quantised, scores of 60 pictures differ by" in told


def test_all_but_convolutions_behind_the_first_stays() -> None:
    before = Path("model/model.onnx").read_bytes()
    images = list(blobs(4, 3)[:, None])
    after = onnx.load_from_string(quantised(before, images)).graph
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in after.initializer}
    made = {value: node for node in after.node for value in node.output}
    convolutions = [node for node in after.node if node.op_type == "Conv"]
    in_int8 = [
        node.input[1] in made and weights[made[node.input[1]].input[0]].dtype == np.int8
        for node in convolutions
    ]
    assert in_int8 == [False, *([True] * (len(convolutions) - 1))]
    assert len(in_int8) > 1
    others = {n.op_type for n in after.node} - {"QuantizeLinear", "DequantizeLinear"}
    assert "MatMul" in others
    for node in after.node:
        if node.op_type == "MatMul":
            assert not any(made[v].op_type == "DequantizeLinear" for v in node.input if v in made)


def test_what_cannot_be_quantised(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("one.npz", images=blobs(1, 1))
    assert main(["quantize", "model", "one.npz"]) == 2
    assert "8 bits need at least 2 good pictures" in capsys.readouterr().err
    assert not Path("model-int8").exists()
    assert main(["quantize", "model", "good.npz"]) == 0
    assert main(["quantize", "model", "good.npz"]) == 2
    assert "is an export already" in capsys.readouterr().err
    assert main(["score", "model", "good.npz", "--engine", "onnx-int8"]) == 2
    assert "`amatune quantize` makes one" in capsys.readouterr().err

    # One convolution, the first, is left as it is: nothing would be in 8 bits.
    flat = Features(FeaturesConfig(backbone="random", layers="1", resolution=64), SHAPE)
    images = torch.from_numpy(blobs(8, 0))[:, None]
    flat.train_epoch(images)
    flat.calibrate(images)
    export_detector(flat, "flat", figures={}, data={})
    assert main(["quantize", "flat", "good.npz"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "this model has no form in 8 bits" in told
    assert not Path("flat-int8").exists()


def test_an_edited_export_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("model/config.json")
    config = {**json.loads(path.read_text()), "figures": {"a": 3}}
    config["config_sha256"] = own_hash(config)
    path.write_text(json.dumps(config))
    assert main(["quantize", "model", "good.npz"]) == 2
    assert "no card can be made of it: AttributeError" in capsys.readouterr().err
    assert not Path("model-int8").exists()


def test_broken_pictures_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.png").write_bytes(b"damaged")
    assert main(["quantize", "model", "good.npz", "broken.png", "--anomalies", "bad.npz"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("broken.png") == 1
    assert "Exported model: model-int8" in captured.out
    onnxruntime.InferenceSession("model-int8/model.int8.onnx", providers=["CPUExecutionProvider"])
