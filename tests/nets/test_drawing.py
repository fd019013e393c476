"""Weights that a seed alone decides."""

import pytest
import torch

from amatune.nets.drawing import drawn_from


def test_a_seed_decides_and_no_other_stream_is_touched(monkeypatch):
    monkeypatch.setattr("torch.cuda.manual_seed_all", lambda _: pytest.fail("a GPU's stream"))
    before = torch.get_rng_state()
    drawn = []
    for seed in (3, 3, 4):
        with drawn_from(seed):
            drawn.append(torch.rand(5))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert torch.equal(drawn[0], torch.rand(5, generator=torch.Generator().manual_seed(3)))
