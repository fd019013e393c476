"""Published factory pictures in their own layouts: parts, kinds, masks, each way to be wrong."""

import csv
import errno
import hashlib
import os
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


def digest(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


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


def test_pictures_that_are_added_move_no_figure_to_another_kind(tmp_path):
    """They move others to the other part, of which a run knows nothing."""
    root = write_bottle(tmp_path / "bottle")
    problem = make_problem(ProblemRequest(dataset=f"mvtec:{root}", val_anomalies=10))
    (tested,) = problem.splits.test_anomalies
    kinds = {kind: places.tolist() for kind, places in problem.test_kinds().items()}
    saved = problem.to_dict()
    least = min(digest(root / one) for one in tested.ids if "crack" in one)
    for file in write_pictures(tmp_path / "new", 40, SIZE).iterdir():
        if digest(file) > least:  # then the first of the tested ones is in the first half
            file.rename(root / "test" / "crack" / f"new{file.name}")
    again = Problem.from_dict(saved)
    moved = set(tested.ids) & set(open_source(f"mvtec:{root}").ids("train"))
    assert moved
    assert {kind: places.tolist() for kind, places in again.test_kinds().items()} == kinds


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    root = write_bottle(tmp_path / "bottle")
    plain = os.scandir

    def refuse(path, *_):
        if str(path).endswith("crack"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot list folder .*crack: Permission denied"):
        open_source(f"mvtec:{root}")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_of_masks_without_permission_is_named(tmp_path):
    root = write_bottle(tmp_path / "bottle")
    closed = root / "ground_truth" / "crack"
    closed.chmod(0)
    try:
        with pytest.raises(DataError, match=r"cannot look into .*crack.*: Permission denied"):
            open_source(f"mvtec:{root}")
    finally:
        closed.chmod(0o700)


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


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda file: write_mask(file, [(0, 0)], (10, 10)), "has 10 x 10 pixels, its picture"),
        (lambda file: file.write_bytes(b"damaged"), "not a picture"),
        (cut_short, "truncated"),
    ],
)
def test_a_mask_that_cannot_be_used_is_told_before_a_search(tmp_path, spoil, told):
    """And not at the test, when all trainings are over."""
    root = write_bottle(tmp_path / "bottle")
    request = ProblemRequest(dataset=f"mvtec:{root}", val_anomalies=10)
    problem = make_problem(request)
    tested = [Path(str(one)) for one in problem.splits.test_anomalies[0].ids]
    masks = [root / "ground_truth" / one.parent.name / f"{one.stem}_mask.png" for one in tested]
    spoil(masks[-1])
    unusable = rf"1 of 11 masks of .* cannot be used, .*{told}"
    with pytest.raises(DataError, match=unusable):
        make_problem(request)
    with pytest.MonkeyPatch.context() as patch:  # as by a version that did not look
        patch.setattr(Problem, "require_masks", lambda _: None)
        earlier = make_problem(request).to_dict()
    with pytest.raises(DataError, match=unusable):
        Problem.from_dict(earlier).require_masks()
    masks[-1].unlink()
    assert not make_problem(request).test_opened


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


def test_a_palette_counts_by_its_colours(tmp_path):
    """Which number black has is up to the program that saved it."""
    mask = Image.new("P", (16, 16), 0)
    mask.putpalette([255, 255, 255, 0, 0, 0, 0, 0, 1])
    mask.paste(1, (0, 0, 16, 8))
    mask.paste(2, (0, 0, 4, 4))
    mask.save(tmp_path / "mask.png")
    inside, _ = read_mask(tmp_path / "mask.png", (16, 16))
    expected = np.zeros((16, 16), bool)
    expected[8:] = expected[:4, :4] = True
    np.testing.assert_array_equal(inside, expected)


@pytest.mark.parametrize("format_", ["JPEG", "WEBP"])
def test_a_lossy_mask_does_not_ring(tmp_path, format_):
    pixels = np.zeros((40, 40), np.uint8)
    pixels[11:22, 13:26] = 255
    mask = tmp_path / "mask.img"
    Image.fromarray(pixels).save(mask, format_, quality=60)
    assert ((np.asarray(Image.open(mask).convert("L")) > 0) != (pixels > 0)).any()
    np.testing.assert_array_equal(read_mask(mask, (40, 40))[0], pixels > 0)
    Image.fromarray(pixels // 100).save(mask, format_, quality=90)  # numbers of kinds
    with pytest.raises(DataError, match=f"a mask in {format_}, which may be lossy, must be black"):
        read_mask(mask, (40, 40))


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


def test_kinds_of_visa_that_have_changed_are_noticed(tmp_path):
    home = write_candle(tmp_path)
    saved = make_problem(ProblemRequest(dataset=f"visa:{home}", val_anomalies=10)).to_dict()
    table = home / "image_anno.csv"
    table.write_text(table.read_text().replace("scratch", "melt"))
    with pytest.raises(DataError, match=r"\(other kinds of defect than then\)"):
        Problem.from_dict(saved)
    for record in saved["sources"].values():
        del record["kinds"]  # as runs have it that began before it was noted
    Problem.from_dict(saved)


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


@pytest.mark.parametrize("option", ["ood", "test_ood"])
@pytest.mark.parametrize("write", [write_bottle, write_candle])
def test_good_pictures_are_no_anomalies_of_another_set(tmp_path, option, write):
    root = write(tmp_path / "set")
    good, bad = (write_pictures(tmp_path / name, 150) for name in ("good", "bad"))
    named = f"{'mvtec' if write is write_bottle else 'visa'}:{root}"
    sets = {"ood": (f"folder:{bad}",), option: (named,)}
    request = ProblemRequest(dataset=f"folder:{good}", val_anomalies=30, **sets)
    problem = make_problem(request)
    splits = problem.splits.by_name().values()
    used = [one for split in splits for s in split if s.source == named for one in s.ids]
    assert used
    assert not any("good" in str(one) or "Normal" in str(one) for one in used)
    count, tested = (21, 11) if write is write_bottle else (20, 11)
    assert problem.splits.counts()["test_anomalies"] == tested
    (told,) = [one for one in problem.warnings if "all published" in one]
    assert f"its {count} defects" in told
    assert f"other {tested} are tested" in told
    assert "good" not in problem.test_kinds()
