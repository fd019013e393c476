"""How much of a machine or cluster each trial gets, and how many trials fit at a time."""

from dataclasses import replace
from typing import Any

import numpy as np

from amatune.cluster import capacity, connection
from amatune.registry import Method
from amatune.runs.record import RunRecord
from amatune.tuning.defaults import longest


def measured(record: RunRecord, method: Method, images: np.ndarray) -> RunRecord:
    """The record with the share of a GPU that serves a trial best; measured once in a run."""
    request = record.request
    if record.share_is_known or request.gpus_per_trial is not None or connection.gpus() == 0:
        return record
    default = longest(record, method)
    share = capacity.measure_share(method.detector, default, images, request.cpus_per_trial)
    return record.with_gpu_share(share)


def gpu_share(record: RunRecord, method: Method) -> tuple[float, list[str]]:
    """The share of a GPU for each trial, asked for or measured before, and notes on it."""
    if record.request.gpus_per_trial is not None:
        return record.request.gpus_per_trial, []
    if connection.gpus() == 0:
        return 0.0, []
    share = record.gpu_share
    if share is None:
        trainable: Any = method.trainable_class()
        usual = trainable.gpu_share
        note = f"the best share of a GPU could not be measured; each trial gets {usual:g}"
        return usual, [note]
    return share.gpus, [capacity.NO_MPS] if share.gpus < 1 and not share.mps else []


def find_room(record: RunRecord, method: Method) -> capacity.Room:
    """How many trials run at a time, and with what. Raises `RequestError` when not even one.

    What other processes hold of the GPUs' memory is left to them. A share that was measured becomes
    larger where what is free now is not enough for as many trials as it was.
    """
    request = record.request
    share, notes = gpu_share(record, method)
    memory = capacity.free_memory() if share > 0 else capacity.ALL_FREE
    if request.gpus_per_trial is None and record.gpu_share is not None:
        share = capacity.share_that_fits(share, record.gpu_share.bytes_per_trial, memory)
    room = capacity.find_room(
        cpus_per_trial=request.cpus_per_trial,
        gpus_per_trial=share,
        concurrent=request.concurrent,
        may_grow=request.address is not None,
        notes=[*notes, *memory.notes],
    )
    return replace(room, gpu_memory=memory.share)
