"""Scoring images by many detectors, on whatever machines the cluster has."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from amatune.cluster import connection
from amatune.cluster.device import claim_device
from amatune.detector import Detector
from amatune.stored import StoredDetector


def score_models(
    folders: Sequence[Path],
    detector_class: type[Detector],
    normal: np.ndarray,
    anomaly: np.ndarray,
    *,
    cpus: float,
    gpus: float,
    gpu_memory: float,
) -> Iterator[tuple[Path, dict[str, dict[str, np.ndarray]]]]:
    """Score images, uint8 (N, C, H, W), by the detector kept in each of the folders.

    Each with these shares of a machine; all on a card use at most `gpu_memory`, in (0, 1], of its
    memory. As they come in: the folder and the scores by name and by side, "normal" and "anomaly",
    (N,). Raises `AmatuneError` for a damaged detector.
    """
    score = ray.remote(num_cpus=cpus, num_gpus=gpus)(_score)
    sides = ray.put(normal), ray.put(anomaly)
    pending: dict[Any, Path] = {}
    for folder in folders:
        stored = StoredDetector.load(folder)
        pending[score.remote(stored, detector_class, *sides, cpus, gpus, gpu_memory)] = folder
    while pending:
        connection.require_alive()
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=1.0)
        for task in ready:
            scores: Any = ray.get(task)
            yield pending.pop(task), scores


def _score(
    stored: StoredDetector,
    detector_class: type[Detector],
    normal: np.ndarray,
    anomaly: np.ndarray,
    cpus: float,
    gpus: float,
    gpu_memory: float,
) -> dict[str, dict[str, np.ndarray]]:
    """In a worker: every score of the images."""
    detector = stored.build(claim_device(cpus, gpus, gpu_memory), detector_class)
    # Copies: arrays in the object store are read-only.
    by_side = {
        "normal": detector.scores(torch.tensor(normal)),
        "anomaly": detector.scores(torch.tensor(anomaly)),
    }
    return {
        name: {side: scores[name].numpy() for side, scores in by_side.items()}
        for name in detector.score_names
    }
