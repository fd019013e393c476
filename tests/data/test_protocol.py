"""The splits: disjoint, seeded, the same everywhere; and no test image before its time."""

import dataclasses
import hashlib
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures_on_disk import corrupt_member, write_npz, write_pictures
from PIL import Image

from amatune.data import pictures, protocol, sources
from amatune.data.protocol import (
    Problem,
    ProblemRequest,
    Selection,
    Splits,
    make_problem,
    share_out,
)
from amatune.errors import AmatuneError, DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def problem(**fields):
    return make_problem(ProblemRequest(**fields))


def ids(a_problem):
    return {
        name: {identity for selection in split for identity in selection.identities()}
        for name, split in a_problem.splits.by_name().items()
    }


class ListSource(sources.Source):
    """A source of numbered images whose labels are given; every image is distinct."""

    def __init__(self, name, train, test):
        self.name, self._labels = name, {"train": train, "test": test}

    image_shape = (1, 8, 8)

    @property
    def class_names(self):
        return tuple(sorted({*self._labels["train"], *self._labels["test"]} - {None}))

    def ids(self, part):
        return range(len(self._labels[part]))

    def labels(self, part):
        return self._labels[part] if self.class_names else []

    def read(self, part, ids, image_shape):
        if part == "test" and not self.may_read_test:
            pytest.fail("a test image was read")
        words = np.random.default_rng([len(self.name), part == "test"]).bytes(8)
        images = np.zeros((len(ids), *image_shape), np.uint8)
        for row, one in enumerate(ids):
            source = words + self.name.encode() + int(one).to_bytes(8, "big")
            noise = hashlib.shake_128(source).digest(images[row].size)
            images[row] = np.frombuffer(noise, np.uint8).reshape(image_shape)
            stamp = words + int(one).to_bytes(8, "big") + self.name.encode().ljust(16)
            images[row].reshape(-1)[: len(stamp)] = np.frombuffer(stamp, np.uint8)
        return images, list(ids)

    may_read_test = False

    def record(self, used):  # noqa: ARG002 - the interface of a source
        return {"labels": [len(self._labels[part]) for part in sources.PARTS]}


@pytest.fixture
def invent(monkeypatch):
    """Make named sources out of lists of labels."""
    known = {}
    monkeypatch.setattr(protocol, "open_source", lambda name, _: known[name])

    def add(name, train, test):
        known[name] = ListSource(name, train, test)
        return known[name]

    return add


# Splits


