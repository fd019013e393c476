"""The Python API: the same requests as the command line's, silent, with errors one can catch."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import fake_method
import pytest
import typer
from calls import python
from fake_run import add_trial, finished_run, small_problem, write_run

import amatune
from amatune.cli.app import app
from amatune.data.request import ProblemRequest
from amatune.errors import AmatuneError, DivergedError, RequestError
from amatune.results.leaderboard import read_leaderboard
from amatune.runs import RunFolder
from amatune.runs.request import SearchRequest
from amatune.tuning.options import SearchOptions, options_of, with_options
from amatune.tuning.planning import plan_run

FIXED = {"lr": 0.001, "width": 0.5, "d_zz": False}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Takes the place of the search: notes what it was asked and fails."""
    calls: dict[str, Any] = {}

    def note(request: SearchRequest, **others: Any) -> None:
        calls.update(request=request, **others)
        raise DivergedError("noted")

    monkeypatch.setattr("amatune.tuning.search.run_search", note)
    return calls


def search(**options: Any) -> None:
    with pytest.raises(DivergedError, match="noted"):
        amatune.search(**options)


def test_importing_it_is_instant() -> None:
    program = (
        "import amatune, sys\n"
        "print(sorted({'torch', 'ray', 'optuna', 'numpy', 'rich', 'typer'} & sys.modules.keys()))"
    )
    done = python("-c", program)
    assert done.stdout == "[]\n", done.stderr


def test_what_is_public_is_there() -> None:
    for name in ("AnomalyDetector", "export", "load", "retrain", "search"):
        assert name in dir(amatune)
        assert callable(getattr(amatune, name))
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        amatune.serach  # noqa: B018


def test_without_options_a_search_has_its_defaults(asked: dict[str, Any]) -> None:
    search()
    assert asked["request"] == SearchRequest(steps=3000)
    assert asked["resume"] is False
    assert asked["listener"] is None


def test_options_become_the_request(asked: dict[str, Any]) -> None:
    search(
        dataset="photos",
        ood="uniform-noise",
        test_ood=["gaussian-noise"],
        normal_class=["china", 3],
        seed=3,
        data_dir=Path("data"),
        method="alad",
        preset="without-d-zz",
        fix={"lr": 0.001},
        width=0.5,
        space={"json": {"lr": {"low": 0.1, "high": 0.2}}},
        runs_dir=Path("elsewhere"),
        trials=7,
    )
    assert asked["request"] == SearchRequest(
        problem=ProblemRequest(
            dataset="photos",
            ood=("uniform-noise",),
            test_ood=("gaussian-noise",),
            normal_classes=("china", "3"),
            seed=3,
        ),
        seed=3,
        data_dir=str(Path("data").resolve()),
        method="alad",
        fixed=FIXED,
        space={"json": {"lr": {"low": 0.1, "high": 0.2}}},
        runs_dir="elsewhere",
        trials=7,
        steps=300,  # the usual number of ALAD
    )


def test_the_command_line_has_the_same_options_and_defaults() -> None:
    command: Any = typer.main.get_command(app).commands["search"]  # type: ignore[attr-defined]
    of_the_command_alone = {
        *("context", "config", "dry_run", "quiet", "as_json", "resume", "trust_space"),
        *("enqueue", "warm_start"),
    }
    shown = {option.name: option.default for option in command.params}
    assert set(shown) - of_the_command_alone == set(SearchOptions.__annotations__)
    defaults: dict[str, Any] = {**options_of(SearchRequest()), "name": None}
    del defaults["epochs"]  # with the steps they depend on the method
    # A list, which is empty until methods are named; the help has the one that is meant.
    (method,) = (option for option in command.params if option.name == "method")
    assert f"by default {defaults.pop('method')};" in method.help
    for name, value in defaults.items():
        assert (shown[name] or None) == (value or None) or str(shown[name]) == value, name


