"""Events as a search tells them."""

from pathlib import Path
from typing import Any

from amatune.tuning.events import SearchStarted, State, TrialUpdate


def started(**changes: Any) -> SearchStarted:
    facts: dict[str, Any] = {
        "run": Path("runs/mine").resolve(),
        "method": "ama",
        "problem": "digits: classes 0-4 normal",
        "trials": 100,
        "finished": 0,
        "epochs": 30,
        "steps": 3000,
        "steps_per_epoch": 100,
        "batch": 128,
        "training_images": 400,
        "fixed": {"width": 0.25},
        "concurrent": 8,
        "cpus_per_trial": 1.0,
        "gpus_per_trial": 0.25,
        "validation_normals": 500,
        "validation_anomalies": 50,
        "warnings": ("few images",),
    }
    return SearchStarted(**{**facts, **changes})


def trial(number: int, state: State, epoch: int = 5, **changes: Any) -> TrialUpdate:
    facts: dict[str, Any] = {
        "auroc": 0.5 + number / 1000,
        "settings": {"geometry": "shell", "lr": 0.00123456, "width": 0.25},
    }
    return TrialUpdate(number=number, state=state, epoch=epoch, epochs=30, **{**facts, **changes})