@settings(max_examples=60)
@given(
    normals=st.integers(50, 3000),
    tests=st.integers(10, 400),
    anomalies=st.lists(st.tuples(st.integers(10, 90), st.integers(10, 90)), min_size=1, max_size=4),
    asked=st.integers(10, 90),
    seed=st.integers(0, 5),
)
def test_whole_set_against_others(normals, tests, anomalies, asked, seed):
    with pytest.MonkeyPatch.context() as patch:
        known = {"n": ListSource("n", [None] * normals, [None] * tests)}
        for i, (train, test) in enumerate(anomalies):
            known[f"a{i}"] = ListSource(f"a{i}", [None] * train, [None] * test)
        patch.setattr(protocol, "open_source", lambda name, _: known[name])
        ood = tuple(f"a{i}" for i in range(len(anomalies)))
        request = ProblemRequest(dataset="n", ood=ood, val_anomalies=asked, seed=seed)
        made, again = make_problem(request), make_problem(request)

        assert made.to_dict() == again.to_dict()
        counts = made.splits.counts()
        held_out = min(max(50, round(0.01 * normals)), normals // 5)
        assert counts["validation_normals"] == held_out
        assert counts["train_normals"] == normals - held_out
        assert counts["test_normals"] == tests
        most_train, most_test = (sum(a[part] for a in anomalies) for part in (0, 1))
        assert counts["validation_anomalies"] == min(asked, most_train)
        wanted = max(10, round(0.2 * tests))
        assert counts["test_anomalies"] == min(wanted, most_test)
        assert bool(made.warnings) == (most_train < asked or most_test < wanted)
        found = ids(made)
        assert sum(map(len, found.values())) == len(set().union(*found.values()))
        per_set = [len(s.ids) for s in made.splits.validation_anomalies]
        if asked <= 10 * len(anomalies):  # no set is too small for its share
            assert max(per_set) - min(per_set) <= 1
        assert not made.test_opened


@settings(max_examples=40)
@given(
    labelled=st.floats(0, 0.5),
    hidden=st.floats(0, 0.5),
    anomalies=st.lists(st.integers(20, 2000), min_size=1, max_size=3),
    seed=st.integers(0, 5),
)
def test_anomalies_among_the_training_images(labelled, hidden, anomalies, seed):
    with pytest.MonkeyPatch.context() as patch:
        known = {"n": ListSource("n", [None] * 500, [None] * 100)}
        for i, train in enumerate(anomalies):
            known[f"a{i}"] = ListSource(f"a{i}", [None] * train, [None] * 40)
        patch.setattr(protocol, "open_source", lambda name, _: known[name])
        plain = ProblemRequest(dataset="n", ood=tuple(known)[1:], seed=seed)
        request = dataclasses.replace(plain, anomaly_fraction=labelled, contamination=hidden)
        without = make_problem(plain)
        normals = without.splits.counts()["train_normals"]
        wanted = {
            "train_anomalies": round(labelled / (1 - labelled) * normals),
            "hidden_anomalies": round(hidden / (1 - hidden) * normals),
        }
        if sum(wanted.values()) > max(0, sum(anomalies) - 50):
            with pytest.raises(
                DataError, match=r"(anomaly_fraction|contamination) 0\.\d+ needs \d+ "
            ):
                make_problem(request)
            return
        made = make_problem(request)
        counts = made.splits.counts()
        assert {name: counts.get(name, 0) for name in wanted} == wanted
        found = ids(made)
        assert sum(map(len, found.values())) == len(set().union(*found.values()))
        assert {n: s for n, s in found.items() if n not in wanted} == {
            n: s for n, s in ids(without).items() if n not in wanted
        }
        assert len(made.train_images()) == normals + wanted["hidden_anomalies"]
        assert made.train_anomalies().shape == (wanted["train_anomalies"], *made.image_shape)
        again = Problem.from_dict(made.to_dict())
        assert np.array_equal(again.train_images(), made.train_images())
        assert np.array_equal(again.train_anomalies(), made.train_anomalies())
        for name, kind in (("train_anomalies", "labelled"), ("hidden_anomalies", "hidden")):
            assert (f" + {wanted[name]} {kind} anomalies" in made.describe()) == bool(wanted[name])


def test_another_set_for_the_test(invent):
    invent("n", [None] * 500, [None] * 100)
    invent("a", [None] * 90, [None] * 90)
    invent("b", [], [None] * 90)  # a set for the test alone needs no training part
    made = problem(dataset="n", ood=("a",), test_ood=("b", "a"))
    found = ids(made)
    assert {source for source, _, _ in found["validation_anomalies"]} == {"a"}
    assert len(found["test_anomalies"]) == 20
    assert made.describe().endswith("test 100 + 20 of b, a")
    assert made.test_opened is False
    with pytest.raises(DataError, match=r"n is both .* name another --test-ood"):
        problem(dataset="n", ood=("a",), test_ood=("n",))
    with pytest.raises(DataError, match="--test-ood b is given twice"):
        problem(dataset="n", ood=("a",), test_ood=("b", "b"))


def test_another_set_for_the_test_of_classes(invent):
    invent("n", list("abc") * 100, list("abc") * 40)
    invent("b", [None] * 60, [None] * 60)
    made = problem(dataset="n", normal_classes=("a",), test_ood=("b",))
    found = ids(made)
    assert {source for source, _, _ in found["validation_anomalies"]} == {"n"}
    assert {source for source, _, _ in found["test_anomalies"]} == {"b"}


def test_where_each_set_lies_among_the_test_anomalies(invent):
    invent("n", [None] * 500, [None] * 100).may_read_test = True
    for name in "ab":
        invent(name, [None] * 90, [None] * 90).may_read_test = True
    made = problem(dataset="n", ood=("a", "b"))
    assert made.test_sets() == {"a": slice(0, 10), "b": slice(10, 20)}
    _, anomalies = made.test_images()
    assert all(bytes(image.reshape(-1)[16:17]) == b"b" for image in anomalies[10:])


@pytest.mark.parametrize("count", [24, 60])
def test_of_few_anomalies_half_are_for_the_test(tmp_path, count):
    write_pictures(tmp_path / "good", 300)
    write_pictures(tmp_path / "bad", count)
    good, bad = f"folder:{tmp_path / 'good'}", f"folder:{tmp_path / 'bad'}"
    made = problem(dataset=good, ood=(bad,))
    counts = made.splits.counts()
    chosen_by, tested = counts["validation_anomalies"], len(ids(made)["test_anomalies"])
    assert chosen_by == pytest.approx(count / 2, abs=count / 4)
    assert tested >= 5
    (shortage,) = [w for w in made.warnings if "validation anomalies" in w]
    assert f"only {chosen_by} of 50 " in shortage
    assert re.search(r"AUROC of \.90 then has a 95% interval of 0\.\d\d to 0\.\d\d", shortage)

    alone = problem(dataset=good, ood=("uniform-noise",), test_ood=(bad,))
    assert alone.splits.counts()["test_anomalies"] == min(
        count, max(10, round(0.2 * counts["test_normals"]))
    )
    again = Problem.from_dict(alone.to_dict())
    assert len(again.test_images()[1]) == alone.splits.counts()["test_anomalies"]


@settings(max_examples=40)
@given(
    sizes=st.tuples(*[st.integers(60, 200)] * 4),
    normal=st.sets(st.sampled_from("abc"), min_size=1),
    seed=st.integers(0, 3),
)
def test_classes_against_the_others(sizes, normal, seed):
    labels = [c for c, size in zip("abcd", sizes, strict=True) for _ in range(size)]
    np.random.default_rng(seed).shuffle(labels)
    with pytest.MonkeyPatch.context() as patch:
        source = ListSource("n", labels, labels[::-1])
        patch.setattr(protocol, "open_source", lambda *_: source)
        request = ProblemRequest(dataset="n", normal_classes=tuple(sorted(normal)), seed=seed)
        made = make_problem(request)

        for name, identities in ids(made).items():
            part = labels[::-1] if "test" in name else labels
            is_normal = {part[one] in normal for _, _, one in identities}
            assert is_normal == {"normals" in name}
        counts = made.splits.counts()
        total = sum(label in normal for label in labels)
        assert counts["validation_normals"] == min(max(50, round(0.05 * total)), total // 5)
        assert counts["train_normals"] == total - counts["validation_normals"]
        assert counts["test_normals"] == total
        for name, part in (("validation_anomalies", labels), ("test_anomalies", labels[::-1])):
            drawn = [part[one] for _, _, one in ids(made)[name]]
            shares = [drawn.count(c) for c in set("abcd") - normal]
            if counts[name] <= 60 * len(shares):  # no class is too small for its share
                assert max(shares) - min(shares) <= 1


@given(st.integers(0, 60), st.lists(st.integers(0, 30), max_size=6))
def test_shares_are_equal_where_they_can_be(total, available):
    shares = share_out(total, available)
    assert sum(shares) == min(total, sum(available))
    assert all(0 <= share <= most for share, most in zip(shares, available, strict=True))
    unbounded = [s for s, most in zip(shares, available, strict=True) if s < most]
    if unbounded:  # those with images left have the largest shares, and equal ones
        assert min(unbounded) >= max(shares) - 1


def test_the_first_problem():
    made = problem()
    assert made.describe() == (
        "digits: classes 0-4 normal, 582 train, 50+50 validation; test 269 + 54"
    )
    assert made.image_shape == (1, 28, 28)
    assert made.warnings == []
    target = sources.open_source("digits")._labels
    for name, identities in ids(made).items():
        classes = {target[one] for _, _, one in identities}
        assert classes == set("01234" if "normals" in name else "56789")
    assert made.train_images().shape == (582, 1, 28, 28)
    assert [len(x) for x in made.validation_images()] == [50, 50]
    assert not made.test_opened
    assert [len(x) for x in made.test_images()] == [269, 54]
    assert made.test_opened
    assert made.test_duplicates() == []


def test_ids_are_the_same_on_every_machine():
    # From a first run: a change here means that saved results can no longer be compared.
    splits = problem(seed=3).splits
    assert splits.validation_normals[0].ids[:6] == (12, 70, 89, 111, 141, 166)
    assert splits.test_anomalies[0].ids[:6] == (28, 65, 128, 129, 157, 158)


def test_seeds_differ_but_not_in_the_test_normals():
    zero, one = problem(seed=0), problem(seed=1)
    assert ids(zero)["test_normals"] == ids(one)["test_normals"]
    for name in ("train_normals", "validation_normals", "validation_anomalies", "test_anomalies"):
        assert ids(zero)[name] != ids(one)[name]


def test_classes_keep_a_larger_share_for_validation_than_whole_sets(invent):
    invent("n", ["a"] * 9000 + ["b"] * 1000, list("ab") * 50)
    invent("o", [None] * 100, [None] * 100)
    one_class = problem(dataset="n", normal_classes=("a",)).splits.counts()
    assert one_class["validation_normals"] == 450  # 5%
    whole = problem(dataset="n", ood=("o",)).splits.counts()
    assert whole["validation_normals"] == 100  # 1%


def test_normal_classes_against_other_sets(invent):
    invent("n", list("ab") * 100, list("ab") * 50)
    invent("o", [None] * 100, [None] * 100)
    only_ood = problem(dataset="n", normal_classes=("a",), ood=("o",))
    assert {s.source for s in only_ood.splits.validation_anomalies} == {"o"}
    assert only_ood.describe().startswith("n: class a normal, against o, 80 train")
    both = problem(dataset="n", normal_classes=("a",), ood=("o", "n"))
    assert [len(s.ids) for s in both.splits.validation_anomalies] == [25, 25]
    assert [s.source for s in both.splits.validation_anomalies] == ["o", "n"]
    odd = {one for s in both.splits.test_anomalies if s.source == "n" for one in s.ids}
    assert odd <= set(range(1, 100, 2))


def test_few_anomalies_are_used_and_their_price_is_told(invent):
    invent("n", [None] * 600, [None] * 500)
    invent("o", [None] * 34, [None] * 20)
    made = problem(dataset="n", ood=("o",))
    validation, test = made.warnings
    assert "only 34 of 50 validation anomalies" in validation
    # By hand: standard errors .0380 and .0321, 1.96 of them either way on the logit scale.
    assert "AUROC of .90 then has a 95% interval of 0.80 to 0.95, instead of 0.82 to" in validation
    assert "only 20 of 100 test anomalies" in test


@pytest.mark.parametrize(("train", "test", "part"), [(4, 50, "training"), (50, 4, "test")])
def test_too_few_anomalies(invent, train, test, part):
    invent("n", [None] * 600, [None] * 500)
    invent("o", [None] * train, [None] * test)
    with pytest.raises(DataError, match=f"the {part} part of o has 4, at least 5"):
        problem(dataset="n", ood=("o",))


@pytest.mark.parametrize(("train", "test"), [(49, 100), (100, 9)])
def test_too_few_normals(invent, train, test):
    invent("n", [None] * train, [None] * test)
    invent("o", [None] * 100, [None] * 100)
    with pytest.raises(DataError, match="too few normal images in n"):
        problem(dataset="n", ood=("o",))


# Requests


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "photos"}, r"photos says what is normal .* --ood .*classes: china, flower"),
        ({"dataset": "photos", "normal_classes": ("cat",)}, "no class 'cat'; its classes: china"),
        ({"normal_classes": ("3", "12", "x")}, "no class '12', 'x'"),
        ({"normal_classes": tuple("0123456789")}, "every class of digits is normal"),
        ({"ood": ("digits",)}, "digits is both the normal set and an anomaly set"),
        ({"ood": ("uniform-noise", "uniform-noise")}, "uniform-noise is given twice"),
        ({"ood": ("mnits",)}, "unknown data set 'mnits'"),
        ({"dataset": "uniform-noise"}, "uniform-noise cannot be the normal set"),
        ({"val_anomalies": 9}, "val_anomalies must be a whole number of at least 10, got 9"),
        ({"val_anomalies": True, "seed": -1}, "got True; seed must be .* got -1"),
        ({"anomaly_fraction": 0.6}, r"anomaly_fraction must be a share in \[0, 0.5\], got 0.6"),
        ({"contamination": float("nan")}, r"contamination must be a share .* got nan"),
        ({"anomaly_fraction": 0.5}, r"0.5 needs \d+ anomalies beside \d+ .* enough for 0\.\d+"),
        ({"image_size": 7}, "image_size must be a whole number of at least 8 pixels, got 7"),
        ({"channels": 2}, r"channels must be 1 \(grey\) or 3 \(colour\), got 2"),
        *(
            ({"max_broken": value}, "max_broken must be a whole number of pictures, or a share")
            for value in (-1, -0.5, 1.5, True, "5", float("nan"), float("inf"))
        ),
        ({"normal_classes": (3,)}, "normal_classes must be a tuple of class names"),
        ({"ood": "uniform-noise"}, "ood must be a tuple of names"),
        ({"dataset": ""}, "dataset must be a name"),
    ],
)
def test_impossible_requests(fields, message):
    with pytest.raises(DataError, match=message):
        problem(**fields)


