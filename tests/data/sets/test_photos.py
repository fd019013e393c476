"""scikit-learn's photographs."""

import numpy as np

from amatune.data.catalogue import open_source
from amatune.data.sources.base import PARTS


def test_photo_patches_tile_the_photographs_without_overlap():
    from sklearn.datasets import load_sample_image

    source = open_source("photos")
    patches = {}
    for part in PARTS:
        images, ids = source.read(part, source.ids(part), (3, 32, 32))
        patches |= dict(zip(ids, images, strict=True))
    for number, name in enumerate(("china", "flower")):
        grid = np.stack([patches[number * 260 + i] for i in range(260)]).reshape(13, 20, 3, 32, 32)
        rebuilt = grid.transpose(0, 3, 1, 4, 2).reshape(416, 640, 3)
        assert (rebuilt == load_sample_image(f"{name}.jpg")[:416]).all()
