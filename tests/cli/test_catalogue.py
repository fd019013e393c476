"""`amatune datasets`, `methods` and `space`."""

import os
import re
from pathlib import Path

import pytest
from calls import ANSI, call


def test_clearing_the_cache_tells_what_it_freed(
    own_picture_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("datasets --clear-cache") == 0
    assert capsys.readouterr().out == f"0 bytes freed in {own_picture_cache}\n"
    own_picture_cache.mkdir()
    (own_picture_cache / "pictures-1.sqlite").write_bytes(bytes(3 * 2**20))
    assert call("datasets --clear-cache") == 0
    assert capsys.readouterr().out == f"3 MiB freed in {own_picture_cache}\n"
    assert list(own_picture_cache.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("datasets", ["digits", "folder:PATH", "npz:PATH"]),
        ("datasets digits", ["what it is: ", "classes:    0, 1, 2", "where:      built in"]),
        ("datasets svhn", ["train_32x32.mat (182 MB)", "73,257", "non-commercial"]),
        ("methods", ["ama", "A, R", "Adversarial Mirrored Autoencoder"]),
        ("space ama", ["geometry", "shell, ray or cube", "log scale", "geometry = shell"]),
    ],
)
def test_lists(command: str, told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(command) == 0
    text = capsys.readouterr().out
    assert ANSI not in text
    assert all(word in text for word in told)


def test_data_sets_are_listed_with_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train_32x32.mat", "test_32x32.mat"):
        Path("data/svhn").mkdir(parents=True, exist_ok=True)
        Path("data/svhn", name).touch()
    Path("data/iSUN").mkdir()
    Path("data/iSUN/0.png").touch()
    Path("data/LSUN_resize").mkdir()  # empty
    monkeypatch.setenv("AMATUNE_DATA", "data")
    assert call("datasets") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert re.search("60,000 +10,000 +12 MB +CC BY-SA 3.0 +missing", lines["mnist"])
    assert "incomplete" in lines["svhn"]  # the files are there, but empty
    assert "complete, in iSUN" in lines["isun"]
    assert "put LSUN_resize.tar.gz" in lines["lsun-resize"]
    assert f"Data folder: {tmp_path / 'data'}" in text
    assert sorted(os.listdir("data")) == ["LSUN_resize", "iSUN", "svhn"]

    assert call("datasets --data-dir elsewhere isun") == 0
    assert f"where:      missing: {tmp_path / 'elsewhere'}\n" in capsys.readouterr().out
    assert not Path("elsewhere").exists()
