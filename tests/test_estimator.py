"""The scikit-learn estimator: scikit-learn's own checks, and what is particular to images."""

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import ParameterGrid, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks, get_tags

import amatune
from amatune.detectors.ama import AMA, AMAConfig
from amatune.errors import DivergedError, RequestError
from amatune.estimator import AnomalyDetector

TINY = {"width": 0.05, "latent_dim": 4, "critic_steps": 1}


def make(**changes: Any) -> AnomalyDetector:
    given = {"epochs": 1, "config": TINY, "random_state": 0, "device": "cpu", **changes}
    return AnomalyDetector(**given)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# scikit-learn's checks that fit nothing. The others fit rows, which are no images; what they ask of
# an outlier detector is asked of images below.
CHECKS = [
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimator_tags_renamed,
    estimator_checks.check_valid_tag_types,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
    estimator_checks.check_mixin_order,
    estimator_checks.check_parameters_default_constructible,
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_scikit_learns_own_checks(check: Any) -> None:
    check("AnomalyDetector", make())


def test_its_tags_say_that_it_takes_no_rows() -> None:
    tags = get_tags(make())
    assert tags.estimator_type == "outlier_detector"
    assert tags.input_tags.three_d_array
    assert not tags.input_tags.two_d_array


def test_fitting_keeps_to_scikit_learns_rules() -> None:
    images = pixels(20, 12, 12)
    images.flags.writeable = False  # as in a memory map
    before = images.copy()
    estimator = make(contamination=0.2)
    parameters = estimator.get_params()
    assert estimator.fit(images, y=np.arange(20)) is estimator
    assert estimator.get_params() == parameters
    assert np.array_equal(images, before)
    fitted = set(vars(estimator)) - set(parameters)
    assert all(name.endswith("_") and not name.startswith("_") for name in fitted)
    assert fitted == {"detector_", "offset_", "image_shape_", "n_features_in_"}
    scores = estimator.score_samples(images)
    assert np.array_equal(estimator.fit(images).score_samples(images), scores)
    assert np.array_equal(make(contamination=0.2).fit_predict(images), estimator.predict(images))
    # A smaller part of the images, or in another order: within what float32 can hold.
    assert estimator.score_samples(images[:3]) == pytest.approx(scores[:3], rel=1e-4, abs=1e-5)
    assert estimator.score_samples(images[::-1])[::-1] == pytest.approx(scores, rel=1e-4, abs=1e-5)


def test_predicting_changes_nothing() -> None:
    images = pixels(8, 12, 12)
    estimator = make().fit(images)
    before = {name: value for name, value in vars(estimator).items() if name != "detector_"}
    weights = estimator.detector_.inference_state()
    kept = {name: tensor.clone() for name, tensor in weights.items()}
    for verb in (estimator.predict, estimator.score_samples, estimator.decision_function):
        verb(images)
    assert {n: v for n, v in vars(estimator).items() if n != "detector_"} == before
    assert all(
        torch.equal(tensor, kept[name])
        for name, tensor in estimator.detector_.inference_state().items()
    )


def test_before_fitting_it_says_so() -> None:
    for verb in ("predict", "score_samples", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(make(), verb)(pixels(2, 12, 12))


def test_it_is_the_detector_trained_in_a_loop() -> None:
    images = pixels(30, 12, 12)
    estimator = make(epochs=2, contamination=0.2).fit(images)
    tensor = torch.from_numpy(images[:, None])
    detector = AMA(AMAConfig(epochs=2, **TINY), (1, 12, 12), seed=0)
    for _ in range(2):
        detector.train_epoch(tensor)
    detector.calibrate(tensor)
    expected = -detector.score(tensor).numpy()
    scores = estimator.score_samples(images)
    assert scores == pytest.approx(expected, rel=1e-5)
    assert estimator.offset_ == pytest.approx(np.percentile(expected, 20), rel=1e-5)
    assert estimator.decision_function(images) == pytest.approx(scores - estimator.offset_)
    predicted = estimator.predict(images)
    assert np.array_equal(predicted, np.where(scores < estimator.offset_, -1, 1))
    assert (predicted == -1).sum() == 6
    assert estimator.image_shape_ == (1, 12, 12)
    assert estimator.n_features_in_ == 144


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        (pixels(6, 9, 11), (1, 9, 11)),
        (pixels(6, 9, 11, 1), (1, 9, 11)),
        (pixels(6, 9, 11, 3), (3, 9, 11)),
        (pixels(6, 3, 9, 11), (3, 9, 11)),
        (pixels(6, 1, 9, 11), (1, 9, 11)),
        (pixels(6, 3, 9, 3), None),  # both readings fit: C comes last, and 3 rows are too few
    ],
)
def test_shapes(given: np.ndarray, shape: tuple[int, int, int] | None) -> None:
    if shape is None:
        with pytest.raises(ValueError, match="3x9 pixels are too small"):
            make().fit(given)
        return
    estimator = make().fit(given)
    assert estimator.image_shape_ == shape
    assert estimator.predict(given[:2]).shape == (2,)


