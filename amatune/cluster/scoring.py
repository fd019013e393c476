"""Scoring images by many detectors, on whatever machines the cluster has."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.exceptions
import torch

from amatune.cluster import connection
from amatune.cluster.device import claim_device, naming_out_of_memory
from amatune.detector import Detector
from amatune.errors import AmatuneError
from amatune.results.localisation import Masks, PixelFigures, pixel_figures
from amatune.stored import StoredDetector


@dataclass(frozen=True)
class Scored:
    """What one detector says of test images."""

    scores: dict[str, dict[str, np.ndarray]]  # by name and side, "normal" and "anomaly", (N,)
    pixels: PixelFigures | None = None  # without masks, or without maps


def score_models(
    folders: Sequence[Path],
    classes: Mapping[str, type[Detector]],
    normal: np.ndarray,
    anomaly: np.ndarray,
    masks: Masks | None = None,
    *,
    cpus: float,
    gpus: float,
    gpu_memory: float,
    concurrent: int,
) -> Iterator[tuple[Path, Scored]]:
    """Score images, uint8 (N, C, H, W), by the detector kept in each of the folders, of the class
    of its method; with `masks` of the anomalies also by its maps.

    Each with these shares of a machine, `concurrent` at a time; all on a card use at most
    `gpu_memory`, in (0, 1], of its memory. As they come in: the folder and what was found. Raises
    `AmatuneError` for a damaged detector, where a card has no room, and where a worker dies.
    """
    score = ray.remote(num_cpus=cpus, num_gpus=gpus)(_score)
    sides = ray.put(normal), ray.put(anomaly), ray.put(masks)
    pending: dict[Any, Path] = {}
    left = list(folders)
    while left or pending:
        while left and len(pending) < concurrent:
            folder = left.pop(0)
            stored = StoredDetector.load(folder)
            own = classes[stored.method]
            pending[score.remote(stored, own, *sides, cpus, gpus, gpu_memory)] = folder
        connection.require_alive()
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=1.0)
        for task in ready:
            yield pending.pop(task), _found(task)


def _found(task: Any) -> Scored:
    try:
        found: Scored = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AmatuneError):
            raise error.cause from None  # in its own words, and not with all that Ray adds
        raise
    except ray.exceptions.RayError as error:
        connection.require_alive(at_once=True)
        raise AmatuneError(
            "a worker died while it scored the test images, perhaps for want of memory "
            f"({type(error).__name__}); what is scored is kept: call again, with a smaller "
            "--concurrent"
        ) from error
    return found


@naming_out_of_memory()
def _score(
    stored: StoredDetector,
    detector_class: type[Detector],
    normal: np.ndarray,
    anomaly: np.ndarray,
    masks: Masks | None,
    cpus: float,
    gpus: float,
    gpu_memory: float,
) -> Scored:
    """In a worker: every score of the images, and what their maps are worth."""
    detector = stored.build(claim_device(cpus, gpus, gpu_memory), detector_class)
    # Copies: arrays in the object store are read-only.
    by_side = {
        "normal": detector.scores(torch.tensor(normal)),
        "anomaly": detector.scores(torch.tensor(anomaly)),
    }
    scores = {
        name: {side: scores[name].numpy() for side, scores in by_side.items()}
        for name in detector.score_names
    }
    if masks is None:
        return Scored(scores)

    def maps(images: np.ndarray) -> np.ndarray | None:
        found = detector.pixel_map(torch.tensor(images))
        return None if found is None else found.float().numpy()

    return Scored(scores, pixel_figures(maps, normal, anomaly, masks))
