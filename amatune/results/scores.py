"""Scores image by image, kept as small .npz files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amatune.files import opened
from amatune.runs import RunFolder

# Names of the files beside a detector, by the images that were scored.
VALIDATION = "validation.npz"
TEST = "test.npz"

Scores = Mapping[str, Mapping[str, np.ndarray]]  # score name -> {"normal", "anomaly"} -> (N,)


def validation_file(run: RunFolder, number: int) -> Path:
    """Where the validation scores of a trial that reached the full budget are kept."""
    return run.trials / f"{number:04d}" / VALIDATION


def save_scores(path: Path, scores: Scores) -> None:
    """Write scores atomically; each array is named `<score>/<normal or anomaly>`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        f"{name}/{side}": values for name, sides in scores.items() for side, values in sides.items()
    }
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)
    os.replace(temporary, path)


def load_scores(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read what `save_scores` wrote.

    Raises `OSError`, `ValueError` or `zipfile.BadZipFile` when the file is not there or not whole.
    """
    scores: dict[str, dict[str, np.ndarray]] = {}
    # Opened here: `np.load` leaves a damaged file open.
    with opened(path) as file, np.load(file, allow_pickle=False) as arrays:
        for key in arrays.files:
            name, _, side = key.rpartition("/")
            scores.setdefault(name, {})[side] = arrays[key]
    return scores
