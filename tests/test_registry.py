"""Where methods come from, and that one that cannot be used harms no other."""

import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from amatune import registry
from amatune.detectors.ama import AMA
from amatune.errors import RequestError
from amatune.registry import Method, find_method, method_names, survey_methods


def space(_trial: Any) -> dict[str, Any]:
    return {}


class Another(AMA):
    name: ClassVar[str] = "another"


ANOTHER = Method("another", Another, space, "another.trainables:TRAINABLE")
NOT_A_METHOD = Another


class Dist:
    """What an entry point knows of the package that it is of."""

    version = "1.2"

    def __init__(self, name: str) -> None:
        self.name = name


def bring(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str, str]) -> None:
    """Entry points of installed packages: name, object, package."""
    monkeypatch.setitem(sys.modules, "outside", SimpleNamespace(**globals()))  # type: ignore[arg-type]
    found = []
    for name, value, package in points:
        point = EntryPoint(name, value, registry.GROUP)
        vars(point)["dist"] = Dist(package)
        found.append(point)
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group else ())


def test_the_folder_is_the_registry() -> None:
    assert {"ama", "deep-svdd", "alad"} <= set(method_names())
    methods, problems = survey_methods()
    assert [method.name for method in methods] == method_names()
    assert problems == []
    for method in methods:
        assert method == find_method(method.name)
        assert method.detector.name == method.name
        assert method.trainable_class().detector_class is method.detector  # type: ignore[attr-defined]


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(RequestError, match="unknown method 'amma'; did you mean 'ama'"):
        find_method("amma")


def test_an_installed_package_brings_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    bring(monkeypatch, ("another", "outside:ANOTHER", "outsiders"))
    assert "another" in method_names()
    assert find_method("another") is ANOTHER
    methods, problems = survey_methods()
    assert ANOTHER in methods
    assert problems == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("another", "outside:MISSING", "outside:MISSING raises AttributeError"),
        ("another", "no_such_module:METHOD", "no_such_module:METHOD raises ModuleNotFoundError"),
        ("another", "outside:NOT_A_METHOD", "outside:NOT_A_METHOD is not a Method but <class"),
        ("other", "outside:ANOTHER", "calls itself 'another'; its entry point must have that name"),
    ],
)
def test_a_broken_one_harms_no_other(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    own = method_names()
    bring(monkeypatch, (name, value, "outsiders"))
    with pytest.raises(RequestError, match=rf"{name}' of outsiders 1\.2 cannot be used: .*{told}"):
        find_method(name)
    methods, (problem,) = survey_methods()
    assert told in problem
    assert [method.name for method in methods] == own
    assert find_method("ama").detector is AMA


def test_amatunes_own_names_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    bring(monkeypatch, ("ama", "outside:ANOTHER", "outsiders"))
    assert find_method("ama").detector is AMA
    _, problems = survey_methods()
    assert problems == [
        "the method 'ama' of outsiders 1.2 is not used: amatune has one of its own by that name"
    ]


def test_two_packages_with_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [("another", "outside:ANOTHER", package) for package in ("one", "two")]
    bring(monkeypatch, *points)
    assert method_names().count("another") == 1
    with pytest.raises(RequestError, match=r"by one 1\.2 and two 1\.2; uninstall all but one"):
        find_method("another")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "An Other"}, "lower-case words joined by hyphens, got 'An Other'"),
        ({"name": "other"}, "calls itself 'another'"),
        ({"name": "auto"}, "'auto' stands for methods that are chosen; give it another name"),
        ({"detector": AMA(AMA.Config(), (1, 8, 8))}, "must be a subclass of Detector"),
        ({"space": None}, "must be a function of a trial, got None"),
        ({"trainable": "no place"}, "a class or 'package.module:NAME', got 'no place'"),
    ],
)
def test_parts_that_do_not_fit_are_told(changes: dict[str, Any], told: str) -> None:
    parts = {"name": "another", "detector": Another, "space": space, "trainable": Another}
    with pytest.raises(RequestError, match=told):
        Method(**{**parts, **changes})


def test_a_trainable_that_is_not_there_is_told() -> None:
    method = Method("another", Another, space, "amatune.trainables.ama:MISSING")
    with pytest.raises(RequestError, match=r"no class MISSING in amatune\.trainables\.ama"):
        method.trainable_class()


def test_it_travels_between_processes() -> None:
    for method in survey_methods()[0]:
        assert pickle.loads(pickle.dumps(method)) == method


def test_a_method_needs_neither_ray_nor_optuna() -> None:
    program = (
        "import sys\nfrom amatune.registry import survey_methods\nsurvey_methods()\n"
        "print(sorted({'ray', 'optuna'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
