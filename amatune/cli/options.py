"""Options that several commands share, what option texts are read as, and the words of commands.

The parsers are our own, since a message must name the value that is wrong. They leave alone what is
parsed already: values of a file are parsed when it is read.
"""

import contextlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from amatune.errors import RequestError
from amatune.files import usable_path

AUTO = -1.0  # a share of GPUs: `auto`, in the place of the None that a parser cannot return
_SECONDS = {"s": 1, "m": 60, "h": 3600}

Command = Callable[..., Any]
_Command = TypeVar("_Command", bound=Command)
_EXAMPLES: dict[Command, tuple[str, ...]] = {}


def command(*examples: str) -> Callable[[_Command], _Command]:
    """Mark a function as a command, with examples for its help."""

    def mark(function: _Command) -> _Command:
        _EXAMPLES[function] = examples
        return function

    return mark


def examples_of(function: Command) -> tuple[str, ...]:
    """The examples of a command's help."""
    return _EXAMPLES[function]


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def size(text: str | int | tuple[int, int]) -> int | tuple[int, int]:
    """Pixels a side, or HxW."""
    if not isinstance(text, str):
        return text
    if not re.fullmatch(r"\d{1,9}(x\d{1,9})?", text, re.ASCII | re.IGNORECASE):
        raise typer.BadParameter(f"{text!r} is not a size; write 64, or HEIGHTxWIDTH such as 64x96")
    sides = [int(side) for side in text.lower().split("x")]
    return sides[0] if len(set(sides)) == 1 else (sides[0], sides[1])


def number(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def duration(text: str | float) -> float:
    """A time in seconds."""
    if isinstance(text, int | float):
        return text
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or float(match[1]) == 0:
        raise typer.BadParameter(f"{text!r} is not a time; write 90s, 10m or 2h")
    return float(match[1]) * _SECONDS[match[2]]


def gpu_share(text: str | float) -> float:
    """GPUs of a trial, or AUTO."""
    if text in ("auto", AUTO):
        return AUTO
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf:
        raise typer.BadParameter(f"{text!r} is not a share of GPUs; write auto, 0, 0.25, 1 or 2")
    return share


def setting(text: str) -> Any:
    """A setting as `wording.value_text` writes it: a number, true, false, none, a list, a word."""
    with contextlib.suppress(ValueError):
        return json.loads(text.lower().replace("none", "null"))
    return text


@dataclass(frozen=True)
class Assignment:
    """A setting that is held fixed."""

    name: str
    value: Any


def assignment(given: str | Assignment) -> Assignment:
    """NAME=VALUE."""
    if isinstance(given, Assignment):
        return given
    name, _, text = given.partition("=")
    if not name or not text:
        raise typer.BadParameter(f"{given!r} is not NAME=VALUE, such as critic_steps=2")
    return Assignment(name, setting(text))


def path(given: str | Path) -> Path:
    """The path of a file or a folder."""
    try:
        return usable_path(given)
    except RequestError as error:
        raise typer.BadParameter(str(error)) from None


def file_or_contents(given: str | Path | Mapping[str, Any]) -> Any:
    """The path of a file, or what a file of options has in its place."""
    return path(given) if isinstance(given, str | Path) else given


def option(panel: str, metavar: str, text: str, **rules: Any) -> Any:
    """An option in a panel of the help."""
    return typer.Option(metavar=metavar, help=text, rich_help_panel=panel, **rules)


plain = partial(option, "Options")

QUIET = "Show the result alone."
JSON = "Print every event as one JSON object per line, and nothing else."
DATA_DIR = "Folder of the named data sets; by default AMATUNE_DATA, else ~/.cache/amatune."
RUNS = "Folder that holds the runs."

Export = Annotated[
    Path,
    typer.Argument(
        parser=path, metavar="EXPORT", help="Folder that `amatune best --export` wrote."
    ),
]
GoodPictures = Annotated[
    list[Path],
    typer.Argument(
        parser=path, metavar="PATH...", help="Good pictures: files, folders, .npz files."
    ),
]
ReplaceExport = Annotated[
    bool, typer.Option("--replace", help="Replace an export that is there already.")
]
OutcomeAsJson = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]
Run = Annotated[
    str | None, typer.Argument(metavar="RUN", help="Name or folder; by default the newest run.")
]
RunsDir = Annotated[Path, plain("DIR", RUNS, parser=path)]
ItsDataDir = Annotated[
    Path | None,
    plain("DIR", "Folder of the named data sets; by default the search's.", parser=path),
]
