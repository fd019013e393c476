"""Scores image by image, kept as small .npz files."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amatune.errors import RequestError
from amatune.files import opened
from amatune.runs import RunFolder

# Names of the files beside a detector, by the images that were scored.
VALIDATION = "validation.npz"
TEST = "test.npz"
_MOST_BYTES = 2**30  # of such a file

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

    Raises `RequestError` when the file is not there, not whole or not what was kept.
    """
    scores: dict[str, dict[str, np.ndarray]] = {}
    try:
        # Opened here: `np.load` leaves a damaged file open.
        with opened(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > _MOST_BYTES:
                raise ValueError(f"it has {size:,} bytes")
            with warnings.catch_warnings(), np.load(file, allow_pickle=False) as arrays:
                warnings.simplefilter("ignore")  # of a header that is not quite right
                for key in arrays.files:
                    name, _, side = key.rpartition("/")
                    scores.setdefault(name, {})[side] = arrays[key]
        if not scores:
            raise ValueError("it holds none")
        for name, sides in scores.items():
            _check(name, sides)
    except Exception as error:  # zipfile, zlib, struct and numpy each have their own
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RequestError(f"the scores in {path} cannot be read: {reason:.200}") from error
    return scores


def has_scores(path: Path) -> bool:
    """Whether there are scores in that file that can be read."""
    try:
        load_scores(path)
    except RequestError:
        return False
    return True


def _check(name: str, sides: Mapping[str, np.ndarray]) -> None:
    if sides.keys() != {"normal", "anomaly"}:
        raise ValueError(f"{name!r} must be of normal and anomaly, it is of {', '.join(sides)}")
    for side, values in sides.items():
        if values.ndim != 1 or values.dtype.kind != "f" or not len(values):
            raise ValueError(f"{name}/{side} is not a list of numbers")
        if wrong := int((~np.isfinite(values)).sum()):
            raise ValueError(f"{name}/{side} must be finite, {wrong} of {len(values)} are not")
