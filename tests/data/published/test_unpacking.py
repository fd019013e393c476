"""Archives that lead outside or are damaged leave nothing."""

import io
import tarfile
from pathlib import Path

import pytest
from fake_sets import lay, odin_files, tarred, zipped

from amatune.data.catalogue import open_source
from amatune.errors import DataError


def tar_with(**facts):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("iSUN/x.png")
        for key, value in facts.items():
            setattr(info, key, value)
        archive.addfile(info, io.BytesIO(b""))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("iSUN.tar.gz", tar_with(name="../../evil.png")),
        ("iSUN.tar.gz", tar_with(name="/tmp/amatune-evil.png")),
        ("iSUN.tar.gz", tar_with(type=tarfile.SYMTYPE, linkname="/etc")),
        ("iSUN.tar.gz", tar_with(type=tarfile.LNKTYPE, linkname="../x")),
        ("iSUN.tar.gz", tar_with(type=tarfile.FIFOTYPE)),
        ("iSUN.zip", zipped({"iSUN/../../../evil.png": b""})),
        ("iSUN.zip", zipped({"/tmp/amatune-evil.png": b""})),
    ],
    ids=["tar ..", "tar /", "symbolic link", "hard link", "pipe", "zip ..", "zip /"],
)
def test_an_archive_that_leads_outside_is_refused(name, content, root, tmp_path):
    lay(root, {name: content})
    with pytest.raises(DataError, match="is a link or leads outside"):
        open_source("isun")
    assert {path.name for path in root.iterdir()} == {name, ".isun.lock"}
    assert not list(tmp_path.rglob("*evil*"))
    assert not Path("/tmp/amatune-evil.png").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("iSUN.tar.gz", b"nothing"),
        ("iSUN.tar.gz", tarred(odin_files())[:-4000]),
        ("iSUN.zip", zipped(odin_files())[:-4000]),
    ],
    ids=["no archive", "cut tar", "cut zip"],
)
def test_a_damaged_archive_leaves_nothing(name, content, root):
    lay(root, {name: content})
    with pytest.raises(DataError, match=f"cannot unpack {root / name}, it is damaged"):
        open_source("isun")
    assert {path.name for path in root.iterdir()} == {name, ".isun.lock"}
