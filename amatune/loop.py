"""What an epoch is made of: shuffled batches, losses read once at its end, optimisers and their
schedules; and few of many images."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR

from amatune.errors import DataError


def shuffled_batches(count: int, batch_size: int, generator: Generator) -> Iterator[Tensor]:
    """Index tensors that visit `count` images in random order, all of one size.

    The incomplete rest of an epoch is dropped, so that every step has the same shapes; fewer images
    than one batch make one batch. Raises `DataError` for fewer than two images.
    """
    if count < 2:
        raise DataError(f"training needs at least 2 images, got {count}")
    size = min(batch_size, count)
    order = torch.randperm(count, generator=generator, device=generator.device)
    for start in range(0, count - size + 1, size):
        yield order[start : start + size]


def evenly_spaced(images: Tensor, most: int) -> Tensor:
    """At most so many of the images (N, ...), from the first to the last."""
    if len(images) <= most:
        return images
    places = torch.linspace(0, len(images) - 1, most).round().long()
    return images[places.to(images.device)]


class LossMeans:
    """Epoch means of named losses, kept on the device: adding never waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Add one step's scalar losses, without a graph."""
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """The means so far; waits for the device once."""
        if not self._sums:
            return {}
        values = torch.stack(list(self._sums.values())).tolist()
        counts = self._counts.values()
        return {n: v / c for n, v, c in zip(self._sums, values, counts, strict=True)}


def adam(device: torch.device, parameters: Any, lr: float, **options: Any) -> torch.optim.Adam:
    """Adam of parameters or groups of them, as one kernel per step; on a GPU it never waits for the
    host."""
    on_gpu = device.type == "cuda"
    return torch.optim.Adam(parameters, lr=lr, fused=True, capturable=on_gpu, **options)


def drops(
    optimizers: Iterable[Optimizer], shares: Sequence[float], epochs: int, factor: float
) -> list[MultiStepLR]:
    """Schedules that multiply the learning rate by `factor` after these shares of the epochs."""
    milestones = [max(1, round(share * epochs)) for share in shares]
    return [MultiStepLR(optimizer, milestones, factor) for optimizer in optimizers]


def lay_out_like_weights(optimizer: Optimizer) -> None:
    """Bring what an optimiser keeps of each weight into the weight's memory format.

    A state keeps the format in which it was saved, perhaps on another device or by another version,
    and Adam as one kernel on a CPU reads both in the order of memory, without a word.
    """
    for weight, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                kept[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
