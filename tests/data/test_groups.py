"""Pictures that belong together stand on one side; manifests; and each way that can be wrong."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from pictures_on_disk import write_pictures
from PIL import Image

from amatune.data.duplicates import Prints, group_copies
from amatune.data.groups import is_grouping
from amatune.data.problem import Problem
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.errors import DataError

LISTS = (
    *("train_normals", "validation_normals", "validation_anomalies"),
    *("test_normals", "test_anomalies"),
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 good parts of 5 pictures, 30 bad ones of 3, and a manifest of all."""
    folder = tmp_path_factory.mktemp("parts")
    rows = []
    for kind, number, each in (("good", 40, 5), ("bad", 30, 3)):
        for part in range(number):
            name = f"{kind}/{kind}{part:02}"
            generator = np.random.default_rng([part, each])
            (folder / name).mkdir(parents=True)
            for shot in range(each):
                place = f"{name}/s{shot}.png"
                pixels = generator.integers(0, 256, (12, 12), np.uint8)
                Image.fromarray(pixels).save(folder / place)
                day = f"day{part % 20}"
                rows.append((place, kind, f"{kind}{part}", day, f"cam{shot % 2}"))
    with open(folder / "parts.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "group", "day", "camera"), *rows])
    return folder


def request(parts: Path, **values) -> ProblemRequest:
    return ProblemRequest(dataset=f"csv:{parts / 'parts.csv'}", normal_classes=("good",), **values)


def sides(problem: Problem) -> list[set[str]]:
    """The groups of what is learned from, chosen by and tested."""
    keys = {
        name: {key for one in split for key in one.groups}
        for name, split in problem.splits.by_name().items()
    }
    return [
        set.union(*(own for name, own in keys.items() if name.startswith(side)))
        for side in ("train", "validation", "test")
    ]


@pytest.mark.parametrize(
    ("grouping", "least"),
    [("column:group", 10), ("column:day", 3), ("name:(good|bad)[0-9]+", 0), ("folder", 10)],
)
def test_no_group_stands_on_two_sides(parts: Path, grouping: str, least: int) -> None:
    if not least:  # the first (...) is all there is of a name: two groups
        with pytest.raises(DataError, match=r"1 group \(good\), all in the .*: none is left to"):
            make_problem(request(parts, group_by=grouping))
        return
    problem = make_problem(request(parts, group_by=grouping, val_anomalies=20))
    learned, chosen, tested = sides(problem)
    assert not learned & chosen and not learned & tested and not chosen & tested  # noqa: PT018
    assert min(len(learned), len(tested)) >= least
    counts = problem.splits.counts()
    assert counts["train_normals"] >= 50
    assert counts["validation_anomalies"] >= 10
    known = Problem.from_dict(json.loads(json.dumps(problem.to_dict())))
    assert known.splits == problem.splits
    groups = known.groups("test")
    assert groups is not None
    assert list(map(len, groups)) == [counts["test_normals"], counts["test_anomalies"]]
    assert f"grouped by {grouping}, " in problem.describe()
    if grouping == "column:day":  # a day has good and bad pictures
        assert set(groups[0]) & set(groups[1])
        assert any("validation anomalies are of" in one for one in problem.warnings)
    again = make_problem(request(parts, group_by=grouping, val_anomalies=20))
    assert again.splits == problem.splits


def test_folders_and_names_are_keys_too(parts: Path) -> None:
    ours = ProblemRequest(
        dataset=f"folder:{parts / 'good'}", ood=(f"folder:{parts / 'bad'}",), group_by="folder:1"
    )
    problem = make_problem(ours)
    (tested,) = problem.splits.test_normals
    assert {one.split("/")[0] for one in map(str, tested.ids)} == set(tested.groups)
    named = make_problem(ProblemRequest(**{**ours.to_dict(), "ood": ours.ood,
        "test_ood": (), "normal_classes": (), "group_by": "name:^[a-z]+[0-9]+"}))  # fmt: skip
    assert named.splits == problem.splits


def test_groups_that_the_source_itself_divides_are_left_out_of_the_training(tmp_path: Path) -> None:
    for part, days in (("train", range(12)), ("test", range(10, 22))):
        for day in days:
            write_pictures(tmp_path / "set" / part / "good" / f"d{day}", 8, (12, 12))
            write_pictures(tmp_path / "set" / part / "bad" / f"d{day}", 2, (12, 12))
    problem = make_problem(
        ProblemRequest(
            dataset=f"folder:{tmp_path / 'set'}", normal_classes=("good",), group_by="folder:2"
        )
    )
    learned, chosen, tested = sides(problem)
    assert {"d10", "d11"} <= tested
    assert not tested & (learned | chosen)
    told = "20 images of the training part left out, their groups are in the test"
    assert told in problem.warnings


def test_near_copies_are_groups(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for kind, number in (("good", 60), ("bad", 30)):
        (tmp_path / kind).mkdir()
        for part in range(number):
            pixels = generator.integers(0, 256, (16, 16)).astype(int)
            for shot in range(3):
                near = np.clip(pixels + shot, 0, 255).astype(np.uint8)
                Image.fromarray(near).save(tmp_path / kind / f"{part}-{shot}.png")
    problem = make_problem(
        ProblemRequest(
            dataset=f"folder:{tmp_path / 'good'}",
            ood=(f"folder:{tmp_path / 'bad'}",),
            group_by="near-copies",
        )
    )
    for name in LISTS[1:]:
        (own,) = getattr(problem.splits, name)
        by_key: dict[str, set[str]] = {}
        for one, key in zip(own.ids, own.groups, strict=True):
            by_key.setdefault(key, set()).add(str(one).split("-")[0])
        assert all(len(shots) == 1 for shots in by_key.values())
        assert len(by_key) == len({part for shots in by_key.values() for part in shots})
    names = {
        name: {str(i).split("-")[0] for s in getattr(problem.splits, name) for i in s.ids}
        for name in ("train_normals", "validation_normals", "test_normals")
    }
    assert not names["train_normals"] & names["test_normals"]
    assert not names["train_normals"] & names["validation_normals"]


def test_copies_are_grouped_by_way_of_others() -> None:
    pixels = np.random.default_rng(0).integers(40, 200, (3, 1, 16, 16))
    images = np.concatenate([pixels, pixels[:1] + 3, pixels[:1] + 6]).astype(np.uint8)
    first, second, third, chained, last = group_copies(Prints.of(images))
    assert first == chained == last
    assert len({first, second, third}) == 3


# --- what cannot be done --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "folder:0", "folder:x", "name:", "name:(", "column:", "day", "near", 3]
)
def test_what_is_no_grouping(text: object) -> None:
    assert not is_grouping(text)
    with pytest.raises(DataError, match=r"group_by must be folder, folder:N"):
        ProblemRequest(group_by=text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("grouping", "told"),
    [
        ("column:lens", r"has no column 'lens' \(it has group, day, camera\)"),
        ("column:camera", "are of 2 groups|are of one group|none is left"),
        ("name:day", "a name in which 'day' finds nothing: for example bad/bad00/s0.png"),
        ("folder:5", "no such folder on the way"),
    ],
)
def test_groups_that_cannot_be_made(parts: Path, grouping: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        make_problem(request(parts, group_by=grouping))
    with pytest.raises(DataError, match="needs pictures with names"):
        make_problem(ProblemRequest(group_by="folder"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must begin with a heading"),
        ("label\na\n", "must begin with a heading"),
        ("path,path\na,b\n", "must begin with a heading"),
        ("path,label\n", "list pictures below"),
        ("path,label\na.png\n", "picture 1 has 1 columns; 2 and a path are expected"),
        ("path\na.png\na.png\n", "lists a.png twice"),
        ("path\na.png\n./x/../a.png\n", "lists ./x/../a.png twice"),
        ("path\na.png\n{folder}/a.png\n", "lists .*a.png twice"),
        ("path\na.png\nlink/a.png\n", "lists a.png twice"),
        ("path\na.png\nlinked.png\n", "lists a.png twice"),
        (f"path\n{'a' * 300}.png\n", "1 of 1 pictures that .* lists are not there"),
        ("path\nnone.png\n", "1 of 1 pictures that .* lists are not there, for example none.png"),
        ("path,split\na.png,val\n", "the split of a.png must be train or test, got 'val'"),
        ('path\n"a.png\n', "cannot be read"),
    ],
)
def test_manifests_that_are_wrong(tmp_path: Path, text: str, told: str) -> None:
    write_pictures(tmp_path, 1)
    (tmp_path / "000.png").rename(tmp_path / "a.png")
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "linked.png").symlink_to("a.png")
    text = text.replace("{folder}", str(tmp_path))
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=told):
        make_problem(ProblemRequest(dataset=f"csv:{tmp_path / 'list.csv'}", ood=("photos",)))


def test_a_manifest_says_parts_and_classes(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p", 120, (12, 12))
    rows = [
        (f"p/{n:03}.png", "a" if n % 3 else "b", "train" if n < 80 else "test") for n in range(120)
    ]
    with open(tmp_path / "list.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    problem = make_problem(
        ProblemRequest(dataset=f"csv:{tmp_path / 'list.csv'}", normal_classes=("a",))
    )
    (tested,) = problem.splits.test_normals
    assert list(tested.ids) == [p for p, kind, part in rows if kind == "a" and part == "test"]
    assert tested.groups == ()
    assert problem.groups("test") is None
    known = Problem.from_dict(json.loads(json.dumps(problem.to_dict())))
    assert known.splits == problem.splits
