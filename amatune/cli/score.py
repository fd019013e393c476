"""`amatune score`."""

import csv
import dataclasses
import heapq
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from amatune.cli.options import Export, command, number, path, plain, whole
from amatune.cli.output import Interrupted, complain, destination
from amatune.cli.progress import scoring_progress
from amatune.cli.watch import close_watch, open_watch
from amatune.errors import RequestError
from amatune.wording import counted, csv_cell

if TYPE_CHECKING:
    from amatune.export import AnyExport, ScoredPicture
    from amatune.export.drift import Watch

EXPLAINED = 16  # pictures of --explain, by default

_EXPLAIN = (
    "Write the pictures with the highest scores there, each beside its reconstruction and the "
    "difference, or a map of where it looks anomalous and that laid over it; a new folder."
)
_MAPS = (
    "Write where each picture looks anomalous there, as files of the size that the detector sees, "
    "in the order of the rows; a new folder."
)
_MAP_FORMAT = (
    "npy, NumPy files of float32, by default; or png, 16 bits of grey: the value is low + (high - "
    "low) x grey / 65535, low and high are texts in the file."
)
_WATCH = (
    "Test whether the pictures still come as those of the calibration did, and keep the test in "
    "this file, from which the next call goes on."
)
_ALARM_RATE = "Share of such tests that may raise a false alarm, ever; by default 0.01."
_ENGINE = (
    "What computes the scores: torch; onnx, the ONNX Runtime with the export's model.onnx, on the "
    "CPU, without torch; or onnx-int8, the same with the model that `amatune quantize` made."
)
_FPR = (
    "Share of normal pictures that may be flagged, as judged by the export's held-out images; "
    "by default 0.05, unless the export has a threshold with a name."
)
_THRESHOLD = (
    "Flag by the export's threshold of this name: certified, where limits were demanded of "
    "`amatune best`, or cheapest. By default the one that it has."
)


@command(
    "amatune score runs/zero-one/best/export photos/",
    "amatune score models/zero-one photos/ --output scores.csv --fpr 0.01",
    "amatune score models/zero-one parts.npz one.png --json",
    "amatune score models/zero-one photos/ --output scores.csv --explain highest",
    "amatune score models/zero-one photos/today --watch zero-one.watch --engine onnx",
)
def score(
    export: Export,
    paths: Annotated[
        list[Path],
        typer.Argument(
            parser=path, metavar="PATH...", help="Pictures, folders of pictures, .npz files."
        ),
    ],
    fpr: Annotated[float | None, plain("RATE", _FPR, parser=number)] = None,
    threshold: Annotated[str | None, plain("NAME", _THRESHOLD)] = None,
    output: Annotated[
        Path | None, plain("FILE", "Write there instead of to standard output.", parser=path)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line instead of CSV.")
    ] = False,
    explain: Annotated[Path | None, plain("DIR", _EXPLAIN, parser=path)] = None,
    explain_top: Annotated[int | None, plain("N", "How many; by default 16.", parser=whole)] = None,
    maps: Annotated[Path | None, plain("DIR", _MAPS, parser=path)] = None,
    map_format: Annotated[str | None, plain("NAME", _MAP_FORMAT)] = None,
    engine: Annotated[str, plain("NAME", _ENGINE)] = "torch",
    watch: Annotated[Path | None, plain("FILE", _WATCH, parser=path)] = None,
    alarm_rate: Annotated[float | None, plain("RATE", _ALARM_RATE, parser=number)] = None,
) -> int:
    """Score pictures with an exported detector; higher is more anomalous.

    Writes CSV with the columns path, score, every score of the detector by name, p_value, flag and
    error, or with --json an object with these names for each picture.
    The p-value is the share of the export's held-out normal images, and this one, that score as
    high or higher; flag is true for scores above the threshold. Both are empty for an export
    without a calibration. A path that a spreadsheet would take for a formula begins with an
    apostrophe.

    An .npz file holds images, or train_images and test_images: uint8, (N, H, W) or (N, H, W, C).
    Its images are written as parts.npz[12].

    With --watch, evidence and drift stand before error: what a stake of 1 has become that was bet,
    picture by picture, against that nothing has changed; and whether it has reached 1 / the alarm
    rate, which it does with at most that probability when nothing has. The order of the rows is
    that in which pictures came; each counts once. Defects count as a change too.

    A picture that cannot be read is a row with its error and no more, and is told on standard
    error; the others are scored. The exit code is then 1, or 2 when nothing could be scored.
    """
    from amatune.export import explain as write_explanations
    from amatune.export import find_inputs, load, require_explainable, write_map

    exported = load(export, engine=engine)
    for warning in exported.warnings:
        complain(warning)
    above = _threshold(exported, fpr, threshold)
    highest = _highest(explain, explain_top)
    if explain is not None:
        require_explainable(exported, explain)
    form = _map_format(maps, map_format)
    if maps is not None:
        require_explainable(exported, maps, "--maps")
    watching = open_watch(exported, watch, alarm_rate)
    inputs = find_inputs(paths)
    scored = failed = 0
    try:
        with destination(output) as file, scoring_progress(inputs.count) as progress:
            write = _writer(file, exported.score_names, above, watching, as_json)
            for picture in exported.score_inputs(inputs):
                write(picture)
                if picture.problem is None:
                    highest.add(picture)
                    if maps is not None:
                        write_map(exported, picture, maps, scored + failed + 1, form)
                    scored += 1
                else:
                    progress.say(f"amatune: {picture.problem}")
                    failed += 1
                progress.advance()
            if not scored:
                told = f"none of {counted(failed, 'picture')} could be read"
                raise RequestError(f"nothing was scored: {told}")
        if explain is not None:
            write_explanations(exported, highest.pictures(), explain)
        if watching is not None and watch is not None:
            close_watch(watching, watch)
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None
    return 1 if failed else 0


