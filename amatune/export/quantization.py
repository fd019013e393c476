"""An export's ONNX model with convolutions in 8-bit integers, and what that costs in its scores.

Quantised are convolutions and the activations and sums between them, but for the first, which sees
the picture: ranges of values are those of good pictures, weights have one scale a channel
(`quantize_static` of the ONNX Runtime, QDQ, activations unsigned, weights signed). All else, the
distances, densities and reconstruction errors above all, stays in 32 bits. Scores in 8 bits are
others, so they have a calibration of their own, by pictures from which no range was taken.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amatune.data.pictures import Pixels
from amatune.errors import AmatuneError, DataError, RequestError
from amatune.export.calibration import DEFAULT_RATE, Calibration
from amatune.export.card import told
from amatune.export.folder import built, describe_calibration, place_of_copy, write_copy
from amatune.export.onnx import silence
from amatune.export.preparation import PICTURES
from amatune.export.reading import CALIBRATION_INT8, ONNX, ONNX_INT8, read_export
from amatune.export.runtime import OnnxExport, as_input, onnx_export, open_session, require_onnx
from amatune.export.scoring import Inputs, find_inputs
from amatune.extras import require_extra
from amatune.files import AnyPaths, usable_paths
from amatune.metrics import auroc, delong_paired

IMAGES = "images in 8 bits"  # what a card calls the pictures of the calibration
_RANGES = 64  # pictures at most, and every fourth, whose values are the ranges of 8 bits
_TIMED = 16  # pictures
_Both = tuple[NDArray[np.float64], NDArray[np.float64]]
_BETWEEN = ("Add", "Clip", "LeakyRelu", "Relu")  # operators that 8 bits pass through


@dataclass(frozen=True)
class Quantisation:
    """What became of it."""

    folder: Path
    figures: dict[str, Any]  # as in config.json, under `int8`
    dropped: tuple[str, ...]  # names of thresholds that 8 bits do not have
    unreadable: tuple[str, ...]  # pictures that could not be scored, with the reason

    def lines(self) -> list[str]:
        """As sentences."""
        return told(self.figures)


def quantize(
    folder: str | os.PathLike[str],
    paths: AnyPaths,
    anomalies: AnyPaths = (),
    output: str | os.PathLike[str] | None = None,
    *,
    replace: bool = False,
) -> Quantisation:
    """Write a copy of an export that has a model in 8 bits beside the other forms, with p-values
    and thresholds of its own, and measure what it loses.

    Good pictures, none that the detector learnt from, are files, those in folders, or images of
    .npz files: every fourth, or fewer of more than 256, gives the ranges; the others are the
    calibration, and what both forms are compared by, with `anomalies` if there are any. The copy
    goes to `output`, by default beside the export with `-int8` after its name.

    Raises `RequestError` when a folder cannot be used, for an export without an ONNX model, for one
    without convolutions behind a first, and when fewer than two good pictures can be scored;
    `AmatuneError` when the disk refuses.
    """
    source = Path(folder)
    read = read_export(source)
    require_onnx(read)
    require_extra("onnx", "onnx", "onnxruntime")
    target = place_of_copy(source, output, "-int8", replace)
    good = find_inputs(paths)
    bad = find_inputs(wrong) if (wrong := usable_paths(anomalies, DataError)) else None
    before = onnx_export(read)
    step = max(4, -(-good.count // _RANGES))
    scored = _Scores(before)
    expected = scored.of(good, step)
    if not len(expected):
        raise RequestError(
            "8 bits need at least 2 good pictures: one that gives ranges, one to calibrate by; "
            + (scored.unreadable[0] if scored.unreadable else f"{good.count} was given")
        )
    model = quantised(read.files[ONNX], scored.images)
    after = onnx_export(read, model)
    again = _Scores(after)
    found = again.of(good, step)
    sides = [(expected, found)]
    if bad is not None:
        sides.append((scored.of(bad), again.of(bad)))
    if any(len(one) != len(other) for one, other in sides):
        raise AmatuneError(f"not all scores are finite in 8 bits: {again.unreadable[-1]}")
    calibration = Calibration.of(found)
    seconds = _seconds(read.files[ONNX], model, scored.images[:_TIMED])
    figures = {
        **_compared(*sides),
        "ranges": len(scored.images),
        "bytes_before": len(read.files[ONNX]),
        "bytes": len(model),
        "seconds_before": seconds[0],
        "seconds": seconds[1],
        "calibration": describe_calibration(calibration, before.primary_score, IMAGES),
    }
    changed = {ONNX_INT8: model, CALIBRATION_INT8: calibration.to_bytes()}
    write_copy(target, read, {"int8": figures}, changed, built(read, "cpu").detector)
    return Quantisation(target, figures, read.certified, tuple(scored.unreadable))


class _Scores:
    """What a form of an export gives, and the pictures that are taken aside for ranges."""

    def __init__(self, export: OnnxExport) -> None:
        self.export = export
        self.images: list[Pixels] = []  # (C, H, W) each
        self.unreadable: list[str] = []

    def of(self, inputs: Inputs, step: int = 0) -> NDArray[np.float64]:
        """Primary scores, (n,), of what can be scored; of each `step` pictures, the first is taken
        aside."""
        scores = []
        number = 0
        for row in self.export.score_inputs(inputs):
            if row.score is None or row.image is None:
                self.unreadable.append(str(row.problem))
                continue
            if step and number % step == 0:
                self.images.append(row.image.copy())
            else:
                scores.append(row.score)
            number += 1
        return np.array(scores, np.float64)


def _compared(good: _Both, anomalies: _Both | None = None) -> dict[str, Any]:
    """What primary scores of good pictures, and of anomalies, were and are: (n,) each."""
    expected, found = good
    wrong = anomalies or (expected[:0], found[:0])
    gaps = np.abs(np.concatenate([found, wrong[1]]) - np.concatenate([expected, wrong[0]]))
    decisions = None
    if (len(expected) + 1) * DEFAULT_RATE >= 1:
        flagged = [
            np.concatenate(sides) > Calibration.of(sides[0]).threshold(DEFAULT_RATE)
            for sides in ((expected, wrong[0]), (found, wrong[1]))
        ]
        decisions = {
            "false_positive_rate": DEFAULT_RATE,
            "changed": int((flagged[0] != flagged[1]).sum()),
        }
    area = None
    if min(len(expected), len(wrong[0])) >= 2:
        paired = delong_paired(expected, wrong[0], found, wrong[1])
        area = {
            "anomalies": len(wrong[0]),
            "before": auroc(expected, wrong[0]),
            "value": auroc(found, wrong[1]),
            "loss": paired.difference,
            "standard_error": paired.standard_error,
        }
    return {
        "pictures": len(gaps),
        "mean_difference": float(gaps.mean()),
        "largest_difference": float(gaps.max()),
        "deviation": float(expected.std()),
        "decisions": decisions,
        "auroc": area,
    }


def quantised(model: bytes, images: Sequence[Pixels]) -> bytes:
    """An ONNX model with its convolutions in 8 bits, with the ranges of images (C, H, W).

    Raises `RequestError` when it has none behind the first, `AmatuneError` when they cannot be
    quantised.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static

    loaded = onnx.load_from_string(model)
    for number, node in enumerate(loaded.graph.node):
        node.name = f"{node.op_type}_{number}"  # they are told apart by their names
    chosen = _chosen(loaded.graph)
    if not chosen:
        raise RequestError(
            "this model has no form in 8 bits: they are for convolutions, and it has none behind "
            "a first; use --engine onnx"
        )

    with tempfile.TemporaryDirectory() as place, silence():
        file = Path(place) / ONNX_INT8
        try:
            quantize_static(
                loaded,
                str(file),
                ranges_of(images),
                op_types_to_quantize=["Conv", *_BETWEEN],
                nodes_to_quantize=chosen,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # of the runtime or its tool, of many kinds
            reason = " ".join((str(error).strip() or type(error).__name__).splitlines()[:1])
            raise AmatuneError(f"the model cannot be quantised: {reason}") from error
        return file.read_bytes()


def ranges_of(images: Sequence[Pixels]) -> Any:
    """Hands images (C, H, W) to `quantize_static`: an `onnxruntime` `CalibrationDataReader`."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        left = iter(images)

        def get_next(self) -> dict[str, Pixels] | None:
            image = next(self.left, None)
            return None if image is None else {PICTURES: as_input(image)}

    return Reader()


def _chosen(graph: Any) -> list[str]:
    """The names of convolutions that come after another, and of what lies between such."""
    behind: set[str] = set()  # values that a convolution had part in
    between: set[str] = set()  # values that are one's, or what `_BETWEEN` makes of them
    chosen = []
    for node in graph.node:
        after = any(value in behind for value in node.input)
        if node.op_type == "Conv":
            if node.input[0] in behind:
                chosen.append(node.name)
                between.update(node.output)
            behind.update(node.output)
        elif after:
            behind.update(node.output)
            if node.op_type in _BETWEEN and node.input[0] in between:
                chosen.append(node.name)
                between.update(node.output)
    return chosen


def _seconds(before: bytes, after: bytes, images: Sequence[Pixels]) -> tuple[float, float]:
    """What a picture takes in both forms on one core: the medians, in turn."""
    sessions = [open_session(model, threads=1) for model in (before, after)]
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(2 + _TIMED):  # the first two warm up
        picture = as_input(images[number % len(images)])
        for session, taken in zip(sessions, times, strict=True):
            start = time.process_time()
            session.run(None, {PICTURES: picture})
            taken.append(time.process_time() - start)
    first, second = (statistics.median(taken[2:]) for taken in times)
    return first, second
