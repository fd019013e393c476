"""The part of a machine that Ray assigned to this worker process."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import ray
import torch

from amatune.errors import OutOfMemoryError

_NO_ROOM = ("CUDA error: out of memory", "STATUS_ALLOC_FAILED")  # the latter of cuBLAS and cuDNN
CUDA_CONTEXT = 0.6e9  # bytes a process takes on a GPU beside what PyTorch allocates


def claim_device(cpus: float, gpus: float, memory: float = 1.0) -> str:
    """Keep to the assigned share of the machine: the device to work on, "cpu" or "cuda:0".

    Ray counts shares and enforces nothing. Threads are limited to the CPUs, and memory to the share
    of what is ours of a GPU's `memory`, in (0, 1], the rest being other processes'; call it before
    anything is allocated there. A GPU that PyTorch cannot use is passed over.
    """
    torch.set_num_threads(max(1, int(cpus)))
    if gpus <= 0 or not ray.get_gpu_ids() or not torch.cuda.is_available():
        return "cpu"
    share = min(gpus, 1.0) * memory
    if share < 1:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(max(share - CUDA_CONTEXT / total, 0.02), 0)
    return "cuda:0"  # Ray shows each worker its own


@contextlib.contextmanager
def naming_out_of_memory() -> Iterator[None]:
    """Raise `OutOfMemoryError`, which says what helps, where a GPU has no room: for PyTorch, or for
    CUDA and its libraries beside it."""
    try:
        yield
    except RuntimeError as error:
        told = isinstance(error, torch.OutOfMemoryError)
        if not told and not any(part in str(error) for part in _NO_ROOM):
            raise
        raise OutOfMemoryError(
            "out of GPU memory; a larger share (--gpus-per-trial), smaller networks (--width) "
            "or smaller batches need less"
        ) from error


def mps_is_running() -> bool:
    """Whether CUDA's multi-process service, which lets processes share a GPU, runs here."""
    pipes = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")
    return (Path(pipes) / "control").exists()
