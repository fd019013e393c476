"""The folder of an exported detector: written whole, refused when anything in it was changed."""

import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from amatune.data.pictures import GEOMETRY, Pixels
from amatune.detector import Detector
from amatune.errors import AmatuneError, RequestError
from amatune.export.agreement import Verification, require_agreement
from amatune.export.calibration import Calibration
from amatune.export.card import model_card
from amatune.export.exported import Exported
from amatune.export.onnx import TOLERANCE, onnx_bytes, output_names
from amatune.export.preparation import BATCH, CHANNELS, HEIGHT, PICTURES, WIDTH
from amatune.export.reading import CALIBRATION, CARD, FILES, ONNX, ExportFiles, read_export
from amatune.files import read_bytes
from amatune.results.operating import Guarantee, OperatingPoint
from amatune.sealed import CONFIG, EXPORT, WEIGHTS
from amatune.stored import StoredDetector
from amatune.wording import visible


def export_detector(
    detector: Detector,
    folder: str | os.PathLike[str],
    *,
    figures: Mapping[str, Any],
    data: Mapping[str, Any],
    normal_scores: ArrayLike | None = None,
    normal_images: str = "held-out images",
    thresholds: Sequence[OperatingPoint] = (),
    guarantee: Guarantee | None = None,
    check_on: Pixels | None = None,
) -> None:
    """Write a calibrated detector to `folder`, replacing an earlier export there.

    `figures` are what the model card tells of its quality: name -> {"value", "spread" over seeds,
    "low" and "high" of the 95% interval, "note"}, all but the value optional. `data` says what the
    detector was trained and tested on: "summary" is one line, "warnings" a list of more,
    "training_images" their `fingerprint`; other keys are kept as they are. Both hold JSON values.
    `normal_scores` (n,) are primary scores that this very detector gives normal images it did not
    learn from, `normal_images` words for those images; without them the export states neither
    p-values nor thresholds. `thresholds` are those of the stated rates, with what they flag of test
    images, and `guarantee` what was demanded of one: `amatune score` flags by it. Of a method that
    does not export to ONNX, there is no model.onnx; where there is one, it has to agree with the
    detector on the images `check_on` (N, C, H, W), when such are given. The folder appears complete
    or not at all.

    Raises `RequestError` when `folder` holds anything that is not an export, the detector is not
    calibrated or a score is not finite, `AmatuneError` when the disk refuses, the detector cannot
    be converted to ONNX, or the forms disagree.
    """
    target = Path(folder).resolve()
    require_replaceable(target)
    calibration = None if normal_scores is None else Calibration.of(normal_scores)
    others: dict[str, bytes] = {}
    agreement = None
    if detector.exports_to_onnx:
        others[ONNX] = onnx_bytes(detector)
        if check_on is not None:
            agreement = require_agreement(detector, others[ONNX], check_on)
    stored = StoredDetector.of(detector).with_facts(
        {
            "preprocessing": _preprocessing(detector),
            "scores": {
                "primary": detector.primary_score,
                "names": list(detector.score_names),
                "direction": "higher is more anomalous",
            },
            "calibration": describe_calibration(calibration, detector.primary_score, normal_images),
            "operating_points": [dataclasses.asdict(one) for one in thresholds],
            "guarantee": None if guarantee is None else dataclasses.asdict(guarantee),
            "scored_with": dict(detector.scored_with()),
            "onnx": _describe_onnx(detector, agreement),
            "figures": dict(figures),
            "data": dict(data),
        }
    )
    if calibration is not None:
        others[CALIBRATION] = calibration.to_bytes()
    _write(target, _contents(stored, others, detector))


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


def place_of_copy(
    source: Path, output: str | os.PathLike[str] | None, ending: str, replace: bool
) -> Path:
    """Where a copy of the export `source` is written: `output`, by default beside it with `ending`
    after its name.

    Raises `RequestError` unless it may be: where there is no export, or in the place of one with
    `replace`.
    """
    whole = source.resolve()
    target = Path(output) if output is not None else whole.with_name(whole.name + ending)
    require_replaceable(target)
    if not replace and target.is_dir() and any(target.iterdir()):
        raise RequestError(
            f"{target} is an export already; name another folder with --output, or let it be "
            "replaced with --replace"
        )
    return target