def test_layouts_of_the_same_images_give_the_same_scores() -> None:
    last = pixels(8, 12, 12, 3)
    first = last.transpose(0, 3, 1, 2)
    assert np.array_equal(
        make().fit(last).score_samples(last), make().fit(first).score_samples(first)
    )


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (pixels(6, 12, 12).astype(float), "must be uint8, 0 to 255, got float64"),
        (pixels(6, 12, 12, 4), r"with C 1 or 3, got \(6, 12, 12, 4\)"),
        (pixels(1, 12, 12), "at least 2 images"),
        (pixels(0, 12, 12), "at least 2 images are needed, got 0"),
        (pixels(6, 5, 5), "too small"),
        (pixels(6, 2, 2, 12, 12), r"\(N, H, W, C\) .* got \(6, 2, 2, 12, 12\)"),
        (pixels(6, 144), r"got rows \(6, 144\); .* X\.reshape\(-1, height, width\)"),
        (pixels(6), r"got \(6,\)"),
    ],
)
def test_unusable_images(images: np.ndarray, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make().fit(images)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "amma"}, "did you mean 'ama'"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"config": {"widht": 1}}, "did you mean 'width'"),
        ({"config": {"width": -1.0}}, "width must be positive"),
        ({"config": 5}, "config must be settings by name, got 5"),
        ({"config": [1, 2]}, r"config must be settings by name, got \[1, 2\]"),
        ({"config": {1: 2}}, r"config must be settings by name, got \{1: 2\}"),
        ({"config": {"width": np.complex64(1)}}, "width must be a finite number"),
        ({"contamination": 0.0}, r"in \(0, 0\.5\], got 0\.0"),
        ({"contamination": 0.6}, "got 0.6"),
        ({"contamination": "auto"}, r"in \(0, 0\.5\], got 'auto'"),
        ({"method": None}, "unknown method 'None'"),
        ({"random_state": -1}, "at least 0, got -1"),
        ({"random_state": "one"}, "one"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"device": None}, "unknown device None"),
        ({"device": "meta"}, "'meta' is not made use of"),
    ],
)
def test_impossible_parameters(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make(**changes).fit(pixels(6, 12, 12))


def test_a_fit_that_fails_leaves_what_was_fitted_before() -> None:
    images = pixels(6, 12, 12)
    detector = make()
    with pytest.raises(DivergedError):
        detector.fit(np.zeros((6, 12, 12), np.uint8))
    with pytest.raises(NotFittedError):
        detector.predict(images)
    scores = detector.fit(images).score_samples(images)
    with pytest.raises(DivergedError):
        detector.fit(np.zeros((6, 16, 16), np.uint8))
    assert np.array_equal(detector.score_samples(images), scores)


def test_epochs_of_a_grid() -> None:
    assert make(epochs=np.int64(2)).fit(pixels(6, 12, 12)).detector_.epoch == 2


def test_settings_of_a_grid() -> None:
    given = {
        "k": np.int64(2),
        "width": np.float32(0.0625),
        "mirrored": np.bool_(False),
        "milestones": np.array([0.5, 0.75]),
        "direction": np.str_("inward"),
    }
    config = make(config={**TINY, **given}).fit(pixels(6, 12, 12)).detector_.config
    expected = {"k": 2, "width": 0.0625, "mirrored": False, "direction": "inward"}
    found = config.to_dict()
    assert {name: found[name] for name in expected} == expected
    assert found["milestones"] == [0.5, 0.75]
    assert type(found["k"]) is int


def test_other_images_than_it_was_fitted_on() -> None:
    images = make().fit(pixels(6, 12, 12))
    for other in (pixels(2, 12, 13), pixels(2, 12, 12, 3)):
        with pytest.raises(ValueError, match=r"was fitted on images of .* \(1, 12, 12\)"):
            images.predict(other)
    with pytest.raises(ValueError, match="got rows"):
        images.predict(pixels(2, 144))


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pixels(6, 12, 12)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="there is no GPU here"):
        make(device="cuda").fit(images)
    fitted = make(device="auto").fit(images).set_params(device="cuda")  # as if fitted there
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict(images), fitted.predict(images))


