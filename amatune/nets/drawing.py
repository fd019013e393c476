"""Random weights that a seed alone decides."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Meanwhile torch draws on the CPU from `seed`. Afterwards the caller's stream goes on as if
    nothing had been drawn; those of GPUs, which `torch.manual_seed` would set too, are left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
