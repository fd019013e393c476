"""The anomalies of ODIN: found packed or not, else the user is told what to put where."""

import dataclasses

import pytest
from fake_sets import lay, odin_files, tarred, zipped

from amatune.data.catalogue import find_dataset, open_source
from amatune.data.dataset import Presence
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.data.sources.base import PARTS
from amatune.errors import DataError


def check_odin(source):
    assert source.name == "isun"
    assert source.image_shape is None
    assert source.class_names == ()
    assert list(source.labels("train")) == []
    counts = [len(source.ids(part)) for part in PARTS]
    assert sum(counts) == 100
    assert 15 < counts[1] < 45
    images, _ = source.read("test", source.ids("test")[:2], (1, 28, 28))
    assert images.shape == (2, 1, 28, 28)


@pytest.mark.parametrize(
    ("archive", "pack", "folder"),
    [
        (None, None, "iSUN"),
        ("iSUN.tar.gz", tarred, "iSUN"),
        ("iSUN.tgz", tarred, "."),
        ("iSUN.zip", zipped, "iSUN"),
        ("iSUN.zip", zipped, "."),
    ],
)
def test_odin_sets_are_found_packed_or_not(archive, pack, folder, root):
    files = odin_files(folder)
    lay(root, {archive: pack(files)} if archive else files)
    found = Presence(state="complete", place=root / (archive or "iSUN"), verified=False)
    assert find_dataset("isun") == found
    check_odin(open_source("isun"))
    assert find_dataset("isun") == dataclasses.replace(found, place=root / "iSUN")
    check_odin(open_source("isun"))


def test_what_cannot_be_verified_is_said(root):
    lay(root, odin_files())
    problem = make_problem(ProblemRequest(ood=("isun",)))
    told = [one for one in problem.warnings if "isun" in one]
    assert told == [
        "isun is used as it lies in iSUN: there is no checksum to verify it by, and it "
        "has 100 pictures, the published set 8,925"
    ]


def test_a_missing_odin_set_says_which_file_to_put_where(root):
    with pytest.raises(
        DataError, match=rf"get iSUN\.tar\.gz from https://\S+ and put it into {root}"
    ):
        open_source("isun")
    found = find_dataset("isun")
    assert (found.state, found.files, found.by_hand) == ("missing", ("iSUN.tar.gz",), True)


def test_odin_sets_cannot_be_the_normal_set(root):
    lay(root, odin_files())
    with pytest.raises(DataError, match="isun cannot be the normal set"):
        make_problem(ProblemRequest(dataset="isun", ood=("uniform-noise",)))
