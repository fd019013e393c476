"""Patches of scikit-learn's two photographs."""

import numpy as np

from amatune.data.dataset import BuiltIn, DatasetInfo
from amatune.data.sources.base import Source
from amatune.data.sources.embedded import EmbeddedSource


def _open() -> Source:
    """32 x 32 patches on a grid, none overlapping. Test part: 6 of the 20 columns of patches."""
    from sklearn.datasets import load_sample_image  # type: ignore[import-untyped]

    patches, labels, in_test = [], [], []
    for label in ("china", "flower"):
        photo = load_sample_image(f"{label}.jpg")  # (427, 640, 3)
        for top in range(0, photo.shape[0] - 31, 32):
            for left in range(0, photo.shape[1] - 31, 32):
                patches.append(photo[top : top + 32, left : left + 32].transpose(2, 0, 1))
                labels.append(label)
                in_test.append((left // 32) % 10 in (2, 5, 8))
    return EmbeddedSource("photos", np.stack(patches), labels, np.array(in_test))


DATASET = BuiltIn(
    DatasetInfo(
        name="photos",
        summary="patches of scikit-learn's two photographs; needs no download",
        image="3 x 32 x 32",
        train=364,
        test=156,
        classes=("china", "flower"),
        licence="CC BY 2.0",
        url="https://scikit-learn.org/stable/datasets/loading_other_datasets.html",
    ),
    _open,
)
