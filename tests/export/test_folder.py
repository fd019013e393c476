"""Exported models: what is written, what is refused, and what loading imports."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import amatune
from amatune.data.pictures import fit
from amatune.data.resizing import resize_in_floats
from amatune.detectors.ama import AMA, AMAConfig
from amatune.errors import AmatuneError, DataError, RequestError
from amatune.export import Calibration, export_detector, fingerprint, load, onnx_bytes
from amatune.sealed import own_hash
from amatune.stored import StoredDetector

FIGURES = {
    "test AUROC of A": {
        "value": 0.9134,
        "spread": 0.012,
        "low": 0.881,
        "high": 0.937,
        "note": "mean of 3 seeds",
    },
    "test AUPR": {"value": 0.75},
}
DATA = {
    "summary": "noise: 32 train",
    "training_images": {"shape": [3, 1, 12, 12], "sha256": "00ff"},
    "warnings": ["2 of 9 test normals are copies"],
}


FILES = [
    "README.md",
    "calibration.safetensors",
    "config.json",
    "model.onnx",
    "model.safetensors",
]

pytestmark = pytest.mark.usefixtures("convert_once")


@pytest.fixture
def normal_scores(detector: AMA) -> np.ndarray:
    """Of 30 images, float32 (30,), in no order."""
    images = np.random.default_rng(7).integers(0, 256, (30, 1, 12, 12), np.uint8)
    return detector.score(torch.from_numpy(images)).numpy()


@pytest.fixture
def folder(detector: AMA, tmp_path: Path, normal_scores: np.ndarray) -> Path:
    export_detector(
        detector,
        tmp_path / "model",
        figures=FIGURES,
        data=DATA,
        normal_scores=normal_scores,
    )
    return tmp_path / "model"


def edit(folder: Path, **changes: Any) -> None:
    """Change config.json and its own hash, as a forger or another version would."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    config["config_sha256"] = own_hash(config)
    path.write_text(json.dumps(config))


def replace(folder: Path, name: str, data: bytes) -> None:
    """Exchange a file and its hash."""
    (folder / name).write_bytes(data)
    hashes = json.loads((folder / "config.json").read_text())["sha256"]
    edit(folder, sha256={**hashes, name: hashlib.sha256(data).hexdigest()})


def replace_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    replace(folder, "model.safetensors", safetensors.torch.save(tensors))


def test_a_loaded_model_scores_as_the_detector_did(detector: AMA, folder: Path) -> None:
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (9, 1, 12, 12), np.uint8))
    loaded = load(folder)
    assert loaded.method == "ama"
    assert loaded.image_shape == (1, 12, 12)
    assert loaded.figures == FIGURES
    assert loaded.data == DATA
    assert loaded.detector.config == detector.config
    for name, scores in detector.scores(images).items():
        torch.testing.assert_close(loaded.detector.scores(images)[name], scores, rtol=0, atol=0)


def test_the_package_exposes_load(folder: Path) -> None:
    assert amatune.load(folder).method == "ama"
    with pytest.raises(AttributeError, match="lode"):
        _ = amatune.lode


