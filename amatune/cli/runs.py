"""`amatune status`, `report` and `compare`: what runs have found."""

from pathlib import Path
from typing import Annotated

import typer

from amatune.cli.comparison import WRITERS
from amatune.cli.options import ItsDataDir, Run, RunsDir, command, path, plain
from amatune.cli.output import (
    RUNS_DIR,
    about,
    complain,
    destination,
    make_console,
    near,
    say,
    tensorboard,
)
from amatune.cli.tables import STYLES, print_leaderboard, print_trials
from amatune.errors import RequestError
from amatune.extras import require_extra
from amatune.results.effort import state_text
from amatune.runs import RunFolder, all_runs
from amatune.wording import figure, memory_size, settings_text

_FORMAT = "How to write it: table, markdown, csv (one line per run) or json (everything)."
_DIFFERENT = "List runs that were tested on different images too, without tests between them."


@command("amatune status", "amatune status zero-one")
def status(run: Run = None, runs_dir: RunsDir = Path(RUNS_DIR)) -> None:
    """Show a run: its trials, the best so far, and what was retrained and exported.

    Reads the run's folder alone, so it also works while the search is under way.
    """
    require_extra("search", "optuna")
    from amatune.results.baselines import read_baselines
    from amatune.results.leaderboard import read_leaderboard
    from amatune.tuning.study import read_trials

    folder = RunFolder.open(run, runs_dir)
    record = folder.record()
    request = record.request
    trials = read_trials(folder)
    over = not folder.in_use
    numbers = {
        state_text(state, over=over): sum(trial.state == state for trial in trials)
        for state in STYLES
    }
    counts = [f"{number} {state}" for state, number in numbers.items() if number]
    console = make_console()
    say(console, f"Run {folder.name}: {', '.join(counts) or 'no trials yet'}, of {request.trials}")
    if request.problem.group_by:
        say(console, f"Grouped by: {request.problem.group_by}")
    if request.fixed:
        say(console, f"Held fixed: {settings_text(request.fixed)}")
    say(console)
    print_trials(console, trials, held=tuple(record.fixed), over=over)
    say(console)
    for one in read_baselines(folder.baselines)[:1]:
        best = figure(one.validation_auroc)
        say(console, f"Without any detector: {one.name}, validation AUROC {best} ({one.side}).")
    if folder.leaderboard.exists():
        print_leaderboard(console, read_leaderboard(folder))
        say(console)
    if (folder.best / "export").exists():
        say(console, f"Exported model: {near(folder.best / 'export')}")
    say(console, f"Compare the trials: {tensorboard(folder)}")
    others = [other.name for other in all_runs(folder.path.parent) if other.path != folder.path]
    if others:
        say(console, f"Other runs here: {', '.join(others)}")


@command("amatune report", "amatune report zero-one --output zero-one.html")
def report(
    run: Run = None,
    output: Annotated[
        Path | None, plain("FILE", "Write there instead of to RUN/report.html.", parser=path)
    ] = None,
    data_dir: ItsDataDir = None,
    runs_dir: RunsDir = Path(RUNS_DIR),
) -> None:
    """Write a run's figures and pictures into one HTML file that needs no network.

    Also while the search is under way, and before `amatune best`: then it is about validation
    images alone, and says so. Test images are shown once `amatune best` has opened them. Nothing
    is downloaded; without its images a run is reported without pictures.
    """
    from amatune.report import make_report

    folder = RunFolder.open(run, runs_dir)
    target = output or folder.path / "report.html"
    with destination(target) as file:
        made = make_report(folder, data_dir)
        file.write(made.page)
    console = make_console()
    for note in made.notes:
        say(console, f"note: {note}")
    say(console, f"Report: {near(target)}, {memory_size(len(made.page.encode()))}")


@command(
    "amatune compare zero-one zero-one-again",
    "amatune compare ama deep-svdd runs-of-others/vae --format markdown --output methods.md",
)
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN RUN...", help="Names or folders, two or more.")
    ],
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help=_FORMAT)] = "table",
    output: Annotated[
        Path | None, plain("FILE", "Write there instead of to standard output.", parser=path)
    ] = None,
    different: Annotated[bool, typer.Option("--allow-different-splits", help=_DIFFERENT)] = False,
    runs_dir: RunsDir = Path(RUNS_DIR),
) -> None:
    """Compare the tested results of runs, also of different methods.

    Shows the chosen settings, test figures over seeds with their intervals, and for every two runs
    with the same test images whether their test AUROCs differ (DeLong's paired test and the spread
    over seeds; with more than two runs corrected after Holm). Says what each search took, and warns
    where the searches were not given the same. Each run must have been through `amatune best`. Runs
    with different test images are refused unless --allow-different-splits.
    """
    from amatune.results.comparison import compare_runs

    if form not in WRITERS:
        raise RequestError(f"unknown format {form!r}; known: {', '.join(WRITERS)}")
    folders = [RunFolder.open(run, runs_dir) for run in runs]
    untested = [f for f in folders if not f.leaderboard.exists()]
    if untested:
        first = "; ".join(about(folder, "best", folder.name) for folder in untested)
        names = ", ".join(folder.name for folder in untested)
        raise RequestError(f"not tested yet: {names}; call first: {first}")
    found = compare_runs(folders, allow_different_splits=different)
    with destination(output) as file:
        WRITERS[form](found, file)
    if form == "csv":
        for warning in found.warnings:
            complain(f"warning: {warning}")
    if output is not None:
        say(make_console(), f"Comparison: {near(output)}")
