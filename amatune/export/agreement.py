"""Whether the forms of a detector say the same of the same pictures: torch against all others.

A score that changes with the export is found here or not at all: each picture goes to every engine
as it was decoded, of whatever size, and all that comes out is compared. A difference is that of
`TOLERANCE`: absolute up to a value of 1, relative above; one that is not finite is infinite.
"""

import dataclasses
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from amatune.data.pictures import Pixels, fit
from amatune.data.resizing import Resizing, resize
from amatune.detector import Detector
from amatune.errors import AmatuneError
from amatune.export.onnx import TOLERANCE
from amatune.export.preparation import MAP, PICTURES
from amatune.export.runtime import as_input, open_session
from amatune.extras import is_installed

# A picture, uint8 (C, h, w) of any size, to every score and the map, by name.
Engine = Callable[[Pixels], Mapping[str, NDArray[np.float32]]]

TORCH, ONNX_RUNTIME, OPENVINO = "torch", "onnxruntime", "openvino"
INT8 = ", 8 bits"  # behind the name of an engine


@dataclass(frozen=True)
class Agreement:
    """How far an engine was from torch over all pictures, and how long it took."""

    engine: str  # "onnxruntime 1.32.0"
    pictures: int
    seconds: float  # of a picture, resized and scored by itself: the median
    difference: float  # the largest; 0 of torch itself
    output: str = ""  # the score, or map, where it was
    picture: str = ""  # the picture
    expected: float = 0.0  # there, by torch
    found: float = 0.0  # and by the engine
    int8: bool = False  # by the model in 8 bits, whose scores are others


@dataclass(frozen=True)
class Verification:
    """What came out, torch first. Of models in 8 bits no agreement is demanded."""

    agreements: tuple[Agreement, ...]
    tolerance: float
    unreadable: tuple[str, ...] = ()  # pictures that could not be read, with the reason
    int8: dict[str, Any] | None = None  # what config.json says of a model in 8 bits

    def require(self) -> None:
        """Raise `AmatuneError` that names the engine and the picture when one disagrees."""
        for one in self.agreements:
            if not (one.int8 or one.difference <= self.tolerance):
                raise AmatuneError(
                    f"{one.engine} disagrees with torch about {one.picture}: {one.output} is "
                    f"{one.found:.6g}, by torch {one.expected:.6g}, a difference of "
                    f"{one.difference:.2g} where {self.tolerance:g} is allowed"
                )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "tolerance": self.tolerance,
            "engines": [dataclasses.asdict(one) for one in self.agreements],
            "int8": self.int8,
        }


def require_agreement(detector: Detector, model: bytes, images: Pixels) -> Verification:
    """Compare a detector with its ONNX model on images (N, C, H, W), as they are and some of them
    at other sizes. Raises `AmatuneError` when they disagree."""
    engines = {ONNX_RUNTIME: onnx_engine(model)}
    found = Verification(compare(torch_engine(detector), engines, _at_sizes(images)), TOLERANCE)
    found.require()
    return found


def _at_sizes(images: Pixels, resized: int = 8) -> Iterator[tuple[str, Pixels]]:
    """Images, and the first of them also larger and smaller, with sides that are multiples of
    nothing."""
    for number, image in enumerate(images):
        yield f"image {number}", image
        if number < resized:
            large = image.repeat(2, axis=1).repeat(3, axis=2)[:, :-1, :-2]
            yield f"image {number} of {large.shape[1]} x {large.shape[2]} pixels", large
            small = image[:, ::2, : max(1, image.shape[2] // 3)]
            yield f"image {number} of {small.shape[1]} x {small.shape[2]} pixels", small


def compare(
    reference: Engine, engines: Mapping[str, Engine], pictures: Iterable[tuple[str, Pixels]]
) -> tuple[Agreement, ...]:
    """What engines, by name, say of named pictures, against the reference, which is torch."""
    seconds: dict[str, list[float]] = {name: [] for name in (TORCH, *engines)}
    worst = {
        name: Agreement(_versioned(name), 0, 0.0, 0.0, int8=name.endswith(INT8))
        for name in (TORCH, *engines)
    }
    for picture, pixels in pictures:
        expected = _timed(reference, pixels, seconds[TORCH])
        for name, engine in engines.items():
            found = _timed(engine, pixels, seconds[name])
            for output in expected:
                one = _difference(worst[name], picture, output, expected[output], found[output])
                worst[name] = one
    return tuple(
        dataclasses.replace(
            worst[name], pictures=len(taken), seconds=statistics.median(taken) if taken else 0.0
        )
        for name, taken in seconds.items()
    )


def _timed(
    engine: Engine, pixels: Pixels, seconds: list[float]
) -> Mapping[str, NDArray[np.float32]]:
    start = time.perf_counter()
    found = engine(pixels)
    seconds.append(time.perf_counter() - start)
    return found


def _difference(
    worst: Agreement,
    picture: str,
    output: str,
    expected: NDArray[np.float32],
    found: NDArray[np.float32],
) -> Agreement:
    """The worse of `worst` and what two values, or maps, of a picture differ by."""
    first, second = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    with np.errstate(invalid="ignore"):
        gaps = np.abs(first - second) / np.maximum(1, np.abs(first))
    gaps = np.where(np.isfinite(first) & np.isfinite(second), gaps, np.inf)
    place = int(gaps.argmax())
    if gaps[place] <= worst.difference and worst.picture:
        return worst
    return dataclasses.replace(
        worst,
        difference=float(gaps[place]),
        output=output,
        picture=picture,
        expected=float(first[place]),
        found=float(second[place]),
    )


def _versioned(engine: str) -> str:
    package = engine.removesuffix(INT8)
    return f"{package} {importlib.metadata.version(package)}{engine[len(package) :]}"


# --- engines ----------------------------------------------------------------------------------


def engines_of(model: bytes, kind: str = "") -> dict[str, Engine]:
    """Those of an ONNX model that are installed, by package and `kind`."""
    engines = {ONNX_RUNTIME + kind: onnx_engine(model)}
    if is_installed(OPENVINO):
        engines[OPENVINO + kind] = openvino_engine(model)
    return engines


def torch_engine(detector: Detector, resizing: Resizing = resize) -> Engine:
    """A detector, on the CPU."""

    def engine(pixels: Pixels) -> dict[str, NDArray[np.float32]]:
        image = torch.from_numpy(fit(pixels[None], detector.image_shape, resizing).copy())
        found = {name: values.numpy() for name, values in detector.scores(image).items()}
        mapped = detector.pixel_map(image)
        return found if mapped is None else {**found, MAP: mapped.numpy()}

    return engine


def onnx_engine(model: bytes) -> Engine:
    """An ONNX model by the ONNX Runtime, on the CPU."""
    session = open_session(model)
    names = [output.name for output in session.get_outputs()]

    def engine(pixels: Pixels) -> dict[str, NDArray[np.float32]]:
        return dict(zip(names, session.run(names, {PICTURES: as_input(pixels)}), strict=True))

    return engine


def openvino_engine(model: bytes) -> Engine:
    """An ONNX model by OpenVINO, on the CPU, what is not quantised in 32-bit floating point."""
    import openvino

    core = openvino.Core()
    # By default it computes in fewer bits where the processor can.
    compiled = core.compile_model(
        core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )

    def engine(pixels: Pixels) -> dict[str, NDArray[np.float32]]:
        found = compiled({PICTURES: as_input(pixels)})
        return {output.get_any_name(): found[output] for output in compiled.outputs}

    return engine