def write_copy(
    target: Path,
    read: ExportFiles,
    facts: Mapping[str, Any],
    changed: Mapping[str, bytes],
    detector: Detector,
) -> None:
    """Write an export that has been read to `target`, with other `facts` in its config.json, a card
    of these, and files that are `changed` or new, by name. Raises `RequestError` where what it says
    of itself is not what an export says, `AmatuneError` when the disk refuses."""
    stored = StoredDetector.of_files(read.folder, read.config, read.files).with_facts(facts)
    kept = {name: data for name, data in read.files.items() if name not in (WEIGHTS, CONFIG)}
    try:
        contents = _contents(stored, {**kept, **changed}, detector)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Of figures and notes nothing but the card is made, which needs each in its form.
        told = f"no card can be made of it: {type(error).__name__} {error}"
        raise read.unfit(RequestError(told)) from error
    _write(target, contents)


def _contents(
    stored: StoredDetector, others: Mapping[str, bytes], detector: Detector
) -> dict[str, bytes]:
    """The files of a detector's export, with its card beside `others`."""
    card = model_card(stored.to_dict(), detector).encode()
    return stored.to_files(EXPORT, {**others, CARD: card})


def _write(target: Path, contents: Mapping[str, bytes]) -> None:
    try:
        replace_folder(target.resolve(), contents)
    except OSError as error:
        raise AmatuneError(f"cannot write the export to {target}: {error}") from error


def _is_export(folder: Path) -> bool:
    try:
        config = json.loads(read_bytes(folder / CONFIG))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("kind") == EXPORT


def load_detector(folder: str | os.PathLike[str], device: str | torch.device) -> Exported:
    """Read an export, with its detector on a device. Raises what `read_export` and `built`
    raise."""
    return built(read_export(folder), device)


def built(read: ExportFiles, device: str | torch.device) -> Exported:
    """The export that has been read, with its detector on a device. Raises `RequestError` where
    settings and weights do not fit."""
    stored = StoredDetector.of_files(read.folder, read.config, read.files)
    try:
        detector = stored.build(device)
    except RequestError as error:
        raise read.unfit(error) from error
    facts = stored.facts
    return Exported(
        read.folder,
        stored.method,
        facts["figures"],
        facts["data"],
        read.calibration,
        _other_programs(facts.get("scored_with"), detector.scored_with()),
        read.guarantee,
        read.resizing,
        detector=detector,
    )


def _other_programs(then: Any, now: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence on each program that scores depend on and that is another than when exporting."""
    known = then if isinstance(then, dict) else {}  # older exports do not say
    return tuple(
        f"scores depend on {name}: the export was made with {visible(str(known[name]))}, here is "
        f"{version}, so that they may differ a little"
        for name, version in now.items()
        if name in known and known[name] != version
    )


def _preprocessing(detector: Detector) -> dict[str, Any]:
    channels, height, width = detector.image_shape
    itself = f"; {ONNX} does these steps by itself, all but decoding"
    return {
        "decoding": "8 bits, first frame, upright, transparent parts on white",
        "channels": "grey by ITU-R 601 luma" if channels == 1 else "RGB",
        "size": f"{width} x {height} pixels, bilinear with antialiasing, aspect ratio not kept",
        "range": f"0..255 becomes -1..1 (value / 127.5 - 1){itself * detector.exports_to_onnx}",
        "geometry": GEOMETRY,
    }


def _describe_onnx(detector: Detector, found: Verification | None) -> dict[str, Any] | None:
    if not detector.exports_to_onnx:
        return None
    checked = None
    if found is not None:
        _, runtime = found.agreements
        checked = {
            "pictures": runtime.pictures,
            "by": runtime.engine,
            "largest_difference": runtime.difference,
        }
    return {
        "input": {
            "name": PICTURES,
            "type": "uint8",
            "shape": [BATCH, HEIGHT, WIDTH, CHANNELS],
            "channels": "1, grey, or 3, RGB",
        },
        "outputs": output_names(detector),
        "tolerance": TOLERANCE,
        "checked": checked,
    }


def describe_calibration(
    calibration: Calibration | None, primary: str, images: str
) -> dict[str, Any] | None:
    """What config.json says of a calibration by `images`, a word for these, with the thresholds."""
    if calibration is None:
        return None
    return {
        "score": primary,
        "normal_images": len(calibration.scores),
        "images": images,
        "p_value": "(1 + number of calibration scores >= score) / (normal_images + 1)",
        "smallest_false_positive_rate": calibration.smallest_rate,
        "flagged": "score > threshold",
        "thresholds": [
            {"false_positive_rate": rate, "threshold": threshold}
            for rate, threshold in calibration.stated()
        ],
    }


def replace_folder(target: Path, contents: Mapping[str, bytes]) -> None:
    """Write a folder of these contents in the place of one that is there, whole or not at all.
    Raises `OSError`."""
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
