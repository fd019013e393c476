"""Published factory pictures in their own layouts: parts, kinds, masks, each way to be wrong."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from pictures_on_disk import write_pictures
from PIL import Image

from amatune.data.catalogue import open_source
from amatune.data.pictures import read_mask
from amatune.data.problem import Problem
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.data.sources.base import PARTS
from amatune.data.survey import survey
from amatune.errors import DataError
from amatune.results.leaderboard import anomaly_groups

SIZE = (20, 24)


def write_mask(file, places, size=SIZE, value=255):
    """A mask with one square of 4 pixels a side for each place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size, np.uint8)
    for row, column in places:
        pixels[row : row + 4, column : column + 4] = value
    Image.fromarray(pixels).save(file)


def write_bottle(root, train=60, good=12, kinds=(("crack", 11), ("dent", 10))):
    """An object in MVTec's layout."""
    write_pictures(root / "train" / "good", train, SIZE)
    write_pictures(root / "test" / "good", good, SIZE)
    for kind, count in kinds:
        write_pictures(root / "test" / kind, count, SIZE)
        for number in range(count):
            write_mask(root / "ground_truth" / kind / f"{number:03}_mask.png", [(4, 8)])
    (root / "license.txt").write_text("CC BY-NC-SA 4.0")
    return root


def write_candle(root, train=55, test=11, defects=20, annotated=True):
    """An object in VisA's layout, and the table of splits beside it."""
    home = root / "candle"
    write_pictures(home / "Data/Images/Normal", train + test, SIZE, "RGB")
    write_pictures(home / "Data/Images/Anomaly", defects, SIZE, "RGB")
    rows = [["object", "split", "label", "image", "mask"], ["pcb1", "train", "normal", "x", ""]]
    for number in range(train + test):
        part = "train" if number < train else "test"
        rows.append(["candle", part, "normal", f"candle/Data/Images/Normal/{number:03}.png", ""])
    kinds = [["image", "label", "mask"], ["candle/Data/Images/Normal/000.png", "normal", ""]]
    for number in range(defects):
        image, mask = (f"candle/Data/{k}/Anomaly/{number:03}.png" for k in ("Images", "Masks"))
        write_mask(root / mask, [(0, 0)], value=1 + number % 3)  # numbers of kinds, not white
        rows.append(["candle", "test", "anomaly", image, mask])
        kinds.append([image, ("melt", "scratch", "melt, scratch")[number % 3], mask])
    for file, table in ((root / "split_csv/1cls.csv", rows), (home / "image_anno.csv", kinds)):
        if annotated or file.name == "1cls.csv":
            file.parent.mkdir(exist_ok=True)
            with file.open("w", newline="") as opened:
                csv.writer(opened).writerows(table)
    return home


def test_half_of_each_kind_chooses_and_all_others_are_tested(tmp_path):
    root = write_bottle(tmp_path / "bottle")
    source = open_source(f"mvtec:{root}")
    assert source.class_names == ("crack", "dent", "good")
    labels = {part: list(source.labels(part)) for part in PARTS}
    assert {k: labels["train"].count(k) for k in source.class_names} == {
        "crack": 5, "dent": 5, "good": 60,
    }  # fmt: skip
    assert {k: labels["test"].count(k) for k in source.class_names} == {
        "crack": 6, "dent": 5, "good": 12,
    }  # fmt: skip
    assert not set(source.ids("train")) & set(source.ids("test"))

    problem = make_problem(ProblemRequest(dataset=f"mvtec:{root}", val_anomalies=10))
    counts = problem.splits.counts()
    assert counts == {
        "train_normals": 48, "validation_normals": 12, "validation_anomalies": 10,
        "test_normals": 12, "test_anomalies": 11,
    }  # fmt: skip
    normals = (problem.splits.train_normals, problem.splits.validation_normals)
    ids = [one for split in normals for selection in split for one in selection.ids]
    assert all(one.startswith("train/good/") for one in ids)
    assert "class good normal" in problem.describe()
    told = "its 21 defects were all published for the test; half of each kind, 10, may choose"
    assert any(told in warning and "other 11 are tested" in warning for warning in problem.warnings)
    kinds = problem.test_kinds()
    assert {kind: len(places) for kind, places in kinds.items()} == {"crack": 6, "dent": 5}
    (tested,) = problem.splits.test_anomalies
    assert all(tested.ids[place].startswith("test/dent/") for place in kinds["dent"])
    assert list(anomaly_groups(problem)) == ["crack, 6 pictures", "dent, 5 pictures"]
    saved = problem.to_dict()
    assert type(problem).from_dict(saved).splits == problem.splits