@pytest.mark.parametrize("shape", [(6, 12, 12), (6, 16, 16, 3)])
def test_it_is_pickled_and_cloned(shape: tuple[int, ...]) -> None:
    """Of coloured images too: there the critic has spectral norm, which torch does not pickle."""
    images = pixels(*shape)
    estimator = make().fit(images)
    again = pickle.loads(pickle.dumps(estimator))
    assert np.array_equal(again.score_samples(images), estimator.score_samples(images))
    assert again.offset_ == estimator.offset_
    assert again.get_params() == estimator.get_params()
    fresh = clone(estimator)
    assert not hasattr(fresh, "detector_")
    assert pickle.loads(pickle.dumps(fresh)).get_params() == estimator.get_params()
    assert np.array_equal(fresh.fit(images).predict(images), estimator.predict(images))


def test_a_pickle_of_amatune_0_1_is_refused() -> None:
    with pytest.raises(RequestError, match=r"pickled by amatune 0\.1, .* fit it again"):
        make().__setstate__({"method": "ama", "offset_": 0.0, "_detector": {"seed": 0}})


def test_it_works_with_scikit_learns_tools() -> None:
    images = pixels(12, 10, 10)
    darker = FunctionTransformer(lambda given: given // 2)
    pipeline = make_pipeline(darker, make())
    for parameters in ParameterGrid({"anomalydetector__config": [TINY, {**TINY, "k": 2}]}):
        predicted = clone(pipeline).set_params(**parameters).fit(images).predict(images)
        assert set(predicted) <= {-1, 1}
    rows = FunctionTransformer(lambda given: given.reshape(-1, 10, 10))
    flat = make_pipeline(rows, make()).fit(images.reshape(12, 100))
    expected = make().fit(images).score_samples(images)
    assert np.array_equal(flat.score_samples(images.reshape(12, 100)), expected)


def test_seeds_decide() -> None:
    images = pixels(8, 12, 12)

    def scores(state: Any) -> np.ndarray:
        return make(random_state=state).fit(images).score_samples(images)

    assert np.array_equal(scores(3), scores(3))
    assert not np.array_equal(scores(3), scores(4))
    assert np.array_equal(scores(np.random.RandomState(1)), scores(np.random.RandomState(1)))
    assert not np.array_equal(scores(None), scores(None))


def test_the_package_exposes_it_without_search_tools() -> None:
    assert amatune.AnomalyDetector is AnomalyDetector
    program = (
        "import sys, amatune; amatune.AnomalyDetector()\n"
        "print(sorted({'ray', 'optuna', 'typer', 'rich', 'onnx'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_the_default_seed_is_fixed() -> None:
    images = pixels(32, 12, 12)

    def fitted() -> np.ndarray:
        return (
            AnomalyDetector(epochs=1, config=TINY, device="cpu").fit(images).score_samples(images)
        )

    assert (fitted() == fitted()).all()
    assert (fitted() == make(random_state=0).fit(images).score_samples(images)).all()


def test_scores_of_images_that_were_held_out() -> None:
    images = pixels(32, 12, 12)
    found = cross_val_predict(make(), images, cv=2, method="decision_function")
    halves = make().fit(images[:16]), make().fit(images[16:])
    assert np.allclose(found[16:], halves[0].decision_function(images[16:]))
    assert np.allclose(found[:16], halves[1].decision_function(images[:16]))
