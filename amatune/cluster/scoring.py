"""Scoring images by many detectors, on whatever machines the cluster has."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from amatune.cluster.device import claim_device
from amatune.config import ImageShape
from amatune.detector import Detector
from amatune.stored import load_model

_Parts = tuple[type[Detector], Any, ImageShape, int, dict[str, torch.Tensor]]


def score_models(
    folders: Sequence[Path],
    normal: np.ndarray,
    anomaly: np.ndarray,
    *,
    cpus: float,
    gpus: float,
) -> Iterator[tuple[Path, dict[str, dict[str, np.ndarray]]]]:
    """Score images, uint8 (N, C, H, W), by the detector kept in each of the folders.

    Each with these shares of a machine. As they come in: the folder and the scores by name
    and by side, "normal" and "anomaly", (N,). Raises `AmatuneError` for a damaged detector.
    """
    score = ray.remote(num_cpus=cpus, num_gpus=gpus)(_score)
    sides = ray.put(normal), ray.put(anomaly)
    pending: dict[Any, Path] = {}
    for folder in folders:
        detector = load_model(folder)
        parts = (
            type(detector),
            detector.config,
            detector.image_shape,
            detector.seed,
            detector.inference_state(),
        )
        pending[score.remote(parts, sides[0], sides[1], cpus, gpus)] = folder
    while pending:
        task = ray.wait(list(pending))[0][0]
        scores: Any = ray.get(task)
        yield pending.pop(task), scores


def _score(
    parts: _Parts, normal: np.ndarray, anomaly: np.ndarray, cpus: float, gpus: float
) -> dict[str, dict[str, np.ndarray]]:
    """In a worker: every score of the images."""
    detector_class, config, image_shape, seed, state = parts
    detector = detector_class(config, image_shape, claim_device(cpus, gpus), seed)
    detector.load_inference_state(state)
    # Copies: arrays in the object store are read-only.
    by_side = {
        "normal": detector.scores(torch.tensor(normal)),
        "anomaly": detector.scores(torch.tensor(anomaly)),
    }
    return {
        name: {side: scores[name].numpy() for side, scores in by_side.items()}
        for name in detector.score_names
    }
