"""Files are written whole or not at all; those of a user are read with care."""

import json
import os
from pathlib import Path

import pytest

from amatune.errors import RequestError
from amatune.files import read_text, write_json


def test_write_replaces_and_survives_failure(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


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
