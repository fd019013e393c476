"""R and A against their definitions (paper, Eq. 5 and 6)."""

import numpy as np
import torch
from scipy import stats

from amatune.nets.scores import a_score, r_score


def test_r_is_the_l1_distance_of_features():
    rng = np.random.default_rng(0)
    same, other = rng.normal(size=(2, 5, 7))
    expected = [sum(abs(same[i, j] - other[i, j]) for j in range(7)) for i in range(5)]
    assert np.allclose(r_score(torch.tensor(same), torch.tensor(other)), expected)


def test_a_ranks_as_the_negated_gaussian_density():
    r = torch.tensor(np.random.default_rng(0).normal(3.0, 2.0, size=200))
    density = stats.norm(3.2, 1.7).logpdf(r.numpy())
    ours = a_score(r, torch.tensor(3.2), torch.tensor(1.7))
    assert np.array_equal(np.argsort(ours.numpy()), np.argsort(-density))


def test_a_has_no_ties_where_the_density_underflows():
    r = torch.tensor([100.0, 200.0, 300.0])
    assert stats.norm(0, 1).pdf(r.numpy()).tolist() == [0.0, 0.0, 0.0]
    assert len(set(a_score(r, torch.tensor(0.0), torch.tensor(1.0)).tolist())) == 3


def test_a_finds_anomalies_below_the_normal_images():
    scores = a_score(torch.tensor([1.0, 5.0, 9.0]), torch.tensor(5.0), torch.tensor(1.0))
    assert scores.tolist() == [4.0, 0.0, 4.0]
