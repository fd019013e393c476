"""`run.json`: everything comes back, and what is not as it should be is refused in one message."""

import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_method import METHOD, FakeConfig
from fake_run import change, small_problem, write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from amatune.data.problem import Problem
from amatune.errors import ConfigError, RequestError
from amatune.files import write_json
from amatune.runs import RunFolder, all_runs
from amatune.runs.record import Circumstances, GpuShare, ProblemRecord, RunRecord
from amatune.runs.request import SearchRequest


@pytest.fixture(scope="module")
def problem() -> Problem:
    return small_problem()


@pytest.fixture
def run(tmp_path: Path, problem: Problem) -> RunFolder:
    return write_run(tmp_path / "run", problem.to_dict(), study=False)


def contents(run: RunFolder) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(run.run_json.read_text(encoding="utf-8"))
    return values


def test_a_record_comes_back_as_it_was_written(run: RunFolder) -> None:
    record = run.record()
    for one in (
        record,
        record.with_gpu_share(None),
        record.with_gpu_share(GpuShare(0.25, {1: 10.0, 2: 19.5}, 5_000, True)),
        record.continue_with(dataclasses.replace(record.request, trials=9)),
        dataclasses.replace(record, known=1),
        dataclasses.replace(record, asked="auto", held={"ama.steps_per_epoch": 3, "ama.k": None}),
    ):
        run.write(one)
        assert run.record() == one


def test_the_problem_is_kept_as_it_is(run: RunFolder, problem: Problem) -> None:
    assert ProblemRecord.from_dict(problem.to_dict()).to_dict() == problem.to_dict()
    assert run.record().open_problem().to_dict() == problem.to_dict()
    assert run.record().image_shape == problem.image_shape


def test_a_session_notes_its_circumstances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/bin/amatune", "search", "--name", "two words"])
    now = Circumstances.now()
    assert now.command == "amatune search --name 'two words'"
    assert set(now.versions) == {"amatune", "python", "torch", "ray", "optuna"}
    assert now.started > "2026"


def test_settings_become_a_configuration_in_one_place(run: RunFolder) -> None:
    record = run.record()
    assert record.configuration(METHOD, {"quality": 0.7}) == FakeConfig(quality=0.7, epochs=9)
    assert record.configuration(METHOD, {"epochs": 3}, epochs=4).epochs == 4
    with pytest.raises(ConfigError, match="'qualty', did you mean"):
        record.configuration(METHOD, {"qualty": 0.7})


def test_what_the_search_draws_by_default_is_known_without_its_space(run: RunFolder) -> None:
    assert run.record().searched == ("quality", "kind")


def without(name: str) -> Any:
    return lambda values: {n: v for n, v in values.items() if n != name}


def within(name: str, **changes: Any) -> Any:
    return lambda values: {**values, name: {**values[name], **changes}}


def _with_count(values: dict[str, Any], count: Any) -> dict[str, Any]:
    problem = values["problem"]
    return {**values, "problem": {**problem, "counts": {**problem["counts"], "more": count}}}


def with_(**changes: Any) -> Any:
    return lambda values: {**values, **changes}


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (with_(schema=2), "it has schema 2, and this version of amatune reads 1"),
        (without("schema"), "it has no schema, and this version"),
        (without("request"), "request is not there"),
        (with_(request=[]), r"request must be an object, got \[\]"),
        (within("request", trials="many"), "in its request: trials must be a whole number, got"),
        (within("request", trials=0), "in its request: trials must be at least 1, got 0"),
        (within("request", seed=True), "in its request: seed must be a whole number, got True"),
        (
            within("request", fixed=None),
            "in its request: fixed must be an object, got None",
        ),
        (within("request", sampler="dice"), "unknown sampler 'dice'; known: tpe"),
        (within("request", space={"python": 3}), 'a space is {"python": source} or'),
        (within("request", space={}), 'a space is {"python": source} or'),
        (within("request", colour="red"), "in its request: unknown: colour"),
        (within("request", problem=3), "in its request: problem must be an object, got 3"),
        (within("request", problem={"seed": -1}), "seed must be a whole number of at least 0"),
        (without("problem"), "problem is not there"),
        (within("problem", splits={"test_normals": 3}), "test_normals must be a list, got 3"),
        (within("problem", splits={"a": [{"ids": [1]}]}), "in its problem: source, part not there"),
        (within("problem", image_shape=["1"]), "image_shape must be a list of a whole number"),
        (within("problem", counts={"train_normals": 3}), "counts must be of every split, there is"),
        (lambda values: _with_count(values, None), "counts must be an object of a whole number"),
        (without("first"), "first is not there"),
        (with_(first=[3]), "first must be a list of an object"),
        (with_(held=[3]), "held must be an object"),
        (with_(asked=3), "asked must be text, got 3"),
        (without("started"), "started not there"),
        (with_(command=None), "command must be text, got None"),
        (with_(versions={"amatune": 1}), "versions must be an object of text, got"),
        (with_(continued=[[]]), r"there must be an object, got \[\]"),
        (with_(gpu_share={"gpus": 1.0}), "images_per_second is not there"),
        (with_(gpu_share={"images_per_second": {"x": 1}}), "by the number of trials"),
        (with_(gpu_share={"images_per_second": {}}), "gpus, bytes_per_trial, mps not there"),
        (lambda _: [1], "it must hold a JSON object"),
    ],
)
def test_a_record_that_is_not_as_it_should_be_is_refused(
    run: RunFolder, broken: Any, told: str
) -> None:
    write_json(run.run_json, broken(contents(run)))
    with pytest.raises(RequestError, match=told) as caught:
        run.record()
    assert str(caught.value).startswith(f"{run.run_json} cannot be read as a run: ")
    assert str(caught.value).endswith("put back the file as the search wrote it, or search anew")