def test_masks_are_brought_to_the_size_of_the_images(tmp_path):
    root = write_bottle(tmp_path / "bottle")
    (root / "ground_truth/crack/000_mask.png").rename(root / "ground_truth/crack/000.png")
    (root / "ground_truth/crack/001_mask.png").unlink()
    source = open_source(f"mvtec:{root}")
    source.ids("test")
    whole = np.zeros(SIZE, bool)
    whole[4:8, 8:12] = True
    np.testing.assert_array_equal(source.mask("test/crack/000.png", SIZE), whole)
    assert source.mask("test/crack/001.png", SIZE) is None
    assert source.mask("test/good/000.png", SIZE) is None
    half = source.mask("test/crack/000.png", (10, 12))
    np.testing.assert_array_equal(half, whole[::2, ::2])
    write_mask(root / "ground_truth/crack/002_mask.png", [(0, 0)], (10, 10))
    with pytest.raises(DataError, match=r"has 10 x 10 pixels, its picture .* has 24 x 20"):
        source.mask("test/crack/002.png", SIZE)


def test_masks_that_have_changed_are_noticed(tmp_path):
    root = write_bottle(tmp_path / "bottle")
    problem = make_problem(ProblemRequest(dataset=f"mvtec:{root}", val_anomalies=10))
    saved = problem.to_dict()
    (tested,) = problem.splits.test_anomalies
    one = Path(str(tested.ids[0]))
    file = root / "ground_truth" / one.parent.name / f"{one.stem}_mask.png"
    kept = file.read_bytes()

    def expect_refusal():
        with pytest.raises(DataError, match=r"\(other masks than then\)"):
            Problem.from_dict(saved)

    write_mask(file, [(0, 0)])
    expect_refusal()
    file.write_bytes(b"damaged")
    expect_refusal()
    file.unlink()
    expect_refusal()
    file.write_bytes(kept)
    assert Problem.from_dict(saved).to_dict() == saved
    shutil.rmtree(root / "ground_truth")
    expect_refusal()
    # Where there never was a mask, one that has come is another figure.
    bare = make_problem(ProblemRequest(dataset=f"mvtec:{root}", val_anomalies=10)).to_dict()
    assert all("masks" not in record for record in bare["sources"].values())
    assert Problem.from_dict(bare).to_dict() == bare
    write_mask(file, [(4, 8)])
    with pytest.raises(DataError, match="other masks than then"):
        Problem.from_dict(bare)


def test_masks_of_visa_that_have_changed_are_noticed(tmp_path):
    source = open_source(f"visa:{write_candle(tmp_path)}")
    saved = make_problem(ProblemRequest(dataset=source.name, val_anomalies=10)).to_dict()
    assert Problem.from_dict(saved).to_dict() == saved
    for number in range(20):
        write_mask(tmp_path / f"candle/Data/Masks/Anomaly/{number:03}.png", [(8, 8)])
    with pytest.raises(DataError, match="other masks than then"):
        Problem.from_dict(saved)


def test_no_mask_vanishes(tmp_path):
    """One pixel of 40 x 40 is less than half of one of 8 x 8: the place with most of it stays."""
    pixels = np.zeros((40, 40), np.uint8)
    pixels[3, 12] = 7
    for mode in ("L", "P", "RGB", "LA"):
        Image.fromarray(pixels).convert(mode).save(tmp_path / "mask.png")
        mask, own = read_mask(tmp_path / "mask.png", (8, 8))
        assert own == (40, 40)
        assert np.argwhere(mask).tolist() == [[0, 2]]
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "mask.png")
    assert not read_mask(tmp_path / "mask.png", (8, 8))[0].any()


