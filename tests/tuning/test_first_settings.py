"""Files with settings to try first: whatever they hold, it is settings or one message."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from fake_method import METHOD as FAKE
from fake_search import install, request
from hypothesis import given, settings
from hypothesis import strategies as st

from amatune.detectors.ama import AMAConfig
from amatune.errors import RequestError
from amatune.registry import find_method
from amatune.tuning.first_trials import asked_first
from amatune.tuning.options import first_settings
from amatune.tuning.search import begun
from amatune.tuning.spaces import settings_to_try

WHOLE = json.dumps([{"lr": 1e-3, "k": 3}, {"lambda_reg": 0.01, "negative_share": 0.1}, {}]).encode()
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(sorted(AMAConfig.__dataclass_fields__)) | st.text()
SETTINGS = st.dictionaries(NAMES, ANYTHING, max_size=3)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("first") / "first.json"


def tried(file: Path) -> int:
    """As a new search does it; how many of its settings can be tried."""
    method = find_method("ama")
    default = AMAConfig(epochs=5).resolve((1, 28, 28))
    count = 0
    for one in first_settings([file]):
        found = settings_to_try(method.space, one, default, {})
        AMAConfig.from_dict({**found, "epochs": 5}).resolve((1, 28, 28))
        count += 1
    return count


def test_settings_are_read(file: Path) -> None:
    file.write_bytes(WHOLE)
    assert tried(file) == 3
    file.write_text('{"lr": 0.001}', encoding="utf-8")
    assert tried(file) == 1


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=20), st.booleans())
@settings(max_examples=100)
def test_damaged_bytes(file: Path, where: int, damage: bytes, truncated: bool) -> None:
    rest = b"" if truncated else WHOLE[where + len(damage) :]
    file.write_bytes(WHOLE[:where] + damage + rest)
    with contextlib.suppress(RequestError):
        tried(file)


@given(ANYTHING | st.lists(SETTINGS, max_size=3) | SETTINGS)
@settings(max_examples=200)
def test_values_of_every_kind(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")
    with contextlib.suppress(RequestError):
        tried(file)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "is nested too deep"),
        ('{"lr": ' + "9" * 5000 + "}", "has too many digits"),
        ('{"lr": "\\ud800"}', "half of a surrogate pair"),
        ("[]", "must hold settings; it is an empty list"),
        ('[{"lr": 0.001}, 3]', "must hold an object of settings by name, or a list of them"),
        ('{"lr": NaN}', r"lr must be in \[0.0001, 0.004\] here, got nan"),
        ('{"lr": 1e999}', r"lr must be in \[0.0001, 0.004\] here, got inf"),
        ('{"lr": true}', r"lr must be in \[0.0001, 0.004\] here, got True"),
        ('{"k": [3]}', "k must be in"),
        ('{"k": {"a": 3}}', "k must be in"),
    ],
)
def test_what_cannot_be_tried_is_told(file: Path, text: str, told: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=told):
        tried(file)


# --- what a method is known for -------------------------------------------------------------------

GOOD = {"quality": 0.9, "kind": "plain"}
BOOSTED = {"quality": 0.8, "kind": "boosted", "boost": 0.25}
DEFAULT = {"quality": 0.5, "kind": "plain"}
KNOWN = dataclasses.replace(FAKE, known=[GOOD, BOOSTED, BOOSTED])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [DEFAULT, GOOD, BOOSTED]),
        (
            {"fixed": {"kind": "boosted"}},
            [
                {"quality": 0.5, "boost": 0.0},
                {"quality": 0.9, "boost": 0.0},
                {"quality": 0.8, "boost": 0.25},
            ],
        ),
        ({"fixed": {"kind": "plain"}}, [{"quality": 0.5}, {"quality": 0.9}]),
        ({"fixed": {"quality": 0.1}}, [{"kind": "plain"}, {"kind": "boosted", "boost": 0.25}]),
        ({"fixed": {"quality": 0.1, "boost": 0.1}}, [{"kind": "plain"}, {"kind": "boosted"}]),
        ({"sampler": "random"}, [DEFAULT]),
        ({"space": {"json": {"quality": {"low": 0, "high": 1}}}}, [{"quality": 0.5}]),
    ],
)
def test_known_settings_follow_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], expected: list[Any]
) -> None:
    install(monkeypatch)
    first = list(begun(request(tmp_path, **changes), KNOWN, [])[0].first)
    assert first == expected


def test_what_the_user_wants_tried_comes_before_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    wanted = [{"quality": 0.7}, GOOD]
    record = begun(request(tmp_path), KNOWN, wanted)[0]
    own = [{"quality": 0.7, "kind": "plain"}, GOOD]
    assert list(record.first) == [DEFAULT, *own, BOOSTED]
    assert record.known == 1
    assert asked_first(record) == own


def test_known_settings_that_do_not_fit_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    method = dataclasses.replace(FAKE, known=[{"quality": 7.0}, {"colour": "red"}, GOOD])
    assert list(begun(request(tmp_path), method, [])[0].first) == [DEFAULT, GOOD]


def test_known_settings_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    record = begun(request(tmp_path), KNOWN, [GOOD], known=False)[0]
    assert list(record.first) == [DEFAULT, GOOD]
    assert asked_first(record) == [GOOD]
