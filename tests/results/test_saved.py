"""What a retraining leaves behind, damaged: leaderboards and scores are checked when read."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_run import scores, small_problem, write_leaderboard, write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from amatune.errors import RequestError
from amatune.files import write_json
from amatune.results.leaderboard import read_leaderboard
from amatune.results.scores import has_scores, load_scores, save_scores
from amatune.runs import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("saved") / "run"
    run = write_run(folder, small_problem().to_dict(), study=False)
    by_seed = [{"bright": scores(1.0, seed)} for seed in (1, 2)]
    write_leaderboard(run, {"trial-1": by_seed, "default": by_seed})
    return run


@pytest.fixture
def place(run: RunFolder) -> Iterator[Path]:
    """The leaderboard's file, which is put right afterwards."""
    file = run.best / "leaderboard.json"
    content = file.read_bytes()
    yield file
    file.write_bytes(content)


def with_row(**values: Any) -> Any:
    def change(board: dict[str, Any]) -> dict[str, Any]:
        board["rows"][0] |= values
        return board

    return change


def test_it_comes_back(run: RunFolder) -> None:
    board = read_leaderboard(run)
    assert board.chosen.configuration == "trial-1"
    board.write()
    assert read_leaderboard(run) == board


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda board: {**board, "schema": 99}, "it has schema 99, and this version"),
        (lambda _: [1], "it must hold a JSON object"),
        (lambda _: {}, "it has no schema"),
        (lambda board: {**board, "rows": []}, "one of its rows must be the chosen one"),
        (lambda board: {**board, "rows": 3}, "rows must be a list of"),
        (lambda board: {**board, "rows": [3]}, "rows must be a list of"),
        (
            lambda board: {**board, "rows": [{**row, "score": "odd"} for row in board["rows"]]},
            "has no figures of 'odd'",
        ),
        (lambda board: {**board, "effort": {"trials": 3}}, "in effort: .* not there"),
        (with_row(seeds=[1]), "figures of one or more seeds, of each the same"),
        (with_row(configuration="../../etc"), "trial-NUMBER, got '../../etc'"),
        (with_row(test={"bright": {}}), "in rows: in test: auroc, .* not there"),
        (with_row(validation_auroc="high"), "validation_auroc must be a finite number"),
        (with_row(chosen=1), "chosen must be true or false"),
        (with_row(config={}), "the configuration of trial-1 has None epochs"),
        (with_row(config={"epochs": "9"}), "the configuration of trial-1 has '9' epochs"),
    ],
)
def test_a_leaderboard_that_is_not_as_it_should_be(
    run: RunFolder, place: Path, change: Any, told: str
) -> None:
    write_json(place, change(json.loads(place.read_text(encoding="utf-8"))))
    with pytest.raises(RequestError, match=told) as caught:
        read_leaderboard(run)
    assert str(caught.value).startswith(f"{place} cannot be read as a leaderboard: ")
    assert str(caught.value).endswith("`amatune best run` makes it again")


def test_nothing_but_a_request_error_comes_of_a_wrong_value(run: RunFolder, place: Path) -> None:
    """Each value of the file in turn replaced by one of every kind, or left out."""
    whole = place.read_text(encoding="utf-8")
    refused = 0
    for path in _paths(json.loads(whole)):
        for value in (None, True, -1, 1e400, "x", [], [3], {}, {"x": [None]}, ...):
            values = inner = json.loads(whole)
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = value
            if value is ...:
                del inner[path[-1]]
            place.write_text(json.dumps(values), encoding="utf-8")
            try:
                read_leaderboard(run)
            except RequestError:
                refused += 1
    assert refused > 250


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of nested objects and lists are; of a list's, the first alone."""
    inside = value.items() if isinstance(value, dict) else []
    inside = [(0, value[0])] if isinstance(value, list) and value else inside
    for key, one in inside:
        yield (*path, key)
        yield from _paths(one, (*path, key))


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=20), st.booleans())
@settings(max_examples=60)
def test_nothing_but_a_request_error_comes_of_a_damaged_leaderboard(
    run: RunFolder, where: int, damage: bytes, truncated: bool
) -> None:
    file = run.best / "leaderboard.json"
    content = file.read_bytes()
    try:
        file.write_bytes(damaged(content, where, damage, truncated))
        with contextlib.suppress(RequestError):
            read_leaderboard(run)
    finally:
        file.write_bytes(content)


def damaged(content: bytes, where: int, damage: bytes, truncated: bool) -> bytes:
    where %= len(content)
    return content[:where] + damage + (b"" if truncated else content[where + len(damage) :])


# --- scores ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("scores") / "test.npz"
    save_scores(file, {"bright": scores(1.0, 1)})
    return file.read_bytes()


def test_scores_come_back(kept: bytes, tmp_path: Path) -> None:
    file = tmp_path / "test.npz"
    file.write_bytes(kept)
    assert has_scores(file)
    np.testing.assert_array_equal(load_scores(file)["bright"]["normal"], scores(1.0, 1)["normal"])


def test_scores_that_are_not_whole(kept: bytes, tmp_path: Path) -> None:
    file = tmp_path / "test.npz"
    assert not has_scores(file)
    for content in (b"", kept[:300], kept[:-10], b"PK" + kept):
        file.write_bytes(content)
        with pytest.raises(RequestError, match=r"the scores in .*test\.npz cannot be read: "):
            load_scores(file)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(RequestError, match="not a regular file"):
        load_scores(file)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({}, "it holds none"),
        ({"a/normal": np.ones(3)}, "'a' must be of normal and anomaly"),
        ({"a/normal": np.ones(3), "a/anomaly": np.ones((3, 2))}, "a/anomaly is not a list"),
        ({"a/normal": np.ones(0), "a/anomaly": np.ones(3)}, "a/normal is not a list"),
        ({"a/normal": np.array(["x"]), "a/anomaly": np.ones(3)}, "a/normal is not a list"),
        ({"a/normal": np.array([None]), "a/anomaly": np.ones(3)}, "allow_pickle=False"),
        (
            {"a/normal": np.ones(3), "a/anomaly": np.array([1, np.nan, -np.inf])},
            "a/anomaly must be finite, 2 of 3 are not",
        ),
    ],
)
def test_arrays_that_are_no_scores(tmp_path: Path, arrays: Any, told: str) -> None:
    with (tmp_path / "test.npz").open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(RequestError, match=told):
        load_scores(tmp_path / "test.npz")


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=20), st.booleans())
@settings(max_examples=100)
def test_nothing_but_a_request_error_comes_of_damaged_scores(
    tmp_path_factory: pytest.TempPathFactory,
    kept: bytes,
    where: int,
    damage: bytes,
    truncated: bool,
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.npz"
    file.write_bytes(damaged(kept, where, damage, truncated))
    with contextlib.suppress(RequestError):
        load_scores(file)
