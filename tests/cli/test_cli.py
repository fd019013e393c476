"""The command line: what options become, what wrong ones are answered, and what is printed."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import amatune.tuning.search
from amatune.cli.app import _JsonView, _LiveView, _PlainView, _QuietView, _setting, main
from amatune.data import pictures as reading
from amatune.data.request import ProblemRequest
from amatune.detectors.ama import AMA
from amatune.errors import AmatuneError, DivergedError
from amatune.runs import RunFolder
from amatune.runs.request import SearchRequest
from amatune.tuning.events import RetrainStarted, RetrainUpdate, SearchStarted, State, TrialUpdate

COMMANDS = [
    *("search", "best", "score", "status", "report", "compare", "datasets", "methods", "space")
]
ANSI = "\x1b"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    return tmp_path


@pytest.fixture
def model(exported: Path) -> str:
    return exported.name


def call(line: str) -> int:
    """Run a command in this process, as `main` would for these words."""
    return main(line.split())


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter, to see what a process prints, imports and exits with."""
    return subprocess.run([sys.executable, *arguments], check=False, capture_output=True, text=True)


# --- help and wrong requests ----------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_reads_well(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: amatune {command}" in text
    assert f"Examples\n amatune {command}" in re.sub(r" +\n", "\n", text)
    assert ANSI not in text
    # A rule of the markup, an escaped bracket or a stray backtick pair would show here.
    assert "[bold]" not in text
    assert "\\[" not in text


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"│ {command} " in text for command in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"amatune {amatune.__version__}\n"


