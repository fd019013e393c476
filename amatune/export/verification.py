"""An export's forms, compared on the pictures of a user."""

import math
import os
from collections.abc import Iterator

from amatune.data.pictures import Pixels, find_pictures, read_picture
from amatune.errors import DataError, RequestError
from amatune.export.agreement import (
    INT8,
    ONNX_RUNTIME,
    Verification,
    compare,
    engines_of,
    torch_engine,
)
from amatune.export.folder import built
from amatune.export.onnx import TOLERANCE
from amatune.export.reading import ONNX, ONNX_INT8, read_export
from amatune.export.runtime import require_onnx
from amatune.extras import require_extra
from amatune.files import AnyPaths


def verify(
    folder: str | os.PathLike[str],
    paths: AnyPaths,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Compare the engines of an export on picture files, and those in folders.

    torch with the ONNX Runtime, and with OpenVINO where that is installed; with the model in 8 bits
    too, where there is one, of which no agreement is demanded. Raises `RequestError`
    for an export without an ONNX model that resizes, an impossible tolerance, and when no picture
    can be read.
    """
    if not 0 < tolerance < math.inf:
        raise RequestError(f"a tolerance must be above 0, got {tolerance:g}")
    read = read_export(folder)
    require_onnx(read)
    require_extra("onnx", ONNX_RUNTIME)
    files = find_pictures(paths)
    exported = built(read, "cpu")
    engines = engines_of(read.files[ONNX])
    if ONNX_INT8 in read.files:
        engines |= engines_of(read.files[ONNX_INT8], INT8)
    unreadable: list[str] = []

    def pictures() -> Iterator[tuple[str, Pixels]]:
        for file in files:
            try:
                yield str(file), read_picture(file)
            except DataError as error:
                unreadable.append(str(error))

    reference = torch_engine(exported.detector, exported.resizing)
    agreements = compare(reference, engines, pictures())
    if not agreements[0].pictures:
        raise RequestError(f"nothing was compared: {unreadable[0]}")
    quantised = read.config.get("int8")
    return Verification(agreements, tolerance, tuple(unreadable), quantised)
