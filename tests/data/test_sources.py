"""Every source: parts, classes, shapes, laziness, and each way its files can be wrong."""

import errno
import os

import numpy as np
import pytest
from pictures_on_disk import corrupt_member, write_npz, write_pictures

from amatune.data import pictures, sources
from amatune.data.sources import PARTS, find_dataset, list_datasets, open_source
from amatune.errors import DataError

RNG = np.random.default_rng(0)


# Named sets


@pytest.mark.parametrize(
    "info", [i for i in list_datasets() if find_dataset(i.name).state == "built in"]
)
def test_named_sets_are_as_listed(info):
    source = open_source(info.name)
    assert source.name == info.name
    assert len(source.ids("train")) == info.train
    assert len(source.ids("test")) == info.test
    assert source.class_names == info.classes
    shape = source.image_shape
    assert info.image == ("as the normal set" if shape is None else "{} x {} x {}".format(*shape))
    shape = shape or (1, 9, 8)
    images, ids = source.read("train", source.ids("train")[:3], shape)
    assert images.shape == (3, *shape)
    assert images.dtype == np.uint8
    assert ids == list(source.ids("train")[:3])


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    original = load_digits()
    source = open_source("digits")
    for part in PARTS:
        ids = list(source.ids(part))
        assert [int(label) for label in source.labels(part)] == original.target[ids].tolist()
        images, _ = source.read(part, ids, (1, 28, 28))
        coarse = images[:, 0, 1::4, 1::4][:, :7, :7].astype(float)  # roughly the 8 x 8 again
        small = original.images[ids][:, :7, :7] * 255 / 16
        assert np.corrcoef(coarse.ravel(), small.ravel())[0, 1] > 0.8
    together = sorted([*source.ids("train"), *source.ids("test")])
    assert together == list(range(1797))
    for digit in source.class_names:
        share = source.labels("test").count(digit) / (original.target == int(digit)).sum()
        assert share == pytest.approx(0.3, abs=0.02)


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


def test_noise_has_the_stated_distribution_and_never_changes():
    uniform, _ = open_source("uniform-noise").read("train", range(100), (3, 20, 20))
    assert uniform.mean() == pytest.approx(127.5, abs=1.5)
    assert uniform.std() == pytest.approx(255 / 12**0.5, abs=1)
    gaussian, _ = open_source("gaussian-noise").read("train", range(100), (3, 20, 20))
    assert (gaussian == 0).mean() == pytest.approx(0.31, abs=0.01)  # P(N(.5, 1) < 0)
    assert (gaussian == 255).mean() == pytest.approx(0.31, abs=0.01)
    for name in ("uniform-noise", "gaussian-noise"):
        source = open_source(name)
        one, _ = source.read("train", [7], (1, 8, 8))
        again, _ = source.read("train", [3, 7], (1, 8, 8))
        assert (one[0] == again[1]).all()
        assert (one != source.read("test", [7], (1, 8, 8))[0]).any()