def test_help_imports_nothing_slow() -> None:
    program = (
        "import sys\nfrom amatune.cli import main\nmain(['search', '--help'])\n"
        "print(sorted({'torch', 'ray', 'optuna', 'numpy', 'sklearn'} & sys.modules.keys()))"
    )
    done = python("-c", program)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("serch", "'serch'"),
        ("search --tials 3", "--tials"),
        ("search extra", "extra"),
        ("search --trials", "--trials"),
        ("search --trials 0", "trials must be at least 1, got 0"),
        ("search --trials many", "'--trials': 'many' is not a whole number"),
        ("search --trials 1.5", "'1.5' is not a whole number"),
        ("search --epochs -3", "epochs must be at least 1, got -3"),
        ("search --concurrent 0", "concurrent must be at least 1, got 0"),
        ("search --time-budget soon", "'soon' is not a time; write 90s, 10m or 2h"),
        ("search --time-budget 0s", "'0s' is not a time"),
        ("search --time-budget 10", "'10' is not a time"),
        ("search --gpus-per-trial some", "'some' is not a share of GPUs; write auto, 0, 0.25"),
        ("search --gpus-per-trial -1", "'-1' is not a share of GPUs"),
        ("search --gpus-per-trial nan", "'nan' is not a share of GPUs"),
        ("search --cpus-per-trial 0", "got 0"),
        ("search --cpus-per-trial one", "'one' is not a number"),
        ("search --seed -1", "-1"),
        ("search --sampler grid", "'grid'; known: tpe, random, gp, qmc"),
        ("search --scheduler pbt", "'pbt'; known: asha, hyperband, median, none"),
        ("search --objective best", "'best'; known: pooled, mean, worst"),
        ("search --stop-at 0.4", "must be in (0.5, 1], got 0.4"),
        ("search --space none.json", "cannot read the search space none.json"),
        ("search --enqueue none.json", "cannot read the settings in none.json"),
        ("search --warm-start gone", "'gone'"),
        ("search --quiet --json", "exclude each other"),
        ("search --anomaly-fraction 0.6", "a share in [0, 0.5], got 0.6"),
        ("search --contamination -1", "a share in [0, 0.5], got -1"),
        ("search --dataset photos --ood photos", "both the normal set and an anomaly set"),
        ("search --test-ood digits --ood photos", "name another --test-ood"),
        ("search --method amma", "'amma'; did you mean 'ama'"),
        ("search --dataset digitz", "'digitz'; did you mean 'digits'"),
        ("search --dataset folder:nowhere", "nowhere"),
        ("search --ood digitz", "'digitz'"),
        ("search --normal-class eleven", "'eleven'"),
        ("search --val-anomalies 3", "at least 10, got 3"),
        ("search --image-size 2", "at least 8 pixels, got 2"),
        ("search --channels 4", "1 (grey) or 3 (colour), got 4"),
        ("search --max-broken few", "'few' is not a number"),
        ("search --max-broken 1.5", "a whole number of pictures, or a share below 1, got 1.5"),
        ("search --max-broken -1", "got -1"),
        ("search --width wide", "'wide' is not a number"),
        ("search --width -1", "width must be positive, got -1"),
        ("search --fix k", "'k' is not NAME=VALUE"),
        ("search --fix k=", "'k=' is not NAME=VALUE"),
        ("search --fix =3", "'=3' is not NAME=VALUE"),
        ("search --fix k=3 --fix k=4", "'k' twice"),
        ("search --width 0.5 --fix width=1", "give one of them"),
        ("search --fix kk=3", "unknown setting 'kk'"),
        ("search --fix k=three", "k must be a whole number, got 'three'"),
        ("search --fix epochs=3", "epochs cannot be held fixed"),
        ("search --preset authors", "did you mean 'authors-code'"),
        ("search --name a/b", "'a/b'"),
        ("search --resume", "there are no runs in runs"),
        ("search --resume --name gone", "'gone'"),
        ("best", "there are no runs in runs"),
        ("best gone", "'gone'"),
        ("best --top 0", "there are no runs in runs"),
        ("best --seeds x", "'x' is not a whole number"),
        ("status", "there are no runs in runs"),
        ("status gone --runs-dir other", "'gone': there are no runs in other"),
        ("datasets mnits", "'mnits'; did you mean 'mnist'"),
        ("search --dataset digits --ood isun --data-dir here", "put it into "),
        ("score", "EXPORT"),
        ("score model", "PATH"),
        ("score nowhere picture.png", "nowhere"),
        ("space amma", "'amma'; did you mean 'ama'"),
        ("space", "METHOD"),
    ],
)
def test_a_wrong_request_gets_one_message(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(line) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("amatune: ")
    assert captured.err.count("\n") == 1
    assert told in captured.err
    assert not list(Path().glob("runs/*"))


def test_the_process_exits_with_the_code() -> None:
    done = python("-m", "amatune.cli", "search", "--trials", "none")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


# --- what options become --------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Takes the place of the search: notes what it was asked and fails."""
    calls: list[Any] = []

    def note(request: SearchRequest, listener: Any, resume: bool, first: Any) -> None:
        calls[:] = [request, resume, listener, first]
        raise DivergedError("noted")

    monkeypatch.setattr(amatune.tuning.search, "run_search", note)
    return calls


def test_without_options_the_request_has_its_defaults(asked: list[Any]) -> None:
    assert main(["search"]) == 1
    assert asked[0] == SearchRequest()
    assert asked[1] is False


def test_every_option_reaches_the_request(asked: list[Any]) -> None:
    line = (
        "search --dataset photos --ood uniform-noise --ood gaussian-noise --normal-class china "
        "--val-anomalies 40 --image-size 24 --channels 1 --max-broken 0.05 --method ama --trials 7 "
        "--epochs 9 --time-budget 1.5h --width 0.5 --fix k=2 --fix direction=inward "
        "--fix mirrored=false --fix latent_dim=none --fix milestones=[0.5] --sampler random "
        "--scheduler none --seed 3 --stop-at 0.9 --objective worst "
        "--space space.json --enqueue first.json "
        "--test-ood digits --anomaly-fraction 0.1 --contamination 0.05 --quiet "
        "--gpus-per-trial 0.25 --cpus-per-trial 2 --concurrent 4 --address auto "
        "--storage-path /shared --name mine --runs-dir elsewhere --data-dir /data"
    )
    Path("space.json").write_text('{"lr": {"low": 0.1, "high": 0.2}}', encoding="utf-8")
    Path("first.json").write_text('[{"lr": 0.1}, {"lr": 0.2}]', encoding="utf-8")
    assert call(line) == 1
    assert asked[3] == [{"lr": 0.1}, {"lr": 0.2}]
    assert isinstance(asked[2], _QuietView)
    assert asked[0] == SearchRequest(
        problem=ProblemRequest(
            dataset="photos",
            ood=("uniform-noise", "gaussian-noise"),
            test_ood=("digits",),
            normal_classes=("china",),
            anomaly_fraction=0.1,
            contamination=0.05,
            val_anomalies=40,
            seed=3,
            image_size=24,
            channels=1,
            max_broken=0.05,
        ),
        method="ama",
        trials=7,
        epochs=9,
        time_budget=5400.0,
        gpus_per_trial=0.25,
        cpus_per_trial=2.0,
        concurrent=4,
        seed=3,
        sampler="random",
        scheduler="none",
        stop_at=0.9,
        objective="worst",
        space={"json": {"lr": {"low": 0.1, "high": 0.2}}},
        fixed={
            "k": 2,
            "direction": "inward",
            "mirrored": False,
            "latent_dim": None,
            "milestones": [0.5],
            "width": 0.5,
        },
        address="auto",
        storage_path="/shared",
        name="mine",
        runs_dir="elsewhere",
        data_dir="/data",
    )
    assert main(["search", "--gpus-per-trial", "auto"]) == 1
    assert asked[0].gpus_per_trial is None


def test_a_preset_holds_its_settings_fixed_and_fix_goes_before(asked: list[Any]) -> None:
    assert call("search --preset without-mirror --fix k=2") == 1
    assert asked[0].fixed == {"mirrored": False, "k": 2}
    assert call("search --preset without-simplex --fix k=2") == 1
    assert asked[0].fixed == {"k": 2}
    assert call("search --preset paper") == 1
    assert asked[0].fixed == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("true", True),
        ("False", False),
        ("None", None),
        ("ray", "ray"),
        ("A", "A"),
        ("[0.3, 0.6]", [0.3, 0.6]),
    ],
)
def test_settings_are_read(text: str, value: Any) -> None:
    read = _setting(text)
    assert read == value
    assert type(read) is type(value)


