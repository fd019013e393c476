"""The user's own search spaces, and settings to try first."""

import contextlib
import json

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amatune.detectors.ama import AMAConfig
from amatune.errors import RequestError
from amatune.registry import find_method
from amatune.tuning.spaces import (
    HeldFixed,
    check_space,
    read_space,
    settings_to_try,
    space_of,
)

SHAPE = (1, 28, 28)
AMA_METHOD = find_method("ama")
JSON = {
    "geometry": {"choices": ["shell", "ray"]},
    "delta": [
        {"low": 0.1, "high": 4, "log": True, "if": {"geometry": ["shell"]}},
        {"low": 0.05, "high": 1, "log": True, "if": {"geometry": ["ray"]}},
    ],
    "k": {"low": 2, "high": 6, "step": 2},
    "radius": {"choices": ["codes"], "if": {"geometry": ["shell"]}},
}
PYTHON = """
def space(trial):
    settings = {"lr": trial.suggest_float("lr", 1e-4, 1e-2, log=True)}
    return {**settings, "k": trial.suggest_int("k", 2, 3)}
"""


def complete(settings):
    return AMAConfig.from_dict({**settings, "epochs": 5}).resolve(SHAPE)


def read(tmp_path, text, suffix=".json"):
    file = tmp_path / f"space{suffix}"
    file.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return read_space(file)


def draws(space, count=100, fixed=()):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(count):
        trial = study.ask()
        yield space(HeldFixed(trial, dict(fixed))), trial.params


def test_a_space_in_json(tmp_path):
    space = space_of(AMA_METHOD, read(tmp_path, JSON))
    check_space(AMA_METHOD, space, {}, complete)
    seen = [drawn for drawn, _ in draws(space)]
    assert {s["geometry"] for s in seen} == {"shell", "ray"}
    assert {s["k"] for s in seen} == {2, 4, 6}
    assert all(("radius" in s) == (s["geometry"] == "shell") for s in seen)
    assert max(s["delta"] for s in seen if s["geometry"] == "ray") <= 1
    assert max(s["delta"] for s in seen if s["geometry"] == "shell") > 1
    held = next(draws(space, 1, {"geometry": "ray"}))[1]
    assert "geometry" not in held
    assert "delta" in held


def test_a_space_in_python(tmp_path):
    space = space_of(AMA_METHOD, read(tmp_path, PYTHON, ".py"))
    check_space(AMA_METHOD, space, {}, complete)
    assert all(set(params) == {"lr", "k"} for _, params in draws(space, 5))


def test_no_file_is_the_methods_own_space():
    assert space_of(AMA_METHOD, None) is AMA_METHOD.space


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"lamda_neg": {"low": 1, "high": 2}},
            "has 'lamda_neg', which is no setting; did you mean",
        ),
        ({"lr_pow": {"low": -4, "high": -2}}, "'lr_pow', which is no setting"),
        ({"epochs": {"low": 1, "high": 2}}, "'epochs', which is no setting"),
        ({"k": {"low": 2}}, '"low" and "high" must be numbers'),
        ({"k": {"low": 3, "high": 2}}, '"low" must be at most "high"'),
        ({"lr": {"low": 0, "high": 1, "log": True}}, 'positive with "log"'),
        ({"k": {"low": 2, "high": 3, "max": 1}}, "has 'max'; known: choices"),
        ({"k": {"low": 2, "high": 3, "choices": [2]}}, 'either "choices", or "low"'),
        ({"k": {"choices": []}}, '"choices" must be a list'),
        ({"k": {"choices": [[1]]}}, '"choices" must hold texts, numbers, true, false or null'),
        ({"lr": {"choices": [1e-3], "log": True}}, 'to which neither "step" nor "log" belongs'),
        ({"k": []}, r"k must be an object, or a list of one or more, got \[\]"),
        ({"k": {"low": 2.5, "high": 6}}, 'k is a whole number, and so must be "low"'),
        ({"k": {"low": 2, "high": 6, "step": 0.5}}, 'and so must be "step"'),
        ({"k": {"low": 2, "high": 6, "step": 0}}, '"step" must be positive'),
        ({"lr": {"low": 1, "high": 6, "step": 1, "log": True}}, 'does not go with "log"'),
        ({"lr": {"low": 1, "high": 2, "log": "yes"}}, '"log" must be true or false'),
        ({"lr": {"low": 1, "high": float("inf")}}, '"low" and "high" must be numbers'),
        ({"lr": {"low": 1, "high": 2, "step": "x"}}, '"step" must be a number'),
        ({"k": {"low": 1, "high": 10**400}}, '"high" must lie within 1e'),
        ({"k": {"low": 2, "high": 3, "if": "x"}}, '"if" must hold lists of values by name'),
        (
            {"geometry": {"choices": ["ray"]}, "k": {"low": 2, "high": 3, "if": {"geomtry": [1]}}},
            "names 'geomtry', which is not drawn before it; did you mean 'geometry'",
        ),
        ({"k": {"low": 2, "high": 3, "if": {"k": [2]}}}, "there are none before it"),
        (
            {"geometry": {"choices": ["ray"]}, "k": {"low": 2, "high": 3, "if": {"geometry": []}}},
            '"if" must name a value of geometry',
        ),
        ('{"k": ' + "[" * 100_000, "is nested too deep"),
        ('{"k": {"low": 1, "high": ' + "9" * 5000 + "}}", "has too many digits"),
        ('{"k": {"choices": ["\\ud800"]}}', "half of a surrogate pair"),
        ({"k": 3}, "must be an object"),
        ({"k": {"low": 2, "high": 3, "if": {"geometry": "ray"}}}, '"if" must hold lists'),
        ({"k": {"low": 0, "high": 0}}, "draws impossible settings: .* k must be at least 1, got 0"),
        ({"geometry": {"choices": ["ball"]}}, "geometry must be .* got 'ball'"),
        ([], "must be an object of settings"),
        ("{", "is not JSON"),
    ],
)
def test_impossible_json_spaces(tmp_path, rules, message):
    with pytest.raises(RequestError, match=message):
        check_space(AMA_METHOD, space_of(AMA_METHOD, read(tmp_path, rules)), {}, complete)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def space(trial", "raised SyntaxError"),
        ("x = 1", r"has no function `space\(trial\)`"),
        ("def space(trial): return 3", "must return a dict of settings, got 3"),
        ("def space(trial): raise KeyError('a')", "raised KeyError"),
        (
            "def space(trial): return {'lr': 10 ** trial.suggest_float('lr_pow', -4, -2)}",
            "draws 'lr_pow', which is no setting of ama",
        ),
        (
            "def space(trial): return {'lr': 10 ** trial.suggest_float('lr', -4, -2)}",
            "under its own name and in its own unit",
        ),
    ],
)
def test_impossible_python_spaces(tmp_path, source, message):
    with pytest.raises(RequestError, match=message):
        check_space(AMA_METHOD, space_of(AMA_METHOD, read(tmp_path, source, ".py")), {}, complete)


