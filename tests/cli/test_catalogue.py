"""`amatune datasets`, `methods` and `space`."""

import os
import re
from pathlib import Path

import pytest
from calls import ANSI, call
from pictures_on_disk import write_npz, write_pictures


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
        ("datasets digits", ["what it is: ", "classes:     0, 1, 2", "where:       built in"]),
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
    assert "there, unverified" in lines["isun"]
    assert "put LSUN_resize.tar.gz" in lines["lsun-resize"]
    assert f"Data folder: {tmp_path / 'data'}" in text
    assert sorted(os.listdir("data")) == ["LSUN_resize", "iSUN", "svhn"]

    assert call("datasets --data-dir elsewhere isun") == 0
    assert f"where:      missing: {tmp_path / 'elsewhere'}\n" in capsys.readouterr().out
    assert not Path("elsewhere").exists()


def test_a_folder_of_ones_own_is_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "own" / "good", 30, size=(80, 100))
    write_pictures(tmp_path / "own" / "bad", 10, size=(120, 90), mode="RGB")
    (tmp_path / "own" / "good" / "copy.png").write_bytes(
        (tmp_path / "own" / "good" / "000.png").read_bytes()
    )
    for number in range(7):  # more than a search passes over
        (tmp_path / "own" / "bad" / f"broken{number}.png").write_bytes(b"x")
    assert call(f"datasets folder:{tmp_path / 'own'}") == 0
    rows = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    rows = {key: text.strip() for key, text in rows.items()}
    assert int(rows["train"]) + int(rows["test"]) == 41
    assert rows["classes"] == "bad (10), good (31)"
    assert rows["sizes"] == "100 x 80 to 90 x 120"
    assert rows["modes"] == "31 grey, 10 colour"
    assert rows["duplicates"] == "1, for example good/copy.png of good/000.png"
    assert rows["broken"].startswith("7, the first: cannot read picture ")
    assert rows["in a search"].startswith("32 x 32 pixels, colour; as the normal set, ")


def test_an_archive_of_ones_own_is_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_npz(tmp_path / "x.npz", n=(60, 30), shape=(70, 9))
    assert call(f"datasets npz:{path}") == 0
    text = capsys.readouterr().out
    for row in ("train:       60\n", "test:        30\n", "classes:     0 (30), 1 (30), 2 (30)\n"):
        assert row in text
    assert "sizes:       9 x 70\n" in text
    assert "in a search: 9 x 70 pixels, grey; as the normal set, 12 training images" in text


@pytest.mark.parametrize("name", ["folder:nowhere", "npz:nowhere", "folder:", "elsewhere"])
def test_what_cannot_be_described(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(f"datasets {name}") == 2
    assert name.partition(":")[2] in capsys.readouterr().err