def test_resuming_takes_the_run_as_it_was_but_for_given_options(asked: list[Any]) -> None:
    earlier = SearchRequest(
        problem=ProblemRequest(normal_classes=("0",), seed=5),
        seed=5,
        trials=7,
        time_budget=60.0,
        concurrent=3,
        fixed={"width": 0.5},
        name="mine",
    )
    run = RunFolder.create("runs", "mine", "digits")
    run.write({"request": earlier.to_dict(), "started": "2025"})

    assert main(["search", "--resume"]) == 1
    request, resume, *_ = asked
    assert resume is True
    assert (request.trials, request.concurrent, request.fixed) == (7, 3, {"width": 0.5})
    assert request.time_budget is None  # of that session alone
    assert not earlier.differences(request)

    line = "search --resume --name mine --trials 20 --time-budget 10m --concurrent 1"
    assert call(line) == 1
    request = asked[0]
    assert (request.trials, request.time_budget, request.concurrent) == (20, 600.0, 1)
    assert not earlier.differences(request)

    # What decides the search is passed on, for the search to refuse.
    assert call("search --resume --normal-class 1 --width 1 --seed 5") == 1
    assert len(earlier.differences(asked[0])) == 2


def test_an_error_of_ours_is_one_line(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search"]) == AmatuneError.exit_code
    assert capsys.readouterr().err == "amatune: noted\n"
    assert asked


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(amatune.tuning.search, "run_search", broken)
    with pytest.raises(ZeroDivisionError):
        main(["search"])


def test_an_interruption_tells_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: SearchRequest, listener: Any, **__: Any) -> None:
        listener(started(run=Path("my runs/a").resolve()))
        raise KeyboardInterrupt

    monkeypatch.setattr(amatune.tuning.search, "run_search", interrupted)
    assert main(["search"]) == 130
    line = capsys.readouterr().err
    assert line.endswith("amatune search --resume --name a --runs-dir 'my runs'\n")


# --- showing what happens -------------------------------------------------------------------------


def started(**changes: Any) -> SearchStarted:
    facts: dict[str, Any] = {
        "run": Path("runs/mine").resolve(),
        "method": "ama",
        "problem": "digits: classes 0-4 normal",
        "trials": 100,
        "finished": 0,
        "epochs": 30,
        "concurrent": 8,
        "cpus_per_trial": 1.0,
        "gpus_per_trial": 0.25,
        "validation_normals": 500,
        "validation_anomalies": 50,
        "warnings": ("few images",),
    }
    return SearchStarted(**{**facts, **changes})


def trial(number: int, state: State, epoch: int = 5, **changes: Any) -> TrialUpdate:
    facts: dict[str, Any] = {
        "auroc": 0.5 + number / 1000,
        "settings": {"geometry": "shell", "lr": 0.00123456, "width": 0.25},
    }
    return TrialUpdate(number=number, state=state, epoch=epoch, epochs=30, **{**facts, **changes})


