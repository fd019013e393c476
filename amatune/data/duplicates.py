"""Images that are in two places: exact copies, and those that only look like it.

A picture saved again as JPEG, resized or a little brighter is still the same picture. Where one
lies in the training part and one in the test part, the test is easier than it should be.
"""

import hashlib
from typing import NamedTuple

import torch

from amatune.data.pictures import Pixels, fit

SIDE = 16  # pixels; images are compared at this size, in grey
NEAR = 4.0  # root mean square difference in grey levels, of 255
SHARE = 0.2  # of the standard deviation of an image's grey levels
_CHUNK = 512


class Copy(NamedTuple):
    """Positions of two images that are the same, or nearly."""

    original: int
    copy: int
    exact: bool


def find_copies(originals: Pixels, others: Pixels) -> list[Copy]:
    """Which of `others` (M, C, H, W) are, exactly or nearly, in `originals` (N, C, H, W); uint8.

    At most one entry for each of `others`, an exact one before a near one. Near means that,
    made grey and brought to 16 x 16 pixels, they differ by at most `NEAR` grey levels (root mean
    square), and by at most `SHARE` of what the pixels of one of them differ by: pictures of the
    same plain surface are not the same picture.
    """
    if not len(originals) or not len(others):
        return []
    known = {digest: i for i, digest in enumerate(_digests(originals))}
    first, second = _small(originals), _small(others)
    distances, nearest = _nearest(first, second)
    near = (distances <= NEAR) & (distances <= SHARE * second.std(dim=1, correction=0))
    found = []
    for i, digest in enumerate(_digests(others)):
        if digest in known:
            found.append(Copy(known[digest], i, exact=True))
        elif near[i]:
            found.append(Copy(int(nearest[i]), i, exact=False))
    return found


def _digests(images: Pixels) -> list[bytes]:
    return [hashlib.blake2b(image.tobytes()).digest() for image in images]


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


def _small(images: Pixels) -> torch.Tensor:
    """(N, C, H, W) -> (N, 256) grey levels."""
    return torch.from_numpy(fit(images, (1, SIDE, SIDE))).flatten(1).float()