def test_the_model_card_tells_figures_limits_and_settings(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| test AUROC of A | 0.913 ± 0.012 | 0.881 to 0.937 | mean of 3 seeds |" in card
    assert "| test AUPR | 0.750 |  |  |" in card
    assert "noise: 32 train" in card
    assert "3 of 1 x 12 x 12 (channels, height, width), SHA-256 `00ff`" in card
    assert "these images may have helped to choose the settings" in card
    assert "Warning: 2 of 9 test normals are copies" in card
    assert "12 x 12 pixels" in card
    assert "| critic_steps | `1` |" in card
    assert "## Limits" in card


def test_files_score_as_their_pixels_do_in_any_batch(
    detector: AMA, folder: Path, pictures: Path
) -> None:
    loaded = load(folder)
    rows = list(loaded.score_files([pictures]))
    assert [row.path.name for row in rows] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    pixels = np.stack([np.asarray(Image.open(row.path))[None] for row in rows])
    expected = detector.scores(torch.from_numpy(pixels))
    for name in ("A", "R"):
        assert [row.scores[name] for row in rows] == pytest.approx(expected[name].tolist())
    assert [row.score for row in rows] == [row.scores["A"] for row in rows]
    alone = [row.score for row in loaded.score_files([pictures], batch_size=1)]
    assert alone == pytest.approx([row.score for row in rows], rel=1e-4, abs=1e-5)


def test_a_broken_picture_is_reported_in_its_place(folder: Path, pictures: Path) -> None:
    broken = folder.parent / "broken.png"
    broken.write_bytes((pictures / "0.png").read_bytes()[:60])
    rows = list(load(folder).score_files([broken, pictures / "1.png"], batch_size=2))
    by_name = {row.path.name: row for row in rows}
    assert by_name["broken.png"].score is None
    assert by_name["broken.png"].scores == {}
    assert "broken.png" in str(by_name["broken.png"].problem)
    assert by_name["1.png"].problem is None


def test_nothing_to_score_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        list(load(folder).score_files([tmp_path / "empty"]))


def test_loading_imports_neither_search_tools_nor_pickles(folder: Path, pictures: Path) -> None:
    program = (
        "import pickle, sys, amatune\n"
        "def refuse(*_, **__): raise AssertionError('a pickle was read')\n"
        "exported = amatune.load(sys.argv[1])\n"
        "import torch\n"
        "torch.load = pickle.load = pickle.loads = refuse\n"
        "exported = amatune.load(sys.argv[1])\n"
        "print(len(list(exported.score_files([sys.argv[2]]))))\n"
        "print(sorted({'ray', 'optuna', 'typer', 'rich', 'sklearn', 'onnx', 'torch._dynamo'}"
        " & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(pictures)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == ["5", "[]"]


def test_an_earlier_export_is_replaced_whole(detector: AMA, folder: Path) -> None:
    before = (folder / "config.json").read_text()
    export_detector(detector, folder, figures={}, data={})
    assert (folder / "config.json").read_text() != before
    assert sorted(p.name for p in folder.iterdir()) == [
        name for name in FILES if name != "calibration.safetensors"
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["model"]  # nothing temporary is left
    assert load(folder).figures == {}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("notes.txt", "mine", "notes.txt"),
        ("config.json", "{}", "config.json"),
        ("config.json", "[1]", "config.json"),
        ("README.md", "mine", "config.json"),
    ],
)
def test_a_folder_that_is_no_export_is_left_alone(
    detector: AMA, tmp_path: Path, name: str, content: str, told: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text(content)
    with pytest.raises(RequestError, match=told):
        export_detector(detector, tmp_path / "mine", figures={}, data={})
    assert (tmp_path / "mine" / name).read_text() == content
    with pytest.raises(RequestError, match="it is a file"):
        export_detector(detector, tmp_path / "mine" / name, figures={}, data={})


def test_an_empty_folder_may_be_used(detector: AMA, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    export_detector(detector, tmp_path / "new", figures={}, data={})
    load(tmp_path / "new")


def test_a_failing_export_keeps_the_earlier_one(
    detector: AMA, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename

    def full_disk(self: Path, target: Path) -> Path:
        if Path(target) == folder and self.name.startswith("."):
            monkeypatch.undo()
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(AmatuneError, match="No space left"):
        export_detector(detector, folder, figures={}, data={})
    assert load(folder).figures == FIGURES
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_an_uncalibrated_detector_is_refused(tmp_path: Path) -> None:
    fresh = AMA(AMAConfig(width=0.05), (1, 12, 12))
    with pytest.raises(RequestError, match="calibrate"):
        export_detector(fresh, tmp_path / "model", figures={}, data={})
    assert not (tmp_path / "model").exists()


def test_a_missing_folder_or_file_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nowhere"):
        load(tmp_path / "nowhere")
    for name in FILES:
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(RequestError, match=name):
            load(folder)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-10],
        lambda _: b"",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data + b"\0",
    ],
    ids=["truncated", "empty", "one bit flipped", "longer"],
)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_changed_is_refused(
    folder: Path, name: str, spoil: Callable[[bytes], bytes]
) -> None:
    path = folder / name
    path.write_bytes(spoil(path.read_bytes()))
    told = "config.json is not readable JSON" if name == "config.json" else f"{name}.*SHA-256"
    with pytest.raises(RequestError, match=told):
        load(folder)


def test_an_edit_of_the_configuration_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    text = path.read_text()
    assert '"value": 0.9134' in text
    path.write_text(text.replace('"value": 0.9134', '"value": 0.9834'))
    with pytest.raises(RequestError, match=r"config\.json is not what was saved there"):
        load(folder)
    path.write_text(json.dumps(json.loads(text)))  # laid out in another way
    assert load(folder).figures == FIGURES


def test_files_of_ones_own_do_not_matter(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    assert load(folder).method == "ama"


def test_weights_of_another_configuration_are_refused(folder: Path) -> None:
    replace_weights(folder, lambda tensors: tensors.popitem())
    with pytest.raises(RequestError, match="1 tensors are missing"):
        load(folder)
    replace_weights(folder, lambda tensors: tensors.update(extra=torch.zeros(1)))
    with pytest.raises(RequestError, match="tensors are missing, unknown"):
        load(folder)


def test_weights_in_another_format_are_refused(folder: Path) -> None:
    replace(folder, "model.safetensors", b"not safetensors")
    with pytest.raises(RequestError, match="does not fit"):
        load(folder)


def _saved(**tensors: torch.Tensor) -> bytes:
    return safetensors.torch.save(tensors)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"not safetensors", "not a calibration"),
        (_saved(normal_scores=torch.tensor([1.0, torch.nan])), "finite"),
        (_saved(normal_scores=torch.empty(0)), "finite"),
        (_saved(normal_scores=torch.ones(2, 2)), r"\(2, 2\)"),
        (_saved(normal_scores=torch.ones(2, dtype=torch.int64)), "float32"),
        (_saved(scores=torch.ones(2)), "must hold normal_scores"),
        (_saved(normal_scores=torch.ones(2), more=torch.ones(2)), "no more"),
    ],
)
def test_a_calibration_that_is_none_is_refused(folder: Path, data: bytes, told: str) -> None:
    replace(folder, "calibration.safetensors", data)
    with pytest.raises(RequestError, match=told):
        load(folder)