def test_a_pipe_gets_a_line_per_ended_training() -> None:
    file = io.StringIO()
    view = _PlainView(Console(file=file, highlight=False, width=40), held=("width",))
    with view:
        view(started())
        for epoch in range(1, 6):
            view(trial(0, "running", epoch))
        view(trial(0, "done", 30))
        view(trial(1, "pruned"))
        view(trial(2, "failed", auroc=None, reason="it diverged"))
    text = file.getvalue()
    assert ANSI not in text
    lines = [re.sub(r"^\[\d:\d\d:\d\d\] ", "", line) for line in text.splitlines()]
    assert lines == [
        "run runs/mine: digits: classes 0-4 normal",
        "ama: 100 trials of up to 30 epochs, 8 at a time with 1 CPU and 0.25 GPU each",
        "warning: few images",
        "trial 0 done, epoch 30/30, validation AUROC 0.500, geometry=shell lr=0.00123",
        "trial 1 pruned, epoch 5/30, validation AUROC 0.501, geometry=shell lr=0.00123",
        "trial 2 failed, epoch 5/30, validation AUROC -, it diverged",
    ]


def test_quiet_shows_warnings_alone() -> None:
    file = io.StringIO()
    with _QuietView(Console(file=file, highlight=False)) as view:
        view(started())
        view(trial(0, "done", 30))
    assert file.getvalue() == "warning: few images\n"


def test_events_as_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with _JsonView(Console(file=io.StringIO())) as view:
        view(started())
        view(trial(3, "failed", reason="it diverged"))
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["event"], first["trials"]) == ("search_started", 100)
    assert (second["event"], second["number"], second["reason"]) == (
        "trial_update",
        3,
        "it diverged",
    )


def test_a_silent_pipe_hears_how_far_things_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amatune.cli.app.PROGRESS_SECONDS", -1.0)
    file = io.StringIO()
    view = _PlainView(Console(file=file, highlight=False), time_budget=3600.0)
    view(started())
    view(trial(0, "done", 30))
    view(trial(1, "running"))
    last = file.getvalue().splitlines()[-1]
    assert "1 of 100 ended; running trial 1 at 5/30; best 0.500 (trial 0)" in last
    assert "left" in last


def test_a_silent_pipe_hears_how_far_the_reading_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("amatune.cli.app.time.monotonic", lambda: now)
    file = io.StringIO()
    with _PlainView(Console(file=file, highlight=False)):
        for done in range(1, 101):
            now += 1
            tell_progress("decoding pictures", done * 100, 10_000)
    tell_progress("decoding pictures", 1, 2)  # nobody watches any more
    assert file.getvalue().splitlines() == [
        f"decoding pictures: {done:,} of 10,000" for done in (3_100, 6_200, 9_300)
    ]


def test_a_terminal_shows_how_far_the_reading_is(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=90)
    with _LiveView(console) as view:
        tell_progress("decoding pictures", 1200, 10_000)
        assert "1,200 of 10,000  decoding pictures" in drawn(console, view)
        tell_progress("decoding pictures", 10_000, 10_000)
        assert "pictures" not in drawn(console, view)
    # With the output in a pipe, a terminal that shows the errors still gets the bar.
    piped, bar = io.StringIO(), io.StringIO()
    original = Console

    def on_terminal(**options: Any) -> Console:
        return (
            original(file=bar, force_terminal=True, width=90) if options else original(file=piped)
        )

    monkeypatch.setattr("amatune.cli.app.Console", on_terminal)
    with _PlainView(Console(file=piped)) as view:
        tell_progress("decoding pictures", 1200, 10_000)
        view.reading.refresh()
    assert "1200/10000" in bar.getvalue()
    assert "decoding pictures" in bar.getvalue()
    assert piped.getvalue() == ""


def tell_progress(what: str, done: int, total: int) -> None:
    """As the reading of pictures does."""
    progress = reading._progress.get()
    if progress is not None:
        progress(what, done, total)


def drawn(console: Console, view: _LiveView) -> str:
    with console.capture() as captured:
        console.print(view.draw())
    return captured.get()