def test_visa_as_published(tmp_path):
    source = open_source(f"visa:{write_candle(tmp_path)}")
    assert source.class_names == ("good", "melt", "scratch", "several")
    assert [len(source.ids(part)) for part in PARTS] == [55 + 3 + 3 + 3, 11 + 4 + 4 + 3]
    one = next(one for one in source.ids("test") if "Anomaly" in str(one))
    assert source.mask(one, SIZE).sum() == 16
    assert survey(source.name).validation == 11
    problem = make_problem(ProblemRequest(dataset=source.name, val_anomalies=10))
    assert problem.image_shape == (3, 20, 24)
    assert len(problem.test_masks()) == 11


def test_visa_without_kinds_and_converted(tmp_path):
    source = open_source(f"visa:{write_candle(tmp_path / 'a', annotated=False)}")
    assert source.class_names == ("anomaly", "good")
    converted = write_bottle(tmp_path / "b", kinds=(("bad", 20),))
    assert open_source(f"visa:{converted}").class_names == ("bad", "good")


@pytest.mark.parametrize("kind", ["mvtec", "visa"])
def test_other_layouts_are_told_with_the_way_out(tmp_path, kind):
    with pytest.raises(DataError, match="does not exist"):
        open_source(f"{kind}:{tmp_path / 'none'}")
    write_bottle(tmp_path / "all" / "bottle", 1, 1, ())
    with pytest.raises(DataError, match=rf"several objects, name one of them: {kind}:.*/bottle"):
        open_source(f"{kind}:{tmp_path / 'all'}")
    write_pictures(tmp_path / "plain" / "train" / "good", 1)
    with pytest.raises(DataError, match=r"has no test/good/; .* for any other, name folder:"):
        open_source(f"{kind}:{tmp_path / 'plain'}")


def test_too_few_defects_are_told_with_the_way_out(tmp_path):
    root = write_bottle(tmp_path / "bottle", kinds=(("crack", 8),))
    with pytest.raises(DataError, match=r"training part .* has 4, .* half of each kind of defect"):
        make_problem(ProblemRequest(dataset=f"mvtec:{root}"))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("object,split", "object,part", "has no column 'split'"),
        ("\ncandle,", "\nlamp,", r"no object 'candle', .* it has lamp, pcb1"),
        ("candle/Data/Images/Normal/000", "candle/../../../x", "no picture below candle/"),
        ("candle/Data/Images/Normal/000", "/etc/000", "no picture below candle/"),
    ],
)
def test_a_wrong_table_of_visa_is_refused(tmp_path, old, new, told):
    home = write_candle(tmp_path)
    table = tmp_path / "split_csv" / "1cls.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(DataError, match=told):
        open_source(f"visa:{home}")


def test_visa_needs_its_split(tmp_path):
    home = write_candle(tmp_path)
    (tmp_path / "split_csv" / "1cls.csv").unlink()
    with pytest.raises(DataError, match=r"there is no .*1cls.csv; put split_csv/"):
        open_source(f"visa:{home}")


@pytest.mark.parametrize("beside", [True, False])
def test_other_anomalies_beside_defects(tmp_path, beside):
    """All defects are tested, whatever is named beside them; where others alone are named, none,
    and nothing is said of them."""
    root = write_bottle(tmp_path / "bottle")
    write_pictures(tmp_path / "other", 40)
    named, other = f"mvtec:{root}", f"folder:{tmp_path / 'other'}"
    ood = (named, other) if beside else (other,)
    problem = make_problem(ProblemRequest(dataset=named, ood=ood, val_anomalies=10))
    tested = {s.source: len(s.ids) for s in problem.splits.test_anomalies}
    defects = tested.pop(problem.splits.train_normals[0].source, 0)
    assert defects == (11 if beside else 0)
    assert list(tested.values()) == [10]
    told = [one for one in problem.warnings if "all published" in one]
    assert len(told) == beside
    assert all("other 11 are tested" in one for one in told)
