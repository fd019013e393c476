"""Files are written whole or not at all; those of a user are read with care."""

import json
import os
from pathlib import Path

import pytest

from amatune.errors import DataError, RequestError
from amatune.files import read_json, read_text, usable_path, write_json


def test_write_replaces_and_survives_failure(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_names_that_are_no_text_come_back(tmp_path):
    """Bytes of a file's name that are no UTF-8."""
    name = os.fsdecode(b"picture\xff.png")
    write_json(tmp_path / "x.json", [name])
    assert read_json(read_text(tmp_path / "x.json", "it", 100), "it") == [name]


@pytest.mark.parametrize("text", ["gone/x", ".", "/", "~/x", os.fsdecode(b"a\xff")])
def test_paths_need_not_exist(text):
    assert usable_path(text) == Path(text).expanduser()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "cannot use the path '': it is empty"),
        ("x" * 5000, "File name too long"),
        ("a\0b", "a zero byte is in no name"),
        ("\ud800", "half of a surrogate pair is no text"),
        ("~nobody-is-called-so/x", "home directory"),
    ],
)
def test_paths_that_the_system_does_not_take(text, told):
    with pytest.raises(DataError, match=told) as caught:
        usable_path(text, DataError)
    assert len(str(caught.value)) < 300


def test_a_text_is_read_as_it_is(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffGröße\r\n".encode())
    (tmp_path / "link").symlink_to("a.txt")
    assert read_text(tmp_path / "link", "the text", 12) == "Größe\r\n"
    with pytest.raises(RequestError, match=r"cannot read the text .*: it is larger than 11 bytes"):
        read_text(tmp_path / "a.txt", "the text", 11)


def test_nothing_that_waits_or_never_ends_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(RequestError, match="it is not a regular file"):
            read_text(tmp_path / name, "the text", 100)


@pytest.mark.parametrize(
    ("name", "told"),
    [("gone", "No such file"), ("x" * 300, "name too long"), ("a\0b", "null byte")],
)
def test_what_cannot_be_read_is_told(tmp_path, name, told):
    with pytest.raises(RequestError, match=told):
        read_text(tmp_path / name, "the text", 100)
    Path(tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(RequestError, match="not UTF-8 text"):
        read_text(tmp_path / "latin", "the text", 100)