def test_classes_need_labels(tmp_path):
    path = write_npz(tmp_path / "x.npz", labels=False)
    with pytest.raises(DataError, match=r"--normal-class cannot be used .* no train_labels"):
        problem(dataset=f"npz:{path}", normal_classes=("1",))
    with pytest.raises(DataError, match="says what is normal but not what is anomalous"):
        problem(dataset=f"npz:{path}")


def test_one_set_under_two_spellings_is_one_set(tmp_path, monkeypatch):
    write_npz(tmp_path / "x.npz")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is both the normal set and an anomaly set"):
        problem(dataset="npz:x.npz", ood=(f"npz:{tmp_path}/./x.npz",))


def test_folders_must_not_share_pictures(tmp_path):
    write_pictures(tmp_path / "good", 150)
    write_pictures(tmp_path / "bad", 100)
    everything, bad = f"folder:{tmp_path}", f"folder:{tmp_path / 'bad'}"
    with pytest.raises(DataError, match=r"100 pictures in common, for example .*000\.png"):
        problem(dataset=everything, ood=(bad,))
    assert problem(dataset=everything, normal_classes=("good",), ood=(bad,)).train_images().size


def test_request_survives_json_and_pickle():
    request = ProblemRequest(dataset="digits", normal_classes=("3",), image_size=16, channels=3)
    assert ProblemRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request
    assert pickle.loads(pickle.dumps(request)) == request
    with pytest.raises(DataError, match=r"unknown setting 'odd', did you mean 'ood'\?"):
        ProblemRequest.from_dict({"odd": []})


