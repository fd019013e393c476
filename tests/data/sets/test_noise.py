"""The two sets of noise."""

import pytest

from amatune.data.catalogue import open_source


def test_noise_has_the_stated_distribution_and_never_changes():
    uniform, _ = open_source("uniform-noise").read("train", range(100), (3, 20, 20))
    assert uniform.mean() == pytest.approx(127.5, abs=1.5)
    assert uniform.std() == pytest.approx(255 / 12**0.5, abs=1)
    gaussian, _ = open_source("gaussian-noise").read("train", range(100), (3, 20, 20))
    assert (gaussian == 0).mean() == pytest.approx(0.31, abs=0.01)  # P(N(.5, 1) < 0)
    assert (gaussian == 255).mean() == pytest.approx(0.31, abs=0.01)
    for name in ("uniform-noise", "gaussian-noise"):
        source = open_source(name)
        one, _ = source.read("train", [7], (1, 8, 8))
        again, _ = source.read("train", [3, 7], (1, 8, 8))
        assert (one[0] == again[1]).all()
        assert (one != source.read("test", [7], (1, 8, 8))[0]).any()
