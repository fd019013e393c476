"""Search spaces of all methods: what they suggest is a configuration."""

import dataclasses
import warnings

import optuna
import pytest

from amatune.registry import find_method, method_names
from amatune.tuning.describe import describe_settings, describe_space
from amatune.tuning.proposals import make_sampler
from amatune.tuning.spaces import HeldFixed, settings_to_try

SHAPES = [(1, 28, 28), (3, 32, 32)]


def proposals(method, count, sampler="random"):
    study = optuna.create_study(direction="maximize")
    for number in range(count):
        study.sampler = make_sampler(sampler, 0, number)
        trial = study.ask()
        settings = find_method(method).space(trial)
        yield trial, settings
        study.tell(trial, number % 7 / 7)


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize("method", method_names())
def test_proposals_are_configurations_under_their_own_names(method, sampler):
    config_class = find_method(method).detector.Config
    for trial, settings in proposals(method, 60, sampler):
        assert settings == trial.params
        for shape in SHAPES:
            config = config_class.from_dict({**settings, "epochs": 30}).resolve(shape)
            for name, value in settings.items():
                assert getattr(config, name) == value, name


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", method_names())
def test_the_default_configuration_lies_in_the_space(method, shape):
    config = find_method(method).detector.Config(epochs=30).resolve(shape)
    settings = settings_to_try(find_method(method).space, {}, config, {})
    study = optuna.create_study()
    study.enqueue_trial(settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna's way to say that a value is outside
        suggested = find_method(method).space(study.ask())
    assert suggested == settings
    assert config.replace(**suggested) == config


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [n for n in method_names() if find_method(n).known])
def test_known_settings_lie_in_the_space_and_leave_nothing_out(name, shape):
    method = find_method(name)
    config = method.detector.Config(epochs=30).resolve(shape)
    for given in method.known:
        assert settings_to_try(method.space, given, config, {}) == given
        assert config.replace(**given) != config


def test_ama_searches_what_its_negatives_use():
    searched = {}
    for _, settings in proposals("ama", 100):
        kind = settings.get("geometry", "none")
        searched.setdefault(kind, set()).add(frozenset(settings))
        assert (kind == "none") == (settings["negative_share"] == 0)
        if kind == "ray":
            assert settings["delta"] <= 1
    common = {"negative_share", "k", "lambda_inter", "lambda_reg", "lr"}
    negatives = common | {"geometry", "lambda_neg"}
    assert searched == {
        "none": {frozenset(common)},
        "cube": {frozenset(negatives)},
        "ray": {frozenset(negatives | {"direction", "delta"})},
        "shell": {frozenset(negatives | {"direction", "delta", "radius"})},
    }


def test_a_fixed_setting_is_not_suggested_and_decides_conditions():
    study = optuna.create_study()
    trial = study.ask()
    # A fixed value need not lie in the space.
    fixed = {"negative_share": 0.2, "geometry": "cube", "lr": 1e-2}
    settings = find_method("ama").space(HeldFixed(trial, fixed))
    assert settings["geometry"] == "cube"
    assert settings["lr"] == 1e-2
    assert "delta" not in settings
    assert not set(fixed) & set(trial.params)


def test_default_settings_take_fixed_values():
    config = find_method("ama").detector.Config(geometry="cube", width=0.25).resolve((1, 28, 28))
    space, fixed = find_method("ama").space, {"geometry": "cube", "width": 0.25}
    settings = settings_to_try(space, {}, config, fixed)
    assert set(settings).isdisjoint({"delta", *fixed})
    assert dataclasses.replace(config, **settings) == config


@pytest.mark.parametrize("method", method_names())
def test_every_setting_says_what_it_means(method):
    settings = describe_settings(find_method(method))
    fields = find_method(method).detector.Config.__dataclass_fields__
    assert [setting.name for setting in settings] == list(fields)
    assert all(setting.meaning and setting.kind for setting in settings)
    assert {p.name for p in describe_space(find_method(method))} <= set(fields)
