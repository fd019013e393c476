"""Folders of pictures: parts, classes, shapes, and each way one can be wrong."""

import errno
import os

import pytest
from pictures_on_disk import write_pictures

from amatune.data import pictures
from amatune.data.catalogue import open_source
from amatune.data.sources.base import PARTS
from amatune.data.sources.folder import FolderSource
from amatune.errors import DataError


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
    monkeypatch.setattr(FolderSource, "TOLERATED", 0)
    with pytest.raises(DataError, match="too many damaged pictures, 1 of 40"):
        open_source(f"folder:{tmp_path}").ids("train")
    monkeypatch.setattr(FolderSource, "TOLERATED_SHARE", 1 / 40)
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