# Names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", r"unknown data set 'digit'; did you mean 'digits'\?"),
        ("zzz", r"known: celeba, cifar10, .*, digits, .*, folder:PATH, .*, npz:PATH, "),
        ("", "unknown data set ''"),
        ("folder:", "lacks its path: write folder:PATH"),
        ("npz:", "lacks its path"),
        ("s3:bucket", "unknown data set"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(DataError, match=message):
        open_source(name)


def test_a_bare_path_is_told_its_prefix(tmp_path):
    path = write_npz(tmp_path / "x.npz")
    with pytest.raises(DataError, match=f"write npz:{path}"):
        open_source(str(path))
    with pytest.raises(DataError, match=f"write folder:{tmp_path}"):
        open_source(str(tmp_path))


def test_home_and_relative_paths_are_made_absolute(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "x.npz")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert open_source("npz:~/x.npz").name == open_source("npz:x.npz").name == f"npz:{path}"


# Archives


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
        ({"train_labels": np.array([{}] * 60, object)}, "cannot read train_labels"),
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


# Folders


def test_folder_without_parts_is_split_by_content(tmp_path):
    write_pictures(tmp_path / "a", 200)
    before = open_source(f"folder:{tmp_path / 'a'}")
    parts = {part: list(before.ids(part)) for part in PARTS}
    assert len(parts["test"]) == pytest.approx(60, abs=25)
    assert not set(parts["train"]) & set(parts["test"])

    write_pictures(tmp_path / "a" / "more", 20)
    after = open_source(f"folder:{tmp_path / 'a'}")
    for part in PARTS:
        assert [one for one in after.ids(part) if "/" not in str(one)] == parts[part]
    # A copy under any name joins its original, so that no copy crosses the parts.
    original = tmp_path / "a" / str(parts["test"][0])
    (tmp_path / "a" / "zzz.png").write_bytes(original.read_bytes())
    assert "zzz.png" in open_source(f"folder:{tmp_path / 'a'}").ids("test")


def test_class_folders(tmp_path):
    write_pictures(tmp_path / "good", 20)
    write_pictures(tmp_path / "bad" / "very", 10)
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == ("bad", "good")
    for part in PARTS:
        labels = dict(zip(source.ids(part), source.labels(part), strict=True))
        assert all(str(one).startswith(label) for one, label in labels.items())
    write_pictures(tmp_path, 1)
    loose = open_source(f"folder:{tmp_path}")
    assert loose.class_names == ()
    assert loose.why_no_classes == "not every picture lies in a class folder, see 000.png"


def test_train_and_test_folders(tmp_path):
    write_pictures(tmp_path / "train" / "good", 5)
    write_pictures(tmp_path / "test" / "good", 3)
    write_pictures(tmp_path / "test" / "broken", 2)
    write_pictures(tmp_path / "ground_truth" / "broken", 2)
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == ("broken", "good")
    assert source.ids("train") == [f"train/good/00{i}.png" for i in range(5)]
    assert source.labels("test") == ["broken"] * 2 + ["good"] * 3


@pytest.mark.parametrize(("present", "absent"), [("train", "test"), ("test", "train")])
def test_one_part_alone_is_refused(tmp_path, present, absent):
    write_pictures(tmp_path / present, 3)
    (tmp_path / absent).mkdir()
    with pytest.raises(DataError, match=f"pictures in {present}/ but none in {absent}/"):
        open_source(f"folder:{tmp_path}").ids("train")


def test_shape_is_decided_by_the_training_part(tmp_path):
    write_pictures(tmp_path / "train", 3, (20, 30))
    write_pictures(tmp_path / "test", 2, (50, 40), "RGB")
    source = open_source(f"folder:{tmp_path}")
    assert source.image_shape == (1, 20, 30)
    images, _ = source.read("test", source.ids("test"), (1, 20, 30))
    assert images.shape == (2, 1, 20, 30)


@pytest.mark.parametrize("damage", [b"not a picture", None])
def test_damaged_pictures_are_passed_over_while_few(tmp_path, damage):
    """None cuts a picture short, which its header does not show; text has no header at all."""
    write_pictures(tmp_path, 40)
    for count, name in enumerate([f"{i:03}.png" for i in range(6)], start=1):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:300] if damage is None else damage)
        source = open_source(f"folder:{tmp_path}")

        def read_all(source=source):
            shape = source.image_shape
            return [source.read(p, source.ids(p), shape) for p in PARTS]

        if count <= 5:
            read = read_all()
            assert sum(len(images) for images, _ in read) == 40 - count
            assert all(len(images) == len(ids) for images, ids in read)
            assert len(source.unreadable) == count
        else:
            with pytest.raises(
                DataError, match=r"too many damaged pictures, 6 of 40 .*00[0-5]\.png"
            ):
                read_all()


def test_one_percent_of_a_large_folder_may_be_damaged(monkeypatch, tmp_path):
    write_pictures(tmp_path, 40)
    (tmp_path / "000.png").write_text("x")
    monkeypatch.setattr(sources._FolderSource, "TOLERATED", 0)
    with pytest.raises(DataError, match="too many damaged pictures, 1 of 40"):
        open_source(f"folder:{tmp_path}").ids("train")
    monkeypatch.setattr(sources._FolderSource, "TOLERATED_SHARE", 1 / 40)
    assert open_source(f"folder:{tmp_path}").ids("train")


