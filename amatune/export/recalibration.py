"""A new calibration of an export, from pictures that are good; its detector stays as it is."""

import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amatune.errors import RequestError
from amatune.export.calibration import DEFAULT_RATE, Calibration
from amatune.export.exported import Exported
from amatune.export.folder import (
    built,
    describe_calibration,
    load_detector,
    place_of_copy,
    write_copy,
)
from amatune.export.reading import CALIBRATION, CALIBRATION_INT8, ONNX_INT8, read_export
from amatune.export.runtime import onnx_export
from amatune.export.scoring import AnyExport, Inputs, find_inputs
from amatune.extras import require_extra
from amatune.files import AnyPaths

IMAGES = "newer images"  # what a card calls the pictures


@dataclass(frozen=True)
class Recalibration:
    """What became of it."""

    exported: Exported  # read back from its folder
    dropped: tuple[str, ...]  # names of thresholds that rested on the earlier calibration
    unreadable: tuple[str, ...]  # pictures that could not be scored, with the reason

    def summary(self) -> str:
        """On one line."""
        calibration = self.exported.calibration
        told = ""
        if calibration is not None:
            told = f"calibrated: {calibration.possible_rates}"
            if calibration.smallest_rate > DEFAULT_RATE:
                told += (
                    f"; too few for the usual {DEFAULT_RATE:g}, so that scoring needs another "
                    "--fpr, or this more pictures"
                )
        return told + "".join(f"; its threshold {name!r} is left out" for name in self.dropped)


def recalibrate(
    folder: str | os.PathLike[str],
    paths: AnyPaths,
    output: str | os.PathLike[str] | None = None,
    *,
    replace: bool = False,
) -> Recalibration:
    """Write a copy of an export whose p-values and thresholds come from the scores of other normal
    pictures: files, those in folders, or images of .npz files.

    They must be good, and none that the detector learnt from. The copy goes to `output`, by default
    beside the export with `-recalibrated` after its name, and takes the place of an export there
    only with `replace`. Thresholds that were certified on the earlier pictures are left out, as are
    what thresholds flagged of test images; the figures stay, since they do not depend on it.

    Raises `RequestError` when a folder cannot be used, for an export of amatune 0.1, and when no
    picture can be scored; `AmatuneError` when the disk refuses.
    """
    source = Path(folder)
    read = read_export(source)
    told = read.config.get("preprocessing")
    if not isinstance(told, dict) or "geometry" not in told:
        raise RequestError(
            f"the export {source} was written by amatune {read.config['amatune_version']}, whose "
            "exports cannot be recalibrated; export its run again"
        )
    target = place_of_copy(source, output, "-recalibrated", replace)
    exported = built(read, "cpu")
    inputs = find_inputs(paths)
    calibration, unreadable = _calibrated(exported, inputs)
    primary, earlier = read.config["primary"], read.calibration
    changed = {CALIBRATION: calibration.to_bytes()}
    facts: dict[str, Any] = {
        "calibration": describe_calibration(calibration, primary, IMAGES),
        "operating_points": [],
        "guarantee": None,
        "recalibrated": {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "normal_images_before": None if earlier is None else len(earlier.scores),
            "dropped": list(read.certified),
        },
    }
    if ONNX_INT8 in read.files:
        require_extra("onnx", "onnxruntime")
        in_int8, _ = _calibrated(onnx_export(read, read.files[ONNX_INT8]), inputs)
        changed[CALIBRATION_INT8] = in_int8.to_bytes()
        described = describe_calibration(in_int8, primary, IMAGES)
        facts["int8"] = {**read.config["int8"], "calibration": described}
    write_copy(target, read, facts, changed, exported.detector)
    return Recalibration(load_detector(target, "cpu"), read.certified, unreadable)


def _calibrated(exported: AnyExport, inputs: Inputs) -> tuple[Calibration, tuple[str, ...]]:
    """By the scores that an export gives pictures, and why some have none. Raises `RequestError`
    when none has one."""
    scores: list[float] = []
    unreadable: list[str] = []
    for row in exported.score_inputs(inputs):
        if row.score is not None:
            scores.append(row.score)
        else:
            unreadable.append(str(row.problem))
    if not scores:
        raise RequestError(f"nothing was scored: {unreadable[0]}")
    return Calibration.of(scores), tuple(unreadable)
