"""Where data sets and decoded pictures lie."""

import pytest

from amatune.data.places import CACHE, DATA, cache_folder, data_folder
from amatune.errors import DataError


def test_the_data_folder_is_the_chosen_one_else_the_environments(root, monkeypatch, tmp_path):
    assert data_folder() == root
    assert (
        data_folder(tmp_path / "told") == data_folder(str(tmp_path / "told")) == tmp_path / "told"
    )
    monkeypatch.setenv(DATA, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_folder() == tmp_path / ".cache/amatune"
    assert data_folder("~/sets") == tmp_path / "sets"


def test_decoded_pictures_lie_below_it_unless_the_environment_says_where(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(CACHE, "~/kept")
    assert cache_folder() == tmp_path / "kept"
    monkeypatch.setenv(CACHE, "")
    assert cache_folder() == tmp_path / ".cache/amatune/pictures"


def test_the_home_of_nobody_is_told(monkeypatch):
    monkeypatch.setenv(CACHE, "~nosuchuser/kept")
    with pytest.raises(DataError, match=r"cannot use AMATUNE_CACHE='~nosuchuser/kept': "):
        cache_folder()
