"""The folder of an exported detector: written whole, refused when anything in it was changed."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import ArrayLike

import amatune
from amatune.config import ImageShape
from amatune.data.pictures import Pixels
from amatune.detector import Detector
from amatune.errors import AmatuneError, RequestError
from amatune.export import onnx as onnx_model
from amatune.export.calibration import Calibration
from amatune.export.card import model_card
from amatune.export.scoring import Exported
from amatune.registry import detector_class

SCHEMA_VERSION = 2

WEIGHTS = "model.safetensors"
CALIBRATION = "calibration.safetensors"
ONNX = "model.onnx"
CONFIG = "config.json"
CARD = "README.md"
FILES = frozenset({WEIGHTS, CALIBRATION, ONNX, CONFIG, CARD})

_KIND = "amatune-export"  # marks config.json as ours, so that only exports are ever replaced


def export_detector(
    detector: Detector,
    folder: str | os.PathLike[str],
    *,
    method: str,
    figures: Mapping[str, Any],
    data: Mapping[str, Any],
    normal_scores: ArrayLike | None = None,
) -> None:
    """Write a calibrated detector to `folder`, replacing an earlier export there.

    `figures` are what the model card tells of its quality: name -> {"value", "spread" over seeds,
    "low" and "high" of the 95% interval, "note"}, all but the value optional. `data` says what the
    detector was trained and tested on: "summary" is one line, "warnings" a list of more,
    "training_images" their `fingerprint`; other keys are kept as they are. Both hold JSON values.
    `normal_scores` (n,) are primary scores that this very detector gives normal images it did not
    learn from; without them the export states neither p-values nor thresholds. The folder appears
    complete or not at all.

    Raises `RequestError` when `folder` holds anything that is not an export, the detector is not
    calibrated or a score is not finite, `AmatuneError` when the disk refuses or the detector cannot
    be converted to ONNX.
    """
    target = Path(folder).resolve()
    require_replaceable(target)
    tensors = {k: v.detach().cpu().contiguous() for k, v in detector.inference_state().items()}
    calibration = None if normal_scores is None else Calibration.of(normal_scores)
    contents = {WEIGHTS: safetensors.torch.save(tensors), ONNX: onnx_model.onnx_bytes(detector)}
    if calibration is not None:
        contents[CALIBRATION] = calibration.to_bytes()
    config = {
        "kind": _KIND,
        "schema_version": SCHEMA_VERSION,
        "amatune_version": amatune.__version__,
        "method": method,
        "config": detector.config.to_dict(),
        "image_shape": list(detector.image_shape),
        "preprocessing": _preprocessing(detector.image_shape),
        "scores": {
            "primary": detector.primary_score,
            "names": list(detector.score_names),
            "direction": "higher is more anomalous",
        },
        "calibration": _describe(calibration, detector.primary_score),
        "onnx": {
            "input": {
                "name": onnx_model.INPUT,
                "type": "uint8",
                "shape": [onnx_model.BATCH, *detector.image_shape],
            },
            "outputs": list(detector.score_names),
            "tolerance": onnx_model.TOLERANCE,
        },
        "figures": dict(figures),
        "data": dict(data),
    }
    contents[CARD] = model_card(config, detector).encode()
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    config["sha256"] = dict(sorted(hashes.items()))
    config["config_sha256"] = _own_hash(config)
    contents[CONFIG] = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    try:
        _replace_folder(target, contents)
    except OSError as error:
        raise AmatuneError(f"cannot write the export to {target}: {error}") from error


def fingerprint(images: Pixels) -> dict[str, Any]:
    """What tells decoded images (N, C, H, W) uint8 from any others, as JSON values.

    The SHA-256 is that of the shape, written as `(N, C, H, W)` in ASCII, and the bytes of the
    pixels in C order.
    """
    digest = hashlib.sha256(str(tuple(map(int, images.shape))).encode())
    for image in images:
        digest.update(np.ascontiguousarray(image, np.uint8).data)
    return {"shape": list(images.shape), "sha256": digest.hexdigest()}


def require_replaceable(folder: str | os.PathLike[str]) -> None:
    """Raise `RequestError` unless `folder` is new, empty, or an earlier export."""
    target = Path(folder)
    if not target.exists():
        return
    if not target.is_dir():
        raise RequestError(f"cannot export to {target}: it is a file; name a folder")
    foreign = sorted({path.name for path in target.iterdir()} - FILES)
    if foreign:
        raise RequestError(
            f"cannot export to {target}: it holds {foreign[0]!r}, which is not part of an export; "
            "name a new folder, or an earlier export to replace"
        )
    if any(target.iterdir()) and not _is_export(target):
        raise RequestError(
            f"cannot export to {target}: its {CONFIG} is not that of an export; name a new folder, "
            "or an earlier export to replace"
        )


def _is_export(folder: Path) -> bool:
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("kind") == _KIND


def load(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> Exported:
    """Read an exported detector.

    Raises `RequestError` when the folder or a file of it is missing, was written by another
    version, or is not what was exported; files beside those of the export are left alone.
    """
    path = Path(folder)
    config = _read_config(path)
    contents = {name: _read_bytes(path / name) for name in config["sha256"]}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != config["sha256"][name]:
            raise RequestError(
                f"{path / name} is not the file that was exported (its SHA-256 differs from the "
                f"one in {CONFIG}): it was changed or cut short; copy or export the model again"
            )
    try:
        cls = detector_class(config["method"])
        settings = cls.Config.from_dict(config["config"])
        detector = cls(settings, tuple(config["image_shape"]), device)
        detector.load_inference_state(safetensors.torch.load(contents[WEIGHTS]))
        data = contents.get(CALIBRATION)
        calibration = None if data is None else Calibration.from_bytes(data)
    except (RequestError, safetensors.SafetensorError) as error:
        raise RequestError(
            f"the export {path} does not fit amatune {amatune.__version__} (it was written by "
            f"{config['amatune_version']}), or it was edited: {error}"
        ) from error
    return Exported(
        path, config["method"], detector, config["figures"], config["data"], calibration
    )


# What config.json must hold for a model to be loaded, beside the schema version.
_FIELDS: dict[str, type] = {
    "amatune_version": str,
    "method": str,
    "config": dict,
    "image_shape": list,
    "figures": dict,
    "data": dict,
    "sha256": dict,
}


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise RequestError(
            f"there is no exported model at {folder}; `amatune best --export` makes one"
        )
    path = folder / CONFIG
    try:
        config = json.loads(_read_bytes(path))
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise RequestError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(config, dict) or config.get("kind") != _KIND:
        raise RequestError(f"{path} does not describe an exported model")
    version = config.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise RequestError(
            f"{path} has schema version {version!r}, this amatune reads {SCHEMA_VERSION}; "
            "load it with the amatune that wrote it, or export the model again"
        )
    wrong = [name for name, kind in _FIELDS.items() if not isinstance(config.get(name), kind)]
    if "image_shape" not in wrong and not _is_image_shape(config["image_shape"]):
        wrong.append("image_shape")
    if "sha256" not in wrong and not _is_hashes(config["sha256"]):
        wrong.append("sha256")
    if wrong:
        raise RequestError(f"{path} was edited: missing or unusable {', '.join(wrong)}")
    if config.get("config_sha256") != _own_hash(config):
        raise RequestError(
            f"{path} is not the file that was exported (its SHA-256 differs from config_sha256): "
            "it was changed or cut short; copy or export the model again"
        )
    return config


def _own_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of everything else in config.json, so that an edit is noticed."""
    rest = {name: value for name, value in config.items() if name != "config_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _is_image_shape(values: list[Any]) -> bool:
    return len(values) == 3 and all(type(v) is int and v > 0 for v in values)


def _is_hashes(values: dict[str, Any]) -> bool:
    # Names are known ones: what config.json says must not lead to files elsewhere.
    known = FILES - {CONFIG}
    return known - {CALIBRATION} <= values.keys() <= known and all(
        isinstance(value, str) for value in values.values()
    )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RequestError(
            f"{path.parent} is not a complete export: it holds no {path.name}"
        ) from None
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error}") from None