def test_a_request_is_made_of_its_options_again() -> None:
    request = SearchRequest(
        problem=ProblemRequest(ood=("a", "b"), normal_classes=("0",), seed=2, max_broken=3),
        seed=2,
        fixed={"width": 0.1 + 0.2, "latent_dim": None},
        space={"python": "def space(trial): ..."},
        time_budget=1e-7,
        name="mine",
        data_dir="/data",
    )
    again = with_options(SearchRequest(), options_of(request))
    assert again == dataclasses.replace(request, name=None)
    assert with_options(request, {}) == request


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tirals": 3}, "no option 'tirals'; did you mean 'trials'"),
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"trials": "many"}, "trials must be a whole number, got 'many'"),
        ({"preset": "ppaer"}, "no preset 'ppaer'; did you mean 'paper'"),
        ({"width": 1.0, "fix": {"width": 2.0}}, "given twice"),
        ({"method": "amma"}, "unknown method 'amma'"),
        ({"space": "none.json"}, "cannot read the search space none.json"),
        ({"enqueue": "none.json"}, "cannot read the settings in none.json"),
        ({"enqueue": [3]}, "must hold an object of settings"),
        ({"enqueue": ["text.json"]}, "must hold an object of settings"),
        ({"warm_start": "gone"}, "no run 'gone'"),
        ({"resume": True}, "there are no runs in runs"),
        ({"resume": "one"}, "must be True or False, got 'one'; .* as `name`"),
        ({"fix": ["lr=1"]}, r"a mapping, such as \{'width': 0.5\}, got \['lr=1'\]"),
        ({"enqueue": 3}, "mappings, files, or a list of these, got 3"),
        ({"dataset": "digitz"}, "did you mean 'digits'"),
    ],
)
def test_wrong_options_raise_an_error_that_names_them(options: dict[str, Any], told: str) -> None:
    Path("text.json").write_text('"text"', encoding="utf-8")
    with pytest.raises(RequestError, match=told) as raised:
        amatune.search(**options)
    assert isinstance(raised.value, AmatuneError)
    assert not Path("runs").exists()


def test_settings_to_try_first_come_from_files_values_and_an_earlier_run(
    asked: dict[str, Any],
) -> None:
    Path("first.json").write_text(json.dumps([{"lr": 0.1}, {"lr": 0.2}]), encoding="utf-8")
    search(enqueue=[Path("first.json"), {"lr": 0.3}])
    assert asked["first"] == [{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3}]
    search(enqueue={"lr": 0.3})
    assert asked["first"] == [{"lr": 0.3}]
    run = write_run(Path("runs/earlier"), small_problem().to_dict())
    for quality in (0.3, 0.9):
        add_trial(run, {"quality": quality, "kind": "plain"}, [quality] * 9)
    search(warm_start="earlier", enqueue="first.json")
    best, other = ({"quality": quality, "kind": "plain"} for quality in (0.9, 0.3))
    assert asked["first"] == [{"lr": 0.1}, {"lr": 0.2}, best, other]
    for named in (run, run.path, str(run.path)):
        search(warm_start=named)
        assert asked["first"] == [best, other]


def test_a_run_is_continued_as_it_was(asked: dict[str, Any]) -> None:
    run = write_run(Path("runs/mine"), small_problem().to_dict(), time_budget=60.0)
    search(resume=True, trials=9)
    earlier = run.record().request
    expected = {"trials": 9, "time_budget": None, "runs_dir": str(Path("runs").resolve())}
    assert asked["request"] == dataclasses.replace(earlier, **expected)
    assert asked["resume"] is True
    assert asked["trust_space"] is False
    search(resume=True, trust_space=True)
    assert asked["trust_space"] is True


def test_a_run_that_goes_on_is_named_by_its_name_its_folder_or_itself(
    asked: dict[str, Any],
) -> None:
    run = write_run(Path("runs/mine"), small_problem().to_dict(), study=False)
    write_run(Path("runs/newer"), small_problem().to_dict(), study=False)
    for named in ("mine", run, run.path, str(run.path)):
        search(resume=True, name=named)
        assert asked["request"].name == "mine"
        assert asked["request"].runs_dir == str(run.path.parent)


@pytest.mark.parametrize("where", ["name", "warm_start"])
def test_runs_that_are_not_there(where: str) -> None:
    write_run(Path("runs/mine"), small_problem().to_dict(), study=False)
    resume = where == "name"
    for named in (Path("runs/mien"), "runs/mien"):
        with pytest.raises(RequestError, match="no run 'runs/mien'"):
            amatune.search(resume=resume, **{where: named})  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="a run is named by its name or its folder, got 5"):
        amatune.search(resume=resume, **{where: 5})  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="name must be text or None, got RunFolder"):
        amatune.search(name=RunFolder("runs/mine"))


def test_options_that_are_text_on_the_command_line(asked: dict[str, Any], tmp_path: Path) -> None:
    search(image_size=(64, 96), gpus_per_trial=None, storage_path=Path("shared"), time_budget=9)
    request = asked["request"]
    assert request.problem.image_size == (64, 96)
    assert request.gpus_per_trial is None
    assert request.storage_path == str(tmp_path / "shared")
    assert request.time_budget == 9


