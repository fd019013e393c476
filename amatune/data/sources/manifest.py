"""Pictures that a CSV file lists, with their classes, groups and parts."""

# ruff: noqa: D102 - as `Source` says; not every source needs every argument

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from amatune.data.sources.base import PARTS, Id, Part
from amatune.data.sources.files import OwnPictures, real_files
from amatune.errors import DataError, RequestError
from amatune.files import read_text, usable_path

_MOST_BYTES = 2**28  # of a manifest


class ManifestSource(OwnPictures):
    """The pictures of a CSV file with a heading, one a line.

    path   of the picture, from the folder of the CSV file on
    label  its class; may be left out
    split  train or test; where it is left out, parts are made as those of a folder

    Every other column is kept, to group pictures by: `--group-by column:NAME`.
    """

    def __init__(self, path: str) -> None:
        file = usable_path(path, DataError).resolve()
        if not file.is_file():
            found = "is no file" if file.exists() else "does not exist"
            raise DataError(f"csv:{path} must name a CSV file, but {file} {found}")
        rows = _rows(file)
        ids = [row["path"] for row in rows]
        super().__init__(f"csv:{file}", file.parent, ids)
        gone = [one for one, place in self._files.items() if not os.path.isfile(place)]
        if gone:
            raise DataError(
                f"{len(gone)} of {len(ids)} pictures that {self.name} lists are not there, for "
                f"example {gone[0]}; paths are from its folder on"
            )
        real = real_files(self.location, ids)  # ./a.png is a.png
        times = Counter(real)
        if len(times) < len(ids):
            twice = next(one for one, file in zip(ids, real, strict=True) if times[file] > 1)
            raise DataError(f"{self.name} lists {twice} twice; list every picture once")
        by_column: dict[str, dict[Id, str]] = {
            name: {row["path"]: row[name] for row in rows} for name in rows[0] if name != "path"
        }
        self._given = by_column.pop("split", {})
        self._labels = by_column.pop("label", {})
        self.columns = by_column
        for one, part in self._given.items():
            if part not in PARTS:
                raise DataError(
                    f"{self.name}: the split of {one} must be train or test, got {part!r:.80}; "
                    "name one for every picture, or leave the column out"
                )

    @property
    def why_no_classes(self) -> str:
        if not self._labels:
            return "it has no column label"
        return f"not every picture has a label, see {self._unlabelled[0]}"

    def labels(self, part: Part) -> Sequence[str]:
        if not self._labels or self._unlabelled:
            return []
        return [self._labels[one] for one in self.ids(part)]

    @cached_property
    def _unlabelled(self) -> list[Id]:
        return [one for one, label in self._labels.items() if not label]

    @cached_property
    def _parts(self) -> Mapping[Part, list[str]]:
        sound = self._sound()
        if self._given:
            parts: dict[Part, list[str]] = {
                part: [one for one in sound if self._given[one] == part] for part in PARTS
            }
            for part in PARTS:
                if not parts[part]:
                    raise DataError(f"{self.name} has no picture whose split is {part}")
            return parts
        return self._shared_out(sound)


def _rows(file: Path) -> list[dict[str, str]]:
    """The lines of a manifest by column, sorted by path. Raises `DataError`."""
    try:
        text = read_text(file, "the manifest", _MOST_BYTES)
        table = list(csv.reader(io.StringIO(text.removeprefix("\ufeff")), strict=True))
    except (RequestError, csv.Error) as error:
        raise DataError(f"csv:{file} cannot be read: {error}") from None
    heads = [head.strip() for head in table[0]] if table else []
    lines = [line for line in table[1:] if any(line)]
    if "path" not in heads or not lines or "" in heads or len(set(heads)) < len(heads):
        raise DataError(
            f"csv:{file} must begin with a heading, such as path,label,group,split with path among "
            "it and no name twice, and list pictures below"
        )
    for number, line in enumerate(lines, 1):
        if len(line) != len(heads) or not line[heads.index("path")]:
            raise DataError(
                f"csv:{file}: picture {number} has {len(line)} columns; {len(heads)} and a path "
                "are expected"
            )
    rows = [dict(zip(heads, line, strict=True)) for line in lines]
    return sorted(rows, key=lambda row: row["path"])
