"""Pictures that belong together: of one part, day or camera. None of a group stands on two sides.

    folder          the name of the folder a picture lies in: of a/left and b/left it is left
    folder:N        the N-th folder on the way to it, from the set's own: folder:1 of
                    part-7/left/0.png is part-7 (train/ and test/ directly below do not count)
    name:REGEX      what a regular expression finds in its path: the first (...), else all of it
    column:NAME     a column of a manifest, see `csv:FILE`
    near-copies     pictures that nearly are the same, see `data.duplicates`

The same key in two sets is the same group: day-1 of the good pictures and of the bad ones.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from amatune.data.duplicates import SIDE, Prints, group_copies
from amatune.data.sources.base import PARTS, Id, Part, Source
from amatune.errors import DataError

NEAR_COPIES = "near-copies"
RULE = "folder, folder:N, name:REGEX, column:NAME or near-copies"
MOST = 1000  # characters of a regular expression


def is_grouping(text: object) -> bool:
    """Whether a text says how pictures are grouped."""
    if not isinstance(text, str):
        return False
    kind, colon, rest = text.partition(":")
    if kind == "folder":
        return not colon or (rest.isdecimal() and 1 <= int(rest) <= 99)
    if kind == "name":
        return len(rest) <= MOST and bool(rest) and _compiled(rest) is not None
    return text == NEAR_COPIES or (kind == "column" and bool(rest))


def _compiled(text: str) -> "re.Pattern[str] | None":
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return None


Keys = Mapping[tuple[Part, Id], str]  # of images of one source


def keys_of(source: Source, ids: Mapping[Part, Sequence[Id]], grouping: str) -> Keys:
    """The group of each image of a source, by its part and id.

    Raises `DataError` where that cannot be told of one.
    """
    if grouping == NEAR_COPIES:
        return _copies(source, ids)
    kind, _, rest = grouping.partition(":")
    images = [(part, one) for part, own in ids.items() for one in own]
    if kind == "column":
        if rest not in source.columns:
            known = ", ".join(source.columns) or "none: only a manifest, csv:FILE, has columns"
            raise DataError(f"{source.name} has no column {rest!r:.80} (it has {known})")
        column = source.columns[rest]
        return _told(source, {i: column[i[1]] for i in images}, f"nothing in the column {rest}")
    if any(not isinstance(one, str) for _, one in images):
        raise DataError(
            f"--group-by {grouping} needs pictures with names, and those of {source.name} have "
            f"none; {NEAR_COPIES} needs none"
        )
    if kind == "name":
        pattern = re.compile(rest)
        found = {image: pattern.search(str(image[1])) for image in images}
        texts = {image: m and (m[1] if pattern.groups else m[0]) for image, m in found.items()}
        return _told(source, texts, f"a name in which {rest!r} finds nothing")
    depth = int(rest) if rest else 0
    return _told(
        source,
        {image: _folder(str(image[1]), depth) for image in images},
        "no such folder on the way to them",
    )


def _copies(source: Source, ids: Mapping[Part, Sequence[Id]]) -> Keys:
    """Groups of what nearly is the same, each called like one of its images. All are looked at,
    those of the test as well; damaged ones are alone."""
    images: list[tuple[Part, Id]] = []
    parts = []
    for part, own in ids.items():
        pixels, read = source.read(part, own, (1, SIDE, SIDE))
        images += [(part, one) for one in read]
        parts.append(pixels)
    numbers = group_copies(Prints.of(np.concatenate(parts)))
    names = [f"{source.name}/{part}/{one}" for part, one in images]
    found = {image: names[number] for image, number in zip(images, numbers, strict=True)}
    alone = {(part, one): f"{source.name}/{part}/{one}" for part, own in ids.items() for one in own}
    return {**alone, **found}


def _folder(path: str, depth: int) -> str:
    folders = path.split("/")[:-1]
    if folders and folders[0] in PARTS:
        folders = folders[1:]
    if depth == 0:
        return folders[-1] if folders else ""
    return folders[depth - 1] if depth <= len(folders) else ""


def _told(
    source: Source, keys: Mapping[tuple[Part, Id], str | None], lack: str
) -> dict[tuple[Part, Id], str]:
    """The keys; raises `DataError` for those that are empty."""
    without = [one for one, key in keys.items() if not key]
    if without:
        raise DataError(
            f"{len(without)} of {len(keys)} pictures of {source.name} belong to no group, they "
            f"have {lack}: for example {without[0][1]}; put them right, or group otherwise"
        )
    return {one: str(key) for one, key in keys.items()}