@pytest.mark.parametrize(
    ("most", "passes", "told"),
    [
        (0, 0, "up to 0 are"),
        (2, 2, "up to 2 are"),
        (0.1, 4, "up to 0.1 of all are"),
        (20.0, 20, "up to 20 are"),
    ],
)
def test_how_many_may_be_damaged_is_the_users_choice(tmp_path, most, passes, told):
    write_pictures(tmp_path, 40)
    for number in range(passes + 1):
        source = open_source(f"folder:{tmp_path}")
        source.max_broken = most
        assert len(source.ids("train")) + len(source.ids("test")) == 40 - number
        assert len(source.unreadable) == number
        (tmp_path / f"{number:03}.png").write_text("x")
    source = open_source(f"folder:{tmp_path}")
    source.max_broken = most
    with pytest.raises(DataError, match=rf"{passes + 1} of 40 \({told}.*--max-broken.*000\.png"):
        source.ids("train")


def test_a_link_to_nowhere_is_a_damaged_picture(tmp_path):
    write_pictures(tmp_path, 40)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    source = open_source(f"folder:{tmp_path}")
    assert len(source.ids("train")) + len(source.ids("test")) == 40
    assert list(source.unreadable) == ["gone.png"]
    assert "no such file" in source.unreadable["gone.png"]


def test_one_picture_alone_is_in_one_part(tmp_path):
    write_pictures(tmp_path, 1)
    source = open_source(f"folder:{tmp_path}")
    assert sorted([*source.ids("train"), *source.ids("test")]) == ["000.png"]
    assert source.image_shape


def test_copies_of_one_picture_are_refused(tmp_path):
    write_pictures(tmp_path, 1)
    for number in range(1, 100):
        (tmp_path / f"{number}.png").write_bytes((tmp_path / "000.png").read_bytes())
    with pytest.raises(DataError, match=r"all 100 pictures of folder:.* are copies of one"):
        open_source(f"folder:{tmp_path}").ids("train")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission_is_named(tmp_path):
    write_pictures(tmp_path / "closed", 3)
    (tmp_path / "closed").chmod(0)
    try:
        for folder in (tmp_path, tmp_path / "closed"):
            with pytest.raises(DataError, match=r"cannot list folder .*closed: Permission denied"):
                open_source(f"folder:{folder}")
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    write_pictures(tmp_path, 3)

    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=f"cannot list folder {tmp_path}: Permission denied"):
        open_source(f"folder:{tmp_path}")


def test_a_bomb_among_pictures_is_passed_over(tmp_path, monkeypatch):
    write_pictures(tmp_path, 40)
    write_pictures(tmp_path / "huge", 1, (100, 100))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 9_999)
    source = open_source(f"folder:{tmp_path}")
    assert len(source.ids("train")) + len(source.ids("test")) == 40
    assert "more than 9,999 pixels" in source.unreadable["huge/000.png"]


def test_a_folder_of_texts_named_like_pictures_has_none(tmp_path):
    for number in range(60):
        (tmp_path / f"{number}.jpg").write_text("Dear diary,")
    with pytest.raises(DataError, match=r"no readable picture: .*0\.jpg: not a picture"):
        open_source(f"folder:{tmp_path}").ids("train")


def test_unusable_folders(tmp_path):
    with pytest.raises(DataError, match=r"must name a folder, but .*gone does not exist"):
        open_source(f"folder:{tmp_path / 'gone'}")
    with pytest.raises(DataError, match=r"no pictures in .*accepted"):
        open_source(f"folder:{tmp_path}")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"no pictures in .*accepted"):
        open_source(f"folder:{tmp_path}")
    with pytest.raises(DataError, match="is a file"):
        open_source(f"folder:{tmp_path / 'notes.txt'}")
    (tmp_path / "x.png").write_text("x")
    with pytest.raises(DataError, match="has no readable picture"):
        open_source(f"folder:{tmp_path}").ids("train")
