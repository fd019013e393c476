"""`amatune verify`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from amatune.cli.options import Export, command, number, path, plain
from amatune.cli.output import Interrupted, complain, make_console, say
from amatune.wording import counted, visible

_TOLERANCE = (
    "The largest difference allowed, absolute up to a value of 1 and relative above; by default "
    "that of the export, 0.0001."
)


@command(
    "amatune verify runs/zero-one/best/export photos/",
    "amatune verify models/zero-one photos/ --tolerance 1e-3 --json",
)
def verify(
    export: Export,
    paths: Annotated[
        list[Path],
        typer.Argument(parser=path, metavar="PATH...", help="Pictures, folders of pictures."),
    ],
    tolerance: Annotated[float | None, plain("X", _TOLERANCE, parser=number)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as one JSON object.")
    ] = False,
) -> int:
    """Compare the forms of an export, picture by picture.

    Every picture is scored by torch, by the ONNX Runtime with the export's model.onnx, and by
    OpenVINO where it is installed; by a model in 8 bits too, if `amatune quantize` has added one,
    which need not agree: what it lost when it was made is repeated. Told are the largest difference
    of any score or map, the picture where it was, and how long a picture takes by itself, without
    reading the file.

    The exit code is 0 when all agree, 1 when they do not or a picture could not be read, and 2 when
    nothing could be compared.
    """
    from amatune.export.card import told
    from amatune.export.onnx import TOLERANCE
    from amatune.export.verification import verify as compare

    try:
        found = compare(export, paths, TOLERANCE if tolerance is None else tolerance)
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None
    for problem in found.unreadable:
        complain(problem)
    if as_json:
        print(json.dumps({**found.to_dict(), "unreadable": list(found.unreadable)}))
    else:
        console = make_console()
        reference, *others = found.agreements
        say(console, f"{counted(reference.pictures, 'picture')}")
        say(console, f"{reference.engine}: {1000 * reference.seconds:.1f} ms a picture")
        for one in others:
            where = f" ({one.output} of {visible(one.picture)})" if one.difference else ""
            say(
                console,
                f"{one.engine}: {1000 * one.seconds:.1f} ms a picture, largest difference "
                f"{one.difference:.1e}{where}",
            )
    found.require()
    if not as_json:
        agree = "all agree" if found.int8 is None else "all in 32 bits agree"
        say(console, f"{agree} within {found.tolerance:g}")
        for line in () if found.int8 is None else told(found.int8):
            say(console, f"when quantised, {line}")
    return 1 if found.unreadable else 0
