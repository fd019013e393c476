"""A folder whose files are those that were written there: its config.json has the SHA-256 of each.

What is read here is checked before anything is made of it, and needs no torch: scoring by the ONNX
Runtime alone begins with it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amatune.errors import RequestError
from amatune.files import read_bytes

SCHEMA_VERSION = 3  # of config.json
MAX_SIDE = 4096  # pixels, and channels; what is larger, no machine could score
WEIGHTS = "model.safetensors"
CONFIG = "config.json"

MODEL = "amatune-model"  # a detector that a retraining keeps in its run
EXPORT = "amatune-export"  # one that is made to be handed on
_AGAIN = {
    MODEL: "remove the folder and call `amatune best` again",
    EXPORT: "copy or export the model again",
}


def sealed(config: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The contents of a folder of `files`, by name, and config.json as the last."""
    hashes = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
    whole = {**config, "sha256": hashes}
    whole["config_sha256"] = own_hash(whole)
    text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    return {**files, CONFIG: text.encode()}


def read_sealed(folder: Path, kind: str | None = None) -> tuple[dict[str, Any], dict[str, bytes]]:
    """config.json, and the contents of every file that it lists; of a folder of this `kind` alone.

    Raises `RequestError` when it is not complete, was written by another version or changed.
    """
    config = read_config(folder)
    if kind not in (None, config["kind"]):
        raise RequestError(f"{folder / CONFIG} describes an {config['kind']}, not an {kind}")
    files = {name: _read(folder / name) for name in config["sha256"]}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != config["sha256"][name]:
            raise _changed(folder / name, config["kind"])
    return config, files


def read_facts(folder: Path) -> dict[str, Any] | None:
    """What config.json tells of the detector in a folder; None where there is no complete one.

    Raises `RequestError` when it was written by another version or changed.
    """
    return read_config(folder) if (folder / CONFIG).exists() else None


# What config.json must hold, beside kind and version.
FIELDS: dict[str, type] = {
    "amatune_version": str,
    "method": str,
    "config": dict,
    "image_shape": list,
    "seed": int,
    "primary": str,
    "sha256": dict,
}


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of config.json, checked.

    Raises `RequestError` when there is none, it was written by another version, or changed.
    """
    path = folder / CONFIG
    try:
        config: dict[str, Any] = json.loads(_read(path))
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise RequestError(f"{path} is not readable JSON: {error}") from None
    if type(config) is not dict:
        raise RequestError(f"{path} does not describe a detector")
    kind, version = config.get("kind"), config.get("schema_version")
    if kind is None and isinstance(config.get("sha256"), str):
        config = _model_of_0_1(config)
    elif not isinstance(kind, str) or kind not in _AGAIN:
        raise RequestError(f"{path} does not describe a detector")
    elif type(version) is not int or (kind, version) not in _READABLE:
        raise RequestError(
            f"{path} has schema version {version!r}, this amatune reads {SCHEMA_VERSION}; read it "
            f"with the amatune that wrote it, or {_AGAIN[kind]}"
        )
    elif config.get("config_sha256") != own_hash(config):
        raise _changed(path, kind)
    elif version == _EXPORTS_OF_0_1:
        config = _export_of_0_1(config)
    # Exactly: true is an int too.
    wrong = [name for name, type_ in FIELDS.items() if type(config.get(name)) is not type_]
    if "seed" not in wrong and not -(2**63) <= config["seed"] < 2**64:  # what torch takes
        wrong.append("seed")
    if "image_shape" not in wrong and not _is_image_shape(config["image_shape"]):
        wrong.append("image_shape")
    if "sha256" not in wrong and not _is_hashes(config["sha256"]):
        wrong.append("sha256")
    if wrong:
        raise RequestError(f"{path} was edited: missing or unusable {', '.join(wrong)}")
    return config


def own_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of everything else in config.json, so that an edit is noticed."""
    rest = {name: value for name, value in config.items() if name != "config_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


# amatune 0.1 kept less of what a detector is built from.
_EXPORTS_OF_0_1 = 2  # their schema version; its models had none
_READABLE = {(MODEL, SCHEMA_VERSION), (EXPORT, SCHEMA_VERSION), (EXPORT, _EXPORTS_OF_0_1)}


def _model_of_0_1(config: Mapping[str, Any]) -> dict[str, Any]:
    hashes = {WEIGHTS: config["sha256"]}
    return {**config, "kind": MODEL, "amatune_version": "0.1.0", "sha256": hashes}


def _export_of_0_1(config: Mapping[str, Any]) -> dict[str, Any]:
    scores = config.get("scores")
    primary = scores.get("primary") if isinstance(scores, dict) else None
    return {**config, "seed": 0, "primary": primary}


def _is_image_shape(values: list[Any]) -> bool:
    return len(values) == 3 and all(type(v) is int and 0 < v <= MAX_SIDE for v in values)


def _is_hashes(values: dict[str, Any]) -> bool:
    # What config.json says must not lead to files elsewhere.
    return WEIGHTS in values and all(
        isinstance(value, str) and name != CONFIG and Path(name).name == name
        for name, value in values.items()
    )


def _changed(path: Path, kind: str) -> RequestError:
    return RequestError(
        f"{path} is not what was saved there (its SHA-256 differs from the one in {CONFIG}): it "
        f"was changed or cut short; {_AGAIN[kind]}"
    )


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        raise RequestError(
            f"{path.parent} holds no complete model: it has no {path.name}; `amatune best "
            "--export` makes one"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise RequestError(f"cannot read {str(path)!r}: {error}") from None