def test_geometry_is_the_normal_sets_unless_asked_otherwise(tmp_path):
    grey = f"npz:{write_npz(tmp_path / 'grey.npz', (300, 100), (20, 16))}"
    colour = f"npz:{write_npz(tmp_path / 'colour.npz', (300, 100), (10, 10, 3))}"
    for dataset, ood, options, shape in (
        (grey, colour, {}, (1, 20, 16)),
        (colour, grey, {}, (3, 10, 10)),
        (colour, grey, {"image_size": 8, "channels": 1}, (1, 8, 8)),
        (grey, colour, {"image_size": 24, "channels": 3}, (3, 24, 24)),
    ):
        made = problem(dataset=dataset, ood=(ood, "gaussian-noise"), **options)
        assert made.image_shape == shape
        images = [made.train_images(), *made.validation_images(), *made.test_images()]
        assert {image.shape[1:] for image in images} == {shape}
        assert {image.dtype for image in images} == {np.dtype(np.uint8)}


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
        pictures, "_decode", lambda path, shape: decoded.append(path) or original(path, shape)
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


# Damaged pictures and copies


def test_damaged_pictures_leave_the_splits_and_are_told_once(tmp_path):
    write_pictures(tmp_path / "good", 200)
    write_pictures(tmp_path / "bad", 200)
    source = sources.open_source(f"folder:{tmp_path}")
    train, test = (next(i for i in source.ids(p) if i.startswith("good")) for p in sources.PARTS)
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


