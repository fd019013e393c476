"""Scoring by the ONNX Runtime: the same rows as by torch, and no torch in the process."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from calls import python
from PIL import Image

import amatune
from amatune.cli import main
from amatune.detectors.ama import AMA
from amatune.errors import AmatuneError, RequestError
from amatune.export import OnnxExport, export_detector
from amatune.sealed import own_hash


@pytest.fixture(autouse=True)
def in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def odd_pictures(tmp_path: Path) -> Path:
    """Grey and coloured ones, smaller and larger than the detector's; one is damaged."""
    folder = tmp_path / "odd"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate([(12, 12), (31, 50), (7, 5), (40, 9, 3), (12, 12, 3)]):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(folder / f"{number}.png")
    (folder / "5.png").write_bytes(b"damaged")
    np.savez(folder / "more.npz", images=rng.integers(0, 256, (40, 20, 14), np.uint8))
    return folder


def rows(path: str) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_both_engines_write_the_same_rows(exported: Path, odd_pictures: Path) -> None:
    inputs = [str(odd_pictures), str(odd_pictures / "more.npz"), "--fpr", "0.1"]
    for engine in ("torch", "onnx"):
        words = ["score", str(exported), *inputs, "--engine", engine]
        assert main([*words, "--output", f"{engine}.csv", "--maps", f"maps-{engine}"]) == 1
    first, second = rows("torch.csv"), rows("onnx.csv")
    assert len(first) == len(second) == 46
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in ("path", "p_value", "flag", "error"):
            assert one[name] == other[name]
        if not one["error"]:
            for name in ("score", "A", "R", "AC", "RC"):
                assert float(other[name]) == pytest.approx(float(one[name]), rel=1e-4, abs=1e-4)
    assert sorted(os.listdir("maps-torch")) == sorted(os.listdir("maps-onnx"))
    for name in os.listdir("maps-torch"):
        maps = (np.load(f"maps-{engine}/{name}") for engine in ("torch", "onnx"))
        np.testing.assert_allclose(*maps, atol=1e-5)


def test_the_runtime_alone_is_enough(exported: Path, odd_pictures: Path) -> None:
    """Neither torch nor what scoring by it needs is imported; nor could it be."""
    (odd_pictures / "5.png").unlink()
    program = (
        "import importlib.abc, sys\n"
        "gone = {'torch', 'scipy', 'sklearn', 'onnx', 'onnxscript', 'ray', 'optuna', 'pandas'}\n"
        "gone |= {'yaml', 'platformdirs', 'sympy', 'openvino'}\n"
        "class Nothing(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in gone:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Nothing())\n"
        "from amatune.cli import main\n"
        "code = main(['score', *sys.argv[1:], '--engine', 'onnx', '--maps', 'm'])\n"
        "code += main(['score', *sys.argv[1:], '--engine', 'onnx', '--explain', 'e', '--json'])\n"
        "print(code, sorted(gone & sys.modules.keys()))"
    )
    done = python("-c", program, str(exported), str(odd_pictures))
    lines = done.stdout.splitlines()
    assert lines[-1] == "0 []"
    assert len(lines) == 6 + 5 + 1
    loaded = amatune.load(exported)
    expected = {str(row.path): row for row in loaded.score_files([odd_pictures])}
    for line in lines[6:-1]:
        row = json.loads(line)
        assert row["score"] == pytest.approx(expected[row["path"]].score, rel=1e-4)
        assert row["p_value"] == pytest.approx(expected[row["path"]].p_value, rel=1e-5)
    assert len(os.listdir("m")) == len(os.listdir("e")) == 5


def test_it_is_loaded_from_python_and_takes_no_images_too(exported: Path, detector: AMA) -> None:
    loaded = amatune.load(exported, engine="onnx")
    assert isinstance(loaded, OnnxExport)
    assert loaded.image_shape == (1, 12, 12)
    assert loaded.calibration is not None
    images = np.random.default_rng(1).integers(0, 256, (70, 1, 12, 12), np.uint8)
    expected = detector.scores(torch.from_numpy(images))
    for name, found in loaded.scores(images).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-4)
    assert loaded.scores(images[:0])["A"].shape == (0,)
    maps = loaded.pixel_map(images[:0])
    assert maps is not None
    assert maps.shape == (0, 12, 12)
    with pytest.raises(AmatuneError, match="ONNX Runtime cannot score"):
        loaded.run(np.zeros((1, 2, 9, 9), np.uint8), ("A",))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    config["config_sha256"] = own_hash(config)
    path.write_text(json.dumps(config))


def test_an_export_without_a_usable_model_says_so(
    exported: Path,
    detector: AMA,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["score", str(exported), str(pictures), "--engine"]
    assert main([*words, "onxx"]) == 2
    assert "there is no engine 'onxx', did you mean 'onnx'?" in capsys.readouterr().err
    edit(exported, onnx={"input": {"name": "images"}}, amatune_version="0.1.0")
    assert main([*words, "onnx"]) == 2
    told = capsys.readouterr().err
    assert "takes pictures of one size alone: it was written by amatune 0.1.0" in told
    edit(exported, onnx={"input": {"name": "pictures"}}, scores={"names": ["B"]})
    assert main([*words, "onnx"]) == 2
    assert "model.onnx cannot be used: it has no B" in capsys.readouterr().err
    monkeypatch.setattr(AMA, "exports_to_onnx", False)
    export_detector(detector, exported, figures={}, data={})
    assert main([*words, "onnx"]) == 2
    told = capsys.readouterr().err
    assert "has no model.onnx: its method, ama, has no such form" in told
    assert "--engine torch" in told
    assert main([*words, "torch"]) == 0


def test_the_runtime_is_an_extra(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amatune.extras.is_installed", lambda package: package != "onnxruntime")
    with pytest.raises(RequestError, match=r"pip install 'amatune\[onnx\]'"):
        amatune.load(exported, engine="onnx")
