"""What a report's sections are made of: plain data, without markup.

`template.html.jinja` knows how each kind looks. All texts are shown as they are, whatever they
hold: escaping is the template's business alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import plotly.graph_objects as go

from amatune.data.pictures import Pixels


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    style: Literal["plain", "caption", "remark"] = "plain"
    command: str = ""  # to type; shown behind the text
    selects: bool = False  # about figures that chose something: with the badge that says so


@dataclass(frozen=True)
class Heading:
    """A title within a section."""

    kind: ClassVar[str] = "heading"
    text: str
    level: Literal[3, 4] = 3


@dataclass(frozen=True)
class Facts:
    """Names, each with a text; those with an empty text are not shown."""

    kind: ClassVar[str] = "facts"
    facts: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table; the first one names the rows."""

    title: str
    style: Literal["", "muted", "settings"] = ""
    selects: bool = False


@dataclass(frozen=True, kw_only=True)
class Group:
    """A title above several columns."""

    title: str
    columns: int
    selects: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table, one text per column."""

    cells: tuple[str, ...]
    stands_out: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table."""

    kind: ClassVar[str] = "table"
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    groups: tuple[Group, ...] = ()  # cover all columns, when there are any
    numbers: bool = False  # figures, which are not to be broken over lines


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """A figure that plotly draws."""

    kind: ClassVar[str] = "drawing"
    figure: go.Figure
    label: str  # says it in words
    height: int = 360  # pixels
    wide: bool = False  # needs more width than a phone has


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """An image that was scored."""

    image: Pixels  # (C, H, W)
    rebuilt: Pixels | None  # likewise: what the detector made of it
    mapped: Pixels | None  # in colour: where it looks anomalous
    score: str
    name: str  # as short as it may be
    full_name: str
    stands_out: bool  # on the wrong side of the threshold


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    kind: ClassVar[str] = "gallery"
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Beside:
    """Groups of blocks, side by side where there is room."""

    kind: ClassVar[str] = "beside"
    groups: tuple[tuple["Block", ...], ...]
    width: Literal["pair", "slices"]  # at most two, or as many as fit


@dataclass(frozen=True)
class Details:
    """Blocks to unfold."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: tuple["Block", ...]


Block = Text | Heading | Facts | Table | Drawing | Gallery | Beside | Details


@dataclass(frozen=True)
class Section:
    """A part of the page, which the navigation names."""

    name: str
    title: str
    blocks: tuple[Block, ...]


def drawings(blocks: Sequence[Block]) -> Iterator[Drawing]:
    """The figures among the blocks, in the order in which the page shows them."""
    for block in blocks:
        if isinstance(block, Drawing):
            yield block
        elif isinstance(block, Details):
            yield from drawings(block.blocks)
        elif isinstance(block, Beside):
            for group in block.groups:
                yield from drawings(group)
