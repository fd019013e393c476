"""What an epoch is made of: shuffled batches, losses read once at its end, optimisers and their
schedules; and few of many images."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR

from amatune.errors import DataError

_COMPUTING = ("fused", "foreach", "capturable")  # options of optimisers, by which nothing is learnt


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
        """Add one step's scalar losses; their graphs, if any, are not kept."""
        for name, loss in losses.items():
            value = loss.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """The means so far; waits for the device once."""
        if not self._sums:
            return {}
        values = torch.stack(list(self._sums.values())).tolist()
        counts = self._counts.values()
        return {n: v / c for n, v, c in zip(self._sums, values, counts, strict=True)}


def adam(
    device: torch.device, parameters: Any, lr: float, captured: bool = False, **options: Any
) -> torch.optim.Adam:
    """Adam of parameters or groups of them, as one kernel per step, which on a GPU never waits for
    the host; `captured`, where its steps there become part of a CUDA graph."""
    captured = captured and device.type == "cuda"  # torch warns of what could be and is not
    return torch.optim.Adam(parameters, lr=lr, fused=True, capturable=captured, **options)


def drops(
    optimizers: Iterable[Optimizer], shares: Sequence[float], epochs: int, factor: float
) -> list[MultiStepLR]:
    """Schedules that multiply the learning rate by `factor` after these shares of the epochs."""
    milestones = [max(1, round(share * epochs)) for share in shares]
    return [MultiStepLR(optimizer, milestones, factor) for optimizer in optimizers]


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Restore an optimiser's `state_dict`, perhaps of another device, and share nothing with it.

    How it computes stays its own: a state of a CPU knows nothing of what a CUDA graph needs, a
    learning rate on the device among it. What it keeps of each weight gets the weight's memory
    format: a state has that in which it was saved, and Adam as one kernel on a CPU reads both in
    the order of memory, without a word.
    """
    before = [dict(group) for group in optimizer.param_groups]
    # Before it is loaded: torch leaves a counter on the CPU, or not, by the groups that come.
    groups = [
        {**saved, **{name: own[name] for name in _COMPUTING if name in own}}
        for saved, own in zip(state["param_groups"], before, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})
    for own, group in zip(before, optimizer.param_groups, strict=True):
        rate = float(group["lr"])
        group["lr"] = own["lr"].fill_(rate) if isinstance(own["lr"], Tensor) else rate
    for weight, kept in optimizer.state.items():
        for name, value in kept.items():
            if not isinstance(value, Tensor):
                continue
            like = weight if value.shape == weight.shape else value
            kept[name] = torch.empty_like(like, dtype=value.dtype).copy_(value)
