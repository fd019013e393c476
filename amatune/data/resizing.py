"""The one rule by which pictures are resized: in training, in scoring and in the ONNX form.

Bilinear with antialiasing to exactly (H, W): a pixel of the result is a mean of pixels, weighted by
a triangle as wide as two pixels of the result, or of the picture where that is larger. First along
the width, then along the height, rounded to bytes after each. Pillow does the same, of tall
pictures the height first; here and there a value differs from Pillow's by 1.

All of it is arithmetic of whole numbers: a weight is a whole number of 1/65,536, those of a pixel
add up to 65,536, and so no sum exceeds 2^24, up to which float32 is exact. Whoever computes it,
NumPy, ONNX Runtime or another engine in IEEE float32, in whatever order, gets the same bytes.

Rule 1, that of amatune 0.1, let torch interpolate in floating point and rounded once; its rounding
depended on the order of additions. What was exported by it is scored by it: `resize_by`.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Resizing = Callable[[Pixels, tuple[int, int]], Pixels]  # uint8 (N, C, h, w), (H, W) -> (N, C, H, W)

RULE = 2  # the newest, by which everything is trained
ONE = 65_536  # what the weights of a pixel add up to

_BLOCK = 32  # pixels of the result computed at once: few of the picture's lie under their triangles
_MOST_WEIGHTS = 2**22  # of a block
# Of numbers at once: what is read stays in the processor's cache, and NumPy multiplies matrices of
# that size with one thread. Several read pictures already, which would wait for each other.
_PRODUCTS = 2**18


def resize_by(rule: int) -> Resizing:
    """How pictures are resized by that rule, 1 or 2."""
    return resize_in_floats if rule == 1 else resize


def resize(images: Pixels, size: tuple[int, int]) -> Pixels:
    """uint8 (N, C, h, w) to uint8 (N, C, *size)."""
    height, width = size
    narrowed = _along_last(images, width)
    return np.ascontiguousarray(_along_last(narrowed.swapaxes(2, 3), height).swapaxes(2, 3))


def weights(before: int, after: int) -> NDArray[np.float32]:
    """(after, before): the weights of the picture's pixels for each pixel of the result, whole
    numbers that add up to `ONE`."""
    return _weights(range(after), range(before), before, after)


def _weights(own: range, under: range, before: int, after: int) -> NDArray[np.float32]:
    """The same for the pixels `own` of the result, and the picture's that lie `under` them.

    The distance of two pixels' centres, in units that make it a whole number, is taken from half
    the triangle's width; the sums of these from the left on become shares of `ONE`, rounded, and a
    weight is what a pixel adds.
    """
    centres = (2 * np.asarray(own) + 1)[:, None] * before
    gaps = np.abs((2 * np.asarray(under) + 1) * after - centres)
    heights = np.maximum(0, 2 * max(before, after) - gaps)
    sums = heights.cumsum(axis=1)
    total = sums[:, -1:]
    return (_shares(sums, total) - _shares(sums - heights, total)).astype(np.float32)


def _shares(sums: NDArray[np.int64], total: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of `ONE`, rounded up from a half on."""
    return (2 * ONE * sums + total) // (2 * total)


def _along_last(images: Pixels, after: int) -> Pixels:
    """uint8 (..., before) to uint8 (..., after)."""
    *others, before = images.shape
    if before == after:
        return images
    rows = np.ascontiguousarray(images).reshape(-1, before)
    found = np.empty((len(rows), after), np.uint8)
    for own, under, shares in _blocks(before, after):
        step = max(1, _PRODUCTS // shares.size)
        for start in range(0, len(rows), step):
            part = rows[start : start + step, under.start : under.stop]
            sums = part.astype(np.float32) @ shares
            sums += ONE // 2
            sums *= 1 / ONE  # exact: a power of 2
            found[start : start + step, own.start : own.stop] = sums  # rounded down
    return found.reshape(*others, after)


def _blocks(before: int, after: int) -> Iterator[tuple[range, range, NDArray[np.float32]]]:
    """Some pixels of the result, the picture's that lie under their triangles, and the weights,
    (under, own)."""
    reach = 2 * max(before, after)
    step = max(1, min(_BLOCK, _MOST_WEIGHTS // (reach // after + 2)))
    for first in range(0, after, step):
        own = range(first, min(first + step, after))
        low = max(0, ((2 * own[0] + 1) * before - reach) // (2 * after))
        high = min(before, ((2 * own[-1] + 1) * before + reach) // (2 * after) + 1)
        under = range(low, high)
        yield own, under, np.ascontiguousarray(_weights(own, under, before, after).T)


def resize_in_floats(images: Pixels, size: tuple[int, int]) -> Pixels:
    """Rule 1, for exports of amatune 0.1: uint8 (N, C, h, w) to uint8 (N, C, *size)."""
    import torch  # here, since nothing else needs it to read pictures

    resized = np.empty((*images.shape[:2], *size), np.uint8)
    for start in range(0, len(images), 512):
        chunk = torch.from_numpy(images[start : start + 512].astype(np.float32))
        smooth = torch.nn.functional.interpolate(
            chunk, size, mode="bilinear", antialias=True, align_corners=False
        )
        resized[start : start + 512] = smooth.round_().clamp_(0, 255).to(torch.uint8).numpy()
    return resized
