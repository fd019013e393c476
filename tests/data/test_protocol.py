"""The splits: disjoint, seeded, the same everywhere."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listed_source import ListSource
from pictures_on_disk import write_npz, write_pictures
from problems import ids, problem

from amatune.data import protocol
from amatune.data.catalogue import open_source
from amatune.data.problem import Problem
from amatune.data.protocol import make_problem, share_out
from amatune.data.request import ProblemRequest
from amatune.errors import DataError


@pytest.fixture
def invent(monkeypatch):
    """Make named sources out of lists of labels."""
    known = {}
    monkeypatch.setattr("amatune.data.problem.open_source", lambda name, _: known[name])

    def add(name, train, test):
        known[name] = ListSource(name, train, test)
        return known[name]

    return add


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
        patch.setattr("amatune.data.problem.open_source", lambda name, _: known[name])
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
        patch.setattr("amatune.data.problem.open_source", lambda name, _: known[name])
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
    assert "test 100 + 20 of b, a; " in made.describe()
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
        patch.setattr("amatune.data.problem.open_source", lambda *_: source)
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
        "digits: classes 0-4 normal, 582 train, 50+50 validation; test 269 + 54; "
        "28 x 28 pixels, grey"
    )
    assert made.image_shape == (1, 28, 28)
    assert made.warnings == []
    target = open_source("digits")._labels
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


@pytest.mark.parametrize("spelling", ["{}", "../lists/{}", "{folder}/{}", "link/{}"])
def test_manifests_must_not_share_pictures(tmp_path, spelling):
    home = write_pictures(tmp_path / "lists", 300)
    (home / "link").symlink_to(home)
    names = sorted(file.name for file in home.glob("*.png"))
    (home / "good.csv").write_text("\n".join(["path", *names[:200]]))
    other = [spelling.format(name, folder=home) for name in names[199:]]
    (home / "bad.csv").write_text("\n".join(["path", *other]))
    with pytest.raises(DataError, match=r"1 pictures in common, for example .*lists/199\.png"):
        problem(dataset=f"csv:{home / 'good.csv'}", ood=(f"csv:{home / 'bad.csv'}",))
    (home / "bad.csv").write_text("\n".join(["path", *other[1:]]))
    assert problem(dataset=f"csv:{home / 'good.csv'}", ood=(f"csv:{home / 'bad.csv'}",))


def test_geometry_is_the_normal_sets_unless_asked_otherwise(tmp_path):
    grey = f"npz:{write_npz(tmp_path / 'grey.npz', (300, 100), (20, 16))}"
    colour = f"npz:{write_npz(tmp_path / 'colour.npz', (300, 100), (10, 10, 3))}"
    for dataset, ood, options, shape in (
        (grey, colour, {}, (1, 20, 16)),
        (colour, grey, {}, (3, 10, 10)),
        (colour, grey, {"image_size": 8, "channels": 1}, (1, 8, 8)),
        (grey, colour, {"image_size": 24, "channels": 3}, (3, 24, 24)),
        (grey, colour, {"image_size": (12, 30)}, (1, 12, 30)),
    ):
        made = problem(dataset=dataset, ood=(ood, "gaussian-noise"), **options)
        assert made.image_shape == shape
        images = [made.train_images(), *made.validation_images(), *made.test_images()]
        assert {image.shape[1:] for image in images} == {shape}
        assert {image.dtype for image in images} == {np.dtype(np.uint8)}


def test_more_than_the_memory_holds_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(protocol, "machine_memory", lambda: 2**20)
    monkeypatch.setattr(Problem, "images", lambda *_: pytest.fail("images are decoded"))
    told = r"images of 256 x 256 pixels, grey are \d+ MiB, this machine has 1 MiB; choose"
    with pytest.raises(DataError, match=told):
        problem(image_size=256)


@pytest.mark.parametrize(("train", "test"), [(1, 30), (0, 30), (30, 1), (30, 0)])
def test_a_set_that_is_too_small_for_figures_of_its_own_is_told(invent, train, test):
    invent("n", [None] * 600, [None] * 500)
    invent("o", [None] * 60, [None] * 120)
    invent("rare", [None] * train, [None] * test)
    (told,) = (one for one in problem(dataset="n", ood=("o", "rare")).warnings if "rare" in one)
    part = "validation" if train < test else "test"
    count = "only 1 of the" if min(train, test) else "none of the"
    assert told.startswith(f"rare has {count} {part} anomalies: ")
