"""Problems: no test image before its time; damaged pictures, copies, saving."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from fake_sets import FAKES, REAL, install, lay, odin_files
from pictures_on_disk import corrupt_member, write_npz, write_pictures
from PIL import Image
from problems import ids, problem

from amatune.data import pictures
from amatune.data.catalogue import find_dataset, open_source
from amatune.data.problem import Problem
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.data.sources.base import PARTS
from amatune.errors import AmatuneError, DataError

# The test part stays closed


def test_an_archive_with_a_damaged_test_part_can_be_searched(tmp_path):
    path = write_npz(tmp_path / "x.npz", (600, 300), (20, 20))
    corrupt_member(path, "test_images.npy")
    made = problem(dataset=f"npz:{path}", normal_classes=("1",))
    made.train_images(), made.validation_images(), made.to_dict()
    assert Problem.from_dict(made.to_dict()).train_images().size
    with pytest.raises(DataError, match="cannot read test_images"):
        made.test_images()


def test_a_folders_test_pictures_are_not_decoded(tmp_path, monkeypatch):
    write_pictures(tmp_path / "good", 200)
    write_pictures(tmp_path / "bad", 200)
    decoded = []
    original = pictures._decode
    monkeypatch.setattr(
        pictures, "_decode", lambda path, *how: decoded.append(path) or original(path, *how)
    )
    made = problem(dataset=f"folder:{tmp_path}", normal_classes=("good",))
    made.train_images(), made.validation_images(), made.describe(), made.to_dict()
    Problem.from_dict(made.to_dict()).train_images()
    test = {
        tmp_path / one for name, found in ids(made).items() for _, _, one in found if "test" in name
    }
    assert decoded
    assert not test & set(decoded)
    made.test_images()
    assert test <= set(decoded)


def test_no_test_picture_is_decoded_before_the_test(root, monkeypatch):
    fake = FAKES["celeba"]()
    install(monkeypatch, "celeba", fake)
    damaged = dict.fromkeys(list(fake.home)[70:100], b"no picture")
    lay(root / "celeba", {**fake.home, **damaged})
    problem = make_problem(ProblemRequest(dataset="celeba", ood=("uniform-noise",)))
    assert problem.train_images().shape[1:] == (3, 32, 32)
    with pytest.raises(DataError, match="too many damaged pictures"):
        problem.test_images()


# Damaged pictures and copies


def test_damaged_pictures_leave_the_splits_and_are_told_once(tmp_path):
    write_pictures(tmp_path / "good", 200)
    write_pictures(tmp_path / "bad", 200)
    source = open_source(f"folder:{tmp_path}")
    train, test = (next(i for i in source.ids(p) if i.startswith("good")) for p in PARTS)
    (tmp_path / "bad" / "000.png").write_text("no header")
    whole = {one: (tmp_path / one).read_bytes() for one in (train, test)}
    request = {"dataset": f"folder:{tmp_path}", "normal_classes": ("good",)}
    # Cut the pictures after the folder was split by their bytes: the cut must not move them.
    original = pictures._digest

    def digest(file):
        content = whole.get(Path(file.name).relative_to(tmp_path).as_posix())
        return hashlib.sha256(content).hexdigest() if content else original(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "_digest", digest)
        for one in (train, test):
            (tmp_path / one).write_bytes(whole[one][:300])
        made = problem(**request)
        everything = set().union(*ids(made).values())
        assert train not in {one for _, _, one in everything}
        assert test in {one for _, _, one in everything}
        (warning,) = made.warnings
        assert "damaged pictures passed over (2)" in warning
        assert "bad/000.png" in warning
        assert train in warning
        normals, _ = made.test_images()
        assert len(normals) == made.splits.counts()["test_normals"]
        assert test not in {one for _, _, one in ids(made)["test_normals"]}
        assert "damaged pictures passed over (3)" in made.warnings[-1]
        made.test_images()
        assert len(made.warnings) == len(set(made.warnings)) == 2


def test_all_damaged_pictures_are_listed_in_a_file(tmp_path):
    write_pictures(tmp_path / "good", 200)
    write_pictures(tmp_path / "bad", 200)
    for number in range(9):
        (tmp_path / "bad" / f"{number:03}.png").write_text("x")
    request = {"dataset": f"folder:{tmp_path}", "normal_classes": ("good",)}
    with pytest.raises(DataError, match="too many damaged pictures, 9 of 400"):
        problem(**request)
    made = problem(**request, max_broken=0.03)
    (told,) = made.warnings
    assert "passed over (9)" in told
    assert told.endswith("; and 4 more")
    file = tmp_path / "broken.txt"
    for _ in range(2):
        assert made.list_damaged(file) == made.warnings
        assert made.warnings == [f"{told}; all are listed in {file}"]
        lines = file.read_text().splitlines()
        assert len(lines) == 9
        for number, line in enumerate(lines):
            picture = tmp_path / "bad" / f"{number:03}.png"
            assert line.startswith(f"cannot read picture {picture}: not a picture")

    # Opened again for the test, a problem knows only what it meets then.
    again = Problem.from_dict(made.to_dict())
    assert again.request.max_broken == 0.03
    assert again.list_damaged(tmp_path / "none.txt") == []
    assert not (tmp_path / "none.txt").exists()
    one = again.splits.test_normals[0].ids[0]
    content = (tmp_path / one).read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "_to_eight_bits", broken_once(pictures._to_eight_bits))
        again.test_images()
    assert (tmp_path / one).read_bytes() == content
    (new,) = again.list_damaged(file)
    assert "passed over (1)" in new
    assert len(file.read_text().splitlines()) == 10
    with pytest.raises(AmatuneError, match=r"cannot write .*: Is a directory"):
        again.list_damaged(tmp_path)


def broken_once(decode):
    """`decode`, which finds the first picture truncated."""
    calls = []

    def attempt(picture):
        calls.append(picture)
        if len(calls) == 1:
            raise OSError("truncated")
        return decode(picture)

    return attempt


def test_pictures_that_look_the_same_teach_nothing(tmp_path):
    for number in range(100):  # other bytes, other decoders, the same pixels
        suffix = ("png", "bmp", "tif")[number % 3]
        (tmp_path / "same").mkdir(exist_ok=True)
        path = tmp_path / "same" / f"{number}.{suffix}"
        Image.new("L", (20, 20), 90).save(path)
        path.write_bytes(path.read_bytes() + bytes(number))
    message = r"all \d+ training images of folder:.*same look the same at 1 x 20 x 20"
    with pytest.raises(DataError, match=message):
        problem(dataset=f"folder:{tmp_path / 'same'}", ood=("uniform-noise",))
    one = tmp_path / "x.npz"
    write_npz(
        one,
        (60, 30),
        train_images=np.full((60, 9, 9), 3, np.uint8),
        test_images=np.zeros((30, 9, 9), np.uint8),
    )
    with pytest.raises(DataError, match=r"all 48 training images .* look the same at 1 x 9 x 9"):
        problem(dataset=f"npz:{one}", ood=("uniform-noise",))


def test_too_few_normals_may_be_left_when_many_are_damaged(tmp_path):
    write_pictures(tmp_path, 100)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"too few normal images in .*: 0 in the training part"):
        problem(dataset=f"folder:{tmp_path}", ood=("uniform-noise",), max_broken=99)


def test_copies_are_reported_for_each_pair_of_splits(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (600, 10, 10), np.uint8)
    tests = np.random.default_rng(1).integers(0, 256, (200, 10, 10), np.uint8)
    labels = {"train_labels": np.arange(600) % 2, "test_labels": np.arange(200) % 2}
    path = tmp_path / "x.npz"

    def make():
        np.savez(path, train_images=images, test_images=tests, **labels)
        return problem(dataset=f"npz:{path}", normal_classes=("0",))

    clean = make()
    assert clean.warnings == clean.test_duplicates() == []
    splits = clean.splits
    train, normal = splits.train_normals[0].ids, splits.validation_normals[0].ids
    anomaly, test = splits.validation_anomalies[0].ids, splits.test_normals[0].ids
    images[normal[0]] = images[normal[1]] = images[train[5]]
    images[anomaly[3]] = images[normal[7]]
    tests[test[2]] = images[train[9]]
    made = make()
    assert made.warnings == [
        "2 of 50 validation normals are identical to train normals, for example "
        f"{normal[0]} to {train[5]}",
        "1 of 50 validation anomalies are identical to validation normals, for example "
        f"{anomaly[3]} to {normal[7]}",
    ]
    assert not made.test_opened
    assert made.test_duplicates() == [
        f"1 of 100 test normals are identical to train normals, for example {test[2]} to {train[9]}"
    ]


# Saving


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"ood": ("uniform-noise", "gaussian-noise"), "seed": 4},
        {"dataset": "photos", "normal_classes": ("flower",), "image_size": 16},
    ],
)
def test_a_saved_problem_is_the_same_problem(fields):
    made = problem(**fields)
    saved = json.loads(json.dumps(made.to_dict()))
    again = Problem.from_dict(saved)
    assert again.splits == made.splits
    assert (again.request, again.image_shape) == (made.request, made.image_shape)
    assert again.to_dict() == saved
    assert not again.test_opened
    for old, new in (
        ([made.train_images()], [again.train_images()]),
        (made.validation_images(), again.validation_images()),
        (made.test_images(), again.test_images()),
    ):
        assert all((a == b).all() for a, b in zip(old, new, strict=True))


def test_saved_from_another_working_folder(tmp_path, monkeypatch):
    write_npz(tmp_path / "x.npz", (600, 300))
    monkeypatch.chdir(tmp_path)
    saved = problem(dataset="npz:x.npz", normal_classes=("1",)).to_dict()
    monkeypatch.chdir("/")
    assert Problem.from_dict(saved).train_images().size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": (601, 300)}, "train images were 600, are now 601"),
        ({"shape": (12, 9)}, r"image shape were \[1, 10, 9\], are now \[1, 12, 9\]"),
        ({}, "other images under the same names"),
        ({"n": (300, 300)}, "it no longer has"),
    ],
)
def test_a_changed_archive_is_noticed(tmp_path, change, message):
    path = write_npz(tmp_path / "x.npz", (600, 300))
    saved = problem(dataset=f"npz:{path}", normal_classes=("1",)).to_dict()
    write_npz(path, **({"n": (600, 300)} | change))
    with pytest.raises(DataError, match=message):
        Problem.from_dict(saved)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        Problem.from_dict(saved)


def test_a_changed_folder_is_noticed_where_it_matters(tmp_path):
    write_pictures(tmp_path / "good", 200)
    write_pictures(tmp_path / "bad", 200)
    made = problem(dataset=f"folder:{tmp_path}", normal_classes=("good",))
    saved = made.to_dict()
    used = {one for found in ids(made).values() for _, _, one in found}
    unused = next(f"bad/{i:03}.png" for i in range(200) if f"bad/{i:03}.png" not in used)

    write_pictures(tmp_path / "good" / "new", 30)
    (tmp_path / unused).unlink()
    assert Problem.from_dict(saved).splits == made.splits

    for name in ("train_normals", "test_anomalies"):
        path = tmp_path / made.splits.by_name()[name][0].ids[0]
        content = path.read_bytes()
        Image.new("L", (20, 20)).save(path)
        with pytest.raises(DataError, match="other images under the same names"):
            Problem.from_dict(saved)
        path.unlink()
        with pytest.raises(DataError, match=f"no longer has {path.relative_to(tmp_path)};"):
            Problem.from_dict(saved)
        path.write_bytes(content)
    assert Problem.from_dict(saved).splits == made.splits


@pytest.mark.parametrize(
    "damage",
    [
        lambda saved: saved.pop("splits"),
        lambda saved: saved["splits"].pop("test_normals"),
        lambda saved: saved.update(image_shape=None),
        lambda saved: saved.update(sources=3),
    ],
)
def test_a_truncated_description_is_refused(damage):
    saved = problem().to_dict()
    damage(saved)
    with pytest.raises(DataError, match="not a saved problem"):
        Problem.from_dict(saved)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "gtsrb"])
def test_a_saved_problem_is_found_again_in_another_data_folder(name, root, tmp_path, monkeypatch):
    fake = FAKES[name]()
    install(monkeypatch, name, fake)
    lay(root / REAL[name].homes[0], fake.home)
    lay(root, odin_files())
    request = ProblemRequest(dataset=name, ood=("isun",))
    problem = make_problem(request)
    assert not problem.test_opened
    saved = problem.to_dict()
    assert str(root) not in repr(saved)
    root.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="not in the data folder"):
        Problem.from_dict(saved)
    again = Problem.from_dict(saved, tmp_path / "moved")
    assert again.to_dict() == saved
    assert (again.train_images() == problem.train_images()).all()


def test_other_images_under_the_same_names_are_noticed(root, monkeypatch):
    first, second = FAKES["mnist"](), FAKES["mnist"]()
    lay(root, odin_files())
    lay(root / "mnist", first.home)
    install(monkeypatch, "mnist", first)
    saved = make_problem(ProblemRequest(dataset="mnist", ood=("isun",))).to_dict()
    test = "t10k-images-idx3-ubyte"
    lay(root / "mnist", {test: second.home[test]})
    with pytest.raises(DataError, match="other images under the same names"):
        Problem.from_dict(saved)


# The data folder


def test_each_request_reads_its_own_data_folder(tmp_path):
    """Two requests in one process: neither folder is chosen for the other, nor for the next."""
    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        lay(folder, odin_files())
    request = ProblemRequest(ood=("isun",))
    made = [make_problem(request, folder) for folder in folders]
    again = [Problem.from_dict(one.to_dict(), f) for one, f in zip(made, folders, strict=True)]
    for one, other in (made, again):
        assert (one.train_images() == other.train_images()).all()
        anomalies = [problem.validation_images()[1] for problem in (one, other)]
        assert not np.array_equal(*anomalies)
    for one, other in zip(made, again, strict=True):
        assert (one.validation_images()[1] == other.validation_images()[1]).all()
    for folder in folders:
        assert find_dataset("isun", folder).place == folder / "iSUN"
        assert open_source("isun", folder).location == folder / "iSUN"
    assert find_dataset("isun").state == "missing"
    with pytest.raises(DataError, match="isun is not in the data folder"):
        make_problem(request)