def test_files_that_are_no_space(tmp_path):
    with pytest.raises(RequestError, match=r"cannot read the search space .*: No such file"):
        read_space(tmp_path / "none.json")
    with pytest.raises(RequestError, match=r"is a \.py or a \.json file"):
        read(tmp_path, "a: 1", ".yaml")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="it is not UTF-8 text"):
        read_space(tmp_path / "bytes.json")


def test_settings_to_try_are_completed_with_defaults():
    space, default = AMA_METHOD.space, complete({})
    assert settings_to_try(space, {}, default, {})["lambda_inter"] == 0.5
    given = {"negative_share": 0.1, "geometry": "shell", "delta": 2.0}
    tried = settings_to_try(space, given, default, {"k": 4})
    assert (tried["geometry"], tried["delta"], tried["radius"]) == ("shell", 2.0, "typical")
    assert "k" not in tried
    same = settings_to_try(space, {"k": 4}, default, {"k": 4})
    assert "k" not in same


@pytest.mark.parametrize(
    ("given", "fixed", "message"),
    [
        ({"delta": 3.0}, {"negative_share": 0.1}, r"delta must be in \[0.05, 1\] here, got 3.0"),
        (
            {"geometry": "ball"},
            {"negative_share": 0.1},
            "geometry must be one of shell, ray, cube here, got 'ball'",
        ),
        ({"radius": "codes"}, {}, "cannot try radius='codes': it is not searched here"),
        ({"width": 0.5}, {}, "cannot try width=0.5: it is not searched here"),
        ({"k": 2}, {"k": 4}, "cannot try k=2: it is held fixed at 4"),
        ({"lr": "fast"}, {}, "lr must be in .* got 'fast'"),
    ],
)
def test_settings_that_cannot_be_tried(given, fixed, message):
    with pytest.raises(RequestError, match=message):
        settings_to_try(AMA_METHOD.space, given, complete({}), fixed)


def test_defaults_outside_a_narrow_space_are_brought_into_it(tmp_path):
    space = space_of(AMA_METHOD, read(tmp_path, {"k": {"low": 4, "high": 6}}))
    assert settings_to_try(space, {}, complete({}), {}) == {"k": 4}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
RULE = st.dictionaries(
    st.sampled_from(["choices", "low", "high", "step", "log", "if"]),
    ANYTHING | st.integers(1, 9) | st.dictionaries(st.sampled_from(["k", "lr"]), ANYTHING),
)


@given(st.dictionaries(st.sampled_from(["k", "lr", "geometry", "x"]), RULE | st.lists(RULE)))
@settings(max_examples=200)
def test_nothing_but_a_request_error_comes_of_a_wrong_space(rules):
    with contextlib.suppress(RequestError):
        check_space(AMA_METHOD, space_of(AMA_METHOD, {"json": rules}), {}, complete)


@given(st.binary(max_size=60), st.integers(0, 100))
def test_nothing_but_a_request_error_comes_of_damaged_bytes(tmp_path_factory, damage, place):
    content = json.dumps(JSON).encode()
    file = tmp_path_factory.mktemp("damaged") / "space.json"
    file.write_bytes(content[:place] + damage + content[place + len(damage) :])
    with contextlib.suppress(RequestError):
        space_of(AMA_METHOD, read_space(file))
