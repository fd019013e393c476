"""`amatune recalibrate`."""

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


@command(
    "amatune recalibrate runs/zero-one/best/export photos/good-of-today",
    "amatune recalibrate models/zero-one photos/good --output models/zero-one --replace",
)
def recalibrate(
    export: Export,
    paths: GoodPictures,
    output: Annotated[
        Path | None,
        plain("DIR", "The new export; by default EXPORT-recalibrated.", parser=path),
    ] = None,
    replace: ReplaceExport = False,
    as_json: OutcomeAsJson = False,
) -> int:
    """Take p-values and thresholds of an export from other good pictures, without training.

    For when the light, the lens or the supplier has changed and the detector still tells good from
    bad. The pictures must be good, and none that it learnt from. The weights and model.onnx stay as
    they are. Thresholds that were certified on the earlier pictures are left out, and the model
    card says so.

    The exit code is 1 when some pictures could not be read, and 2 when none could.
    """
    from amatune.export.recalibration import recalibrate as write

    try:
        found = write(export, paths, output, replace=replace)
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None
    for problem in found.unreadable:
        complain(problem)
    exported = found.exported
    calibration = exported.calibration
    if as_json:
        normals = 0 if calibration is None else len(calibration.scores)
        thresholds = [] if calibration is None else list(calibration.stated())
        print(
            json.dumps(
                {
                    "folder": str(exported.folder),
                    "normal_images": normals,
                    "thresholds": [
                        {"false_positive_rate": rate, "threshold": threshold}
                        for rate, threshold in thresholds
                    ],
                    "dropped": list(found.dropped),
                    "unreadable": list(found.unreadable),
                }
            )
        )
    else:
        console = make_console()
        say(console, found.summary())
        say(console, f"Exported model: {near(exported.folder)}")
        words = shlex.join(["amatune", "score", near(exported.folder)])
        say(console, f"Score pictures: {words} PATH...")
    return 1 if found.unreadable else 0
