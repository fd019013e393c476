"""Compressors: nothing is lost, bits are counted, and what is not installed is said."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from amatune.errors import AmatuneError, RequestError
from amatune.extras import MissingExtraError
from amatune.nets.compressors import COMPRESSORS, compress, compressed_bits, version_of

# Stands in for the command: it keeps the pixels as they are.
FLIF = f"""#!{sys.executable}
import sys
if sys.argv[1] == "-hvv":
    print(" (___ | | | ___)   FLIF (Free Lossless Image Format) 0.4 [21 Nov 2021]")
else:
    assert sys.argv[1:3] == ["-e", "-N"]
    with open(sys.argv[3], "rb") as picture, open(sys.argv[4], "wb") as file:
        file.write(picture.read())
"""


@pytest.fixture
def flif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command `flif` on the path."""
    command = tmp_path / "flif"
    command.write_text(FLIF, encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return command


def pictures(channels: int, side: int = 12) -> np.ndarray:
    """Noise, a plain one, and a ramp."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (channels, side, side), np.uint8)
    ramp = np.broadcast_to(np.arange(side, dtype=np.uint8) * 20, noise.shape)
    return np.stack([noise, np.full_like(noise, 7), ramp])


def decoded(name: str, file: bytes) -> np.ndarray:
    if name == "jxl":
        return np.asarray(pytest.importorskip("imagecodecs").jpegxl_decode(file))
    return np.asarray(Image.open(io.BytesIO(file)))  # a stand-in's FLIF is a PNM


@pytest.mark.usefixtures("flif")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", COMPRESSORS)
def test_nothing_is_lost_and_the_bits_are_those_of_the_files(name: str, channels: int) -> None:
    if name == "jxl":
        pytest.importorskip("imagecodecs")
    values = pictures(channels)
    images = torch.from_numpy(values).float() / 127.5 - 1
    files = compress(name, images)
    for picture, file in zip(values, files, strict=True):
        pixels = decoded(name, file)
        if channels == 1 and pixels.ndim == 3:  # WebP has no grey
            assert (pixels == pixels[..., :1]).all()
            pixels = pixels[..., 0]
        assert (pixels == (picture[0] if channels == 1 else picture.transpose(1, 2, 0))).all()
    bits = compressed_bits(name, images)
    assert bits.dtype == torch.float32
    assert bits.tolist() == pytest.approx([8 * len(f) / (channels * 144) for f in files])
    assert torch.equal(compressed_bits(name, images[[2, 0]]), bits[[2, 0]])
    if not name.startswith("flif"):
        assert bits[0] > bits[2] >= bits[1]


@pytest.mark.usefixtures("flif")
def test_every_compressor_has_a_version() -> None:
    assert version_of("webp").startswith("libwebp ")
    assert "Pillow" in version_of("png")
    assert version_of("flif") == "FLIF 0.4"
    pytest.importorskip("imagecodecs")
    assert "imagecodecs" in version_of("jxl")


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match=r"no command `flif` on the path; choose .* jxl"):
        version_of("flif")
    monkeypatch.setattr("amatune.extras.is_installed", lambda _package: False)
    with pytest.raises(MissingExtraError, match=r"imagecodecs.*pip install 'amatune\[jpegxl\]'"):
        version_of("jxl")
    monkeypatch.setattr(features, "check", lambda _feature: False)
    with pytest.raises(RequestError, match="built without OpenJPEG; choose another"):
        version_of("jpeg2000")


def test_a_command_that_fails_is_told_of(flif: Path) -> None:
    flif.write_text(f"#!{sys.executable}\nraise SystemExit('out of luck')\n", encoding="utf-8")
    with pytest.raises(AmatuneError, match="`flif` failed: out of luck"):
        compress("flif", torch.zeros(1, 1, 8, 8))


@pytest.mark.skipif(shutil.which("flif") is None, reason="needs the command flif")
def test_the_real_flif_loses_nothing(tmp_path: Path) -> None:
    values = pictures(1)[2]
    (file,) = compress("flif", torch.from_numpy(values[None]).float() / 127.5 - 1)
    (tmp_path / "a.flif").write_bytes(file)
    subprocess.run(["flif", "-d", tmp_path / "a.flif", tmp_path / "a.png"], check=True)
    assert (np.asarray(Image.open(tmp_path / "a.png")) == values[0]).all()
