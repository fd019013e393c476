"""`amatune quantize`."""

import json
import shlex
from pathlib import Path
from typing import Annotated

from amatune.cli.options import (
    Export,
    GoodPictures,
    OutcomeAsJson,
    ReplaceExport,
    command,
    path,
    plain,
)
from amatune.cli.output import Interrupted, complain, make_console, near, say

_ANOMALIES = "Pictures with defects, a folder or an .npz file: the loss in AUROC is told."


@command(
    "amatune quantize runs/zero-one/best/export photos/good",
    "amatune quantize models/zero-one photos/good --anomalies photos/defects",
)
def quantize(
    export: Export,
    paths: GoodPictures,
    anomalies: Annotated[Path | None, plain("PATH", _ANOMALIES, parser=path)] = None,
    output: Annotated[
        Path | None, plain("DIR", "The new export; by default EXPORT-int8.", parser=path)
    ] = None,
    replace: ReplaceExport = False,
    as_json: OutcomeAsJson = False,
) -> int:
    """Add a model with its convolutions in 8 bits to a copy of an export, and say what it loses.

    `amatune score --engine onnx-int8` scores by it. The pictures must be good, and none that the
    detector learnt from: every fourth gives the ranges of the 8 bits, the others are compared in
    both forms, and are the calibration of scores in 8 bits. Told are size, time, how scores and
    decisions change and, with --anomalies, the loss in AUROC. The other forms stay as they are.

    The exit code is 1 when some pictures could not be read, and 2 when nothing could be quantised.
    """
    from amatune.export.quantization import quantize as write

    try:
        found = write(
            export, paths, () if anomalies is None else [anomalies], output, replace=replace
        )
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None
    for problem in found.unreadable:
        complain(problem)
    if as_json:
        print(
            json.dumps(
                {
                    "folder": str(found.folder),
                    **found.figures,
                    "dropped": list(found.dropped),
                    "unreadable": list(found.unreadable),
                }
            )
        )
    else:
        console = make_console()
        for line in found.lines():
            say(console, line)
        for name in found.dropped:
            say(console, f"the threshold {name!r} is one of the other forms alone")
        say(console, f"Exported model: {near(found.folder)}")
        words = shlex.join(["amatune", "score", near(found.folder)])
        say(console, f"Score pictures: {words} PATH... --engine onnx-int8")
    return 1 if found.unreadable else 0