def _threshold(exported: "AnyExport", fpr: float | None, name: str | None) -> float | None:
    """The score above which pictures are flagged; None when the export cannot tell.

    Raises `RequestError` when a rate or a threshold was asked for that the export does not have.
    """
    from amatune.export import DEFAULT_RATE

    point = None if exported.guarantee is None else exported.guarantee.point
    if name is not None:
        if fpr is not None:
            raise RequestError("--fpr and --threshold each decide what is flagged; give one")
        if point is None or point.name != name:
            has = "none" if point is None else repr(point.name)
            raise RequestError(
                f"{exported.folder} has no threshold {name!r:.80} (with a name it has {has}); "
                "`amatune best --export` with --min-recall, --max-fpr or costs makes one"
            )
    if point is not None and fpr is None:
        return point.threshold
    calibration = exported.calibration
    if calibration is None:
        if fpr is not None:
            raise RequestError(
                f"{exported.folder} was exported without scores of normal images, so that no false "
                "positive rate can be stated; leave --fpr out"
            )
        return None
    if fpr is None and calibration.smallest_rate > DEFAULT_RATE:
        complain(f"flag stays empty, name a rate with --fpr: {calibration.possible_rates}")
        return None
    return calibration.threshold(DEFAULT_RATE if fpr is None else fpr)


def _map_format(folder: Path | None, form: str | None) -> str:
    """How maps are written. Raises `RequestError` for another format, or one without maps."""
    from amatune.export import MAP_FORMATS

    if folder is None and form is not None:
        raise RequestError("--map-format says how --maps writes them; give both")
    if form not in (None, *MAP_FORMATS):
        raise RequestError(f"--map-format must be {' or '.join(MAP_FORMATS)}, got {form!r}")
    return form or MAP_FORMATS[0]


def _highest(folder: Path | None, most: int | None) -> "_Highest":
    """What keeps the pictures to explain. Raises `RequestError` for an impossible number."""
    if folder is None and most is not None:
        raise RequestError("--explain-top says how many pictures --explain writes; give both")
    if most is not None and most < 1:
        raise RequestError(f"--explain-top must be at least 1, got {most}")
    return _Highest(0 if folder is None else most or EXPLAINED)


class _Highest:
    """Keeps the pictures with the highest scores, of equal ones the first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int, ScoredPicture]] = []
        self._seen = 0

    def add(self, picture: "ScoredPicture") -> None:
        """Take in a picture that was scored."""
        self._seen += 1
        entry = (picture.score or 0.0, -self._seen)
        if len(self._heap) == self._most and (not self._heap or entry < self._heap[0][:2]):
            return
        image = None if picture.image is None else picture.image.copy()
        kept = (*entry, dataclasses.replace(picture, image=image))
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, kept)
        else:
            heapq.heapreplace(self._heap, kept)

    def pictures(self) -> list["ScoredPicture"]:
        """The highest first."""
        return [picture for *_, picture in sorted(self._heap, reverse=True)]


def _writer(
    file: TextIO,
    names: Sequence[str],
    threshold: float | None,
    watch: "Watch | None",
    as_json: bool,
) -> Callable[["ScoredPicture"], None]:
    """What writes one picture to `file`: a CSV row, or a line with a JSON object."""
    from amatune.export import printable

    table = csv.writer(file, lineterminator="\n")
    if not as_json:
        watched = [] if watch is None else ["evidence", "drift"]
        table.writerow(["path", "score", *names, "p_value", "flag", *watched, "error"])

    def write(picture: "ScoredPicture") -> None:
        # Six digits: what lies beyond depends on how pictures were batched. The flag is that of
        # the whole score.
        own = picture.scores or dict.fromkeys(names)
        scores = {"score": picture.score, **own, "p_value": picture.p_value}
        row: dict[str, Any] = {"path": printable(picture.path)}
        row |= {n: None if v is None else float(f"{v:.6g}") for n, v in scores.items()}
        flagged = None
        if threshold is not None and picture.score is not None:
            flagged = picture.score > threshold
        row["flag"] = flagged
        if watch is not None:
            if picture.score is not None:
                watch.take(picture.score, row["path"])
            row |= {"evidence": float(f"{watch.evidence:.6g}"), "drift": watch.alarm is not None}
        row["error"] = picture.problem
        if as_json:
            print(json.dumps(row), file=file)
        else:
            table.writerow(map(_cell, row.values()))

    return write


def _cell(value: Any) -> Any:
    """A value as a cell of CSV: nothing where there is none, true and false in words."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else csv_cell(value)
