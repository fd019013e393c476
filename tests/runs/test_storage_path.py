"""Where trials keep their checkpoints: what is no place for them is refused at once."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_search import install, request, write_record

from amatune.cluster import checkpoints
from amatune.cluster.checkpoints import Checkpoints
from amatune.errors import RequestError
from amatune.runs import RunFolder
from amatune.runs.request import SearchRequest
from amatune.tuning.options import with_options
from amatune.tuning.rehearsal import rehearse
from amatune.tuning.search import run_search


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


class Reached(Exception):
    """The search goes as far as to its cluster."""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchRequest:
    """A search that would keep its checkpoints in tmp_path/shared/run."""

    def cluster(*_: object) -> None:
        raise Reached

    install(monkeypatch)
    monkeypatch.setattr("amatune.cluster.connection.cluster", cluster)
    return request(tmp_path / "runs", storage_path=f"{tmp_path}/shared/")


@pytest.mark.parametrize("inside", ["trials/0000", "best/trials/default-9epochs-seed1"])
def test_checkpoints_of_another_run_of_that_name(
    tmp_path: Path, asked: SearchRequest, inside: str
) -> None:
    (tmp_path / "shared" / "run" / inside).mkdir(parents=True)
    for place in (asked.storage_path, f"file://{tmp_path}/shared"):
        again = replace(asked, storage_path=place)
        for search in (run_search, rehearse):
            with pytest.raises(
                RequestError, match=r"/shared/run holds checkpoints of another run called 'run'; "
            ):
                search(again)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(Reached):
        run_search(replace(asked, name="other"))


def test_what_is_no_checkpoint_of_another_run(tmp_path: Path, asked: SearchRequest) -> None:
    """Such as what Ray Tune notes before the first trial."""
    (tmp_path / "shared" / "run" / "trials").mkdir(parents=True)
    (tmp_path / "shared" / "run" / "trials" / "experiment_state.json").touch()
    (tmp_path / "shared" / "run" / "tensorboard" / "0000").mkdir(parents=True)
    with pytest.raises(Reached):
        run_search(asked)


def test_a_run_finds_its_own_checkpoints(tmp_path: Path, asked: SearchRequest) -> None:
    """It is continued; who forgets to say so is not told to remove them."""
    (tmp_path / "shared" / "run" / "trials" / "0000").mkdir(parents=True)
    run = RunFolder(tmp_path / "runs" / "run")
    run.path.mkdir(parents=True)
    write_record(run, asked)
    with pytest.raises(Reached):
        run_search(asked, resume=True)
    with pytest.raises(RequestError, match=r"'run' exists already .* continue it with --resume"):
        run_search(asked)