def test_overlapping_splits_are_refused():
    saved = problem().to_dict()
    saved["splits"]["validation_normals"][0]["ids"][0] = saved["splits"]["train_normals"][0]["ids"][
        0
    ]
    with pytest.raises(DataError, match="validation normals and train normals share"):
        Problem.from_dict(saved)
    one = (Selection("digits", "train", (1,)),)
    with pytest.raises(DataError, match="test normals come from the train part"):
        Splits(
            train_normals=(),
            validation_normals=(),
            validation_anomalies=(),
            test_normals=one,
            test_anomalies=(),
        )


# Real pictures


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the sample data in {SHARED}")
def test_real_pictures_of_varying_sizes():
    tile = SHARED / "magnetic_tile"
    made = problem(dataset=f"folder:{tile}/normal", ood=(f"folder:{tile}/defect",))
    counts = made.splits.counts()
    assert made.image_shape == (1, 32, 32)
    held_out = (counts["train_normals"] + counts["validation_normals"]) // 5
    assert counts["validation_normals"] == held_out
    assert sum(counts[name] for name in counts if "normals" in name) == 300
    assert counts["validation_anomalies"] == 50
    assert counts["test_anomalies"] == round(0.2 * counts["test_normals"])
    assert made.warnings == made.test_duplicates() == []
    assert 60 < made.train_images().mean() < 200
    same = problem(dataset=f"folder:{tile}", normal_classes=("normal",))
    assert same.splits.counts() == counts
    assert same.splits.test_normals[0].ids == tuple(
        f"normal/{one}" for one in made.splits.test_normals[0].ids
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the sample data in {SHARED}")
def test_real_arrays():
    made = problem(
        dataset=f"npz:{SHARED / 'fashion_mnist.npz'}",
        ood=(f"npz:{SHARED / 'mnist.npz'}", f"npz:{SHARED / 'cifar10.npz'}"),
    )
    assert made.image_shape == (1, 28, 28)
    assert made.splits.counts() == {
        "train_normals": 4950,
        "validation_normals": 50,
        "validation_anomalies": 50,
        "test_normals": 2000,
        "test_anomalies": 400,
    }
    one = problem(dataset=f"npz:{SHARED / 'mnist.npz'}", normal_classes=("8",))
    assert [len(s.ids) for s in one.splits.test_anomalies] == [40]