def test_clearing_the_cache_tells_what_it_freed(
    own_picture_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("datasets --clear-cache") == 0
    assert capsys.readouterr().out == f"0 bytes freed in {own_picture_cache}\n"
    own_picture_cache.mkdir()
    (own_picture_cache / "pictures-1.sqlite").write_bytes(bytes(3 * 2**20))
    assert call("datasets --clear-cache") == 0
    assert capsys.readouterr().out == f"3 MiB freed in {own_picture_cache}\n"
    assert list(own_picture_cache.iterdir()) == []


def test_a_terminal_shows_what_fits_of_many_trials() -> None:
    console = Console(
        file=io.StringIO(), force_terminal=True, color_system=None, width=90, height=24
    )
    view = _LiveView(console, held=("width",))
    view(started())
    states: list[State] = ["done", "pruned", "failed", "running"]
    for number in range(80):
        view(trial(number, states[number % 4]))
    file = console.file = io.StringIO()
    console.print(view.draw())
    lines = file.getvalue().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 90
    text = "\n".join(lines)
    assert "60 of 100" in text
    assert "20 running" in text
    assert "20 failed" in text
    assert "trial 3 " in text  # one that runs
    assert "trial 76 " in text  # the best with the full budget
    assert "more are running" in text
    assert text.index("trial 76 ") < text.index("trial 72 ")


def test_a_retraining_that_goes_on_counts_what_is_left() -> None:
    file = io.StringIO()
    view = _PlainView(Console(file=file, highlight=False))
    view(
        RetrainStarted(
            run=Path("runs/mine"),
            configurations=("trial-3", "default"),
            seeds=(1, 2, 3),
            epochs=30,
            finished=4,
        )
    )
    facts: dict[str, Any] = {"epoch": 30, "epochs": 30, "auroc": 0.9}
    view(RetrainUpdate(configuration="default", seed=2, state="done", **facts))
    assert view.total == 2
    assert "4 of 6 trainings are finished already" in file.getvalue()
    assert "default seed 2 done, epoch 30/30, validation AUROC 0.900" in file.getvalue()


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("datasets", ["digits", "folder:PATH", "npz:PATH"]),
        ("datasets digits", ["what it is: ", "classes:    0, 1, 2", "where:      built in"]),
        ("datasets svhn", ["train_32x32.mat (182 MB)", "73,257", "non-commercial"]),
        ("methods", ["ama", "A, R", "Adversarial Mirrored Autoencoder"]),
        ("space ama", ["geometry", "shell, ray or cube", "log scale", "geometry = shell"]),
    ],
)
def test_lists(command: str, told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(command) == 0
    text = capsys.readouterr().out
    assert ANSI not in text
    assert all(word in text for word in told)


def test_data_sets_are_listed_with_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train_32x32.mat", "test_32x32.mat"):
        Path("data/svhn").mkdir(parents=True, exist_ok=True)
        Path("data/svhn", name).touch()
    Path("data/iSUN").mkdir()
    monkeypatch.setenv("AMATUNE_DATA", "data")
    assert call("datasets") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert re.search("60,000 +10,000 +12 MB +CC BY-SA 3.0 +missing", lines["mnist"])
    assert "missing" in lines["svhn"]  # the files are there, but empty
    assert "complete, in iSUN" in lines["isun"]
    assert "put LSUN_resize.tar.gz" in lines["lsun-resize"]
    assert f"Data folder: {tmp_path / 'data'}" in text
    assert sorted(os.listdir("data")) == ["iSUN", "svhn"]

    assert call("datasets --data-dir elsewhere isun") == 0
    assert f"where:      missing: {tmp_path / 'elsewhere'}\n" in capsys.readouterr().out
    assert not Path("elsewhere").exists()


def test_best_looks_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[Any] = []

    def note(_run: RunFolder, *, data_dir: str | None, **_: Any) -> None:
        told.append(data_dir)
        raise DivergedError("noted")

    monkeypatch.setattr("amatune.tuning.retrain.run_best", note)
    RunFolder(tmp_path / "runs/one").write({})
    assert call("best one --data-dir data") == 1
    assert call("best one") == 1
    assert told == [str(tmp_path / "data"), None]
    assert capsys.readouterr().err.count("noted") == 2


# --- scoring --------------------------------------------------------------------------------------


def test_scores_as_csv(
    model: str, pictures: Path, detector: AMA, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", model, str(pictures)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    assert list(rows[0]) == ["path", "score", "A", "R", "p_value", "flag"]
    assert [Path(row["path"]).name for row in rows] == [f"{n}.png" for n in range(5)]
    expected = list(amatune.load(model).score_files([pictures]))
    assert [float(row["R"]) for row in rows] == pytest.approx(
        [picture.scores["R"] for picture in expected], rel=1e-5
    )
    assert all(row["score"] == row[detector.primary_score] for row in rows)


def test_scores_as_json_lines(
    model: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", model, str(pictures / "1.png"), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert list(json.loads(line)) == ["path", "score", "A", "R", "p_value", "flag"]


def test_scores_go_to_a_file_complete_or_not_at_all(
    model: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", model, str(pictures), "--output", "scores.csv"]) == 0
    assert capsys.readouterr().out == ""
    before = Path("scores.csv").read_text()
    assert before.count("\n") == 6

    Path("broken.png").write_bytes(b"not a picture")
    assert main(["score", model, "broken.png", "--output", "scores.csv"]) == 2
    assert Path("scores.csv").read_text() == before
    assert sorted(os.listdir()) == ["broken.png", "model", "scores.csv"]

    assert main(["score", model, str(pictures), "--output", "no/such/scores.csv"]) == 2
    assert "no/such/scores.csv" in capsys.readouterr().err


def test_a_broken_picture_is_skipped_and_told(
    model: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.png").write_bytes(b"not a picture")
    assert main(["score", model, "broken.png", str(pictures)]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 6
    assert captured.err.count("\n") == 1
    assert "broken.png" in captured.err


@pytest.mark.parametrize("paths", [["none.png"], ["empty"], ["notes.txt"]])
def test_nothing_to_score(model: str, paths: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("notes.txt").touch()
    assert main(["score", model, *paths]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert paths[0] in captured.err


def test_scoring_needs_no_search_tools(model: str, pictures: Path) -> None:
    program = (
        "import sys\nfrom amatune.cli import main\n"
        "code = main(['score', *sys.argv[1:]])\n"
        "print(code, sorted({'ray', 'optuna'} & sys.modules.keys()))"
    )
    done = python("-c", program, model, str(pictures))
    assert done.stdout.splitlines()[-1] == "0 []"


# --- from a search to scores ----------------------------------------------------------------------


def test_search_best_export_score(pictures: Path) -> None:
    def shell(line: str) -> str:
        done = python("-m", "amatune.cli", *line.split())
        assert done.returncode == 0, done.stderr + done.stdout
        assert done.stderr == ""
        assert ANSI not in done.stdout
        return done.stdout

    small = "--width 0.05 --fix critic_steps=1 --fix batch_size=64 --image-size 12"
    Path("first.json").write_text('{"k": 6, "lambda_reg": 0.125}', encoding="utf-8")
    text = shell(f"search --trials 3 --epochs 2 --name tiny {small} --enqueue first.json")
    assert re.search(r"trial 1 \w+, .* k=6 .*lambda_reg=0\.125", text)
    assert re.search(r"validation AUROC \d\.\d+ \(standard error \d\.\d+ with 50 anomalies\)", text)
    for number in range(3):
        assert len(re.findall(rf"trial {number} (?:done|pruned), epoch", text)) == 1
    assert "validation AUROC" in text
    assert "amatune best tiny --export" in text
    assert "tensorboard --logdir runs/tiny/tensorboard" in text

    text = shell("best tiny --top 1 --seeds 1 --export --export-dir model")
    assert re.search(r"Test AUROC of A: \d\.\d{3}, 95% interval \d\.\d{3} to \d\.\d{3}", text)
    assert "amatune score model" in text
    assert "digits: classes 0-4 normal" in Path("model/README.md").read_text(encoding="utf-8")
    config = json.loads(Path("model/config.json").read_text(encoding="utf-8"))
    assert config["calibration"]["normal_images"] == 50
    assert config["data"]["training_images"]["shape"] == [582, 1, 12, 12]
    exported = amatune.load("model")
    kept = next(Path("runs/tiny/best/models").glob("*/seed1/validation.npz"))
    chosen = json.loads(Path("runs/tiny/best/leaderboard.json").read_text(encoding="utf-8"))
    name = next(row["configuration"] for row in chosen["rows"] if row["chosen"])
    with np.load(kept.parents[2] / name / "seed1" / "validation.npz") as scores:
        assert np.array_equal(exported.calibration.scores, np.sort(scores["A/normal"]))

    assert len(shell(f"score model {pictures}").splitlines()) == 6

    text = shell("status")
    assert "Run tiny: " in text
    assert "of 3" in text
    assert "Test AUROC of A" in text
