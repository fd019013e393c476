"""What does a model in 8-bit integers lose, and gain? Frozen features on magnetic tiles.

    python benchmarks/int8.py --data DATA/magnetic_tile

Learns from 150 of the pictures without a defect, converts the detector to ONNX, and quantises it
as `amatune quantize` does, and its convolutions alone in the ways that the ONNX Runtime offers
(static, QDQ, ranges from 32 of the 150).
Everything else, the scoring above all, stays in 32-bit floating point. Each model scores the other
normal pictures and all with a defect, one by one, on one core, by the ONNX Runtime and by OpenVINO:
AUROC of `max`, milliseconds of CPU time a picture (median), and how the scores correlate with those
of torch.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import given_settings

from amatune import metrics
from amatune.data.pictures import Pixels, read_pictures
from amatune.detectors.features import Features, FeaturesConfig
from amatune.export import quantization as quantisation
from amatune.export.onnx import onnx_bytes
from amatune.export.preparation import PICTURES
from amatune.export.runtime import as_input, open_session

SHAPE = (1, 128, 128)
LEARNT, RANGES = 150, 32  # pictures
SCORE = "max"
Run = Callable[[Pixels], float]  # a picture (1, H, W, C) to its score

# What `quantize_static` is asked for.
OWN = "as by `amatune quantize`"
WAYS: dict[str, dict[str, Any]] = {
    OWN: {},
    "one range for a tensor": {},
    "weights by channel": {"per_channel": True},
    "weights by channel, in 7 bits": {"per_channel": True, "reduce_range": True},
    "weights by channel, ranges by entropy": {"per_channel": True, "calibrate": "Entropy"},
}


def quantised(
    model: bytes, images: Sequence[Pixels], calibrate: str = "MinMax", **how: Any
) -> bytes:
    """The model with its convolutions in 8 bits, their ranges from images (C, H, W)."""
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(model)
        quantize_static(
            source,
            target,
            quantisation.ranges_of(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, calibrate),
            **how,
        )
        return target.read_bytes()


def by_onnxruntime(model: bytes) -> Run:
    """On one core."""
    session = open_session(model, threads=1)
    return lambda asked: float(session.run([SCORE], {PICTURES: asked})[0][0])


def by_openvino(model: bytes) -> Run:
    """On one core, what is not quantised in 32 bits."""
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = core.compile_model(core.read_model(model), "CPU", options)
    return lambda asked: float(compiled({PICTURES: asked})[SCORE][0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with normal and defect")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="JSON or texts")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # advice that was heeded
    torch.set_num_threads(1)
    normal, defect = (
        torch.tensor(read_pictures(sorted((arguments.data / name).glob("*.png")), SHAPE)[0])
        for name in ("normal", "defect")
    )
    learnt = min(LEARNT, len(normal) // 2)
    detector = Features(FeaturesConfig.from_dict(given_settings(arguments.set)), SHAPE)
    detector.train_epoch(normal[:learnt])
    detector.calibrate(normal[:learnt])
    asked = torch.cat([normal[learnt:], defect])
    expected = detector.scores(asked)[SCORE].numpy()
    held = len(normal) - learnt

    model = onnx_bytes(detector)
    models = {"32-bit floating point": model}
    ranges = list(normal[: min(RANGES, learnt)].numpy())
    for way in arguments.ways:
        quantise = quantisation.quantised if way == OWN else quantised
        models[f"8 bits, {way}"] = quantise(model, ranges, **WAYS[way])
    print("| model | MB | engine | ms | AUROC | correlation |\n|---|---|---|---|---|---|")
    for name, one in models.items():
        for engine, started in (("ONNX Runtime", by_onnxruntime), ("OpenVINO", by_openvino)):
            run, found, seconds = started(one), [], []
            for image in asked.numpy():
                pixels = as_input(image)
                began = time.process_time()
                found.append(run(pixels))
                seconds.append(time.process_time() - began)
            auroc = metrics.auroc(found[:held], found[held:])
            together = np.corrcoef(found, expected)[0, 1]
            print(
                f"| {name} | {len(one) / 1e6:.1f} | {engine} | {1000 * np.median(seconds):.1f} "
                f"| {auroc:.3f} | {together:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
