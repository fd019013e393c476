"""Where trials keep their checkpoints: what is no place for them is refused at once."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from amatune.cluster import checkpoints
from amatune.cluster.checkpoints import Checkpoints
from amatune.errors import RequestError
from amatune.runs.request import SearchRequest
from amatune.tuning.options import with_options


@pytest.mark.parametrize(
    "place", ["", " ", "/", "ftp:", "ftp://host/x", "s3:bucket", "s3://", "file:", "a\0b", "runs"]
)
def test_what_is_no_place(place: str) -> None:
    with pytest.raises(RequestError, match="the storage path must be the whole path of a folder"):
        SearchRequest(storage_path=place)


@pytest.mark.parametrize(
    "place", ["/data", "file:///data", "s3://bucket", "gs://b/c", "hdfs://h/x"]
)
def test_places(place: str) -> None:
    assert SearchRequest(storage_path=place).storage_path == place
    assert with_options(SearchRequest(), {"storage_path": place}).storage_path == place


def test_a_relative_folder_is_that_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = with_options(SearchRequest(), {"storage_path": "checkpoints"})
    assert asked.storage_path == str(tmp_path / "checkpoints")
    for wrong in ("", "ftp:"):
        with pytest.raises(RequestError, match="the storage path must be"):
            with_options(SearchRequest(), {"storage_path": wrong})


def test_a_place_that_takes_no_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "x", tmp_path / "file", f"file://{tmp_path}/file/x"):
        with pytest.raises(RequestError, match=r"trials cannot be kept at .*; name another --stor"):
            Checkpoints(str(place))


def test_an_object_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what pyarrow says then, which takes it a while."""

    def from_uri(_: str) -> None:
        raise OSError("When resolving region for bucket 'b': AWS Error NETWORK_CONNECTION")

    monkeypatch.setattr(
        checkpoints, "fs", SimpleNamespace(FileSystem=SimpleNamespace(from_uri=from_uri))
    )
    with pytest.raises(RequestError, match="trials cannot be kept at s3://b/run: When resolving"):
        Checkpoints("s3://b/run")
