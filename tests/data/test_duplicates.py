"""Copies are found, exact and near; what merely has the same class is not one."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amatune.data.duplicates import Copy, Prints, find_copies
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.errors import DataError

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


PAIRS = [  # of lists on different sides
    *(("train_normals", other) for other in ("validation_normals", "validation_anomalies")),
    *((a, b) for a in ("test_normals", "test_anomalies") for b in ("train_normals",)),
    *((a, b) for a in ("test_normals", "test_anomalies") for b in ("validation_normals",)),
    *((a, b) for a in ("test_normals", "test_anomalies") for b in ("validation_anomalies",)),
]


def with_copies(path):
    """Pictures of which every fourth nearly is the one before, in both parts."""
    normal = photos(300).transpose(0, 2, 3, 1).copy()
    strange = photos(200).transpose(0, 2, 3, 1).copy()
    for images in (normal, strange):
        images[3::4] = np.clip(images[2::4].astype(int) + 2, 0, 255)
    order = RNG.permutation(300), RNG.permutation(200)
    normal, strange = normal[order[0]], strange[order[1]]
    np.savez(path / "good.npz", train_images=normal[:200], test_images=normal[200:])
    np.savez(path / "bad.npz", train_images=strange[:120], test_images=strange[120:])
    return {"dataset": f"npz:{path / 'good.npz'}", "ood": (f"npz:{path / 'bad.npz'}",)}


def test_near_copies_stay_on_one_side_when_asked_for(tmp_path):
    fields = with_copies(tmp_path)
    plain = make_problem(ProblemRequest(**fields))
    assert plain.duplicates(PAIRS)
    made = make_problem(ProblemRequest(**fields, keep_together="near-copies"))
    assert not made.test_opened
    assert made.duplicates(PAIRS) == []
    assert made.splits.test_normals == plain.splits.test_normals  # the test is the same
    assert made.splits.test_anomalies == plain.splits.test_anomalies
    for name, split in made.splits.by_name().items():
        before = getattr(plain.splits, name)
        assert {i for s in split for i in s.ids} <= {i for s in before for i in s.ids}
        assert sum(len(s.ids) for s in split) == len(made.images(name))
    assert any("train normals left out, copies of images on other" in w for w in made.warnings)
    again = type(made).from_dict(made.to_dict())
    assert again.splits == made.splits
    assert again.request.keep_together == "near-copies"


def test_what_to_keep_together_is_checked():
    with pytest.raises(DataError, match="keep_together must be 'near-copies', got 'twins'"):
        ProblemRequest(keep_together="twins")


def test_all_copies_are_listed_in_a_file(tmp_path):
    made = make_problem(ProblemRequest(**with_copies(tmp_path)))
    file = tmp_path / "near-copies.csv"
    made.list_copies(file)
    first = list(csv.DictReader(file.read_text().splitlines()))
    assert first
    assert {row["list"] for row in first} <= {"validation_normals", "validation_anomalies"}
    told = [warning for warning in made.warnings if "identical" in warning]
    assert told
    assert all(warning.endswith(f"; all are listed in {file}") for warning in told)
    assert sum(int(warning.split()[0]) for warning in told) == len(first)
    told = made.test_duplicates(file)
    assert all(warning.endswith(f"; all are listed in {file}") for warning in told)
    every = list(csv.DictReader(file.read_text().splitlines()))
    assert every[: len(first)] == first
    assert len(every) == len(first) + sum(int(warning.split()[0]) for warning in told)
    assert {row["and_is"] for row in every} == {"kept"}
    made.test_duplicates(file)
    assert list(csv.DictReader(file.read_text().splitlines())) == every


def test_without_copies_there_is_no_file(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        train_images=RNG.integers(0, 256, (100, 12, 12), dtype=np.uint8),
        test_images=RNG.integers(0, 256, (30, 12, 12), dtype=np.uint8),
    )
    request = ProblemRequest(dataset=f"npz:{tmp_path / 'a.npz'}", ood=("uniform-noise",))
    make_problem(request).list_copies(tmp_path / "near-copies.csv")
    assert not (tmp_path / "near-copies.csv").exists()
