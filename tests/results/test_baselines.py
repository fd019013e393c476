"""Baselines against independent calculations, and their choice of a side."""

import contextlib
import io
import json
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from amatune.errors import RequestError
from amatune.nets.scores import complexity, per_complexity
from amatune.results import baselines
from amatune.results.baselines import (
    describe_baselines,
    fit_baselines,
    read_baselines,
    score_baselines,
    write_baselines,
)

SHAPE = (1, 12, 12)


def pictures(count, seed, brightness=128, spread=40, shape=SHAPE):
    generator = np.random.default_rng(seed)
    drawn = generator.normal(brightness, spread, (count, *shape))
    return drawn.clip(0, 255).astype(np.uint8)


def fit(train=None, normal=None, anomaly=None):
    train = pictures(300, 0) if train is None else train
    normal = pictures(50, 1) if normal is None else normal
    anomaly = pictures(30, 2, brightness=160) if anomaly is None else anomaly
    found = fit_baselines(train, normal, anomaly, np.array([0, len(anomaly)]), "pooled")
    return {one.name: one for one in found}


def test_each_is_there_once_best_first():
    found = fit()
    assert set(found) == {
        *("mean brightness", "total variation", "compressed size"),
        *("nearest neighbour", "PCA", "PCA / complexity"),
    }
    aurocs = [one.validation_auroc for one in found.values()]
    assert aurocs == sorted(aurocs, reverse=True)
    assert next(iter(found)) == "mean brightness"


@pytest.mark.parametrize(
    ("brightness", "side"), [(200, "high"), (60, "low")], ids=["brighter", "darker"]
)
def test_the_side_is_that_of_the_validation_anomalies(brightness, side):
    one = fit(anomaly=pictures(30, 2, brightness))["mean brightness"]
    assert (one.side, one.validation_auroc) == (side, 1.0)


def test_anomalies_on_both_sides_are_far_from_the_mean():
    anomaly = np.concatenate([pictures(15, 2, 60), pictures(15, 3, 200)])
    one = fit(anomaly=anomaly)["mean brightness"]
    assert (one.side, one.validation_auroc) == ("both", 1.0)


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 9, 14), (3, 80, 90)])
def test_measures_agree_with_independent_calculations(shape):
    train, test = pictures(120, 0, shape=shape), pictures(20, 5, spread=60, shape=shape)
    found = dict(reversed(baselines._measures(train)))  # the first variant of each name
    unit = test.reshape(len(test), -1) / 127.5 - 1
    known = train.reshape(len(train), -1) / 127.5 - 1
    pca = PCA(16, svd_solver="full").fit(known)
    error = np.square(unit - pca.inverse_transform(pca.transform(unit))).mean(axis=1)
    nearest = NearestNeighbors(n_neighbors=1).fit(known).kneighbors(unit)[0][:, 0]
    images = torch.from_numpy(unit.reshape(-1, *shape))
    expected = {
        "mean brightness": unit.mean(axis=1),
        "total variation": complexity(images).numpy(),
        "nearest neighbour": np.square(nearest) / unit.shape[1],
        "PCA": error,
        "PCA / complexity": per_complexity(torch.from_numpy(error), images).numpy(),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name](test), values, rtol=2e-3, atol=1e-5, err_msg=name)


def test_compressed_size_is_that_of_a_png():
    plain = np.zeros((1, 1, 32, 32), np.uint8)
    noise = pictures(1, 0, shape=(1, 32, 32))
    small, large = baselines._compressed_size(np.concatenate([plain, noise]))
    assert small < large
    file = io.BytesIO()
    Image.fromarray(noise[0, 0]).save(file, "PNG")
    assert large == len(file.getvalue())
    assert large > len(zlib.compress(noise.tobytes())) * 0.8


def test_a_training_image_is_not_its_own_neighbour():
    train = pictures(40, 0)
    measure = dict(baselines._measures(train))["nearest neighbour"]
    assert measure(train).min() > 0


def test_few_and_constant_images_do():
    train = np.full((3, *SHAPE), 7, np.uint8)
    found = fit(train=train)
    assert "PCA" not in found  # there is no direction to project on
    for one in found.values():
        assert np.isfinite(one.scores(pictures(4, 9))).all()


def test_scores_by_name_and_side_of_the_problem():
    found = list(fit().values())
    scores = score_baselines(found, pictures(7, 3), pictures(5, 4))
    assert {(len(s["normal"]), len(s["anomaly"])) for s in scores.values()} == {(7, 5)}


def test_figures_are_kept_and_read_again(tmp_path):
    figures = describe_baselines(list(fit().values()))
    write_baselines(tmp_path / "baselines.json", figures)
    assert read_baselines(tmp_path / "baselines.json") == figures
    assert read_baselines(tmp_path / "none.json") == []


@pytest.mark.parametrize(
    "content", ["{", "3", "[3]", '[{"name": 1}]', '[{"name": "a", "side": "b"}]', "\ufeff[", ""]
)
def test_other_contents_are_refused_by_name(tmp_path, content):
    file = tmp_path / "baselines.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(RequestError, match=r"baselines.json cannot be read .* remove it"):
        read_baselines(file)


KEPT = json.dumps(
    [{"name": "PCA", "side": "anomalies are higher", "validation_auroc": 0.75}, {}], indent=2
).encode()
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.integers(0, len(KEPT) - 1), st.binary(min_size=1, max_size=20), st.booleans())
@settings(max_examples=100)
def test_nothing_but_a_request_error_comes_of_damaged_bytes(
    tmp_path_factory, where, damage, truncated
):
    file = tmp_path_factory.getbasetemp() / "damaged-baselines.json"
    rest = b"" if truncated else KEPT[where + len(damage) :]
    file.write_bytes(KEPT[:where] + damage + rest)
    with contextlib.suppress(RequestError):
        read_baselines(file)


@given(
    st.lists(
        st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("name", "side", "validation_auroc", "more"), ANYTHING)
        ),
        max_size=2,
    )
)
@settings(max_examples=150)
def test_figures_are_of_their_kinds_or_refused(tmp_path_factory, values):
    file = tmp_path_factory.getbasetemp() / "odd-baselines.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    with contextlib.suppress(RequestError):
        for one in read_baselines(file):
            assert isinstance(one.name, str)
            assert one.side in baselines.SIDES.values()
            assert 0 <= one.validation_auroc <= 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"validation_auroc": 7}, r"an AUROC lies in \[0, 1\], got 7"),
        ({"validation_auroc": True}, "validation_auroc must be a finite number"),
        ({"side": "sideways"}, "there is no side 'sideways'"),
        ({"name": 3}, "name must be text"),
    ],
)
def test_impossible_figures_are_refused(tmp_path, change, told):
    whole = {"name": "PCA", "side": "anomalies are higher", "validation_auroc": 0.75}
    file = tmp_path / "baselines.json"
    file.write_text(json.dumps([{**whole, **change}]), encoding="utf-8")
    with pytest.raises(RequestError, match=told):
        read_baselines(file)


def test_large_pictures_are_not_there_many_times_over(monkeypatch):
    """In single precision once, and what is computed of them some pixels at a time."""
    monkeypatch.setattr(baselines, "PIXELS_AT_ONCE", 1024)  # of 32,400, as 2^14 are of large ones
    train = np.random.default_rng(0).integers(0, 256, (400, 1, 180, 180), np.uint8)
    baselines._measures(train[:4])  # what is imported on the way
    tracemalloc.start()
    baselines._measures(train)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * train.nbytes  # 28 times as much, were all of them in double precision
