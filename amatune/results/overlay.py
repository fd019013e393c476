"""Where pictures look anomalous, in red over them, and where they are, as an outline."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_RED = np.array([255, 0, 0], np.float32).reshape(1, 3, 1, 1)
_CYAN = np.array([0, 255, 255], np.uint8).reshape(3, 1)
_OPACITY = 0.6  # where a map is highest
_THIN = 128  # pixels of the longer side for each pixel of an outline's width


def shares_of(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps (N, H, W) brought to [0, 1], the lowest and the highest value of all of them."""
    lowest, highest = float(maps.min()), float(maps.max())
    shares: NDArray[np.float32] = (maps - lowest) / max(highest - lowest, 1e-12)
    return shares


def overlaid(images: Pixels, shares: NDArray[np.float32]) -> Pixels:
    """Images (N, 1 or 3, H, W) with shares (N, H, W) in red over them: (N, 3, H, W)."""
    mixed = images + _OPACITY * shares[:, None] * (_RED - images)
    return np.round(mixed).astype(np.uint8)


def outline(images: Pixels, masks: Sequence[NDArray[np.bool_] | None]) -> None:
    """Draw the borders of masks (H, W) into colour images (N, 3, H, W), just outside of them; along
    the edge of a picture inside."""
    from scipy import ndimage  # here, since maps alone are drawn without it

    width = max(1, round(max(images.shape[2:]) / _THIN))
    for image, mask in zip(images, masks, strict=True):
        if mask is None or not mask.any():
            continue
        around = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=width) & ~mask
        edge = np.ones_like(mask)
        edge[width:-width, width:-width] = False
        image[:, around | (edge & mask)] = _CYAN