def _preprocessing(shape: ImageShape) -> dict[str, Any]:
    channels, height, width = shape
    return {
        "decoding": "8 bits, first frame, upright, transparent parts on white",
        "channels": "grey by ITU-R 601 luma" if channels == 1 else "RGB",
        "size": f"{width} x {height} pixels, bilinear with antialiasing, aspect ratio not kept",
        "range": "0..255 becomes -1..1 (value / 127.5 - 1); model.onnx does this step by itself",
    }


def _describe(calibration: Calibration | None, primary: str) -> dict[str, Any] | None:
    if calibration is None:
        return None
    return {
        "score": primary,
        "normal_images": len(calibration.scores),
        "p_value": "(1 + number of calibration scores >= score) / (normal_images + 1)",
        "smallest_false_positive_rate": calibration.smallest_rate,
        "flagged": "score > threshold",
        "thresholds": [
            {"false_positive_rate": rate, "threshold": threshold}
            for rate, threshold in calibration.stated()
        ],
    }


def _replace_folder(target: Path, contents: Mapping[str, bytes]) -> None:
    # A folder cannot be exchanged in one step everywhere: the new one is completed first, then two
    # renames follow. Killed between them, the earlier export lies beside, whole.
    target.parent.mkdir(parents=True, exist_ok=True)
    new, old = (target.parent / f".{target.name}-{uuid.uuid4().hex}" for _ in range(2))
    try:
        new.mkdir()
        for name, data in contents.items():
            with (new / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
