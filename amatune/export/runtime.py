"""An export that the ONNX Runtime scores, without torch, by its model.onnx."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amatune.config import ImageShape
from amatune.data.pictures import Pixels
from amatune.errors import AmatuneError, RequestError
from amatune.export.preparation import MAP, PICTURES
from amatune.export.reading import ONNX, ONNX_INT8, ExportFiles, read_export
from amatune.export.scoring import AnyExport
from amatune.extras import require_extra

_MOST_IMAGES, _MOST_PIXELS = 32, 2**20  # at once: bounds the memory that their features take


@dataclass(frozen=True, kw_only=True)
class OnnxExport(AnyExport):
    """An ONNX model read back from its folder, ready to score on the CPU."""

    session: Any  # onnxruntime.InferenceSession
    shape: ImageShape
    names: tuple[str, ...]
    primary: str

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W) every picture is brought to."""
        return self.shape

    @property
    def score_names(self) -> tuple[str, ...]:
        """The names of all scores."""
        return self.names

    @property
    def primary_score(self) -> str:
        """The name of the one in use."""
        return self.primary

    @property
    def has_map(self) -> bool:
        """Whether the model says where a picture looks anomalous."""
        return MAP in [output.name for output in self.session.get_outputs()]

    def scores(self, images: Pixels) -> dict[str, NDArray[np.float32]]:
        """See `AnyExport`."""
        return dict(zip(self.names, self.run(images, self.names), strict=True))

    def pixel_map(self, images: Pixels) -> NDArray[np.float32] | None:
        """See `AnyExport`."""
        return self.run(images, (MAP,))[0] if self.has_map else None

    def reconstruct(self, images: Pixels) -> None:
        """None: the ONNX form has scores and maps."""

    def run(self, images: Pixels, outputs: tuple[str, ...]) -> list[NDArray[np.float32]]:
        """What the model gives for pictures (N, C, h, w), which may have any size: a part of its
        outputs, by name. Raises `AmatuneError` where the runtime fails."""
        if not len(images):
            images = np.zeros((1, *self.shape), np.uint8)
            return [values[:0] for values in self.run(images, outputs)]
        parts = []
        _, height, width = self.shape
        step = max(1, min(_MOST_IMAGES, _MOST_PIXELS // (height * width)))
        for start in range(0, len(images), step):
            part = np.ascontiguousarray(images[start : start + step].transpose(0, 2, 3, 1))
            try:
                parts.append(self.session.run(list(outputs), {PICTURES: part}))
            except Exception as error:  # the runtime's own classes, of several kinds
                told = " ".join(str(error).splitlines()[:1])
                raise AmatuneError(f"the ONNX Runtime cannot score with {ONNX}: {told}") from error
        return [np.concatenate(values) for values in zip(*parts, strict=True)]


def load_onnx(folder: str | os.PathLike[str], *, int8: bool = False) -> OnnxExport:
    """Read an export, to be scored by the ONNX Runtime on the CPU; with `int8` by its model in 8
    bits, with p-values and thresholds of its own.

    Raises what `read_export` raises, `RequestError` for an export without such a model or one
    whose model does not resize, and `MissingExtraError` where the runtime is not installed.
    """
    read = read_export(folder)
    require_onnx(read)
    require_extra("onnx", "onnxruntime")
    if int8 and ONNX_INT8 not in read.files:
        raise RequestError(
            f"the export {read.folder} has no model in 8 bits; `amatune quantize` makes one with "
            "good pictures"
        )
    return onnx_export(read, read.files[ONNX_INT8] if int8 else None)


def onnx_export(read: ExportFiles, int8: bytes | None = None) -> OnnxExport:
    """An export that has been read, ready to score by its model.onnx, or by a model in 8 bits and
    the calibration that the export has of such scores. Raises `RequestError` for another's."""
    try:
        session = open_session(read.files[ONNX] if int8 is None else int8)
        names = tuple(read.config["scores"]["names"])
        missing = {*names, read.config["primary"]} - {o.name for o in session.get_outputs()}
        if missing or [given.name for given in session.get_inputs()] != [PICTURES]:
            raise ValueError(f"it has no {', '.join(sorted(missing)) or PICTURES}")
    except Exception as error:  # of the runtime, or what config.json says of it is no such thing
        told = " ".join(str(error).splitlines()[:1])
        raise read.unfit(RequestError(f"{ONNX} cannot be used: {told}")) from error
    return OnnxExport(
        read.folder,
        read.config["method"],
        read.config["figures"],
        read.config["data"],
        read.calibration if int8 is None else read.calibration_int8,
        (),
        read.guarantee if int8 is None else None,
        read.resizing,
        session=session,
        shape=tuple(read.config["image_shape"]),
        names=names,
        primary=read.config["primary"],
    )


def as_input(image: Pixels) -> Pixels:
    """A picture (C, H, W) as the input of a model: a batch of one, (1, H, W, C)."""
    return np.ascontiguousarray(image.transpose(1, 2, 0))[None]


def open_session(model: bytes, threads: int = 0) -> Any:
    """An ONNX model in the ONNX Runtime, on the CPU: an `onnxruntime.InferenceSession`. 0 threads
    are as many as there are cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def require_onnx(read: ExportFiles) -> None:
    """Raise `RequestError` unless the export has an ONNX model that takes pictures of any size."""
    if ONNX not in read.files:
        raise RequestError(
            f"the export {read.folder} has no {ONNX}: its method, {read.config['method']}, has no "
            "such form; score it with --engine torch"
        )
    described = read.config["onnx"]
    given = described.get("input") if isinstance(described, dict) else None
    if not isinstance(given, dict) or given.get("name") != PICTURES:
        raise RequestError(
            f"{ONNX} of the export {read.folder} takes pictures of one size alone: it was written "
            f"by amatune {read.config['amatune_version']}. Export the run again, or score it with "
            "--engine torch"
        )
