"""The scikit-learn estimator: scikit-learn's own checks, and what is particular to images."""

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import amatune
from amatune.detectors.ama import AMA, AMAConfig
from amatune.estimator import AnomalyDetector

TINY = {"width": 0.05, "latent_dim": 4, "critic_steps": 1}


def make(**changes: Any) -> AnomalyDetector:
    given = {"epochs": 1, "config": TINY, "random_state": 0, "device": "cpu", **changes}
    return AnomalyDetector(**given)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


FLOAT32 = (
    "networks compute in float32: a score's last digits depend on how many images a batch has and "
    "where in it an image lies, and scikit-learn wants 1e-7; test_conformance.py holds every "
    "method to 1e-4"
)
EXPECTED_FAILURES = {
    "check_methods_subset_invariance": FLOAT32,
    "check_methods_sample_order_invariance": FLOAT32,
}


@parametrize_with_checks([make()], expected_failed_checks=lambda _: EXPECTED_FAILURES)
def test_scikit_learns_own_checks(estimator: AnomalyDetector, check: Any) -> None:
    check(estimator)


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
        (pixels(6, 144), (1, 12, 12)),
        (pixels(6, 130), (1, 12, 12)),
        (pixels(6, 10), (1, 8, 8)),
        (pixels(6, 1), (1, 8, 8)),
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
    grey = pixels(8, 12, 12)
    flat = grey.reshape(8, 144)
    expected = make().fit(grey).score_samples(grey)
    assert np.array_equal(make().fit(flat).score_samples(flat), expected)
    flat[0, :2] = 0, 255  # so that floats span the whole range
    grey = flat.reshape(8, 12, 12)
    floats = flat / 255 * 7 - 3
    expected = make().fit(grey).score_samples(grey)
    assert np.array_equal(make().fit(floats).score_samples(floats), expected)


def test_rows_become_squares() -> None:
    rows = np.arange(20.0).reshape(2, 10)
    estimator = make()
    images = estimator._to_images(rows, training=True)
    assert images.shape == (2, 1, 8, 8)
    small = images[:, 0, ::2, ::2]
    assert np.array_equal(images[:, 0], small.repeat(2, axis=1).repeat(2, axis=2))
    assert np.array_equal(small.reshape(2, 16)[:, :10], np.round(rows * 255 / 19))
    assert not small.reshape(2, 16)[:, 10:].any()
    # The scale is that of the training rows; what lies beyond is cut off.
    beyond = np.full((1, 10), 1e308)
    assert estimator._to_images(beyond, training=False)[0, 0, 0, 0] == 255
    wide = np.array([[-1.7e308, 1.7e308], [0, 0]])
    assert make()._to_images(wide, training=True).max() == 255
    assert not make()._to_images(np.ones((2, 4)), training=True).any()  # nothing to scale


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (pixels(6, 12, 12).astype(float), "must be uint8, 0 to 255, got float64"),
        (pixels(6, 12, 12, 4), r"with C 1 or 3, got \(6, 12, 12, 4\)"),
        (pixels(1, 12, 12), "at least 2 images"),
        (pixels(1, 144), "minimum of 2 is required"),
        (pixels(6, 5, 5), "too small"),
        (pixels(6, 2, 2, 12, 12), "dim 5"),
        (np.full((6, 9), np.nan), "NaN"),
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
        ({"contamination": 0.0}, r"in \(0, 0\.5\], got 0\.0"),
        ({"contamination": 0.6}, "got 0.6"),
        ({"random_state": -1}, "at least 0, got -1"),
        ({"random_state": "one"}, "one"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
    ],
)
def test_impossible_parameters(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make(**changes).fit(pixels(6, 12, 12))


def test_other_images_than_it_was_fitted_on() -> None:
    images = make().fit(pixels(6, 12, 12))
    for other in (pixels(2, 12, 13), pixels(2, 12, 12, 3)):
        with pytest.raises(ValueError, match=r"was fitted on images of .* \(1, 12, 12\)"):
            images.predict(other)
    rows = make().fit(pixels(6, 9))
    with pytest.raises(ValueError, match="X has 8 features"):
        rows.predict(pixels(2, 8))
    with pytest.raises(ValueError, match="was fitted on uint8 values"):
        rows.predict(np.ones((2, 9)))


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


def test_it_works_with_scikit_learns_tools() -> None:
    images = pixels(12, 100)
    pipeline = make_pipeline(MinMaxScaler(), make())
    for parameters in ParameterGrid({"anomalydetector__config": [TINY, {**TINY, "k": 2}]}):
        predicted = clone(pipeline).set_params(**parameters).fit(images).predict(images)
        assert set(predicted) <= {-1, 1}


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