def test_nothing_but_a_request_error_comes_of_a_wrong_value(run: RunFolder) -> None:
    """Each value of the file in turn replaced by one of every kind, or left out."""
    whole = json.dumps(contents(run))
    refused = 0
    for path in _paths(json.loads(whole)):
        for value in (None, True, -1, 1e400, "x", [], [3], {}, {"x": [None]}, ...):
            values = inner = json.loads(whole)
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = value
            if value is ...:
                del inner[path[-1]]
            try:
                RunRecord.parse(json.dumps(values), run.run_json)
            except RequestError:
                refused += 1
    assert refused > 500


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of nested objects and lists are; of a list's, the first alone."""
    inside = value.items() if isinstance(value, dict) else []
    inside = [(0, value[0])] if isinstance(value, list) and value else inside
    for key, one in inside:
        yield (*path, key)
        yield from _paths(one, (*path, key))


def test_files_that_are_no_whole_json(run: RunFolder, tmp_path: Path) -> None:
    whole = run.run_json.read_bytes()
    for part in (whole[: len(whole) // 2], b"", b"\xff"):
        run.run_json.write_bytes(part)
        with pytest.raises(RequestError, match=r"run\.json cannot be read as a run: .*it is not"):
            run.record()
    with pytest.raises(RequestError, match=r"is not a run: it holds no run\.json"):
        RunFolder(tmp_path / "none").record()


def test_a_broken_run_is_listed_all_the_same(run: RunFolder) -> None:
    for text in ("{", "[1]", "null", '{"started": 3}'):
        run.run_json.write_text(text, encoding="utf-8")
        assert [one.name for one in all_runs(run.path.parent)] == ["run"]


def test_reading_a_run_runs_nothing_of_it(run: RunFolder, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    program = f"open({str(marker)!r}, 'w')\ndef space(trial): return {{}}\n"
    request = dataclasses.replace(run.record().request, space={"python": program})
    change(run, request=request.to_dict())
    record = run.record()
    assert record.request.brings_a_program
    assert record.request.space == {"python": program}
    assert not SearchRequest(space={"json": {"lr": {}}}).brings_a_program
    assert not marker.exists()
    assert RunRecord.parse(run.run_json.read_text(encoding="utf-8"), run.run_json) == record


@given(st.integers(0, 100_000), st.binary(min_size=1, max_size=20), st.booleans())
@settings(max_examples=60)
def test_nothing_but_a_request_error_comes_of_damaged_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    problem: Problem,
    where: int,
    damage: bytes,
    truncated: bool,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged-record"
    if not folder.exists():
        write_run(folder, problem.to_dict(), study=False)
        shutil.copy(folder / "run.json", folder / "whole.json")
    content = (folder / "whole.json").read_bytes()
    where %= len(content)
    rest = b"" if truncated else content[where + len(damage) :]
    (folder / "run.json").write_bytes(content[:where] + damage + rest)
    with contextlib.suppress(RequestError):
        RunFolder(folder).record()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "is nested too deep"),
        ('{"schema": ' + "9" * 5000 + "}", "has too many digits"),
        ('{"schema": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_json_that_cannot_be_read(run: RunFolder, text: str, told: str) -> None:
    run.run_json.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=told):
        run.record()
