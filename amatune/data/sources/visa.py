"""VisA (Zou et al., ECCV 2022), one object of it, in either of the layouts in use:

    as published    split_csv/1cls.csv                      object,split,label,image,mask
                    candle/Data/Images/Normal/*.JPG
                    candle/Data/Images/Anomaly/*.JPG
                    candle/Data/Masks/Anomaly/*.png
                    candle/image_anno.csv                   image,label,mask; kinds of defect
    converted       that of MVTec: what the authors' prepare_data.py makes of `1cls`

The published split decides what is normal and for which part; its anomalies are all for the test.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from amatune.data.pictures import SUFFIXES
from amatune.data.sources.base import Part
from amatune.data.sources.defects import DefectPictures
from amatune.data.sources.mvtec import MvtecSource, folder_at, has_layout
from amatune.errors import DataError
from amatune.files import read_text

SPLIT = "split_csv/1cls.csv"
KINDS = "image_anno.csv"
SEVERAL = "several"  # kinds of defect in one picture
_PICTURES = "Data/Images"
_MOST_BYTES = 2**24  # of a table; the published ones have less than 1 MB


def open_visa(path: str) -> DefectPictures:
    """One object of VisA. Raises `DataError`, which names what is missing."""
    root = folder_at(path, "visa")
    if not (root / _PICTURES).is_dir() and not has_layout(root):
        found = sorted(one.parent.parent.name for one in root.glob(f"*/{_PICTURES}"))
        if found:
            raise DataError(
                f"visa:{root} holds several objects, name one of them: visa:{root / found[0]} "
                f"({', '.join(found)})"
            )
    return VisaSource(root) if (root / _PICTURES).is_dir() else MvtecSource(path, "visa")


class VisaSource(DefectPictures):
    """One object as published; ids are paths relative to its folder."""

    def __init__(self, root: Path) -> None:
        name = f"visa:{root}"
        table = root.parent / SPLIT
        if not table.is_file():
            raise DataError(
                f"{name} needs the published split, but there is no {table}; put split_csv/ of "
                "the download there, or convert the set with its prepare_data.py"
            )
        good: dict[Part, list[str]] = {"train": [], "test": []}
        anomalies: list[str] = []
        masks: dict[str, Path] = {}
        objects = set()
        for row in _rows(table, ("object", "split", "label", "image", "mask")):
            objects.add(row["object"])
            if row["object"] != root.name:
                continue
            one = _id(row["image"], root.name, table)
            if row["label"] == "normal":
                good["train" if row["split"] == "train" else "test"].append(one)
                continue
            anomalies.append(one)
            if row["mask"]:
                masks[one] = root / _id(row["mask"], root.name, table)
        if not anomalies and not good["train"]:
            raise DataError(
                f"{table} has no object {root.name!r}, which the folder {root} is named; it has "
                f"{', '.join(sorted(objects))}"
            )
        kinds = _kinds(root)
        defects: dict[str, list[str]] = {}
        for one in anomalies:
            defects.setdefault(kinds.get(one, "anomaly"), []).append(one)
        super().__init__(name, root, good, dict(sorted(defects.items())), masks)


def _kinds(root: Path) -> dict[str, str]:
    """id -> kind of defect, of the pictures that the object's own table tells."""
    table = root / KINDS
    if not table.is_file():
        return {}
    found = {}
    for row in _rows(table, ("image", "label")):
        label = row["label"].strip()
        if label and label != "normal":
            found[_id(row["image"], root.name, table)] = SEVERAL if "," in label else label
    return found


def _id(path: str, name: str, table: Path) -> str:
    """A picture's path relative to the folder of its object, which it must not leave."""
    parts = PurePosixPath(path.strip()).parts
    if parts[:1] == (name,):
        parts = parts[1:]
    is_picture = bool(parts) and PurePosixPath(parts[-1]).suffix.lower() in SUFFIXES
    if not is_picture or ".." in parts or PurePosixPath(*parts).is_absolute() or "\0" in path:
        raise DataError(f"{table} names {path!r:.120}, which is no picture below {name}/")
    return PurePosixPath(*parts).as_posix()


def _rows(table: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with these columns, a text for each."""
    text = read_text(table, "the table", _MOST_BYTES)
    reader = csv.DictReader(io.StringIO(text))
    try:
        absent = [one for one in columns if one not in (reader.fieldnames or ())]
        if absent:
            raise DataError(
                f"{table} has no column {absent[0]!r}; it needs {','.join(columns)} in its first "
                "line"
            )
        for row in reader:
            yield {one: row[one] or "" for one in columns}
    except csv.Error as error:
        raise DataError(f"{table} cannot be read as CSV: {error}") from None
