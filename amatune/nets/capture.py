"""A training step replayed as one CUDA graph."""

import functools
import gc
import warnings
from collections.abc import Callable

import torch
from torch import Generator, Tensor

Step = Callable[[Tensor], dict[str, Tensor]]

EAGER_STEPS = 3  # before the capture: libraries choose algorithms, optimisers make their state


@functools.cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """One for all captures on a card: memory and the workspaces of libraries are kept for each
    stream by itself."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class CapturedStep:
    """Calls `step`, after `EAGER_STEPS` ordinary calls by replaying what the GPU did.

    A replay launches all kernels of the step at once, which is where small networks spend their
    time. `step` takes one batch, always of the same shape, and returns scalar losses; it must not
    wait for the device, must draw from `generator` alone, and its optimisers must be capturable.
    Random draws differ from replay to replay as they would from call to call. What `step` reads
    besides its batch (weights, optimiser state, learning rates) must be changed in place, or a new
    capture be made.
    """

    def __init__(self, step: Step, generator: Generator) -> None:
        self._step = step
        self._generator = generator
        self._eager_left = EAGER_STEPS
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        """One training step on a batch on the GPU."""
        if self._eager_left:
            self._eager_left -= 1
            return self._aside(batch)
        graph = self._graph or self._capture(batch)
        self._batch.copy_(batch)
        graph.replay()
        # The next replay writes to the same places.
        return {name: value.clone() for name, value in self._losses.items()}

    def _aside(self, batch: Tensor) -> dict[str, Tensor]:
        """An ordinary call, on a stream of its own as captures demand of what comes before."""
        stream = _side_stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            # Optimisers wonder why they could be captured and are not yet.
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            losses = self._step(batch)
        torch.cuda.current_stream().wait_stream(stream)
        return losses

    def _capture(self, batch: Tensor) -> torch.cuda.CUDAGraph:
        """Record the step without carrying it out."""
        self._batch = batch.clone()
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(self._generator)
        # A detector and its captures hold each other: those of one that is gone keep their memory
        # until they are collected, which would break a capture.
        gc.collect()
        stream = _side_stream(torch.cuda.current_device())
        with torch.cuda.graph(self._graph, stream=stream):
            self._losses = self._step(self._batch)
        return self._graph
