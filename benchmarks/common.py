"""What several benchmarks share: problems of files, settings by `--set`, scores by side."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amatune.data.problem import Problem
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.detector import Detector

Scores = dict[str, dict[str, np.ndarray]]  # name -> {"normal", "anomaly"} -> (N,)


def problems_of(
    data: Path, normal: str, classes: tuple[str, ...], anomalies: Sequence[str | None]
) -> dict[str, Problem]:
    """A problem for each set of anomalies, by its name; they share the normal images.

    A set is a file of `data`, as `normal` is, or a data set's name; None: the other classes.
    """
    found = {}
    for one in anomalies:
        ood = () if one is None else (f"npz:{data / one}" if one.endswith(".npz") else one,)
        request = ProblemRequest(dataset=f"npz:{data / normal}", normal_classes=classes, ood=ood)
        found["other classes" if one is None else Path(one).stem] = make_problem(request)
    return found


def given_settings(words: Sequence[str]) -> dict[str, Any]:
    """Each NAME=VALUE of a command line by its name; what is not JSON is a text."""
    found: dict[str, Any] = {}
    for name, _, text in (word.partition("=") for word in words):
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def folder_of(output: Path, settings: Mapping[str, Any]) -> Path:
    """Where records of trainings with these settings are kept: `output` for none but the usual
    ones, else a folder in it, so that one is never taken for the other. Makes it."""
    folder = output / ",".join(f"{name}={settings[name]}" for name in sorted(settings))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def scores_by_side(detector: Detector, normal: np.ndarray, anomaly: np.ndarray) -> Scores:
    """Every score of uint8 images (N, C, H, W) of either side."""
    sides = {"normal": normal, "anomaly": anomaly}
    found = {side: detector.scores(torch.tensor(images)) for side, images in sides.items()}
    return {n: {side: found[side][n].numpy() for side in sides} for n in detector.score_names}
