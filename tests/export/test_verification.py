"""Whether an export's forms agree: what is compared, what is told, and what is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amatune.cli import main
from amatune.detectors.ama import AMA, AMAConfig
from amatune.errors import AmatuneError
from amatune.export import export_detector, load, onnx_bytes
from amatune.export.agreement import (
    ONNX_RUNTIME,
    TORCH,
    Verification,
    compare,
    onnx_engine,
    openvino_engine,
    torch_engine,
)
from amatune.sealed import own_hash


def noise(count: int, *size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *(size or (1, 12, 12))), np.uint8)


@pytest.fixture(scope="module")
def other_model() -> bytes:
    """The ONNX form of another detector for the same pictures."""
    images = torch.from_numpy(noise(16, seed=5))
    other = AMA(AMAConfig(epochs=1, batch_size=8, width=0.05, critic_steps=1), (1, 12, 12), seed=3)
    other.train_epoch(images)
    other.calibrate(images)
    return onnx_bytes(other)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    folder = tmp_path / "odd"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate([(12, 12), (31, 50), (7, 5, 3)]):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(folder / f"{number}.png")
    return folder


def exchange(folder: Path, model: bytes) -> None:
    """Another model.onnx, with its hash."""
    (folder / "model.onnx").write_bytes(model)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["sha256"]["model.onnx"] = hashlib.sha256(model).hexdigest()
    config["config_sha256"] = own_hash(config)
    path.write_text(json.dumps(config))


def test_forms_that_agree(exported: Path, odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(exported), str(odd)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 pictures"
    assert lines[1].startswith(f"torch {torch.__version__.partition('+')[0]}")
    assert "ms a picture, largest difference" in lines[2]
    assert lines[-1] == "all agree within 0.0001"
    assert main(["verify", str(exported), str(odd), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tolerance"] == 1e-4
    first, second = found["engines"][:2]
    assert (first["difference"], first["pictures"], second["pictures"]) == (0, 3, 3)
    assert second["engine"].startswith("onnxruntime ")
    assert 0 < second["difference"] < 1e-5
    assert second["seconds"] > 0
    assert Path(second["picture"]).parent == odd


def test_forms_that_disagree(
    exported: Path, odd: Path, other_model: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    exchange(exported, other_model)
    assert main(["verify", str(exported), str(odd)]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "onnxruntime" in told
    assert "disagrees with torch about" in told
    assert "where 0.0001 is allowed" in told
    assert main(["verify", str(exported), str(odd), "--tolerance", "1e9", "--json"]) == 0
    worst = json.loads(capsys.readouterr().out)["engines"][1]
    # The picture, the score and the difference that it names are the largest of all.
    one, other = load(exported), onnx_engine(other_model)
    gaps = {}
    for picture in sorted(odd.iterdir()):
        pixels = np.asarray(Image.open(picture))
        pixels = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]
        (scored,) = one.score_files([picture])
        for name, value in scored.scores.items():
            gap = abs(float(other(pixels)[name][0]) - value) / max(1, abs(value))
            gaps[gap] = (str(picture), name)
    assert worst["difference"] == pytest.approx(max(gaps), rel=1e-5)
    assert (worst["picture"], worst["output"]) == gaps[max(gaps)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["odd", "--tolerance", "0"], "a tolerance must be above 0, got 0"),
        (["odd", "--tolerance", "nan"], "a tolerance must be above 0, got nan"),
        (["none"], "no such file or folder"),
        (["odd/2.png", "--tolerance", "x"], "'x' is not a number"),
    ],
)
def test_wrong_requests(
    exported: Path,
    odd: Path,
    words: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(odd.parent)
    assert main(["verify", str(exported), *words]) == 2
    assert told in capsys.readouterr().err


def test_broken_pictures_are_told(
    exported: Path, odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (odd / "3.png").write_bytes(b"damaged")
    assert main(["verify", str(exported), str(odd)]) == 1
    captured = capsys.readouterr()
    assert "3 pictures" in captured.out
    assert "3.png: not a picture" in captured.err
    assert main(["verify", str(exported), str(odd / "3.png")]) == 2
    assert "nothing was compared" in capsys.readouterr().err


def test_an_export_without_onnx_cannot_be_verified(
    exported: Path,
    detector: AMA,
    odd: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(AMA, "exports_to_onnx", False)
    export_detector(detector, exported, figures={}, data={})
    assert main(["verify", str(exported), str(odd)]) == 2
    assert "has no model.onnx" in capsys.readouterr().err


def test_what_is_not_a_number_never_agrees() -> None:
    def spoilt(_: np.ndarray) -> dict[str, np.ndarray]:
        return {"A": np.array([np.nan], np.float32)}

    def sound(_: np.ndarray) -> dict[str, np.ndarray]:
        return {"A": np.array([1.0], np.float32)}

    found = Verification(compare(sound, {ONNX_RUNTIME: spoilt}, [("one", noise(1)[0])]), 1.0)
    assert [one.engine.split()[0] for one in found.agreements] == [TORCH, ONNX_RUNTIME]
    with pytest.raises(AmatuneError, match="about one: A is nan, by torch 1, a difference of inf"):
        found.require()


def test_an_export_that_disagrees_is_not_written(
    exported: Path, detector: AMA, other_model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = noise(5)
    export_detector(detector, exported, figures={}, data={}, check_on=images)
    checked = json.loads((exported / "config.json").read_text())["onnx"]["checked"]
    assert checked["pictures"] == 15  # two more of each, at other sizes
    assert 0 <= checked["largest_difference"] < 1e-5
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "on 15 validation pictures of several sizes" in card
    before = {path.name: path.read_bytes() for path in exported.iterdir()}

    monkeypatch.setattr("amatune.export.folder.onnx_bytes", lambda _: other_model)
    with pytest.raises(AmatuneError, match=r"disagrees with torch about image \d"):
        export_detector(detector, exported, figures={}, data={}, check_on=images)
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    with pytest.raises(AmatuneError, match="disagrees"):
        export_detector(detector, exported.parent / "new", figures={}, data={}, check_on=images)
    assert not (exported.parent / "new").exists()
    assert not list(exported.parent.glob(".*"))
    shutil.rmtree(exported)


def test_openvino_agrees(detector: AMA, onnx_model: bytes) -> None:
    pytest.importorskip("openvino")
    pictures = [(str(n), image) for n, image in enumerate(noise(2, 3, 29, 41))]
    engine = openvino_engine(onnx_model)
    found = Verification(compare(torch_engine(detector), {"openvino": engine}, pictures), 1e-4)
    found.require()
    assert 0 <= found.agreements[1].difference < 1e-4
