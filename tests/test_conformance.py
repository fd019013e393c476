"""What every method must do, over the registry: a new method is tested by being there."""

import copy
import io
import pickle

import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from amatune.errors import ConfigError, DataError, RequestError
from amatune.registry import detector_class, method_names

SHAPE = (1, 16, 16)
TINY = {"epochs": 4, "batch_size": 8, "width": 0.1}


def make_config(method, **changes):
    config_class = detector_class(method).Config
    fields = config_class.__dataclass_fields__
    return config_class.from_dict({**{k: v for k, v in TINY.items() if k in fields}, **changes})


def make(method, seed=0):
    return detector_class(method)(make_config(method), SHAPE, seed=seed)


def images(count, seed=0, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def trained(method, epochs=2):
    detector = make(method)
    for _ in range(epochs):
        detector.train_epoch(images(20))
    detector.calibrate(images(20))
    return detector


def flat_tensors(state, prefix=""):
    items = state.items() if isinstance(state, dict) else enumerate(state)
    for key, value in items:
        if isinstance(value, dict | list | tuple):
            yield from flat_tensors(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def assert_same_state(a, b):
    first, second = dict(flat_tensors(a)), dict(flat_tensors(b))
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[name]), name
        else:
            assert value == second[name], name


@pytest.fixture(params=method_names())
def method(request):
    return request.param


def test_names_and_summary_are_filled_in(method):
    cls = detector_class(method)
    assert cls.name == method
    assert cls.summary
    assert make(method).primary_score in cls.score_names


def test_scores_are_finite_and_one_per_image(method):
    scores = trained(method).scores(images(11, seed=1))
    assert list(scores) == list(detector_class(method).score_names)
    for values in scores.values():
        assert values.shape == (11,)
        assert bool(torch.isfinite(values).all())
        assert len(set(values.tolist())) > 1


def test_scores_do_not_depend_on_batch_size_or_order(method):
    detector = trained(method)
    test = images(23, seed=1)
    expected = detector.score(test)
    for size in (1, 5, 23, 1000):
        assert torch.allclose(detector.score(test, batch_size=size), expected, rtol=1e-4, atol=1e-5)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(detector.score(test[order]), expected[order], rtol=1e-4, atol=1e-5)


def test_scores_of_bytes_and_of_floats_agree(method):
    detector = trained(method)
    test = images(5, seed=1)
    assert torch.equal(detector.score(test), detector.score(test.float() / 127.5 - 1))


def test_no_images_give_no_scores(method):
    assert trained(method).score(images(0)).shape == (0,)


def test_scoring_changes_nothing(method):
    detector = trained(method)
    before = copy.deepcopy(detector.state_dict())
    detector.score(images(9, seed=1))
    detector.reconstruct(images(9, seed=1))
    assert_same_state(before, detector.state_dict())


def test_labelled_anomalies_are_learnt_from_or_not_taken(method):
    cls = detector_class(method)
    names = cls.Config.__dataclass_fields__
    assert set(cls.held_with_anomalies) <= set(names)
    if not cls.learns_from_anomalies:
        assert not cls.held_with_anomalies
        return
    plain, taught = (make(method, **cls.held_with_anomalies) for _ in range(2))
    known = images(6, seed=3)
    plain.train_epoch(images(20))
    taught.train_epoch(images(20), known)
    states = plain.inference_state, taught.inference_state
    for detector in (plain, taught):
        detector.calibrate(images(20))
    first, second = (state() for state in states)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_calibration_changes_neither_weights_nor_training(method):
    plain, calibrated = make(method), make(method)
    for detector in (plain, calibrated):
        detector.train_epoch(images(20))
    calibrated.calibrate(images(20))
    assert plain.train_epoch(images(20)) == calibrated.train_epoch(images(20))


def test_scoring_needs_a_calibration(method):
    with pytest.raises(RequestError, match="calibrate"):
        make(method).score(images(3))


@pytest.mark.parametrize("interrupted_after", [1, 2, 3])
def test_resuming_is_exact(method, interrupted_after):
    straight = make(method)
    losses = [straight.train_epoch(images(20)) for _ in range(4)]

    first = make(method)
    for _ in range(interrupted_after):
        first.train_epoch(images(20))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make(method, seed=99)
    second.load_state_dict(torch.load(file, weights_only=True))
    for epoch in range(interrupted_after, 4):
        torch.rand(7)  # what else the process draws must not matter
        assert second.train_epoch(images(20)) == losses[epoch]
    assert second.epoch == 4
    assert_same_state(straight.state_dict(), second.state_dict())


def test_the_seed_decides_everything(method):
    def losses(seed):
        detector = make(method, seed)
        torch.manual_seed(torch.seed())
        return [detector.train_epoch(images(20)) for _ in range(2)]

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


def test_training_leaves_the_global_stream_alone(method):
    before = torch.get_rng_state()
    trained(method)
    assert torch.equal(torch.get_rng_state(), before)


def test_exported_tensors_give_the_same_scores(method):
    detector = trained(method)
    tensors = load_safetensors(save_safetensors(detector.inference_state()))
    other = make(method, seed=5)
    other.load_inference_state(tensors)
    test = images(9, seed=1)
    assert torch.equal(detector.score(test), other.score(test))


def test_foreign_tensors_are_refused(method):
    state = trained(method).inference_state()
    name = next(iter(state))
    with pytest.raises(ConfigError, match="do not belong"):
        make(method).load_inference_state({k: v for k, v in state.items() if k != name})
    with pytest.raises(ConfigError, match="do not belong"):
        make(method).load_inference_state({**state, name: torch.zeros(3, 3, 3)})
    with pytest.raises(ConfigError, match="do not belong"):
        make(method).load_inference_state({**state, "surplus": torch.zeros(1)})


def test_reconstructions_look_like_images(method):
    rebuilt = trained(method).reconstruct(images(5))
    if rebuilt is None:
        return
    assert rebuilt.shape == (5, *SHAPE)
    assert rebuilt.device.type == "cpu"
    assert float(rebuilt.abs().max()) <= 1


def test_wrong_images_are_refused(method):
    detector = trained(method)
    for wrong in (images(4)[:, 0], images(4, shape=(3, 16, 16)), images(4, shape=(1, 16, 8))):
        for verb in (detector.train_epoch, detector.calibrate, detector.score):
            with pytest.raises(ConfigError, match="images must be"):
                verb(wrong)
    with pytest.raises(DataError, match="at least 2 images"):
        detector.train_epoch(images(1))


def test_fewer_images_than_a_batch_still_train(method):
    assert make(method).train_epoch(images(3))


def test_config_survives_json_and_pickle(method):
    config = make(method).config
    assert type(config).from_dict(config.to_dict()) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert config.resolve(SHAPE) == config


def test_config_is_refused_with_all_its_problems(method):
    cls = detector_class(method).Config
    with pytest.raises(ConfigError, match=r"epochs.*0.*batch_size.*1"):
        cls.from_dict({"epochs": 0, "batch_size": 1})
    with pytest.raises(ConfigError, match="'epoch', did you mean 'epochs'"):
        cls.from_dict({"epoch": 3})
    with pytest.raises(ConfigError, match="epochs must be a whole number, got 'many'"):
        cls.from_dict({"epochs": "many"})


def test_grace_ends_before_the_default_budget(method):
    config = detector_class(method).Config()
    assert 1 <= config.grace_epochs() < config.epochs