def test_numbers_of_a_retraining_are_numbers() -> None:
    run = write_run(Path("runs/mine"), small_problem().to_dict(), study=False)
    for name in ("top", "seeds", "epochs", "concurrent", "cross_fit"):
        for value in ("3", 2.5, True):
            wrong: dict[str, Any] = {name: value}
            with pytest.raises(RequestError, match=f"{name} must be a whole number, got {value!r}"):
                amatune.retrain(run, **wrong)
    with pytest.raises(RequestError, match=r"min_recall must be a number, got '0\.9'"):
        amatune.retrain(run, min_recall="0.9")  # type: ignore[arg-type]


def test_a_method_that_learns_in_one_pass_is_retrained_in_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_method.install(monkeypatch)
    monkeypatch.setattr(fake_method.FakeDetector, "usual_steps", None)
    run = write_run(Path("runs/mine"), small_problem().to_dict())  # of 9 epochs
    with pytest.raises(RequestError, match=r"fake learns all .* one pass .* leave epochs out"):
        amatune.retrain(run, epochs=5)
    for epochs in (None, 1, 9):
        with pytest.raises(RequestError, match="no trial of the run 'mine' has reached"):
            amatune.retrain(run, epochs=epochs)


def test_a_listener_is_handed_on(asked: dict[str, Any]) -> None:
    events: list[object] = []
    search(listener=events.append)
    assert asked["listener"] == events.append


def test_an_estimate_takes_the_arguments_of_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def note(request: SearchRequest, **others: Any) -> None:
        calls[:] = [request, others]

    monkeypatch.setattr("amatune.tuning.rehearsal.rehearse", note)
    amatune.estimate(dataset="digits", trials=7, enqueue={"lr": 0.1}, warm_start=None)
    assert calls[0].trials == 7
    told = {"listener": None, "resume": False, "first": [{"lr": 0.1}], "trust_space": False}
    assert calls[1] == told


def test_retraining_takes_a_run_by_name_folder_or_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def note(run: RunFolder, **options: Any) -> None:
        calls[:] = [run.path, options]

    monkeypatch.setattr("amatune.tuning.retrain.run_best", note)
    run = write_run(Path("runs/mine"), small_problem().to_dict(), study=False)
    for given in ("mine", None, run, run.path, str(run.path)):
        amatune.retrain(given)
        assert calls[0] == run.path
    defaults = {"top": 3, "seeds": 3, "epochs": None, "data_dir": None, "address": None}
    others = ("concurrent", "cross_fit", "demand", "listener")
    assert calls[1] == {**defaults, **dict.fromkeys(others)}
    amatune.retrain("mine", top=1, data_dir="~/data", runs_dir=Path("runs"))
    assert calls[1]["data_dir"] == os.path.expanduser("~/data")
    with pytest.raises(RequestError, match="'gone'"):
        amatune.retrain("gone")


def test_a_plan_takes_a_run_by_name_folder_or_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_method.install(monkeypatch)
    run = finished_run(Path("runs/mine"), small_problem())
    expected = plan_run(run)
    assert expected.of.startswith(read_leaderboard(run).chosen.configuration)
    for given in ("mine", None, run, run.path):
        assert amatune.plan(given) == expected
    with pytest.raises(RequestError, match="'gone'"):
        amatune.plan("gone")
    write_run(Path("runs/empty"), small_problem().to_dict(), study=False)
    with pytest.raises(AmatuneError):
        amatune.plan("empty")


def test_the_chosen_detector_of_a_run_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_method.install(monkeypatch)
    run = finished_run(Path("runs/mine"), small_problem())
    exported = amatune.export("mine", "model")
    assert exported.folder.resolve() == Path("model").resolve()
    assert exported.method == "fake"
    assert exported.calibration is not None
    chosen = read_leaderboard(run).chosen
    assert exported.figures["test AUROC of bright"]["value"] == chosen.test["bright"].auroc
    assert amatune.export(run).folder == run.best / "export"
    assert amatune.export().folder == run.best / "export"
    with pytest.raises(RequestError, match="'gone'"):
        amatune.export("gone")


def test_the_package_and_the_function_called_export_are_one() -> None:
    for first in ("amatune.export", "from amatune.export import load"):
        program = f"import amatune; {first}; import amatune.export; print(callable(amatune.export))"
        done = python("-c", program)
        assert done.stdout == "True\n", done.stderr
