"""A run may come from another person: only an explicit word runs the program it brings."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_method import METHOD
from fake_search import install, request, write_record

from amatune.cli import main
from amatune.cli.output import how_to_resume
from amatune.cluster.checkpoints import Checkpoints
from amatune.cluster.job import Progress
from amatune.errors import ClusterLostError, RequestError
from amatune.runs import RunFolder, all_runs
from amatune.runs.request import SearchRequest
from amatune.tuning import study as studies
from amatune.tuning.retrain import run_best
from amatune.tuning.search import run_search
from amatune.tuning.session import Session
from amatune.tuning.shortlists import shortlist
from amatune.tuning.spaces import read_space


class Reached(Exception):
    """The cluster was asked for: what is run without one has been run."""


@pytest.fixture(autouse=True)
def _without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: Any) -> None:
        raise Reached

    install(monkeypatch)
    monkeypatch.setattr("amatune.cluster.connection.cluster", reached)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "the program was here"


@pytest.fixture
def file(tmp_path: Path, marker: Path) -> Path:
    """A search space that leaves a trace as soon as it is run."""
    file = tmp_path / "space.py"
    draws = "{'quality': trial.suggest_float('quality', 0.0, 0.4)}"
    text = f"open({str(marker)!r}, 'w').close()\ndef space(trial): return {draws}\n"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture
def asked(tmp_path: Path, file: Path) -> SearchRequest:
    return request(tmp_path / "runs", trials=2, space=read_space(file))


@pytest.fixture
def run(asked: SearchRequest) -> RunFolder:
    """Somebody's run, with one of its two trials finished."""
    run = RunFolder(Path(asked.runs_dir) / "run")
    run.path.mkdir(parents=True)
    record = write_record(run, asked)
    studies.create_study(run, record.first)
    session = Session(
        studies.open_study(run),
        asked,
        run,
        Checkpoints(str(run.trials)),
        METHOD.space,
        partial(record.configuration, METHOD),
        lambda _event: None,
    )
    session.start("a")
    session.finish("a", Progress(epoch=asked.epochs, auroc=0.7))
    return run


def test_a_new_search_runs_the_space_it_is_given(asked: SearchRequest, marker: Path) -> None:
    with pytest.raises(Reached):
        run_search(asked)
    assert marker.exists()
    (run,) = all_runs(asked.runs_dir)
    assert run.record().request.space == asked.space


def test_continuing_needs_an_explicit_word(
    run: RunFolder, asked: SearchRequest, marker: Path
) -> None:
    before = run.run_json.read_bytes()
    with pytest.raises(RequestError, match=r"a Python program.*run\.json.*--trust-space"):
        run_search(asked, resume=True)
    assert not marker.exists()
    assert run.run_json.read_bytes() == before
    with pytest.raises(Reached):
        run_search(asked, resume=True, trust_space=True)
    assert marker.exists()
    assert len(run.record().continued) == 1


def test_on_the_command_line_the_word_is_an_option_or_the_file_itself(
    run: RunFolder, file: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume = ["search", "--resume", "--name", "run", "--runs-dir", str(run.path.parent)]
    assert main(resume) == 2
    assert "--trust-space" in capsys.readouterr().err
    assert not marker.exists()
    for words in (["--trust-space"], ["--space", str(file)]):
        with pytest.raises(Reached):
            main([*resume, *words])
        assert marker.exists()
        marker.unlink()


def test_a_retraining_needs_no_program(run: RunFolder, marker: Path) -> None:
    *_, default = shortlist(run, run.record(), METHOD, 3, 9)
    assert default.default
    assert default.settings == {"quality": 0.5, "kind": "plain"}
    with pytest.raises(Reached):  # the cluster that trains
        run_best(run)
    assert not marker.exists()


@pytest.mark.parametrize("command", ["status", "report"])
def test_looking_at_a_run_needs_no_program(run: RunFolder, marker: Path, command: str) -> None:
    assert main([command, "run", "--runs-dir", str(run.path.parent)]) == 0
    assert not marker.exists()


@pytest.fixture
def far(run: RunFolder) -> RunFolder:
    """Somebody's run, whose record names a cluster."""
    record = run.record()
    request = replace(record.request, address="head.example:6379", space=None)
    run.write(replace(record, request=request))
    return run


@pytest.mark.parametrize(
    "command",
    ["best run", "search --resume --name run", "search --config {run}/run.json"],
)
def test_a_cluster_that_a_run_alone_names_is_not_joined(
    far: RunFolder, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Its machines can run code here."""
    runs_dir = str(far.path.parent)
    words = [word.format(run=far.path) for word in command.split()]
    words = [*words, "--runs-dir", runs_dir]
    before = far.run_json.read_bytes()
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "names the Ray cluster at head.example:6379" in told
    assert "--address head.example:6379" in told
    assert "--address local" in told
    assert far.run_json.read_bytes() == before
    assert [one.path for one in all_runs(runs_dir)] == [far.path]
    for address in ("head.example:6379", "local"):
        with pytest.raises(Reached):
            main([*words, "--address", address])


def test_the_command_that_goes_on_joins_the_cluster(far: RunFolder) -> None:
    assert "--address head.example:6379" in how_to_resume(far)
    record = far.record()
    far.write(replace(record, request=replace(record.request, address="auto")))
    assert "--address" not in how_to_resume(far)


def test_a_run_whose_study_is_gone_is_not_begun_again(run: RunFolder, asked: SearchRequest) -> None:
    """Its trials are there, whose numbers a new study would give anew."""
    (run.trials / "0000").mkdir(parents=True)
    run.study_path.unlink()
    before = run.run_json.read_bytes()
    with pytest.raises(RequestError, match=r"its study at .*study\.db is gone"):
        run_search(asked, resume=True, trust_space=True)
    assert run.run_json.read_bytes() == before
    assert not run.study_path.exists()


def test_a_cluster_that_is_lost_before_the_first_trial_leaves_no_run(
    asked: SearchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> None:
        raise ClusterLostError("Ray's node service has ended")

    monkeypatch.setattr("amatune.cluster.connection.cluster", lost)
    told = "was lost: Ray's node service has ended; nothing was searched: call again$"
    with pytest.raises(ClusterLostError, match=told):
        run_search(asked)
    assert all_runs(asked.runs_dir) == []
