"""A run as one HTML file that needs no network: what was asked, found, and spent.

Whatever a user may have named (runs, classes, files, settings) is escaped by the template's
engine, absolute paths are shortened to names, and the page's own policy lets no script run but the
two written into it, and loads nothing.
"""

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import plotly.offline
from PIL import Image

from amatune.data.pictures import Pixels
from amatune.data.places import DataDir
from amatune.report.blocks import drawings
from amatune.report.evidence import Evidence, gather
from amatune.report.paths import without_folders
from amatune.report.sections import headline, make_sections
from amatune.runs import RunFolder
from amatune.version import __version__
from amatune.wording import download_size, figure, interval, visible

PICTURE_SIDE = 160  # pixels; larger pictures are made smaller


@dataclass(frozen=True)
class Report:
    """A finished page, and what could not be shown in it."""

    page: str
    notes: tuple[str, ...]


def make_report(run: RunFolder, data_dir: DataDir = None) -> Report:
    """The report on a run, which may be going on.

    Pictures come from the run's data sets: from `data_dir`, or the folder that the search used;
    nothing is downloaded. What is missing is left out, and `notes` say why. Raises `RequestError`
    for a run that cannot be read.
    """
    evidence = gather(run, data_dir)
    return Report(render(evidence), evidence.notes)


def render(evidence: Evidence) -> str:
    """The page."""
    sections = make_sections(evidence)
    shown = [one for section in sections for one in drawings(section.blocks)]
    library, script = plotly.offline.get_plotlyjs(), _file("script.js")
    known = _known_places(evidence)
    template = _environment(known).from_string(_file("template.html.jinja"))
    board = evidence.board
    test = None if board is None else board.chosen.test[board.primary_score]
    values: dict[str, Any] = {
        "run": evidence.run.name,
        "auroc": test and figure(test.auroc, test.auroc_spread),
        "interval": test and interval(test.auroc_low, test.auroc_high),
        "headline": headline(evidence),
        "sections": sections,
        "numbers": {drawing: number for number, drawing in enumerate(shown)},
        "figures": [_shortened(json.loads(one.figure.to_json()), known) for one in shown],
        "policy": _policy(library, script),
        "style": _file("style.css"),
        "library": library,
        "script": script,
        "version": __version__,
        "made": f"{datetime.now():%Y-%m-%d %H:%M}",
        "library_size": download_size(len(library.encode("utf-8"))),
    }
    # The page states its own size: written once to be measured, once to be read.
    measured = len(template.render(values, size="0.0 MB").encode("utf-8"))
    return template.render(values, size=download_size(measured))


def _environment(known: Mapping[str, str]) -> jinja2.Environment:
    """The engine: every text is shortened and made visible, then escaped; only what is marked as
    markup is not."""

    def finalize(value: Any) -> Any:
        is_text = isinstance(value, str) and not hasattr(value, "__html__")
        return visible(without_folders(value, known)) if is_text else value

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters["png"] = _png
    return environment


def _file(name: str) -> str:
    return resources.files("amatune.report").joinpath(name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """The page's Content-Security-Policy.

    Plotly compiles the code of some figures, hence unsafe-eval; nothing else may run or load.
    """
    digests = (hashlib.sha256(script.encode("utf-8")).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(one).decode()}'" for one in digests)
    return (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {allowed} 'unsafe-eval'"
    )


def _known_places(evidence: Evidence) -> dict[str, str]:
    """The folders that a run's texts name, and how the page names them."""
    found = {str(evidence.run.path): evidence.run.name}
    for name in evidence.record.problem.sources:
        _, colon, path = name.partition(":")
        if colon and Path(path).is_absolute():
            found[path] = Path(path).name or path
    return found


def _shortened(value: Any, known: Mapping[str, str]) -> Any:
    """JSON values, all paths in them shortened."""
    if isinstance(value, str):
        return without_folders(value, known)
    if isinstance(value, list):
        return [_shortened(one, known) for one in value]
    if isinstance(value, dict):  # plotly's packed numbers are no text
        return {n: v if n == "bdata" else _shortened(v, known) for n, v in value.items()}
    return value


def _png(image: Pixels) -> str:
    """An image (C, H, W) as an address that holds it."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
