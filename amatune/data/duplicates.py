"""Images that are in two places: exact copies, and those that only look like it.

A picture saved again as JPEG, resized or a little brighter is still the same picture. Where one
lies in the training part and one in the test part, the test is easier than it should be.
"""

import csv
import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

import torch

from amatune.data.pictures import Pixels, fit
from amatune.data.sources.base import Id, Part
from amatune.errors import AmatuneError
from amatune.files import write_bytes
from amatune.wording import csv_cell

SIDE = 16  # pixels; images are compared at this size, in grey
NEAR = 4.0  # root mean square difference in grey levels, of 255
SHARE = 0.2  # of the standard deviation of an image's grey levels
_CHUNK = 512


class Copy(NamedTuple):
    """Positions of two images that are the same, or nearly."""

    original: int
    copy: int
    exact: bool


class Found(NamedTuple):
    """Two images of different lists that are the same, or nearly."""

    image: tuple[str, Part, Id]  # source, part and id
    list_name: str
    original: tuple[str, Part, Id]
    original_list: str
    exact: bool
    left_out: bool = False  # of its list

    def row(self) -> tuple[str, ...]:
        """As a row of `HEAD`."""
        return (
            *(self.list_name, *map(str, self.image)),
            "identical" if self.exact else "nearly identical",
            *(self.original_list, *map(str, self.original)),
            "left out" if self.left_out else "kept",
        )


HEAD = (
    *("list", "source", "part", "image", "is"),
    *("to_list", "to_source", "to_part", "to_image", "and_is"),
)


def list_copies(found: Iterable[Found], file: Path) -> None:
    """Add to a CSV file what it does not list yet; it is made when there is something to list.

    Raises `AmatuneError` when it cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    for one in found:
        table.writerow(map(csv_cell, one.row()))
    new = text.getvalue().splitlines()
    if not new:
        return
    try:
        listed = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        lines = dict.fromkeys([",".join(HEAD), *listed, *new])
        write_bytes(file, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise AmatuneError(f"cannot write {file}: {error.strerror}") from error


class Prints(NamedTuple):
    """What images are compared by."""

    digests: list[bytes]  # of their bytes
    small: torch.Tensor  # (N, 256) grey levels

    @classmethod
    def of(cls, images: Pixels) -> Self:
        """Those of uint8 images (N, C, H, W)."""
        digests = [hashlib.blake2b(image.tobytes()).digest() for image in images]
        return cls(digests, torch.from_numpy(fit(images, (1, SIDE, SIDE))).flatten(1).float())


def find_copies(originals: Prints, others: Prints) -> list[Copy]:
    """Which of `others` are, exactly or nearly, among `originals`.

    At most one entry for each of `others`, an exact one before a near one. Near means that,
    made grey and brought to 16 x 16 pixels, they differ by at most `NEAR` grey levels (root mean
    square), and by at most `SHARE` of what the pixels of one of them differ by: pictures of the
    same plain surface are not the same picture.
    """
    if not originals.digests or not others.digests:
        return []
    known = {digest: i for i, digest in enumerate(originals.digests)}
    distances, nearest = _nearest(originals.small, others.small)
    near = (distances <= NEAR) & (distances <= SHARE * others.small.std(dim=1, correction=0))
    found = []
    for i, digest in enumerate(others.digests):
        if digest in known:
            found.append(Copy(known[digest], i, exact=True))
        elif near[i]:
            found.append(Copy(int(nearest[i]), i, exact=False))
    return found


def find_all_copies(originals: Prints, others: Prints) -> list[Copy]:
    """Those of `others` that are copies of `originals`, or have a copy there: `find_copies` in both
    directions, at most one entry for each."""
    found = {copy.copy: copy for copy in find_copies(originals, others)}
    left = [row for row in range(len(others.digests)) if row not in found]
    while left:
        rest = Prints([others.digests[row] for row in left], others.small[left])
        more = {
            left[one.original]: Copy(one.copy, left[one.original], one.exact)
            for one in find_copies(rest, originals)
        }
        if not more:
            break
        found |= more
        left = [row for row in left if row not in more]
    return [found[row] for row in sorted(found)]


def group_copies(images: Prints) -> list[int]:
    """A number for each image, the same for those that are the same, or nearly, also by way of
    others."""
    group = list(range(len(images.digests)))

    def root(one: int) -> int:
        while group[one] != one:
            group[one] = group[group[one]]
            one = group[one]
        return one

    known: dict[bytes, int] = {}
    for row, digest in enumerate(images.digests):
        group[root(row)] = root(known.setdefault(digest, row))
    spread = SHARE * images.small.std(dim=1, correction=0)
    for start in range(0, len(images.small), _CHUNK):
        chunk = images.small[start : start + _CHUNK]
        # The fast formula loses digits where images are close: what may be near is looked at again.
        rough = torch.cdist(chunk, images.small, compute_mode="use_mm_for_euclid_dist") / SIDE
        rows, others = (rough <= 2 * NEAR).nonzero(as_tuple=True)
        distances = (chunk[rows] - images.small[others]).norm(dim=1) / SIDE
        least = torch.maximum(spread[start + rows], spread[others]).clamp(max=NEAR)
        for row, other in torch.stack([rows, others], 1)[distances <= least].tolist():
            group[root(start + row)] = root(other)
    return [root(one) for one in range(len(group))]


def _nearest(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each of `second` (M, 256), the least difference in grey levels to one of `first`, and
    where that is, (M,) each."""
    distances, nearest = [], []
    for start in range(0, len(second), _CHUNK):
        chunk = second[start : start + _CHUNK]
        least = torch.cdist(chunk, first, compute_mode="use_mm_for_euclid_dist").min(dim=1)
        # The fast formula loses digits where images are close, which is where they count.
        distances.append((chunk - first[least.indices]).norm(dim=1) / SIDE)
        nearest.append(least.indices)
    return torch.cat(distances), torch.cat(nearest)
