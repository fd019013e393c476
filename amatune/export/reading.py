"""What an export's folder holds, read and checked before anything is made of it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amatune.data.resizing import RULE, Resizing, resize_by
from amatune.errors import RequestError
from amatune.export.calibration import Calibration
from amatune.results.operating import Guarantee, read_guarantee
from amatune.sealed import CONFIG, EXPORT, WEIGHTS, read_sealed
from amatune.version import __version__

CALIBRATION = "calibration.safetensors"
ONNX = "model.onnx"
ONNX_INT8 = "model.int8.onnx"  # the same, convolutions in 8-bit integers
CALIBRATION_INT8 = "calibration.int8.safetensors"  # of scores by that
CARD = "README.md"
FILES = frozenset({WEIGHTS, CALIBRATION, ONNX, ONNX_INT8, CALIBRATION_INT8, CONFIG, CARD})


@dataclass(frozen=True)
class ExportFiles:
    """An export as it lies on a disk."""

    folder: Path
    config: Mapping[str, Any]  # config.json
    files: Mapping[str, bytes]  # all others, by name
    calibration: Calibration | None
    guarantee: Guarantee | None  # what was demanded of a threshold
    resizing: Resizing  # that of its training
    calibration_int8: Calibration | None = None  # of scores by the model in 8 bits, if there is one

    @property
    def certified(self) -> tuple[str, ...]:
        """The name of its certified threshold, if it has one."""
        point = None if self.guarantee is None else self.guarantee.point
        return () if point is None else (point.name,)

    def unfit(self, error: RequestError) -> RequestError:
        """What to say where its contents do not fit this version."""
        return RequestError(
            f"the export {self.folder} does not fit amatune {__version__} (it was written by "
            f"{self.config['amatune_version']}), or it was edited: {error}"
        )


def read_export(folder: str | os.PathLike[str]) -> ExportFiles:
    """Read the folder of an export.

    Raises `RequestError` when the folder or a file of it is missing, was written by another
    version, or is not what was exported; files beside those of the export are left alone.
    """
    path = Path(folder)
    if not path.is_dir():
        raise RequestError(
            f"there is no exported model at {path}; `amatune best --export` makes one"
        )
    config, files = read_sealed(path, EXPORT)
    wrong = [name for name in ("figures", "data") if not isinstance(config.get(name), dict)]
    if not isinstance(config.get("int8"), dict | None):
        wrong.append("int8")
    has_onnx = ONNX in files
    has_int8 = {ONNX_INT8 in files, CALIBRATION_INT8 in files, bool(config.get("int8"))}
    fitting = has_onnx == bool(config.get("onnx")) and len(has_int8) == 1
    if CARD not in files or not FILES.issuperset(files) or not fitting:
        wrong.append("sha256")
    if wrong:
        raise RequestError(f"{path / CONFIG} was edited: missing or unusable {', '.join(wrong)}")
    resizing = resize_by(_rule_of(path / CONFIG, config))
    read = ExportFiles(path, config, files, None, None, resizing)
    try:
        calibration, int8 = (
            None if data is None else Calibration.from_bytes(data)
            for data in map(files.get, (CALIBRATION, CALIBRATION_INT8))
        )
        guarantee = read_guarantee(config.get("guarantee"))  # older exports have none
    except RequestError as error:
        raise read.unfit(error) from error
    return ExportFiles(path, config, files, calibration, guarantee, resizing, int8)


def _rule_of(path: Path, config: Mapping[str, Any]) -> int:
    """By which rule its pictures were resized; exports before 0.2 do not say, and it was the first.

    Raises `RequestError` for one that this version does not know.
    """
    told = config.get("preprocessing")
    rule = told.get("geometry", 1) if isinstance(told, dict) else 1
    if type(rule) is not int or not 1 <= rule <= RULE:
        raise RequestError(
            f"{path} says that pictures are resized by rule {rule!r}, this amatune knows 1 to "
            f"{RULE}: read it with the amatune that wrote it"
        )
    return rule
