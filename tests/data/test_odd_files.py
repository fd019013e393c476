"""What may lie in a data folder beside pictures: pipes, devices, names that are no text."""

import json
import os

import pytest
from pictures_on_disk import write_pictures

from amatune.data.catalogue import open_source
from amatune.data.problem import Problem
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.errors import DataError
from amatune.files import write_json

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a file system that takes any name")


def test_pipes_and_devices_are_damaged_pictures(tmp_path):
    folder = write_pictures(tmp_path / "x", 20)
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    source = open_source(f"folder:{folder}")
    assert len([*source.ids("train"), *source.ids("test")]) == 20
    assert set(source.unreadable) == {"pipe.png", "zero.png"}
    assert all("it is not a regular file" in why for why in source.unreadable.values())


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_an_archive_that_is_no_file_is_refused(tmp_path, make):
    make(path := tmp_path / "x.npz")
    with pytest.raises(DataError, match="it is not a regular file"):
        open_source(f"npz:{path}")


def test_names_that_are_no_text_are_names_like_others(tmp_path):
    write_pictures(tmp_path / "good", 100)
    write_pictures(tmp_path / "bad", 100)
    for kind in ("good", "bad"):
        for number in range(30):
            path = tmp_path / kind / f"{number:03}.png"
            path.rename(os.fsdecode(os.fsencode(path)[:-7] + b"\xff%d.png" % number))
    odd = tmp_path / "good" / os.fsdecode(b"broken\xfe.png")
    odd.write_bytes(b"x")
    request = ProblemRequest(dataset=f"folder:{tmp_path}", normal_classes=("good",))
    problem = make_problem(request)
    (warning,) = problem.list_damaged(tmp_path / "broken.txt")
    assert "broken\\xfe.png" in warning
    assert "broken\\xfe.png" in (tmp_path / "broken.txt").read_text()
    write_json(tmp_path / "x.json", problem.to_dict())
    again = Problem.from_dict(json.loads((tmp_path / "x.json").read_text()))
    assert again.splits == problem.splits
    normals, anomalies = again.test_images()
    assert len(normals)
    assert len(anomalies)
