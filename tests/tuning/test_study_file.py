"""`study.db`: what others read of it, and what is refused in one message."""

import contextlib
import sqlite3
from pathlib import Path

import optuna
import pytest
from fake_run import add_trial, small_problem, write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from amatune.errors import RequestError
from amatune.runs import RunFolder
from amatune.tuning import study as studies


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    run = write_run(tmp_path_factory.mktemp("whole") / "run", small_problem().to_dict())
    add_trial(run, {"quality": 0.5, "kind": "plain"}, [0.5, 0.6])
    return run.study_path.read_bytes()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("runs") / "run", small_problem().to_dict())


def refused(run: RunFolder, why: str | None = None) -> None:
    with pytest.raises(RequestError, match=why) as caught:
        studies.read_trials(run)
    assert str(caught.value).startswith(f"{run.study_path} cannot be read as a study: ")
    assert "\n" not in str(caught.value)


def test_the_value_has_a_name_for_dashboards(run: RunFolder, whole: bytes) -> None:
    run.study_path.write_bytes(whole)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{run.study_path}")
    assert study.metric_names == ["validation AUROC"]


@pytest.mark.parametrize("name", ["a?b", "a%20b", "{a}", "a#b", "a&b=c:d"])
def test_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / name / "run", small_problem().to_dict())
    add_trial(run, {"quality": 0.5, "kind": "plain"}, [0.5, 0.6])
    assert len(studies.read_trials(run)) == 1
    assert run.database.is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_files_that_are_no_study(run: RunFolder, whole: bytes) -> None:
    for content in (whole[: len(whole) // 2], b"no database" * 100, b"", whole[:100]):
        run.study_path.write_bytes(content)
        refused(run)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("update alembic_version set version_num = 'v99.0.0'", "v99.0.0|version"),
        ("insert into studies values (2, 'other')", "one study, it holds 2"),
        ("delete from studies", "one study, it holds 0"),
        ("update study_directions set direction = 'MINIMIZE'", "must maximise"),
        ("update trial_user_attributes set value_json = '3'", "of trial 0 .* is 3"),
        ("update trial_user_attributes set value_json = '{'", None),
        (
            f"update trial_user_attributes set value_json = '{{\"seconds\": {10**400}}}' "
            "where key = 'cost'",
            "of trial 0 cost is 1000",
        ),
        ("update trial_intermediate_values set intermediate_value = 7", r"not in \[0, 1\]"),
        ("update trial_intermediate_values set step = -step", "has no epoch"),
        ("update trials set state = 'LOST'", None),
        ("drop table trial_params", "no such table"),
        ("update trial_params set distribution_json = '{}'", None),
    ],
)
def test_contents_that_are_not_as_written(
    run: RunFolder, whole: bytes, change: str, why: str | None
) -> None:
    run.study_path.write_bytes(whole)
    with contextlib.closing(sqlite3.connect(run.study_path)) as file:
        file.execute(change)
        file.commit()
    refused(run, why)


def test_a_locked_study(run: RunFolder, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "LOCK_SECONDS", 0.1)
    run.study_path.write_bytes(whole)
    with contextlib.closing(sqlite3.connect(run.study_path)) as file:
        file.execute("begin exclusive")
        refused(run, "locked")


@given(st.integers(0, 200_000), st.binary(min_size=1, max_size=30), st.booleans())
@settings(max_examples=25)
def test_nothing_but_a_request_error_comes_of_damaged_bytes(
    run: RunFolder, whole: bytes, place: int, damage: bytes, truncated: bool
) -> None:
    place %= len(whole)
    after = b"" if truncated else whole[place + len(damage) :]
    run.study_path.write_bytes(whole[:place] + damage + after)
    Path(f"{run.study_path}-journal").unlink(missing_ok=True)
    with contextlib.suppress(RequestError):
        studies.read_trials(run)
