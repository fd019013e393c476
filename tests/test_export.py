"""Exported models: what is written, what is refused, and what loading imports."""

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
from amatune.detectors.ama import AMA, AMAConfig
from amatune.errors import AmatuneError, DataError, RequestError
from amatune.export import export_detector, load

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
DATA = {"summary": "noise: 32 train", "warnings": ["2 of 9 test normals are copies"]}


@pytest.fixture
def folder(detector: AMA, tmp_path: Path) -> Path:
    export_detector(detector, tmp_path / "model", method="ama", figures=FIGURES, data=DATA)
    return tmp_path / "model"


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def replace_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Exchange the weights and their hash, as a forger or another version would."""
    import hashlib

    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    data = safetensors.torch.save(tensors)
    (folder / "model.safetensors").write_bytes(data)
    edit(folder, weights_sha256=hashlib.sha256(data).hexdigest())


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
        "print(sorted({'ray', 'optuna', 'typer', 'rich', 'sklearn'} & sys.modules.keys()))\n"
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
    export_detector(detector, folder, method="ama", figures={}, data={})
    assert (folder / "config.json").read_text() != before
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
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
        export_detector(detector, tmp_path / "mine", method="ama", figures={}, data={})
    assert (tmp_path / "mine" / name).read_text() == content
    with pytest.raises(RequestError, match="it is a file"):
        export_detector(detector, tmp_path / "mine" / name, method="ama", figures={}, data={})


def test_an_empty_folder_may_be_used(detector: AMA, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    export_detector(detector, tmp_path / "new", method="ama", figures={}, data={})
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
        export_detector(detector, folder, method="ama", figures={}, data={})
    assert load(folder).figures == FIGURES
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_an_uncalibrated_detector_is_refused(tmp_path: Path) -> None:
    fresh = AMA(AMAConfig(width=0.05), (1, 12, 12))
    with pytest.raises(RequestError, match="calibrate"):
        export_detector(fresh, tmp_path / "model", method="ama", figures={}, data={})
    assert not (tmp_path / "model").exists()


def test_a_missing_folder_or_file_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nowhere"):
        load(tmp_path / "nowhere")
    for name in ("model.safetensors", "config.json"):
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
def test_weights_that_were_changed_are_refused(
    folder: Path, spoil: Callable[[bytes], bytes]
) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(RequestError, match="SHA-256"):
        load(folder)


def test_weights_of_another_configuration_are_refused(folder: Path) -> None:
    replace_weights(folder, lambda tensors: tensors.popitem())
    with pytest.raises(RequestError, match="1 tensors are missing"):
        load(folder)
    replace_weights(folder, lambda tensors: tensors.update(extra=torch.zeros(1)))
    with pytest.raises(RequestError, match="tensors are missing, unknown"):
        load(folder)


def test_weights_in_another_format_are_refused(folder: Path) -> None:
    import hashlib

    (folder / "model.safetensors").write_bytes(b"not safetensors")
    edit(folder, weights_sha256=hashlib.sha256(b"not safetensors").hexdigest())
    with pytest.raises(RequestError, match="does not fit"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"schema_version": None}, "schema version None"),
        ({"kind": "other"}, "does not describe an exported model"),
        ({"method": "amma"}, "did you mean 'ama'"),
        ({"method": 3}, "unusable method"),
        ({"config": {"widht": 1.0}}, "did you mean 'width'"),
        ({"config": {"width": -1.0}}, "width must be positive"),
        ({"config": None}, "unusable config"),
        ({"image_shape": [1, 28]}, "unusable image_shape"),
        ({"image_shape": [1, 28, "28"]}, "unusable image_shape"),
        ({"image_shape": [1, 4, 4]}, "too small"),
        ({"weights_sha256": 5}, "unusable weights_sha256"),
    ],
)
def test_a_configuration_that_was_edited_is_refused(
    folder: Path, changes: dict[str, Any], told: str
) -> None:
    edit(folder, **changes)
    with pytest.raises(RequestError, match=told):
        load(folder)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]", b""])
def test_a_configuration_that_is_no_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(RequestError, match=r"config\.json"):
        load(folder)
