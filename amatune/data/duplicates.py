"""Images that are in two places: exact copies, and those that only look like it.

A picture saved again as JPEG, resized or a little brighter is still the same picture. Where one
lies in the training part and one in the test part, the test is easier than it should be.
"""

import hashlib
from typing import NamedTuple, Self

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
