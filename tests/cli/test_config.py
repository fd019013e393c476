"""`--config FILE`: every option from a file, the command line before it, and earlier runs."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from calls import call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amatune.cli import main
from amatune.cli.app import app
from amatune.cli.config import MOST_BYTES, key_of
from amatune.cli.views import JsonView, QuietView
from amatune.data.request import ProblemRequest
from amatune.detectors.ama import AMA
from amatune.registry import find_method
from amatune.runs import RunFolder
from amatune.runs.request import SearchRequest

# Every option of `search` with a value that is not its default, and the same on a command line.
OPTIONS: dict[str, tuple[Any, str]] = {
    "dataset": ("photos", "photos"),
    "ood": (["uniform-noise", "gaussian-noise"], "uniform-noise --ood gaussian-noise"),
    "test-ood": ("digits", "digits"),
    "normal-class": (["china"], "china"),
    "val-anomalies": (40, "40"),
    "anomaly-fraction": (0.1, "0.1"),
    "contamination": (0.05, "0.05"),
    "image-size": (24, "24"),
    "channels": (1, "1"),
    "keep-together": ("near-copies", "near-copies"),
    "group-by": ("folder", "folder"),
    "max-broken": (0.25, "0.25"),
    "data-dir": ("/data", "/data"),
    "method": ("alad", "alad"),
    "trials": (7, "7"),
    "epochs": (9, "9"),
    "steps": (300, "300"),
    "time-budget": ("1.5h", "1.5h"),
    "width": (0.5, "0.5"),
    "tile": (256, "256"),
    "tile-overlap": (64, "64"),
    "fix": ({"lr": 0.001, "d_zz": False}, "lr=0.001 --fix d_zz=false"),
    "preset": ("l1-score", "l1-score"),
    "space": ("space.json", "space.json"),
    "enqueue": (["first.json"], "first.json"),
    "warm-start": ("earlier", "earlier"),
    "sampler": ("random", "random"),
    "scheduler": ("none", "none"),
    "objective": ("worst", "worst"),
    "stop-at": (0.9, "0.9"),
    "seed": (3, "3"),
    "gpus-per-trial": (0.25, "0.25"),
    "cpus-per-trial": (2, "2"),
    "concurrent": (4, "4"),
    "address": ("auto", "auto"),
    "storage-path": ("/shared", "/shared"),
    "name": ("mine", "mine"),
    "runs-dir": ("elsewhere", "elsewhere"),
    "study-storage": ("journal", "journal"),
    "dry-run": (True, ""),
    "resume": (True, ""),
    "trust-space": (True, ""),
    "quiet": (True, ""),
    "json": (True, ""),
}
# What needs a run or another method, searches nothing, and excludes --quiet.
APART = ("warm-start", "resume", "dry-run", "json", "tile", "tile-overlap")


def write(values: Any, file: str = "config.yaml") -> str:
    text = values if isinstance(values, str) else None
    if text is None:
        text = json.dumps(values) if file.endswith(".json") else yaml.safe_dump(values)
    Path(file).write_text(text, encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def files_to_name() -> None:
    write({"lr": {"low": 0.1, "high": 0.2}}, "space.json")
    write([{"lr": 0.1}, {"lr": 0.2}], "first.json")


def test_the_options_here_are_all_there_are() -> None:
    command: Any = typer.main.get_command(app).commands["search"]  # type: ignore[attr-defined]
    assert {key_of(option) for option in command.params} == {*OPTIONS, "config"}


@pytest.mark.parametrize("written", ["config.yaml", "config.json"])
@pytest.mark.parametrize("sign", ["-", "_"])
def test_every_option_can_stand_in_a_file(written: str, sign: str, asked: list[Any]) -> None:
    chosen = {key: both for key, both in OPTIONS.items() if key not in APART}
    line = " ".join(f"--{key} {text}" for key, (_, text) in chosen.items())
    assert call(f"search {line}") == 1
    expected = [asked[0], *asked[3:]]
    asked.clear()
    write({key.replace("-", sign): value for key, (value, _) in chosen.items()}, written)
    assert call(f"search --config {written}") == 1
    assert [asked[0], *asked[3:]] == expected
    assert isinstance(asked[2], QuietView)


@pytest.mark.parametrize("key", sorted(set(OPTIONS) - {*APART, "quiet"}))
def test_each_option_of_a_file_has_an_effect_alone(key: str, asked: list[Any]) -> None:
    needed: dict[str, Any] = {"method": "alad"} if key in ("fix", "preset") else {}
    needed |= {"ood": "uniform-noise"} if key == "test-ood" else {}
    config = write({**needed, key: OPTIONS[key][0]})
    assert call("search " + " ".join(f"--{k} {v}" for k, v in needed.items())) == 1
    without = [asked[0], *asked[3:]]
    assert call(f"search --config {config}") == 1
    assert [asked[0], *asked[3:]] != without


def test_the_options_that_stand_apart(
    asked: list[Any], save_run: Callable[..., RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(f"search --config {write({'json': True})}") == 1
    assert isinstance(asked[2], JsonView)
    save_run(SearchRequest(name="mine"))
    assert call(f"search --config {write({'resume': True, 'trials': 60})}") == 1
    assert asked[0].name == "mine"
    assert asked[1] is True
    tiles = {"tile": 256, "tile-overlap": 64, "image-size": "512x1024"}
    assert call(f"search --config {write({'method': 'features', **tiles})}") == 1
    assert asked[0].fixed == {"tile": 256, "tile_overlap": 64}
    assert asked[0].problem.image_size == (512, 1024)
    assert call(f"search --config {write({'warm-start': 'gone'})}") == 2
    assert "'gone'" in capsys.readouterr().err


def test_the_command_line_wins(asked: list[Any]) -> None:
    config = write({"trials": 7, "ood": ["photos"], "seed": 3, "quiet": True})
    line = f"search --trials 9 --config {config} --ood uniform-noise --ood gaussian-noise"
    assert call(line) == 1
    request = asked[0]
    assert (request.trials, request.seed) == (9, 3)
    assert request.problem.ood == ("uniform-noise", "gaussian-noise")
    # Also where it repeats a default.
    assert call(f"search --config {config} --trials 50") == 1
    assert asked[0].trials == 50


def test_settings_of_the_command_line_win_by_name(asked: list[Any]) -> None:
    config = write({"preset": "without-mirror", "fix": {"k": 2, "lr": 0.1}, "width": 0.5})
    assert call(f"search --config {config} --fix k=3") == 1
    paper = AMA.presets["paper"]
    assert asked[0].fixed == {**paper, "mirrored": False, "k": 3, "lr": 0.1, "width": 0.5}
    assert call(f"search --config {config} --width 0.25 --preset without-simplex") == 1
    # The preset of the command line also goes before the file's settings.
    assert asked[0].fixed == {**paper, "mirrored": False, "k": 1, "width": 0.25}


def test_settings_in_a_file_are_read_as_on_the_command_line(asked: list[Any]) -> None:
    lines = "fix:\n  lr: 1e-3\n  direction: inward\n  latent_dim: none\n  mirrored: false\n"
    assert call(f"search --config {write(lines + '  milestones: [0.5]')}") == 1
    expected = {"lr": 0.001, "direction": "inward", "latent_dim": None, "mirrored": False}
    assert asked[0].fixed == {**expected, "milestones": [0.5]}
    assert call(f"search --config {write({'fix': ['k=2', 'direction=inward']})}") == 1
    assert asked[0].fixed == {"k": 2, "direction": "inward"}


def test_a_share_of_gpus_may_be_left_to_the_search(asked: list[Any]) -> None:
    assert call(f"search --config {write({'gpus-per-trial': 'auto', 'trials': 3})}") == 1
    assert asked[0] == SearchRequest(trials=3, steps=3000)


def test_a_space_and_settings_to_try_may_stand_in_the_file(asked: list[Any]) -> None:
    space = {"lr": {"low": 0.1, "high": 0.2}}
    assert call(f"search --config {write({'space': space, 'enqueue': [{'lr': 0.1}]})}") == 1
    assert asked[0].space == {"json": space}
    assert asked[3] == [{"lr": 0.1}]


def test_a_file_may_be_empty_of_values(asked: list[Any]) -> None:
    assert call(f"search --config {write({'trials': None, 'ood': None})}") == 1
    assert asked[0] == SearchRequest(steps=3000)


# --- the run.json of an earlier run ---------------------------------------------------------------

EARLIER = SearchRequest(
    problem=ProblemRequest(
        ood=("uniform-noise",), test_ood=("gaussian-noise",), seed=5, val_anomalies=40
    ),
    method="deep-svdd",
    trials=7,
    epochs=9,
    time_budget=0.1 + 0.2,
    gpus_per_trial=0.25,
    cpus_per_trial=1 / 3,
    concurrent=3,
    seed=5,
    sampler="qmc",
    scheduler="hyperband",
    objective="mean",
    fixed={"width": 0.1 + 0.2, "objective": "none", "milestones": [0.5, 1e-300], "latent": None},
    space={"json": {"lr": {"low": 0.1, "high": 0.2}}},
    stop_at=0.9,
    address="auto",
    storage_path="/shared",
    name="mine",
    runs_dir="elsewhere",
    data_dir="/data",
)


def test_the_record_of_a_run_reproduces_its_request(
    asked: list[Any], save_run: Callable[..., RunFolder]
) -> None:
    run = save_run(EARLIER, first=[{"lr": 0.5}, {"lr": 0.1}, {"lr": 0.15}])
    assert call(f"search --config {run.run_json}") == 1
    assert asked[0] == dataclasses.replace(EARLIER, name=None)
    assert asked[3] == [{"lr": 0.1}, {"lr": 0.15}]
    assert call(f"search --config {run.run_json} --seed 6 --fix width=1 --name other") == 1
    problem = dataclasses.replace(EARLIER.problem, seed=6)
    fixed = {**EARLIER.fixed, "width": 1}
    changed = {"name": "other", "seed": 6, "fixed": fixed, "problem": problem}
    assert asked[0] == dataclasses.replace(EARLIER, **changed)


def test_the_record_of_a_search_of_several_methods_reproduces_its_request(
    asked: list[Any], save_run: Callable[..., RunFolder]
) -> None:
    """Each method's default comes by itself, and is not tried as somebody's wish."""
    several = SearchRequest(method="ama+deep-svdd", epochs=25, fixed={"width": 0.5, "ama.k": 2})
    first = [{"method": "ama"}, {"method": "deep-svdd"}, {"method": "ama", "ama.lr": 0.001}]
    run = save_run(several, first=first)
    assert call(f"search --config {run.run_json}") == 1
    assert asked[0] == several
    assert asked[3] == first[2:]
    assert call(f"search --config {run.run_json} --steps 50 --method ama --method alad") == 1
    assert asked[0] == dataclasses.replace(several, method="ama+alad", steps=50)


def test_the_record_of_a_default_run_reproduces_its_request(
    asked: list[Any], save_run: Callable[..., RunFolder]
) -> None:
    run = save_run(SearchRequest(name="plain"))
    assert call(f"search --config {run.run_json}") == 1
    assert asked[0] == SearchRequest()
    assert asked[3] == []


ALAD_RUN = SearchRequest(method="alad", steps=300, name="mine")


def alad_first(wanted: Sequence[Mapping[str, Any]] = ()) -> list[Mapping[str, Any]]:
    """What a search of ALAD tries first: its default, what is wanted, what ALAD is known for."""
    return [{"lr": 1e-4, "stacked": "height"}, *wanted, *find_method("alad").known]


@pytest.mark.parametrize("wanted", [[], [{"lr": 0.001}], [dict(find_method("alad").known[0])]])
@pytest.mark.parametrize("more", ["", "--fix lr=0.001", "--method deep-svdd", "--sampler random"])
def test_what_a_method_is_known_for_is_not_somebodys_wish(
    asked: list[Any], save_run: Callable[..., RunFolder], wanted: list[Any], more: str
) -> None:
    run = save_run(ALAD_RUN, first=alad_first(wanted)[: 4 + len(wanted)], known=3)
    assert call(f"search --config {run.run_json} {more}") == 1
    assert asked[3] == wanted


def test_a_record_that_does_not_say_what_its_method_is_known_for(
    asked: list[Any], save_run: Callable[..., RunFolder]
) -> None:
    """Those of earlier versions."""
    wanted = {"latent_dim": 50, "lr": 0.001, "stacked": "height"}
    run = save_run(ALAD_RUN, first=alad_first([wanted]))
    assert call(f"search --config {run.run_json}") == 1
    assert asked[3] == [wanted]
    run = save_run(dataclasses.replace(ALAD_RUN, name="spread", sampler="random"), alad_first())
    assert call(f"search --config {run.run_json}") == 1
    assert asked[3] == list(find_method("alad").known)  # then they were asked for
    gone = dataclasses.replace(ALAD_RUN, name="gone", method="not-here")
    run = save_run(gone, first=[{}, wanted])
    assert call(f"search --config {run.run_json} --method alad") == 1
    assert asked[3] == [wanted]


def test_the_record_of_a_run_stands_for_it_where_it_goes_on(
    asked: list[Any], save_run: Callable[..., RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    run = save_run(ALAD_RUN, first=alad_first([{"lr": 0.001}]), known=3)
    save_run(SearchRequest(name="newer"))
    assert call(f"search --resume --config {run.run_json} --trials 60") == 1
    request, resume, _, first, _ = asked
    assert (request.name, request.trials, resume, first) == ("mine", 60, True, [])
    assert run.record().request.differences(request) == []
    assert call(f"search --resume --config {run.run_json} --name newer") == 1
    assert asked[0].name == "newer"
    assert call(f"search --resume --config {run.run_json} --enqueue first.json") == 1
    assert len(asked[3]) == 2  # which is refused: it was said
    assert capsys.readouterr().err.count("noted") == 3


def test_the_budget_of_a_record_is_of_methods_that_have_one(
    asked: list[Any], save_run: Callable[..., RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    run = save_run(ALAD_RUN)
    assert call(f"search --config {run.run_json} --method features") == 1
    assert (asked[0].epochs, asked[0].steps) == (1, None)
    assert call(f"search --config {run.run_json} --method ama") == 1
    assert asked[0].steps == 300
    assert call(f"search --config {run.run_json} --method features --steps 9") == 2
    assert "leave steps and epochs out" in capsys.readouterr().err
    # One of a version that gave it passes, and one pass is no budget for another method.
    frozen = save_run(SearchRequest(method="features", epochs=9, name="frozen"))
    assert call(f"search --config {frozen.run_json}") == 1
    assert (asked[0].epochs, asked[0].steps) == (1, None)
    assert call(f"search --config {frozen.run_json} --method ama") == 1
    assert (asked[0].epochs, asked[0].steps) == (25, 3000)
    assert call(f"search --resume --config {frozen.run_json}") == 1
    assert asked[0].epochs == 9


def test_a_program_in_a_record_is_run_for_the_trusting_alone(
    asked: list[Any], save_run: Callable[..., RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    run = save_run(SearchRequest(name="mine", space={"python": "raise SystemExit"}))
    assert call(f"search --config {run.run_json}") == 2
    assert "--trust-space" in capsys.readouterr().err
    assert not asked
    assert call(f"search --config {run.run_json} --trust-space") == 1
    assert asked[0].space == {"python": "raise SystemExit"}
    assert call(f"search --config {run.run_json} --space space.json") == 1
    assert "json" in asked[0].space


def test_the_record_of_a_run_stands_for_the_run_in_best(
    monkeypatch: pytest.MonkeyPatch, save_run: Callable[..., RunFolder]
) -> None:
    told: list[Any] = []

    def note(run: RunFolder, **options: Any) -> None:
        told[:] = [run.name, options]
        raise KeyboardInterrupt

    monkeypatch.setattr("amatune.tuning.retrain.run_best", note)
    run = save_run(EARLIER)
    save_run(SearchRequest(name="newer"))
    assert call(f"best --config {run.run_json}") == 130
    assert told[0] == "mine"
    assert told[1]["epochs"] is None
    config = write({"run": "mine", "top": 5, "seeds": 2, "epochs": 4, "address": "auto"})
    assert call(f"best --config {config} --seeds 1") == 130
    assert told[0] == "mine"
    values = {name: told[1][name] for name in ("top", "seeds", "epochs", "address")}
    assert values == {"top": 5, "seeds": 1, "epochs": 4, "address": "auto"}


# --- files that are refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tirals: 3", "there is no option 'tirals'; did you mean 'trials'"),
        ("config: other.yaml", "there is no option 'config'"),
        ("3: 4", "there is no option 3"),
        ("trials: many", "trials: 'many' is not a whole number"),
        ("trials: 1.5", "trials: '1.5' is not a whole number"),
        ("trials: [3]", "trials cannot be a list; give a text or a number"),
        ("trials: {a: 3}", "trials cannot be a mapping"),
        ("trials: true", "trials cannot be true"),
        ("time-budget: 600", "time-budget: '600' is not a time; write 90s, 10m or 2h"),
        ("gpus-per-trial: some", "'some' is not a share of GPUs"),
        ("quiet: 1", "quiet must be true or false, got 1"),
        ("resume: maybe", "resume must be true or false, got 'maybe'"),
        ("ood: {a: 1}", "ood cannot be a mapping"),
        ("ood: [[a]]", "ood cannot be a list"),
        ("fix: k", "'k' is not NAME=VALUE"),
        ("fix: {k: {a: 1}}", "fix: k cannot be a mapping"),
        ("fix: {k: [[1]]}", "fix: k cannot be a list"),
        ("fix: [k=1, k=2]", "'k' twice"),
        ("enqueue: [[1]]", "enqueue cannot be a list"),
        ("sampler: grid", "unknown sampler 'grid'"),
        ("val_anomalies: 40\nval-anomalies: 50", "val-anomalies is there twice"),
        ("trials: 3\ntrials: 4", "'trials' is there twice"),
        ("- trials", "must hold options by name, got a list"),
        ("just text", "must hold options by name, got 'just text'"),
        ("", "must hold options by name, got None"),
        ("trials: [3", "it is not YAML: "),
        ("trials: !!python/object:os.system 3", "it is not YAML: "),
        ("a: 1\n--- \nb: 2", "it is not YAML: "),
        ("a: &a [1]\nb: *a", "aliases"),
        ("a: \x00", "it is not YAML: "),
        ("[" * 5000, "cannot read the options in config.yaml"),
        ("space: " + "{a: " * 5000, "cannot read the options in config.yaml"),
        ("trials: " + "9" * 5000, "cannot read the options in config.yaml"),
        ("x: " + "a" * MOST_BYTES["YAML"], "it is larger than 262,144 bytes"),
        ("request: {trials: 3}", "cannot be read as a run"),
    ],
)
def test_a_wrong_file_gets_one_message(
    text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(f"search --config {write(text)}") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert told in captured.err
    assert not list(Path().glob("runs/*"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"trials": 3', "cannot read the options in config.json"),
        ('{"trials": 3, "trials": 4}', "'trials' is there twice"),
        ('{"trials": ' + "9" * 5000 + "}", "cannot read the options in config.json"),
        ("[" * 100_000, "cannot read the options in config.json"),
        ('{"request": {}, "schema": 99}', "99"),
    ],
)
def test_wrong_json_gets_one_message(
    text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(f"search --config {write(text, 'config.json')}") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert told in err


def test_only_regular_files_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("fifo.yaml")
    Path("folder.yaml").mkdir()
    Path("zero.yaml").symlink_to("/dev/zero")
    for name in ("fifo.yaml", "folder.yaml", "zero.yaml"):
        assert call(f"search --config {name}") == 2
        assert f"options in {name}: it is not a regular file" in capsys.readouterr().err
    assert call("search --config gone.yaml") == 2
    assert "options in gone.yaml: No such file" in capsys.readouterr().err
    Path("latin.yaml").write_bytes(b"name: \xff")
    assert call("search --config latin.yaml") == 2
    assert "it is not UTF-8 text" in capsys.readouterr().err
    assert main(["search", "--config", "a" * 300]) == 2
    assert "File name too long" in capsys.readouterr().err


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(st.sampled_from(sorted(OPTIONS)), anything, max_size=4))
def test_whatever_a_file_holds_becomes_a_request_or_one_message(
    values: dict[str, Any], asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    code = call(f"search --config {write(values, 'config.json')}")
    captured = capsys.readouterr()
    assert code in (1, 2)
    assert captured.err.count("\n") == 1
    assert asked or code == 2
