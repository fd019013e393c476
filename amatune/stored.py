"""A retrained detector on disk: `model.safetensors` and `config.json` in a folder of its own."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from amatune import registry
from amatune.detector import Detector
from amatune.errors import AmatuneError
from amatune.files import write_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def save_model(folder: Path, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Keep a detector's `inference_state`.

    `facts` are JSON values and hold at least `method`, `config`, `image_shape` and `seed`. They are
    written last: a folder with a `config.json` is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({name: tensor.contiguous() for name, tensor in state.items()})
    temporary = folder / f".{WEIGHTS}-{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(weights)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / WEIGHTS)
    write_json(folder / CONFIG, {**facts, "sha256": hashlib.sha256(weights).hexdigest()})


def read_facts(folder: Path) -> dict[str, Any] | None:
    """What `save_model` wrote about the detector; None when the folder is not complete."""
    try:
        facts: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return facts


def load_model(folder: Path, device: str | torch.device = "cpu") -> Detector:
    """The detector that `save_model` kept, ready to score.

    Raises `AmatuneError` when the folder is not complete or its weights were changed.
    """
    facts = read_facts(folder)
    if facts is None:
        raise AmatuneError(f"{folder} holds no complete model; `amatune best` trains it again")
    weights = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(weights).hexdigest() != facts["sha256"]:
        raise AmatuneError(
            f"{folder / WEIGHTS} is not what was saved there; remove the folder and call "
            "`amatune best` again"
        )
    method = registry.detector_class(facts["method"])
    channels, height, width = facts["image_shape"]
    config = method.Config.from_dict(facts["config"])
    detector = method(config, (channels, height, width), device, facts["seed"])
    detector.load_inference_state(load(weights))
    return detector
