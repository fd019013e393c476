"""Copies are found, exact and near; what merely has the same class is not one."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amatune.data.duplicates import Copy, Prints, find_copies
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest

SHARED = Path(__file__).parents[3] / "shared" / "data"
RNG = np.random.default_rng(0)


def copies(originals, others):
    return find_copies(Prints.of(originals), Prints.of(others))


def photos(count=40, side=32):
    """Smooth colour pictures, (N, 3, side, side)."""
    coarse = RNG.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    if not count:
        return np.empty((0, 3, side, side), np.uint8)
    large = [Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in coarse]
    return np.stack([np.asarray(one).transpose(2, 0, 1) for one in large])


def as_jpeg(image, quality=70):
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


def test_exact_and_near_copies_are_told_apart():
    images = photos()
    others = photos(6)
    others[1] = images[7]
    others[3] = as_jpeg(images[9])
    others[4] = np.clip(images[30].astype(int) + 2, 0, 255)
    assert copies(images, others) == [
        Copy(7, 1, exact=True),
        Copy(9, 3, exact=False),
        Copy(30, 4, exact=False),
    ]


def test_nothing_is_no_copy():
    assert copies(photos(0), photos(3)) == copies(photos(3), photos(0)) == []


def test_more_images_than_fit_a_chunk():
    images = photos(1300)
    assert copies(images[:3], images) == [Copy(i, i, exact=True) for i in range(3)]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the sample data in {SHARED}")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_images_of_one_class_are_not_taken_for_copies(name):
    with np.load(SHARED / f"{name}.npz") as arrays:
        train, test = (arrays[f"{part}_images"] for part in ("train", "test"))
    if train.ndim == 3:
        train, test = train[..., None], test[..., None]
    found = copies(train.transpose(0, 3, 1, 2), test.transpose(0, 3, 1, 2))
    assert len(found) < 0.005 * len(test)


def test_near_copies_across_splits_are_reported(tmp_path):
    images = RNG.integers(0, 200, (200, 12, 12), dtype=np.uint8)
    tests = RNG.integers(0, 200, (60, 12, 12), dtype=np.uint8)
    tests[5:15] = images[20:30] + 1
    np.savez(tmp_path / "a.npz", train_images=images, test_images=tests)
    path = f"npz:{tmp_path / 'a.npz'}"
    made = make_problem(ProblemRequest(dataset=path, ood=("uniform-noise",)))
    near = " ".join(made.test_duplicates())
    assert "test normals are nearly identical to train normals, for example" in near
