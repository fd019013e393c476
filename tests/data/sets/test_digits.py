"""scikit-learn's digits."""

import numpy as np
import pytest

from amatune.data.catalogue import open_source
from amatune.data.sources.base import PARTS


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    original = load_digits()
    source = open_source("digits")
    for part in PARTS:
        ids = list(source.ids(part))
        assert [int(label) for label in source.labels(part)] == original.target[ids].tolist()
        images, _ = source.read(part, ids, (1, 28, 28))
        coarse = images[:, 0, 1::4, 1::4][:, :7, :7].astype(float)  # roughly the 8 x 8 again
        small = original.images[ids][:, :7, :7] * 255 / 16
        assert np.corrcoef(coarse.ravel(), small.ravel())[0, 1] > 0.8
    together = sorted([*source.ids("train"), *source.ids("test")])
    assert together == list(range(1797))
    for digit in source.class_names:
        share = source.labels("test").count(digit) / (original.target == int(digit)).sum()
        assert share == pytest.approx(0.3, abs=0.02)