# --- calibration ----------------------------------------------------------------------------------


def test_the_calibration_is_kept_and_gives_conformal_p_values(
    folder: Path, normal_scores: np.ndarray, pictures: Path
) -> None:
    loaded = load(folder)
    assert loaded.calibration is not None
    kept = loaded.calibration.scores
    assert kept.dtype == np.float32
    assert np.array_equal(kept, np.sort(normal_scores))
    for row in loaded.score_files([pictures]):
        assert row.score is not None
        assert row.p_value == (1 + sum(s >= row.score for s in normal_scores.tolist())) / 31
    config = json.loads((folder / "config.json").read_text())
    assert config["schema_version"] == 3
    told = config["calibration"]
    assert told["normal_images"] == 30
    assert told["smallest_false_positive_rate"] == 1 / 31
    # 1% would need 99 images.
    assert [row["false_positive_rate"] for row in told["thresholds"]] == [0.05, 0.1]
    for row in told["thresholds"]:
        flagged = normal_scores > np.float32(row["threshold"])
        p_values = loaded.calibration.p_values(normal_scores)
        assert np.array_equal(flagged, p_values <= row["false_positive_rate"])
        assert repr(row["threshold"]) in (folder / "README.md").read_text(encoding="utf-8")


def test_impossible_rates_are_refused() -> None:
    calibration = Calibration.of([3.0, 1.0, 2.0])
    assert calibration.threshold(0.25) == 3.0
    assert calibration.threshold(0.5) == 2.0
    assert list(calibration.stated()) == []
    for rate in (0.0, 0.2499, 1.0, -1.0, float("nan")):
        with pytest.raises(RequestError, match=r"rates from 0\.25 \(1/4\) to below 1"):
            calibration.threshold(rate)


@pytest.mark.parametrize("scores", [[], [1.0, float("nan")], [float("inf")], [[1.0], [2.0]]])
def test_useless_normal_scores_are_refused(detector: AMA, tmp_path: Path, scores: Any) -> None:
    with pytest.raises(RequestError, match="one or more finite scores"):
        export_detector(detector, tmp_path / "m", figures={}, data={}, normal_scores=scores)
    assert not (tmp_path / "m").exists()


def test_without_normal_scores_there_are_no_p_values(
    detector: AMA, tmp_path: Path, pictures: Path
) -> None:
    export_detector(detector, tmp_path / "m", figures={}, data={})
    loaded = load(tmp_path / "m")
    assert loaded.calibration is None
    assert {row.p_value for row in loaded.score_files([pictures])} == {None}
    card = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert "exported without scores of held-out normal images" in card


