"""What is shown while a search or a retraining is under way."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from calls import ANSI
from rich.console import Console
from some_events import started, trial

from amatune.cli.views import JsonView, LiveView, PlainView, QuietView
from amatune.data import pictures as reading
from amatune.tuning.events import RetrainStarted, RetrainUpdate, State, TestStarted, TimeEstimate


def test_a_pipe_gets_a_line_per_ended_training() -> None:
    file = io.StringIO()
    view = PlainView(Console(file=file, highlight=False, width=40))
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
        "a trial: up to 3,000 steps, 100 in an epoch, each on 128 of 400 training images",
        "warning: few images",
        "trial 0 done, epoch 30/30, validation AUROC 0.500, geometry=shell lr=0.00123",
        "trial 1 pruned, epoch 5/30, validation AUROC 0.501, geometry=shell lr=0.00123",
        "trial 2 failed, epoch 5/30, validation AUROC -, it diverged",
    ]


def test_an_estimate_is_told_and_what_it_warns_of() -> None:
    file = io.StringIO()
    view = PlainView(Console(file=file, highlight=False))
    view(started(run=None))
    facts: dict[str, Any] = {"trainings": 98, "seconds_per_step": 0.0123, "seconds": 3661.0}
    view(TimeEstimate(**facts, at_most=True, warnings=("not enough",)))
    view(TimeEstimate(**{**facts, "seconds_per_step": 2.5}, at_most=False))
    assert view.times().endswith("about 1:01:01 left")
    assert file.getvalue().splitlines()[-3:] == [
        "time for 98 trainings: at most about 1:01:01, if no trial is stopped early (12.3 ms a "
        "step, with scoring)",
        "warning: not enough",
        "time for 98 trainings: about 1:01:01 (2.5 s a step, with scoring)",
    ]
    assert file.getvalue().startswith("dry run: digits")


def test_what_is_left_counts_the_epochs_of_those_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("amatune.cli.views.time.monotonic", lambda: now)
    view = PlainView(Console(file=io.StringIO(), highlight=False))
    view(started(trials=6))
    view(trial(0, "done", 30))
    view(trial(1, "done", 30))
    view(trial(2, "running", 20))
    view(trial(3, "running", 10))
    now += 90  # 90 epochs of 180
    assert view.times() == "0:01:30 gone, about 0:01:30 left"


def test_what_a_method_says_against_a_trial_is_told_once_and_of_each_retraining() -> None:
    file = io.StringIO()
    view = QuietView(Console(file=file, highlight=False))
    view(started(warnings=()))
    for number in range(3):
        view(trial(number, "done", 30, reason="not converged" if number else ""))
    facts: dict[str, Any] = {"state": "done", "epoch": 30, "epochs": 30, "auroc": 0.9}
    for seed in (1, 2):
        view(RetrainUpdate(configuration="default", seed=seed, reason="not converged", **facts))
    assert file.getvalue().splitlines() == [
        "warning: trial 1: not converged (told once)",
        "warning: default seed 1: not converged",
        "warning: default seed 2: not converged",
    ]
    assert view.trainings["default seed 1"].detail == ""


def test_quiet_shows_warnings_alone() -> None:
    file = io.StringIO()
    with QuietView(Console(file=file, highlight=False)) as view:
        view(started())
        view(trial(0, "done", 30))
    assert file.getvalue() == "warning: few images\n"


def test_events_as_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonView(Console(file=io.StringIO())) as view:
        view(started())
        view(trial(3, "failed", reason="it diverged"))
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["event"], first["trials"]) == ("search_started", 100)
    assert (second["event"], second["number"], second["reason"]) == (
        "trial_update",
        3,
        "it diverged",
    )


@pytest.mark.parametrize("kind", [QuietView, JsonView])
def test_reading_is_not_told_where_events_or_results_alone_are(
    kind: type[QuietView | JsonView], capsys: pytest.CaptureFixture[str]
) -> None:
    file = io.StringIO()
    with kind(Console(file=file)):
        tell_progress("decoding pictures", 1, 2)
    assert file.getvalue() + capsys.readouterr().out == ""


def test_a_silent_pipe_hears_how_far_things_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amatune.cli.views.PROGRESS_SECONDS", -1.0)
    file = io.StringIO()
    view = PlainView(Console(file=file, highlight=False), time_budget=3600.0)
    view(started())
    view(trial(0, "done", 30))
    view(trial(1, "running"))
    last = file.getvalue().splitlines()[-1]
    assert "1 of 100 ended; running trial 1 at 5/30; best 0.500 (trial 0)" in last
    assert "left" in last


def test_a_silent_pipe_hears_how_far_the_reading_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("amatune.cli.views.time.monotonic", lambda: now)
    file = io.StringIO()
    with PlainView(Console(file=file, highlight=False)):
        for done in range(1, 101):
            now += 1
            tell_progress("decoding pictures", done * 100, 10_000)
    tell_progress("decoding pictures", 1, 2)  # nobody watches any more
    assert file.getvalue().splitlines() == [
        f"decoding pictures: {done:,} of 10,000" for done in (3_100, 6_200, 9_300)
    ]


def test_a_terminal_shows_how_far_the_reading_is(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=90)
    with LiveView(console) as view:
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

    monkeypatch.setattr("amatune.cli.progress.Console", on_terminal)
    with PlainView(Console(file=piped)) as view:
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


def drawn(console: Console, view: LiveView) -> str:
    with console.capture() as captured:
        console.print(view.draw())
    return captured.get()


def test_a_terminal_shows_what_fits_of_many_trials() -> None:
    console = Console(
        file=io.StringIO(), force_terminal=True, color_system=None, width=90, height=24
    )
    view = LiveView(console)
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
    view = PlainView(Console(file=file, highlight=False))
    view(
        RetrainStarted(
            run=Path("runs/mine"),
            configurations=("trial-3", "default"),
            seeds=(1, 2, 3),
            epochs=30,
            finished=4,
            concurrent=2,
        )
    )
    facts: dict[str, Any] = {"epoch": 30, "epochs": 30, "auroc": 0.9}
    view(RetrainUpdate(configuration="default", seed=2, state="done", **facts))
    assert view.total == 2
    assert "3 seeds of 30 epochs each, 2 at a time\n" in file.getvalue()
    assert "finished already: 4 of 6 trainings" in file.getvalue()
    assert "default seed 2 done, epoch 30/30, validation AUROC 0.900" in file.getvalue()


def test_one_of_something_is_no_plural() -> None:
    file = io.StringIO()
    view = PlainView(Console(file=file, highlight=False))
    view(started(trials=1, epochs=1))
    facts: dict[str, Any] = {"run": Path("runs/mine"), "configurations": ("default",)}
    view(RetrainStarted(seeds=(1,), epochs=1, finished=1, **facts))
    view(TestStarted(chosen="default", models=1))
    text = file.getvalue()
    assert "ama: 1 trial of up to 1 epoch, 8 at a time" in text
    assert "retraining default: 1 seed of 1 epoch each" in text
    assert "finished already: 1 of 1 training\n" in text
    assert "with 1 model\n" in text


def test_a_perfect_figure_is_shown_without_an_error() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=90)
    view = LiveView(console)
    view(started())
    view(trial(0, "running", auroc=1.0))
    view(trial(1, "running", auroc=0.9))
    text = drawn(console, view)
    assert "1.000 ±" not in text
    assert "0.900 ± 0.030" in text


def test_the_live_table_holds_no_commands_to_the_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=90)
    view = LiveView(console)
    view(started())
    view(trial(0, "running", settings={"kind": "a\x07\x1b[2J[bold]"}))
    assert "kind=a\\x07\\x1b[2J[bold]" in drawn(console, view)
