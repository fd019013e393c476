"""Arrays in NumPy archives: shapes, classes, laziness, and each way one can be wrong."""

import numpy as np
import pytest
from pictures_on_disk import RNG, corrupt_member, write_npz

from amatune.data.catalogue import open_source
from amatune.errors import DataError


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [((10, 9), (1, 10, 9)), ((10, 9, 1), (1, 10, 9)), ((10, 9, 3), (3, 10, 9))],
)
def test_archive_shapes(tmp_path, shape, image_shape):
    path = write_npz(tmp_path / "x.npz", shape=shape)
    source = open_source(f"npz:{path}")
    assert source.image_shape == image_shape
    assert (len(source.ids("train")), len(source.ids("test"))) == (60, 30)
    images, _ = source.read("test", [5, 2], image_shape)
    stored = np.load(path)["test_images"].reshape(30, 10, 9, -1)
    assert (images == stored[[5, 2]].transpose(0, 3, 1, 2)).all()


def test_archive_classes(tmp_path):
    numbers = write_npz(tmp_path / "n.npz", train_labels=np.arange(60) % 12, n=(60, 30))
    assert open_source(f"npz:{numbers}").class_names == tuple(map(str, range(12)))
    text = {f"{p}_labels": np.array(["cat", "dog"] * k) for p, k in (("train", 30), ("test", 15))}
    named = write_npz(tmp_path / "t.npz", **text)
    assert open_source(f"npz:{named}").class_names == ("cat", "dog")
    without = open_source(f"npz:{write_npz(tmp_path / 'w.npz', labels=False)}")
    assert without.class_names == ()
    assert without.why_no_classes == "it has no train_labels and no test_labels"
    half = open_source(f"npz:{write_npz(tmp_path / 'h.npz', test_labels=None)}")
    assert half.why_no_classes == "it has no test_labels"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_test_part_does_not_disturb_the_training_part(tmp_path, save):
    path = tmp_path / "x.npz"
    images = RNG.integers(0, 256, (60, 20, 20), np.uint8)
    save(path, train_images=images, test_images=images[::-1])
    corrupt_member(path, "test_images.npy")
    source = open_source(f"npz:{path}")
    assert (source.read("train", [3], (1, 20, 20))[0][0, 0] == images[3]).all()
    assert len(source.ids("test")) == 60
    source.record({"train": [1], "test": [2]})
    with pytest.raises(DataError, match=r"cannot read test_images of .*x\.npz"):
        source.read("test", [3], (1, 20, 20))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_images": None}, "no 'test_images', it holds train_images"),
        (
            {"train_images": np.zeros((60, 10, 9))},
            r"train_images is float64 of shape \(60, 10, 9\)",
        ),
        ({"train_images": np.zeros((60, 90), np.uint8)}, r"of shape \(60, 90\); .*\(N, H, W, C\)"),
        ({"train_images": np.zeros((60, 3, 10, 9), np.uint8)}, "C 1 or 3"),
        ({"train_images": np.zeros((60, 7, 9), np.uint8)}, "at least 8 pixels"),
        ({"train_images": np.zeros((0, 10, 9), np.uint8)}, "no images in it"),
        ({"train_images": np.zeros((60, 10, 12), np.uint8)}, "same height, width and channels"),
        ({"train_images": np.array([{}], object)}, "train_images is object"),
        ({"train_labels": np.zeros(59, int)}, r"train_labels is int64 of shape \(59,\)"),
        ({"test_labels": np.zeros(30)}, "test_labels is float64"),
        ({"train_labels": np.array([{}] * 60, object)}, "train_labels is object"),
        ({"test_labels": np.array(["a"] * 29 + ["b" * 257])}, "at most 256 letters"),
    ],
)
def test_unusable_archives(tmp_path, changes, message):
    path = write_npz(tmp_path / "x.npz", **changes)
    with pytest.raises(DataError, match=message) as caught:
        open_source(f"npz:{path}")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 broken"])
def test_files_that_are_no_archive(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match="damaged or no NumPy archive"):
        open_source(f"npz:{tmp_path / 'x.npz'}")
    with pytest.raises(DataError, match="no such file"):
        open_source(f"npz:{tmp_path / 'y.npz'}")
    with pytest.raises(DataError, match="cannot read"):
        open_source(f"npz:{tmp_path}")


def test_labels_are_judged_before_they_are_read(tmp_path, monkeypatch):
    """Packed, a small file can hold labels that fill the memory."""
    images = RNG.integers(0, 256, (60, 10, 9), np.uint8)
    long = np.array(["a", "b" * 100_000] * 30)
    many = np.zeros(10**6, np.uint8)
    for labels in (long, many):
        arrays = {"train_images": images, "test_images": images, "test_labels": np.arange(60)}
        np.savez_compressed(tmp_path / "x.npz", **arrays, train_labels=labels)
        with monkeypatch.context() as patch:
            patch.setattr(np, "load", lambda *_, **__: pytest.fail("it was read"))
            with pytest.raises(DataError, match="whole numbers or text of at most 256 letters"):
                open_source(f"npz:{tmp_path / 'x.npz'}")
