"""`amatune search`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amatune.cli.config import OF_RUN, Config, beside_a_run, given, is_given
from amatune.cli.options import (
    AUTO,
    DATA_DIR,
    JSON,
    QUIET,
    RUNS,
    Assignment,
    assignment,
    command,
    duration,
    file_or_contents,
    gpu_share,
    number,
    option,
    path,
    size,
    whole,
)
from amatune.cli.output import (
    RUNS_DIR,
    Interrupted,
    about,
    how_to_resume,
    make_console,
    say,
    tensorboard,
)
from amatune.cli.tables import ENDED, print_trials
from amatune.errors import AmatuneError, RequestError
from amatune.runs import RunFolder
from amatune.wording import counted, figure

if TYPE_CHECKING:
    from rich.console import Console

    from amatune.tuning.search import SearchOutcome

TABLE_ROWS = 20  # trials listed at the end of a search; `amatune status` lists them all

_data = partial(option, "The problem")
_tune = partial(option, "The search")
_machine = partial(option, "The machine")
_folder = partial(option, "The run")

_DATASET = "Normal images: what `amatune datasets` lists, such as folder:PATH, mvtec:PATH, digits."
_OOD = "Data set of the anomalies. May be repeated."
_TEST_OOD = "Data set of the test's anomalies, if another than --ood. May be repeated."
_CLASS = "Normal class; without --ood the other classes are the anomalies. May be repeated."
_VAL = "Anomalies the search may look at, to choose by."
_FRACTION = "Share of labelled anomalies among the training images, for a detector that uses them."
_CONTAMINATION = "Share of anomalies hidden among the training normals, to test robustness."
_SIZE = (
    "Pixels all images are brought to: a square of 64, or height x width as in 64x96; by default "
    "the data set's own."
)
_CHANNELS = "Grey (1) or colour (3); by default the data set's own."
_BROKEN = (
    "Damaged pictures to pass over in each folder: a number such as 20, or a share such as 0.05; "
    "by default 5 or 1%, whichever is more. The run's broken.txt lists them."
)
_TOGETHER = (
    "Leave out of the training what nearly is an image of the validation or the test, and of the "
    "validation what nearly is one of the test; by default both stay. near-copies.csv lists them."
)
_GROUPS = (
    "What belongs together, of one part, day or camera, and stands on one side of the splits: "
    "folder, folder:N, name:REGEX, column:NAME of csv:FILE, or near-copies."
)
_METHOD = (
    "The detector, by default ama; `amatune methods` lists them. Repeated: these are compared "
    "under one budget. auto: a few that suit the pictures."
)
_TRIALS = "Settings to try, those of an earlier session included."
_STEPS = (
    "Training steps of a trial, its full budget, rounded up to a multiple of its --epochs; by "
    "default the method's usual number."
)
_EPOCHS = (
    "Parts of the budget, after each of which a trial is looked at; by default 25. Without "
    "--steps, passes over the training images."
)
_TIME = "End the search after 90s, 10m or 2h; --resume continues it."
_WIDTH = "Hold the networks' width at this multiple of the published one."
_TILE = "Look at large pictures in square tiles of this side; the highest of them is the score."
_OVERLAP = "Pixels that neighbouring tiles share, at least; by default 32."
_FIX = "Hold a setting of the detector fixed, searched or not. May be repeated."
_PRESET = "Hold the settings of a named variant fixed; `amatune methods` lists them."
_SPACE = "Search this space, a .py or .json file, instead of the method's own."
_ENQUEUE = "JSON file with settings, or a list of them, to try right after the defaults."
_WARM_START = "Earlier run whose best settings are tried right after the defaults."
_SAMPLER = "How settings are proposed: tpe and gp learn from earlier trials, qmc spreads evenly."
_SCHEDULER = "How poor trials are stopped: at ASHA's or Hyperband's rungs, below the median, never."
_OBJECTIVE = "With several --ood: rank by the AUROC of all anomalies, or the mean or worst set's."
_STOP_AT = "Start no more trials once one has reached this validation AUROC."
_SEED = "Decides the splits, the proposals and the trainings."
_GPUS = "GPUs of one trial: 0.25, so that four share one; or auto, which measures what trains most."
_CPUS = "CPU cores of one trial."
_CONCURRENT = "Trials at a time; by default as many as fit. With --address also more, to grow into."
_ADDRESS = "Address of a running Ray cluster; by default, and for local, this machine alone."
_STORAGE = "Where trials keep checkpoints, for a cluster: a shared folder or s3://..."
_NAME = "Name of the run; by default made of the time and the data set."
_STUDY = "How the study is kept: journal where the run's folder is on NFS, which SQLite fails on."
_RESUME = "Continue the run --name, by default the newest, where it ended or was killed."
_DRY_RUN = "Say what the search would take, from a few steps; nothing is searched or kept."
_TRUST = "Run the Python search space that a run brings; only if you trust whoever started it."


@command(
    "amatune search --width 0.25 --steps 800 --trials 12",
    "amatune search --dataset digits --normal-class 0 --normal-class 1 --name zero-one",
    "amatune search --dataset folder:good --ood folder:bad --time-budget 2h",
    "amatune search --dataset npz:parts.npz --ood npz:faults.npz --fix geometry=ray",
    "amatune search --dataset folder:good --ood folder:bad --trials 30 --dry-run",
    "amatune search --resume --name zero-one --trials 100",
    "amatune search --method auto --trials 30",
    "amatune search --method ama --method features --steps 500",
    "amatune search --config runs/zero-one/run.json --seed 1",
)
def search(
    context: typer.Context,
    dataset: Annotated[str, _data("NAME", _DATASET)] = "digits",
    ood: Annotated[list[str] | None, _data("NAME", _OOD)] = None,
    test_ood: Annotated[list[str] | None, _data("NAME", _TEST_OOD)] = None,
    normal_class: Annotated[list[str] | None, _data("CLASS", _CLASS)] = None,
    val_anomalies: Annotated[int, _data("N", _VAL, parser=whole)] = 50,
    anomaly_fraction: Annotated[float, _data("SHARE", _FRACTION, parser=number)] = 0.0,
    contamination: Annotated[float, _data("SHARE", _CONTAMINATION, parser=number)] = 0.0,
    image_size: Annotated[int | None, _data("N|HxW", _SIZE, parser=size)] = None,
    channels: Annotated[int | None, _data("1|3", _CHANNELS, parser=whole)] = None,
    data_dir: Annotated[Path | None, _data("DIR", DATA_DIR, parser=path)] = None,
    keep_together: Annotated[str | None, _data("near-copies", _TOGETHER)] = None,
    group_by: Annotated[str | None, _data("HOW", _GROUPS)] = None,
    max_broken: Annotated[float | None, _data("N|SHARE", _BROKEN, parser=number)] = None,
    method: Annotated[list[str] | None, _tune("NAME", _METHOD)] = None,
    trials: Annotated[int, _tune("N", _TRIALS, parser=whole)] = 50,
    steps: Annotated[int | None, _tune("N", _STEPS, parser=whole)] = None,
    epochs: Annotated[int | None, _tune("N", _EPOCHS, parser=whole)] = None,
    time_budget: Annotated[float | None, _tune("TIME", _TIME, parser=duration)] = None,
    width: Annotated[float | None, _tune("FACTOR", _WIDTH, parser=number)] = None,
    tile: Annotated[int | None, _tune("PIXELS", _TILE, parser=whole)] = None,
    tile_overlap: Annotated[int | None, _tune("PIXELS", _OVERLAP, parser=whole)] = None,
    fix: Annotated[list[Assignment] | None, _tune("NAME=VALUE", _FIX, parser=assignment)] = None,
    preset: Annotated[str | None, _tune("NAME", _PRESET)] = None,
    space: Annotated[Path | None, _tune("FILE", _SPACE, parser=file_or_contents)] = None,
    enqueue: Annotated[list[Path] | None, _tune("FILE", _ENQUEUE, parser=file_or_contents)] = None,
    warm_start: Annotated[str | None, _tune("RUN", _WARM_START)] = None,
    sampler: Annotated[str, _tune("tpe|random|gp|qmc", _SAMPLER)] = "tpe",
    scheduler: Annotated[str, _tune("asha|hyperband|median|none", _SCHEDULER)] = "asha",
    objective: Annotated[str, _tune("pooled|mean|worst", _OBJECTIVE)] = "pooled",
    stop_at: Annotated[float | None, _tune("AUROC", _STOP_AT, parser=number)] = None,
    seed: Annotated[int, _tune("N", _SEED, parser=whole)] = 0,
    gpus_per_trial: Annotated[float | None, _machine("SHARE", _GPUS, parser=gpu_share)] = None,
    cpus_per_trial: Annotated[float, _machine("N", _CPUS, parser=number)] = 1.0,
    concurrent: Annotated[int | None, _machine("N", _CONCURRENT, parser=whole)] = None,
    address: Annotated[str | None, _machine("ADDRESS", _ADDRESS)] = None,
    storage_path: Annotated[str | None, _machine("PATH", _STORAGE)] = None,
    name: Annotated[str | None, _folder("NAME", _NAME)] = None,
    runs_dir: Annotated[Path, _folder("DIR", RUNS, parser=path)] = Path(RUNS_DIR),
    study_storage: Annotated[str, _folder("sqlite|journal", _STUDY)] = "sqlite",
    resume: Annotated[
        bool, typer.Option("--resume", help=_RESUME, rich_help_panel="The run")
    ] = False,
    trust_space: Annotated[
        bool, typer.Option("--trust-space", help=_TRUST, rich_help_panel="The run")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help=_DRY_RUN, rich_help_panel="The run")
    ] = False,
    config: Config = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help=QUIET)] = False,
    as_json: Annotated[bool, typer.Option("--json", help=JSON)] = False,
) -> int:
    """Search the settings of a detector for one problem.

    Trains with many settings on normal images, stops the poor ones early, and ranks them by how
    well they tell held-out normal images from a few known anomalies. No test image is touched:
    `amatune best` then retrains the best settings and measures them once.

    Decoded pictures are kept in AMATUNE_CACHE, by default ~/.cache/amatune/pictures, up to
    AMATUNE_CACHE_BYTES, by default 10 GiB (0: none are kept); `amatune datasets --clear-cache`
    empties it.
    """
    from amatune import api
    from amatune.cli.views import estimate_text, kind_of_view, make_view

    # What becomes of the parameters that are not named here is `given`'s part.
    options = given(context, but_for=("dry_run", "config", "quiet", "as_json"))
    options = beside_a_run(context, options)
    kind = kind_of_view(quiet=quiet, as_json=as_json)
    if options.get("gpus_per_trial") == AUTO:
        options["gpus_per_trial"] = None
    _require_trust(context, trust_space)
    console = make_console()
    view = make_view(console, kind, time_budget=time_budget)
    try:
        if dry_run:
            with view:
                estimate = api.estimate(**options, listener=view)
            if quiet:
                say(console, estimate_text(estimate))
            return 0
        with view:
            outcome = api.search(**options, listener=view)
    except KeyboardInterrupt:
        # Before the first trial, or a second Ctrl-C during the orderly end of the first.
        how = "" if view.run is None else f"; {how_to_resume(RunFolder(view.run))}"
        raise Interrupted(f"interrupted{how}") from None
    if as_json:
        _require_result(outcome)
    else:
        _print_outcome(console, outcome, brief=quiet)
    return 0


def _require_trust(context: typer.Context, trusted: bool) -> None:
    """Run no program that a run.json brings, and join no cluster that it names, unless told to."""
    brought = (context.default_map or {}).get("space")
    in_use = context.params["space"] == brought
    if isinstance(brought, dict) and "python" in brought and in_use and not trusted:
        raise RequestError(
            f"{context.params['config']} brings a search space written in Python, which would run "
            "on this machine; if you trust whoever started that run, or have read the program, add "
            "--trust-space"
        )
    from amatune.runs.request import require_confirmed

    if context.meta.get(OF_RUN) and not is_given(context, "address"):
        require_confirmed(str(context.params["config"]), context.params["address"])


def _require_result(outcome: "SearchOutcome") -> None:
    """Raise `Interrupted` after Ctrl-C, `AmatuneError` when no trial reached the full budget."""
    if outcome.interrupted:
        raise Interrupted(f"interrupted; {how_to_resume(outcome.run)}")
    if outcome.best_number is None:
        epochs = counted(outcome.run.record().request.epochs, "epoch")
        raise AmatuneError(
            f"no trial reached the full budget of {epochs}: {outcome.pruned} were stopped, "
            f"{outcome.failed} failed"
        )


def _print_outcome(console: "Console", outcome: "SearchOutcome", *, brief: bool) -> None:
    """The table of trials, unless `brief`, and what to do next."""
    from amatune.tuning.options import learns_in_one_pass
    from amatune.tuning.study import read_trials

    run = outcome.run
    record = run.record()
    trials = read_trials(run)
    if not brief:
        say(console)
        held = tuple(record.fixed)
        print_trials(console, trials, held=held, most=TABLE_ROWS, over=True)
        if len(trials) > TABLE_ROWS:
            more = len(trials) - TABLE_ROWS
            say(console, f"and {more} more: {about(run, 'status', run.name)}")
        say(console)
    if outcome.ending == "out of time":
        say(console, f"The time is used up; {how_to_resume(run)}")
    _require_result(outcome)
    if outcome.ending == "good enough":
        reached = record.request.stop_at
        say(console, f"Stopped: a trial has reached {reached:g} on validation images.")
    counts = record.problem.counts
    sides = counts["validation_anomalies"], counts["validation_normals"]
    ended = sum(trial.state in ENDED for trial in trials)
    say(console, f"Best: trial {outcome.best_number}, {_optimistic(outcome, sides, ended)}.")
    may_help = "trials" if learns_in_one_pass(record.request.method) else "steps, trials"
    for line in _against_chance(outcome, sides, may_help):
        say(console, line)
    say(console, f"Retrain and test the best: {about(run, 'best', run.name, '--export')}")
    say(console, f"Compare the trials: {tensorboard(run)}")


def _against_chance(outcome: "SearchOutcome", sides: tuple[int, int], more: str) -> list[str]:
    """What needs no detector, and whether the search has found anything that this does not; if it
    has not, of what `more` may help."""
    from amatune.metrics import hanley_mcneil

    picked = outcome.selection
    held = picked.corrected if picked is not None else outcome.best_auroc or 0.0
    error = hanley_mcneil(min(max(held, 0.0), 1.0), *sides)
    lines = []
    if outcome.baselines:
        best = outcome.baselines[0]
        lines.append(
            f"Without any detector: {best.name}, {figure(best.validation_auroc)} on the same "
            f"images ({best.side})."
        )
        if held - best.validation_auroc <= error:
            lines.append(
                f"warning: the best trial is not ahead of {best.name} by a standard error "
                f"({error:.3f}); more {more} or another method may be"
            )
    if held - 0.5 <= error:
        lines.append("warning: the best trial is no better than chance")
    return lines


def _optimistic(outcome: "SearchOutcome", sides: tuple[int, int], ended: int) -> str:
    """The best validation AUROC and how far it is to be believed.

    `sides` are the numbers of anomalies and normal images, `ended` that of trials.
    """
    from amatune.metrics import hanley_mcneil
    from amatune.results.selection import SEED_LUCK

    auroc = outcome.best_auroc or 0.0
    error = hanley_mcneil(auroc, *sides)
    anomalies = counted(sides[0], "anomaly", "anomalies")
    sure = f"standard error {error:.3f} with {anomalies}"
    if error == 0:
        sure = f"nothing was misranked among {anomalies}, too few to tell it from a little less"
    told = f"validation AUROC {figure(auroc)} ({sure}), an optimistic figure: the best of {ended}"
    if (picked := outcome.selection) is not None and picked.of > 1:
        told += f"; about {figure(picked.corrected)} after correction for that; {SEED_LUCK}"
    return told