def test_a_fingerprint_is_of_shape_and_bytes() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 3, 2), np.uint8)
    told = fingerprint(images)
    assert told["shape"] == [4, 1, 3, 2]
    assert told["sha256"] == hashlib.sha256(b"(4, 1, 3, 2)" + images.tobytes()).hexdigest()
    assert fingerprint(images.transpose(0, 1, 3, 2)) != told
    turned = np.asfortranarray(images)
    assert fingerprint(turned) == told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schema_version": 1}, "schema version 1, this amatune reads 3"),
        ({"schema_version": 4}, "schema version 4"),
        ({"schema_version": True}, "schema version True"),
        ({"schema_version": None}, "schema version None"),
        ({"kind": "other"}, "does not describe a detector"),
        ({"method": "amma"}, "did you mean 'ama'"),
        ({"method": 3}, "unusable method"),
        ({"config": {"widht": 1.0}}, "did you mean 'width'"),
        ({"config": {"width": -1.0}}, "width must be positive"),
        ({"config": None}, "unusable config"),
        ({"image_shape": [1, 28]}, "unusable image_shape"),
        ({"image_shape": [1, 28, "28"]}, "unusable image_shape"),
        ({"image_shape": [1, 4, 4]}, "too small"),
        ({"sha256": 5}, "unusable sha256"),
        ({"sha256": {}}, "unusable sha256"),
        ({"sha256": {"model.safetensors": 5}}, "unusable sha256"),
        ({"figures": [], "data": None}, "unusable figures, data"),
    ],
)
def test_a_configuration_that_was_edited_is_refused(
    folder: Path, changes: dict[str, Any], told: str
) -> None:
    edit(folder, **changes)
    with pytest.raises(RequestError, match=told):
        load(folder)


def test_a_model_of_a_run_is_no_export(detector: AMA, tmp_path: Path) -> None:
    StoredDetector.of(detector).save(tmp_path)
    with pytest.raises(RequestError, match="describes an amatune-model, not an amatune-export"):
        load(tmp_path)


def test_an_export_of_amatune_0_1_is_read_and_resizes_as_it_did(
    detector: AMA, folder: Path, tmp_path: Path
) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name in ("seed", "primary", "config_sha256"):
        del config[name]
    config["schema_version"] = 2
    del config["preprocessing"]["geometry"]
    config["config_sha256"] = own_hash(config)
    path.write_text(json.dumps(config))
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (9, 1, 12, 12), np.uint8))
    assert torch.equal(load(folder).detector.score(images), detector.score(images))
    large = np.random.default_rng(2).integers(0, 256, (1, 1, 50, 31), np.uint8)
    Image.fromarray(large[0, 0]).save(tmp_path / "large.png")
    np.savez(tmp_path / "large.npz", images=large[:, 0])
    expected = detector.score(torch.from_numpy(resize_in_floats(large, (12, 12))))
    assert expected != detector.score(torch.from_numpy(fit(large, (1, 12, 12))))
    for row in load(folder).score_files([tmp_path / "large.png", tmp_path / "large.npz"]):
        assert row.score == pytest.approx(expected.item())


@pytest.mark.parametrize("rule", [0, 3, "2", True])
def test_a_rule_of_resizing_from_the_future_is_refused(folder: Path, rule: Any) -> None:
    edit(folder, preprocessing={"geometry": rule})
    with pytest.raises(RequestError, match="this amatune knows 1 to 2"):
        load(folder)


# --- a method without an ONNX form ----------------------------------------------------------------


def test_a_method_without_onnx_is_exported_without(
    detector: AMA, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AMA, "exports_to_onnx", False)
    monkeypatch.setattr(AMA, "why_no_onnx", "each score is an optimisation of its own")
    export_detector(detector, tmp_path / "model", figures=FIGURES, data=DATA)
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "There is no model.onnx, the form for other programs: each score is an" in card
    assert "onnxruntime" not in card
    config = (tmp_path / "model" / "config.json").read_text()
    assert json.loads(config)["onnx"] is None
    assert "model.onnx" not in config
    loaded = load(tmp_path / "model")
    assert all(row.score is not None for row in loaded.score_files([pictures]))
    with pytest.raises(RequestError, match="cannot be exported to ONNX: each score is an"):
        onnx_bytes(detector)
    # What was exported without cannot be given one afterwards, nor lose one.
    edit(tmp_path / "model", onnx={"input": {}})
    with pytest.raises(RequestError, match="unusable sha256"):
        load(tmp_path / "model")


def test_hashes_lead_to_no_other_file(folder: Path) -> None:
    secret = folder.parent / "secret"
    secret.write_bytes(b"x")
    hashes = json.loads((folder / "config.json").read_text())["sha256"]
    edit(folder, sha256={**hashes, "../secret": hashlib.sha256(b"x").hexdigest()})
    with pytest.raises(RequestError, match="unusable sha256"):
        load(folder)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]", b"", b"[" * 100_000])
def test_a_configuration_that_is_no_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(RequestError, match=r"config\.json"):
        load(folder)
