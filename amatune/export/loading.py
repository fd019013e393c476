"""Reading an export, for one engine or the other."""

import os
from typing import TYPE_CHECKING, Literal, overload

from amatune.errors import RequestError, did_you_mean
from amatune.export.scoring import AnyExport

if TYPE_CHECKING:
    import torch

    from amatune.export.exported import Exported
    from amatune.export.runtime import OnnxExport

ENGINES = ("torch", "onnx", "onnx-int8")


@overload
def load(
    folder: str | os.PathLike[str],
    device: "str | torch.device" = "cpu",
    engine: Literal["torch"] = "torch",
) -> "Exported": ...


@overload
def load(
    folder: str | os.PathLike[str],
    device: "str | torch.device" = "cpu",
    *,
    engine: Literal["onnx", "onnx-int8"],
) -> "OnnxExport": ...


@overload
def load(
    folder: str | os.PathLike[str], device: "str | torch.device" = "cpu", *, engine: str
) -> AnyExport: ...


def load(
    folder: str | os.PathLike[str],
    device: "str | torch.device" = "cpu",
    engine: str = "torch",
) -> AnyExport:
    """Read an exported detector. With the engine `onnx` its model.onnx scores, on the CPU, and
    torch is not imported; so with `onnx-int8` and the model in 8 bits that `quantize` made.

    Raises `RequestError` when the folder or a file of it is missing, was written by another
    version, or is not what was exported, or has no ONNX model where one is asked for; files beside
    those of the export are left alone.
    """
    if engine == "torch":
        from amatune.export.folder import load_detector

        return load_detector(folder, device)
    if engine in ENGINES:
        from amatune.export.runtime import load_onnx

        return load_onnx(folder, int8=engine == "onnx-int8")
    raise RequestError(f"there is no engine {engine!r}, {did_you_mean(engine, ENGINES)}")
