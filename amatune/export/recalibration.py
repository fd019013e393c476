"""A new calibration of an export, from pictures that are good; its detector stays as it is."""

import datetime
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from amatune.errors import AmatuneError, RequestError
from amatune.export.calibration import Calibration
from amatune.export.card import model_card
from amatune.export.exported import Exported
from amatune.export.folder import (
    built,
    describe_calibration,
    load_detector,
    replace_folder,
    require_new,
)
from amatune.export.reading import CALIBRATION, CALIBRATION_INT8, CARD, ONNX_INT8, read_export
from amatune.export.runtime import onnx_export
from amatune.export.scoring import AnyExport, Inputs, find_inputs
from amatune.extras import require_extra
from amatune.sealed import CONFIG, EXPORT, WEIGHTS
from amatune.stored import StoredDetector

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
        told = "" if calibration is None else f"calibrated {calibration.possible_rates}"
        return told + "".join(f"; its threshold {name!r} is left out" for name in self.dropped)


def recalibrate(
    folder: str | os.PathLike[str],
    paths: Iterable[str | Path],
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
    target = Path(output) if output is not None else _beside(source)
    read = read_export(source)
    if "geometry" not in read.config.get("preprocessing", {}):
        raise RequestError(
            f"the export {source} was written by amatune {read.config['amatune_version']}, whose "
            "exports cannot be recalibrated; export its run again"
        )
    require_new(target, replace)
    exported = built(read, "cpu")
    inputs = find_inputs(paths)
    calibration, unreadable = _calibrated(exported, inputs)
    stored = StoredDetector.of_files(source, read.config, read.files)
    guarantee = read.guarantee
    dropped = () if guarantee is None or guarantee.point is None else (guarantee.point.name,)
    earlier = read.calibration
    others = {name: read.files[name] for name in read.files if name not in (WEIGHTS, CONFIG)}
    if ONNX_INT8 in read.files:
        require_extra("onnx", "onnxruntime")
        in_int8, _ = _calibrated(onnx_export(read, read.files[ONNX_INT8]), inputs)
        others[CALIBRATION_INT8] = in_int8.to_bytes()
        described = describe_calibration(in_int8, stored.primary, IMAGES)
        stored = stored.with_facts({"int8": {**read.config["int8"], "calibration": described}})
    stored = stored.with_facts(
        {
            "calibration": describe_calibration(calibration, stored.primary, IMAGES),
            "operating_points": [],
            "guarantee": None,
            "recalibrated": {
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "normal_images_before": None if earlier is None else len(earlier.scores),
                "dropped": list(dropped),
            },
        }
    )
    others[CARD] = model_card(stored.to_dict(), exported.detector).encode()
    others[CALIBRATION] = calibration.to_bytes()
    try:
        replace_folder(target.resolve(), stored.to_files(EXPORT, others))
    except OSError as error:
        raise AmatuneError(f"cannot write the export to {target}: {error}") from error
    return Recalibration(load_detector(target, "cpu"), dropped, unreadable)


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


def _beside(source: Path) -> Path:
    whole = source.resolve()
    return whole.with_name(f"{whole.name}-recalibrated")
