"""The command line.

Commands turn options into requests, show what happens meanwhile, and print the result. What is
slow to import (torch, Ray, Optuna) is imported inside the command that needs it, so that
`amatune --help` answers at once.

Exit codes: 0 done, 1 ran and failed, 2 the request was wrong, 130 interrupted and resumable. Only
`AmatuneError` and the errors of option parsing become a message; anything else is a bug and keeps
its traceback.
"""

import contextlib
import csv
import dataclasses
import heapq
import inspect
import json
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TextIO, TypeVar

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

import amatune
from amatune.errors import AmatuneError, RequestError, did_you_mean
from amatune.runs import RunFolder, all_runs
from amatune.tuning.events import (
    Event,
    RetrainStarted,
    RetrainUpdate,
    SearchStarted,
    State,
    TestStarted,
    TrialUpdate,
)

if TYPE_CHECKING:
    from amatune.data.dataset import Presence
    from amatune.export import Exported, ScoredPicture
    from amatune.results.comparison import ComparedRun, RunComparison
    from amatune.results.leaderboard import Leaderboard
    from amatune.runs.request import SearchRequest
    from amatune.tuning.search import SearchOutcome

RUNS_DIR = "runs"
WARM_STARTS = 5  # settings taken over from an earlier run
TABLE_ROWS = 20  # trials listed at the end of a search; `amatune status` lists them all
PIPE_WIDTH = 120  # columns of a table that does not go to a terminal
PROGRESS_SECONDS = 30.0  # of silence in a pipe, before a line tells how far things are

app = typer.Typer(
    name="amatune",
    help="Search the settings of an image anomaly detector, retrain the best, score pictures.",
    epilog="A first run, in minutes:\n"
    "amatune search --width 0.25 --epochs 30 --trials 12\n"
    "amatune best --export",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# What option parsing raises for a wrong option, value or command.
_UsageError: type[Any] = typer.BadParameter.mro()[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `arguments` default to the process's own."""
    try:
        code = app(args=arguments, prog_name="amatune", standalone_mode=False)
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "amatune"
        message = error.format_message().rstrip(".")
        return _fail(f"{message}; see {command} --help", 2)
    except AmatuneError as error:
        return _fail(str(error), error.exit_code)
    except typer.Abort:
        return 130
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"amatune: {message}", file=sys.stderr)
    return code


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"amatune {amatune.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _entry(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


_Command = TypeVar("_Command", bound=Callable[..., Any])


def _command(*examples: str) -> Callable[[_Command], _Command]:
    """Register a command; its docstring is its help, reflowed to the terminal's width."""

    def register(function: _Command) -> _Command:
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        epilog = "\n".join(["[bold]Examples[/bold]", *map(escape, examples)])
        return app.command(help=text, epilog=epilog)(function)

    return register


# --- option values --------------------------------------------------------------------------------


# Parsers of our own, since a message must name the value that is wrong.


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


_SECONDS = {"s": 1, "m": 60, "h": 3600}
_FIXING = ("fix", "width", "preset")  # options that hold settings fixed
_AUTO = -1.0  # a share of GPUs: `auto`, in the place of the None that a parser cannot return


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or float(match[1]) == 0:
        raise typer.BadParameter(f"{text!r} is not a time; write 90s, 10m or 2h")
    return float(match[1]) * _SECONDS[match[2]]


def _gpu_share(text: str) -> float:
    if text == "auto":
        return _AUTO
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf:
        raise typer.BadParameter(f"{text!r} is not a share of GPUs; write auto, 0, 0.25, 1 or 2")
    return share


def _fixed_settings(assignments: Sequence[str], width: float | None) -> dict[str, Any]:
    """The settings that --fix and --width hold fixed."""
    fixed: dict[str, Any] = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        if not name or not text:
            raise RequestError(f"--fix {assignment!r} is not NAME=VALUE, such as critic_steps=2")
        if name in fixed:
            raise RequestError(f"--fix gives {name!r} twice; give it one value")
        fixed[name] = _setting(text)
    if width is not None:
        if "width" in fixed:
            raise RequestError("--width and --fix width=... say the same thing; give one of them")
        fixed["width"] = width
    return fixed


def _preset_settings(method: str, preset: str | None) -> dict[str, Any]:
    """The settings that --preset holds fixed. Raises `RequestError` for an unknown name."""
    from amatune.registry import find_method

    if preset is None:
        return {}
    presets = find_method(method).detector.presets
    if preset not in presets:
        known = did_you_mean(preset, presets) if presets else "it has none"
        raise RequestError(f"{method} has no preset {preset!r}; {known}")
    return dict(presets[preset])


def _setting(text: str) -> Any:
    """A setting as `_value` writes it: a number, true, false, none, a list or a word."""
    with contextlib.suppress(ValueError):
        return json.loads(text.lower().replace("none", "null"))
    return text


# --- commands -------------------------------------------------------------------------------------


def _option(panel: str, metavar: str, text: str, **rules: Any) -> Any:
    return typer.Option(metavar=metavar, help=text, rich_help_panel=panel, **rules)


_data = partial(_option, "The problem")
_tune = partial(_option, "The search")
_machine = partial(_option, "The machine")
_folder = partial(_option, "The run")
_plain = partial(_option, "Options")

_DATASET = "Normal images: a name that `amatune datasets` lists, folder:PATH or npz:PATH."
_OOD = "Data set of the anomalies. May be repeated."
_TEST_OOD = "Data set of the test's anomalies, if another than --ood. May be repeated."
_CLASS = "Normal class; without --ood the other classes are the anomalies. May be repeated."
_VAL = "Anomalies the search may look at, to choose by."
_FRACTION = "Share of labelled anomalies among the training images, for a detector that uses them."
_CONTAMINATION = "Share of anomalies hidden among the training normals, to test robustness."
_SIZE = "Side of the square all images are brought to; by default the data set's own."
_CHANNELS = "Grey (1) or colour (3); by default the data set's own."
_BROKEN = (
    "Damaged pictures to pass over in each folder: a number such as 20, or a share such as 0.05; "
    "by default 5 or 1%, whichever is more. The run's broken.txt lists them."
)
_METHOD = "The detector; `amatune methods` lists them."
_TRIALS = "Settings to try, those of an earlier session included."
_EPOCHS = "Full budget of a trial: passes over the training images."
_TIME = "End the search after 90s, 10m or 2h; --resume continues it."
_WIDTH = "Hold the networks' width at this multiple of the published one."
_FIX = "Hold a setting of the detector fixed, searched or not. May be repeated."
_PRESET = "Hold the settings of a named variant fixed; `amatune methods` lists them."
_SPACE = "Search this space, a .py or .json file, instead of the method's own."
_TRUST = "With --resume: run the Python program that is the search space of the run."
_ENQUEUE = "JSON file with settings, or a list of them, to try right after the defaults."
_WARM_START = "Earlier run whose best settings are tried right after the defaults."
_SAMPLER = "How settings are proposed: tpe and gp learn from earlier trials, qmc spreads evenly."
_SCHEDULER = "How poor trials are stopped: at ASHA's or Hyperband's rungs, below the median, never."
_OBJECTIVE = "With several --ood: rank by the AUROC of all anomalies, or the mean or worst set's."
_STOP_AT = "Start no more trials once one has reached this validation AUROC."
_QUIET = "Show the result alone."
_JSON = "Print every event as one JSON object per line, and nothing else."
_SEED = "Decides the splits, the proposals and the trainings."
_GPUS = "GPUs of one trial: 0.25, so that four share one; or auto, which measures what trains most."
_CPUS = "CPU cores of one trial."
_CONCURRENT = "Trials at a time; by default as many as fit. With --address also more, to grow into."
_ADDRESS = "Address of a running Ray cluster; by default this machine alone."
_STORAGE = "Where trials keep checkpoints, for a cluster: a shared folder or s3://..."
_NAME = "Name of the run; by default made of the time and the data set."
_RESUME = "Continue the run --name, by default the newest, where it ended or was killed."
_RUNS_DIR = "Folder that holds the runs."
_DATA_DIR = "Folder of the named data sets; by default AMATUNE_DATA, else ~/.cache/amatune."

# Options and an argument that several commands share.
_Run = Annotated[
    str | None, typer.Argument(metavar="RUN", help="Name or folder; by default the newest run.")
]
_RunsDir = Annotated[Path, _plain("DIR", _RUNS_DIR)]
_ItsDataDir = Annotated[
    Path | None, _plain("DIR", "Folder of the named data sets; by default the search's.")
]


@_command(
    "amatune search --width 0.25 --epochs 30 --trials 12",
    "amatune search --dataset digits --normal-class 0 --normal-class 1 --name zero-one",
    "amatune search --dataset folder:good --ood folder:bad --time-budget 2h",
    "amatune search --dataset npz:parts.npz --ood npz:faults.npz --fix geometry=ray",
    "amatune search --resume --name zero-one --trials 100",
)
def search(
    context: typer.Context,
    dataset: Annotated[str, _data("NAME", _DATASET)] = "digits",
    ood: Annotated[list[str] | None, _data("NAME", _OOD)] = None,
    test_ood: Annotated[list[str] | None, _data("NAME", _TEST_OOD)] = None,
    normal_class: Annotated[list[str] | None, _data("CLASS", _CLASS)] = None,
    val_anomalies: Annotated[int, _data("N", _VAL, parser=_whole)] = 50,
    anomaly_fraction: Annotated[float, _data("SHARE", _FRACTION, parser=_number)] = 0.0,
    contamination: Annotated[float, _data("SHARE", _CONTAMINATION, parser=_number)] = 0.0,
    image_size: Annotated[int | None, _data("PIXELS", _SIZE, parser=_whole)] = None,
    channels: Annotated[int | None, _data("1|3", _CHANNELS, parser=_whole)] = None,
    data_dir: Annotated[Path | None, _data("DIR", _DATA_DIR)] = None,
    max_broken: Annotated[float | None, _data("N|SHARE", _BROKEN, parser=_number)] = None,
    method: Annotated[str, _tune("NAME", _METHOD)] = "ama",
    trials: Annotated[int, _tune("N", _TRIALS, parser=_whole)] = 50,
    epochs: Annotated[int, _tune("N", _EPOCHS, parser=_whole)] = 100,
    time_budget: Annotated[float | None, _tune("TIME", _TIME, parser=_duration)] = None,
    width: Annotated[float | None, _tune("FACTOR", _WIDTH, parser=_number)] = None,
    fix: Annotated[list[str] | None, _tune("NAME=VALUE", _FIX)] = None,
    preset: Annotated[str | None, _tune("NAME", _PRESET)] = None,
    space: Annotated[Path | None, _tune("FILE", _SPACE)] = None,
    trust_space: Annotated[
        bool, typer.Option("--trust-space", help=_TRUST, rich_help_panel="The search")
    ] = False,
    enqueue: Annotated[list[Path] | None, _tune("FILE", _ENQUEUE)] = None,
    warm_start: Annotated[str | None, _tune("RUN", _WARM_START)] = None,
    sampler: Annotated[str, _tune("tpe|random|gp|qmc", _SAMPLER)] = "tpe",
    scheduler: Annotated[str, _tune("asha|hyperband|median|none", _SCHEDULER)] = "asha",
    objective: Annotated[str, _tune("pooled|mean|worst", _OBJECTIVE)] = "pooled",
    stop_at: Annotated[float | None, _tune("AUROC", _STOP_AT, parser=_number)] = None,
    seed: Annotated[int, _tune("N", _SEED, parser=_whole)] = 0,
    gpus_per_trial: Annotated[float | None, _machine("SHARE", _GPUS, parser=_gpu_share)] = None,
    cpus_per_trial: Annotated[float, _machine("N", _CPUS, parser=_number)] = 1.0,
    concurrent: Annotated[int | None, _machine("N", _CONCURRENT, parser=_whole)] = None,
    address: Annotated[str | None, _machine("ADDRESS", _ADDRESS)] = None,
    storage_path: Annotated[str | None, _machine("PATH", _STORAGE)] = None,
    name: Annotated[str | None, _folder("NAME", _NAME)] = None,
    runs_dir: Annotated[Path, _folder("DIR", _RUNS_DIR)] = Path(RUNS_DIR),
    resume: Annotated[
        bool, typer.Option("--resume", help=_RESUME, rich_help_panel="The run")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help=_QUIET)] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> int:
    """Search the settings of a detector for one problem.

    Trains with many settings on normal images, stops the poor ones early, and ranks them by how
    well they tell held-out normal images from a few known anomalies. No test image is touched:
    `amatune best` then retrains the best settings and measures them once.

    Decoded pictures are kept in AMATUNE_CACHE, by default ~/.cache/amatune/pictures, up to
    AMATUNE_CACHE_BYTES, by default 10 GiB (0: none are kept); `amatune datasets --clear-cache`
    empties it.
    """
    from amatune.tuning.search import run_search
    from amatune.tuning.spaces import read_space

    if quiet and as_json:
        raise RequestError("--quiet and --json exclude each other; give one of them")
    problem = {
        "dataset": dataset,
        "ood": tuple(ood or ()),
        "test_ood": tuple(test_ood or ()),
        "normal_classes": tuple(normal_class or ()),
        "val_anomalies": val_anomalies,
        "anomaly_fraction": anomaly_fraction,
        "contamination": contamination,
        "seed": seed,
        "image_size": image_size,
        "channels": channels,
        "max_broken": max_broken,
    }
    settings = {
        "method": method,
        "trials": trials,
        "epochs": epochs,
        "time_budget": time_budget,
        "gpus_per_trial": None if gpus_per_trial == _AUTO else gpus_per_trial,
        "cpus_per_trial": cpus_per_trial,
        "concurrent": concurrent,
        "seed": seed,
        "sampler": sampler,
        "scheduler": scheduler,
        "objective": objective,
        "stop_at": stop_at,
        "space": None if space is None else read_space(space),
        "fixed": {**_preset_settings(method, preset), **_fixed_settings(fix or (), width)},
        "address": address,
        "storage_path": storage_path,
        "name": name,
        "runs_dir": str(runs_dir),
        "data_dir": _data_dir(data_dir),
    }
    request = _continued(context, problem, settings) if resume else _request(problem, settings)
    first = _to_try_first(enqueue or (), warm_start, runs_dir)
    console = _console()
    view = _view(
        console,
        kind=_QuietView if quiet else _JsonView if as_json else None,
        held=tuple(request.fixed),
        time_budget=request.time_budget,
    )
    try:
        with view:
            outcome = run_search(
                request,
                listener=view,
                resume=resume,
                first=first,
                # A file that is named here is the user's own.
                trust_space=trust_space or space is not None,
            )
    except KeyboardInterrupt:
        # Before the first trial, or a second Ctrl-C during the orderly end of the first.
        how = "" if view.run is None else f"; {_how_to_resume(RunFolder(view.run))}"
        return _fail(f"interrupted{how}", 130)
    if as_json:
        return _exit_code(outcome, request)
    return _print_outcome(console, request, outcome, brief=quiet)


def _to_try_first(
    files: Sequence[Path], earlier: str | None, runs_dir: Path
) -> list[dict[str, Any]]:
    """The settings of --enqueue's files and of --warm-start's best trials."""
    from amatune.tuning import study

    found: list[dict[str, Any]] = []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise RequestError(f"cannot read the settings in {file}: {error}") from error
        listed = content if isinstance(content, list) else [content]
        if not all(isinstance(one, dict) for one in listed):
            raise RequestError(f"{file} must hold an object of settings by name, or a list of them")
        found += listed
    if earlier is not None:
        trials = study.full_trials(study.open_study(RunFolder.open(earlier, runs_dir)))
        if not trials:
            raise RequestError(f"no trial of the run {earlier!r} has reached its full budget")
        found += [dict(trial.params) for trial in trials[:WARM_STARTS]]
    return found


@_command(
    "amatune best --export",
    "amatune best zero-one --top 5 --seeds 5 --export-dir models/zero-one",
)
def best(
    run: _Run = None,
    top: Annotated[int, _plain("N", "Trials to retrain, beside the defaults.", parser=_whole)] = 3,
    seeds: Annotated[int, _plain("N", "Trainings of each, from fresh seeds.", parser=_whole)] = 3,
    epochs: Annotated[
        int | None, _plain("N", "Epochs of each; by default those of the search.", parser=_whole)
    ] = None,
    export: Annotated[
        bool, typer.Option("--export", help="Write the chosen detector to a folder of its own.")
    ] = False,
    export_dir: Annotated[
        Path | None, _plain("DIR", "That folder, by default RUN/best/export; implies --export.")
    ] = None,
    data_dir: _ItsDataDir = None,
    address: Annotated[
        str | None, _plain("ADDRESS", "Address of a running Ray cluster; by default the search's.")
    ] = None,
    runs_dir: _RunsDir = Path(RUNS_DIR),
) -> int:
    """Retrain the best settings of a run over fresh seeds, and test them once.

    The winner is chosen on validation images, by its mean over the seeds; only then are the test
    images read. The default settings, with the same values held fixed, take part as a control.
    """
    from amatune.export import require_replaceable
    from amatune.export.winner import export_winner
    from amatune.tuning.retrain import run_best

    folder = RunFolder.open(run, runs_dir)
    target = export_dir or (folder.best / "export" if export else None)
    if target is not None:
        require_replaceable(target)  # before hours of training, not after
    console = _console()
    try:
        with _view(console) as view:
            board = run_best(
                folder,
                top=top,
                seeds=seeds,
                epochs=epochs,
                data_dir=_data_dir(data_dir),
                address=address,
                listener=view,
            )
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from the finished trainings", 130)
    _say(console)
    _print_leaderboard(console, board)
    if target is not None:
        export_winner(board, target, _data_dir(data_dir))
        _say(console, f"\nExported model: {_near(target)}")
        _say(console, f"Score pictures: {shlex.join(['amatune', 'score', _near(target)])} PATH...")
    return 0


_EXPLAIN = (
    "Write the pictures with the highest scores there, each beside its reconstruction and the "
    "difference; a new folder."
)
_FPR = (
    "Share of normal pictures that may be flagged, as judged by the export's validation images; "
    "by default 0.05."
)


@_command(
    "amatune score runs/zero-one/best/export photos/",
    "amatune score models/zero-one photos/ --output scores.csv --fpr 0.01",
    "amatune score models/zero-one parts.npz one.png --json",
    "amatune score models/zero-one photos/ --output scores.csv --explain highest",
)
def score(
    export: Annotated[
        Path, typer.Argument(metavar="EXPORT", help="Folder that `amatune best --export` wrote.")
    ],
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Pictures, folders of pictures, .npz files."),
    ],
    fpr: Annotated[float | None, _plain("RATE", _FPR, parser=_number)] = None,
    output: Annotated[
        Path | None, _plain("FILE", "Write there instead of to standard output.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line instead of CSV.")
    ] = False,
    explain: Annotated[Path | None, _plain("DIR", _EXPLAIN)] = None,
    explain_top: Annotated[
        int | None, _plain("N", "How many; by default 16.", parser=_whole)
    ] = None,
) -> int:
    """Score pictures with an exported detector; higher is more anomalous.

    Writes CSV with the columns path, score, every score of the detector by name, p_value and flag.
    The p-value is the share of the export's normal validation images, and this one, that score as
    high or higher; flag is true for scores above the threshold at --fpr. Both are empty for an
    export without a calibration.

    An .npz file holds images, or train_images and test_images: uint8, (N, H, W) or (N, H, W, C).
    Its images are written as parts.npz[12].

    Pictures that cannot be read are reported on standard error and left out; the exit code is then
    1, or 2 when nothing could be scored.
    """
    from amatune.export import explain as write_explanations
    from amatune.export import find_inputs, load, require_explainable

    exported = load(export)
    threshold = _threshold(exported, fpr)
    highest = _highest(explain, explain_top)
    if explain is not None:
        require_explainable(exported.detector, explain)
    inputs = find_inputs(paths)
    scored = failed = 0
    try:
        with _destination(output) as file, _scoring_progress(inputs.count) as progress:
            write = _writer(file, exported.detector.score_names, threshold, as_json)
            for picture in exported.score_inputs(inputs):
                if picture.problem is None:
                    write(picture)
                    highest.add(picture)
                    scored += 1
                else:
                    progress.say(f"amatune: {picture.problem}")
                    failed += 1
                progress.advance()
            if not scored:
                raise RequestError(f"nothing was scored: none of {failed} pictures could be read")
        if explain is not None:
            write_explanations(exported.detector, highest.pictures(), explain)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 1 if failed else 0


def _threshold(exported: "Exported", fpr: float | None) -> float | None:
    """The score above which pictures are flagged; None when the export cannot tell.

    Raises `RequestError` when a rate was asked for that the export does not support.
    """
    from amatune.export import DEFAULT_RATE

    calibration = exported.calibration
    if calibration is None:
        if fpr is not None:
            raise RequestError(
                f"{exported.folder} was exported without scores of normal images, so that no false "
                "positive rate can be stated; leave --fpr out"
            )
        return None
    if fpr is None and calibration.smallest_rate > DEFAULT_RATE:
        _say(
            Console(stderr=True, highlight=False),
            f"amatune: flag stays empty, name a rate with --fpr: {calibration.possible_rates}",
        )
        return None
    return calibration.threshold(DEFAULT_RATE if fpr is None else fpr)


EXPLAINED = 16  # pictures of --explain, by default


def _highest(folder: Path | None, number: int | None) -> "_Highest":
    """What keeps the pictures to explain. Raises `RequestError` for an impossible number."""
    if folder is None and number is not None:
        raise RequestError("--explain-top says how many pictures --explain writes; give both")
    if number is not None and number < 1:
        raise RequestError(f"--explain-top must be at least 1, got {number}")
    return _Highest(0 if folder is None else number or EXPLAINED)


class _Highest:
    """Keeps the pictures with the highest scores, of equal ones the first."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._heap: list[tuple[float, int, ScoredPicture]] = []
        self._seen = 0

    def add(self, picture: "ScoredPicture") -> None:
        """Take in a picture that was scored."""
        self._seen += 1
        entry = (picture.score or 0.0, -self._seen)
        if len(self._heap) == self._number and (not self._heap or entry < self._heap[0][:2]):
            return
        image = None if picture.image is None else picture.image.copy()
        kept = (*entry, dataclasses.replace(picture, image=image))
        if len(self._heap) < self._number:
            heapq.heappush(self._heap, kept)
        else:
            heapq.heapreplace(self._heap, kept)

    def pictures(self) -> list["ScoredPicture"]:
        """The highest first."""
        return [picture for *_, picture in sorted(self._heap, reverse=True)]


@_command("amatune status", "amatune status zero-one")
def status(run: _Run = None, runs_dir: _RunsDir = Path(RUNS_DIR)) -> None:
    """Show a run: its trials, the best so far, and what was retrained and exported.

    Reads the run's folder alone, so it also works while the search is under way.
    """
    from amatune.results.leaderboard import read_leaderboard
    from amatune.tuning.study import read_trials

    folder = RunFolder.open(run, runs_dir)
    request = folder.record().request
    trials = read_trials(folder)
    numbers = {state: sum(trial.state == state for trial in trials) for state in _STYLES}
    counts = [f"{number} {state}" for state, number in numbers.items() if number]
    console = _console()
    _say(
        console,
        f"Run {folder.name}: {', '.join(counts) or 'no trials yet'}, of {request.trials}",
    )
    if request.fixed:
        _say(console, f"Held fixed: {_settings(request.fixed)}")
    _say(console)
    _print_trials(console, trials, held=tuple(request.fixed))
    _say(console)
    if (folder.best / "leaderboard.json").exists():
        _print_leaderboard(console, read_leaderboard(folder))
        _say(console)
    if (folder.best / "export").exists():
        _say(console, f"Exported model: {_near(folder.best / 'export')}")
    _say(console, f"Compare the trials: {_tensorboard(folder)}")
    others = [other.name for other in all_runs(folder.path.parent) if other.path != folder.path]
    if others:
        _say(console, f"Other runs here: {', '.join(others)}")


@_command("amatune report", "amatune report zero-one --output zero-one.html")
def report(
    run: _Run = None,
    output: Annotated[
        Path | None, _plain("FILE", "Write there instead of to RUN/report.html.")
    ] = None,
    data_dir: _ItsDataDir = None,
    runs_dir: _RunsDir = Path(RUNS_DIR),
) -> None:
    """Write a run's figures and pictures into one HTML file that needs no network.

    Also while the search is under way, and before `amatune best`: then it is about validation
    images alone, and says so. Test images are shown once `amatune best` has opened them. Nothing
    is downloaded; without its images a run is reported without pictures.
    """
    from amatune.report import make_report

    folder = RunFolder.open(run, runs_dir)
    target = output or folder.path / "report.html"
    made = make_report(folder, _data_dir(data_dir))
    with _destination(target) as file:
        file.write(made.page)
    console = _console()
    for note in made.notes:
        _say(console, f"note: {note}")
    _say(console, f"Report: {_near(target)}, {_bytes(target.stat().st_size)}")


_FORMATS = ("table", "markdown", "csv", "json")
_FORMAT = "How to write it: table, markdown, csv (one line per run) or json (everything)."
_DIFFERENT = "List runs that were tested on different images too, without tests between them."


@_command(
    "amatune compare zero-one zero-one-again",
    "amatune compare ama deep-svdd runs-of-others/vae --format markdown --output methods.md",
)
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN RUN...", help="Names or folders, two or more.")
    ],
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help=_FORMAT)] = "table",
    output: Annotated[
        Path | None, _plain("FILE", "Write there instead of to standard output.")
    ] = None,
    different: Annotated[bool, typer.Option("--allow-different-splits", help=_DIFFERENT)] = False,
    runs_dir: _RunsDir = Path(RUNS_DIR),
) -> None:
    """Compare the tested results of runs, also of different methods.

    Shows the chosen settings, test figures over seeds with their intervals, and for every two runs
    with the same test images whether their test AUROCs differ (DeLong's paired test and the spread
    over seeds; with more than two runs corrected after Holm). Says what each search took, and warns
    where the searches were not given the same. Each run must have been through `amatune best`. Runs
    with different test images are refused unless --allow-different-splits.
    """
    from amatune.results.comparison import compare_runs

    if form not in _FORMATS:
        raise RequestError(f"unknown format {form!r}; known: {', '.join(_FORMATS)}")
    folders = [RunFolder.open(run, runs_dir) for run in runs]
    untested = [f for f in folders if not (f.best / "leaderboard.json").exists()]
    if untested:
        first = "; ".join(_about(folder, "best", folder.name) for folder in untested)
        names = ", ".join(folder.name for folder in untested)
        raise RequestError(f"not tested yet: {names}; call first: {first}")
    found = compare_runs(folders, allow_different_splits=different)
    show = {
        "table": _write_comparison,
        "markdown": _write_comparison_markdown,
        "csv": _write_comparison_csv,
        "json": _write_comparison_json,
    }[form]
    with _destination(output) as file:
        show(found, file)
    if form == "csv":
        for warning in found.warnings:
            print(f"amatune: warning: {warning}", file=sys.stderr)
    if output is not None:
        _say(_console(), f"Comparison: {_near(output)}")


_COMPARED: dict[str, Callable[["ComparedRun"], str]] = {
    "run": lambda one: one.name,
    "method, score": lambda one: f"{one.board.method}, {one.board.primary_score}",
    "chosen, seeds": lambda one: f"{one.row.configuration}, {len(one.row.seeds)}",
    "test AUROC": lambda one: _figure(one.test.auroc, one.test.auroc_spread),
    "95% interval": lambda one: f"{one.test.auroc_low:.3f} to {one.test.auroc_high:.3f}",
    "AUPR": lambda one: _figure(one.test.aupr, one.test.aupr_spread),
    "FPR at 95% TPR": lambda one: _figure(one.test.fpr95, one.test.fpr95_spread),
}


def _compared_settings(found: "RunComparison") -> tuple[list[list[str]], str]:
    """Settings that differ, a row each: the name, then the value in every run; and the others."""
    names = dict.fromkeys(name for one in found.runs for name in one.row.settings)
    rows, shared = [], {}
    for name in names:
        values = [
            _value(one.row.settings[name]) if name in one.row.settings else "-"
            for one in found.runs
        ]
        if len(set(values)) > 1:
            rows.append([name, *values])
        else:
            shared[name] = values[0]
    return rows, " ".join(f"{name}={value}" for name, value in shared.items())


def _compared_lines(found: "RunComparison") -> list[str]:
    """What is said below the tables: images, settings in common, verdicts, warnings."""
    problems = list(dict.fromkeys(one.problem for one in found.runs))
    _, shared = _compared_settings(found)
    return [
        *(f"Problem: {problem}" for problem in problems if len(problems) == 1),
        *(f"Problem of {one.name}: {one.problem}" for one in found.runs if len(problems) > 1),
        *([f"The same in all: {shared}"] if shared else []),
        *(
            f"Search of {one.name}: {effort.trials} trials, {effort.hours:.2f} hours of training"
            for one in found.runs
            if (effort := one.board.effort) is not None
        ),
        *(
            f"{verdict[0].upper()}{verdict[1:]}; standard error of the difference "
            f"{one.standard_error:.3f}"
            for one in found.differences
            for verdict in [one.verdict(len(found.differences))]
        ),
        *(f"warning: {warning}" for warning in found.warnings),
    ]


def _write_comparison(found: "RunComparison", file: TextIO) -> None:
    console = _console(file)
    table = _table(*_COMPARED)
    _never_cut(table.columns)
    for one in found.runs:
        table.add_row(*(escape(cell(one)) for cell in _COMPARED.values()))
    console.print(table)
    rows, _ = _compared_settings(found)
    if rows:
        _say(console)
        table = _table("setting", *(one.name for one in found.runs))
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
    _say(console)
    for line in _compared_lines(found):
        _say(console, line)
    _say(console, f"Side by side: {_tensorboard_of_all([one.run for one in found.runs])}")


def _write_comparison_markdown(found: "RunComparison", file: TextIO) -> None:
    def table(*rows: Sequence[str]) -> None:
        for number, row in enumerate(rows):
            cells = (cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row)
            print(f"| {' | '.join(cells)} |", file=file)
            if number == 0:
                print(f"|{'---|' * len(row)}", file=file)
        print(file=file)

    table(list(_COMPARED), *([cell(one) for cell in _COMPARED.values()] for one in found.runs))
    if rows := _compared_settings(found)[0]:
        table(["setting", *(one.name for one in found.runs)], *rows)
    for line in _compared_lines(found):
        print(f"- {line}", file=file)
    together = _tensorboard_of_all([one.run for one in found.runs])
    print(f"\n```\n{together}\n```", file=file)


def _write_comparison_csv(found: "RunComparison", file: TextIO) -> None:
    """A line per run: its figures, then for every run the difference from it and Holm's p."""
    table = csv.writer(file, lineterminator="\n")
    figures = [f.name for f in dataclasses.fields(found.runs[0].test)]
    others = [one.name for one in found.runs]
    table.writerow(
        ["run", "method", "problem", "test_images", "configuration", "seeds", "score", *figures]
        + ["trials", "hours"]
        + [column for name in others for column in (f"minus {name}", f"p against {name}")]
        + ["settings"]
    )
    for one in found.runs:
        pairs: list[Any] = []
        for name in others:
            pair = found.between(one.name, name)
            if pair is None:
                pairs += ["", ""]
            else:
                sign = 1 if pair.first == one.name else -1
                pairs += [sign * pair.difference, pair.p_holm]
        facts = one.to_dict()
        table.writerow(
            [facts[name] for name in ("run", "method", "problem", "test_images", "configuration")]
            + [facts["seeds"], facts["score"], *(getattr(one.test, name) for name in figures)]
            + ([effort.trials, effort.hours] if (effort := one.board.effort) else ["", ""])
            + [*pairs, json.dumps(one.row.settings)]
        )


def _write_comparison_json(found: "RunComparison", file: TextIO) -> None:
    together = _tensorboard_of_all([one.run for one in found.runs])
    json.dump({**found.to_dict(), "tensorboard": together}, file, indent=2, ensure_ascii=False)
    print(file=file)


@_command("amatune datasets", "amatune datasets cifar10", "amatune datasets --clear-cache")
def datasets(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Tell all about this one.")
    ] = None,
    data_dir: Annotated[Path | None, _plain("DIR", _DATA_DIR)] = None,
    clear_cache: Annotated[
        bool, typer.Option("--clear-cache", help="Remove the kept decoded pictures instead.")
    ] = False,
) -> None:
    """List the data sets that --dataset and --ood accept, and where they are.

    Named sets are looked for in the data folder, and downloaded into it when they are first used.
    Nothing is downloaded or decoded for the list.
    """
    if clear_cache:
        from amatune.data.cache import PictureCache

        cache = PictureCache.default()
        _say(_console(), f"{_bytes(cache.clear())} freed in {_near(cache.file.parent)}")
        return

    from amatune.data.catalogue import dataset_info, find_dataset, list_datasets
    from amatune.data.places import data_folder
    from amatune.wording import download_size

    folder = data_folder(data_dir)
    console = _console()
    if name is not None:
        info, found = dataset_info(name), find_dataset(name, folder)
        rows = {
            "name": info.name,
            "what it is": info.summary,
            "images": info.image,
            "train": _count(info.train),
            "test": _count(info.test),
            "classes": ", ".join(info.classes) or "-",
            "download": "-" if info.download is None else download_size(info.download),
            "licence": info.licence or "-",
            "source": info.url or "-",
            "where": found.state if found.place is None else f"{found.state}: {found.place}",
            "lacking": ", ".join(found.files) or "-",
        }
        for key, value in rows.items():
            _say(console, f"{key + ':':<12}{value}")
        return
    table = _table("name", "images", "train", "test", "download", "licence", "where")
    for info in list_datasets():
        cells = (
            info.name,
            info.image,
            _count(info.train),
            _count(info.test),
            "-" if info.download is None else download_size(info.download),
            info.licence or "-",
            _whereabouts(find_dataset(info.name, folder), folder),
        )
        table.add_row(*map(escape, cells))
    console.print(table)
    _say(console, f"\nData folder: {folder}")
    _say(console, "What is missing is downloaded there when it is first used.")


@_command("amatune methods")
def methods() -> None:
    """List the detectors that --method accepts, and the presets of each."""
    from amatune.registry import find_method, method_names

    console = _console()
    table = _table("name", "scores", "what it is")
    variants = _table("method", "preset", "holds fixed")
    for name in method_names():
        cls = find_method(name).detector
        table.add_row(*map(escape, (name, ", ".join(cls.score_names), cls.summary)))
        for preset, settings in cls.presets.items():
            held = _settings(settings) or "nothing: the defaults are the published values"
            variants.add_row(*map(escape, (name, preset, held)))
    console.print(table)
    if variants.row_count:
        _say(console)
        console.print(variants)


@_command("amatune space ama")
def space(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="One of `amatune methods`.")],
) -> None:
    """Show what a search of a method varies, and every other setting it has.

    Defaults are the published values. `amatune search --fix NAME=VALUE` holds a setting at another.
    """
    from amatune.registry import find_method
    from amatune.tuning.describe import describe_settings, describe_space

    console = _console()
    found = find_method(method)
    searched = set()
    table = _table("setting", "range", "default", "only when")
    for parameter in describe_space(found):
        default = _value(parameter.default)
        table.add_row(*map(escape, (parameter.name, parameter.range, default, parameter.condition)))
        searched.add(parameter.name)
    console.print(table)
    _say(console, "\nAll settings (* searched); change one with --fix NAME=VALUE:\n")
    table = _table("", "setting", "default", "value", "meaning")
    for one in describe_settings(found):
        if one.name != "epochs":  # an option of its own
            mark, kind = "*" if one.name in searched else "", one.kind.replace("'", "")
            table.add_row(*map(escape, (mark, one.name, _value(one.default), kind, one.meaning)))
    console.print(table)


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _whereabouts(found: "Presence", folder: Path) -> str:
    """A few words on where a data set is, or what becomes of it."""
    if found.place is None:
        return found.state
    if found.by_hand:
        return f"put {', '.join(found.files)} there"
    if found.state != "complete":
        return found.state
    place = found.place.relative_to(folder).as_posix()
    return f"complete, in {'the data folder' if place == '.' else place}"


def _data_dir(folder: Path | None) -> str | None:
    """The data folder as a request keeps it."""
    return None if folder is None else str(folder.expanduser().resolve())


# --- requests and results -------------------------------------------------------------------------


def _request(problem: Mapping[str, Any], settings: Mapping[str, Any]) -> "SearchRequest":
    from amatune.data.request import ProblemRequest
    from amatune.runs.request import SearchRequest

    return SearchRequest(problem=ProblemRequest(**problem), **settings)


def _continued(
    context: typer.Context, problem: Mapping[str, Any], settings: Mapping[str, Any]
) -> "SearchRequest":
    """The request of an earlier run, changed by the options that were given on the command line.

    Whether such a change is possible is for the search to decide.
    """
    folder = RunFolder.open(settings["name"], settings["runs_dir"])
    earlier = folder.record().request
    renamed = {"normal_class": "normal_classes", **dict.fromkeys(_FIXING, "fixed")}
    given = {
        renamed.get(option, option)
        for option in context.params
        if (source := context.get_parameter_source(option)) and source.name == "COMMANDLINE"
    }
    changes = {key: value for key, value in settings.items() if key in given}
    # The earlier session's time says nothing about this one's.
    changes["time_budget"] = settings["time_budget"]
    changes |= {"name": folder.name, "runs_dir": str(folder.path.parent)}
    changes["problem"] = dataclasses.replace(
        earlier.problem, **{key: value for key, value in problem.items() if key in given}
    )
    return dataclasses.replace(earlier, **changes)


def _exit_code(outcome: "SearchOutcome", request: "SearchRequest") -> int:
    """0, or 130 after Ctrl-C. Raises `AmatuneError` when no trial reached the full budget."""
    if outcome.interrupted:
        return _fail(f"interrupted; {_how_to_resume(outcome.run)}", 130)
    if outcome.best_number is None:
        raise AmatuneError(
            f"no trial reached the full budget of {request.epochs} epochs: {outcome.pruned} were "
            f"stopped, {outcome.failed} failed"
        )
    return 0


def _print_outcome(
    console: Console, request: "SearchRequest", outcome: "SearchOutcome", *, brief: bool
) -> int:
    """The table of trials, unless `brief`, and what to do next; returns the exit code."""
    from amatune.metrics import hanley_mcneil
    from amatune.tuning.study import read_trials

    run = outcome.run
    trials = read_trials(run)
    if not brief:
        _say(console)
        _print_trials(console, trials, held=tuple(request.fixed), most=TABLE_ROWS)
        if len(trials) > TABLE_ROWS:
            more = len(trials) - TABLE_ROWS
            _say(console, f"and {more} more: {_about(run, 'status', run.name)}")
        _say(console)
    if outcome.ending == "out of time":
        _say(console, f"The time is used up; {_how_to_resume(run)}")
    if (code := _exit_code(outcome, request)) != 0:
        return code
    if outcome.ending == "good enough":
        _say(console, f"Stopped: a trial has reached {request.stop_at:g} on validation images.")
    counts = run.record().problem.counts
    sides = counts["validation_anomalies"], counts["validation_normals"]
    error = hanley_mcneil(outcome.best_auroc or 0.0, *sides)
    ended = sum(trial.state in _ENDED for trial in trials)
    corrected = ""
    if (picked := outcome.selection) is not None and picked.of > 1:
        corrected = f"; about {_figure(picked.corrected)} after correction for that"
    _say(
        console,
        f"Best: trial {outcome.best_number}, validation AUROC {_figure(outcome.best_auroc)} "
        f"(standard error {error:.3f} with {sides[0]} anomalies), an optimistic figure: the best "
        f"of {ended}{corrected}.",
    )
    _say(console, f"Retrain and test the best: {_about(run, 'best', run.name, '--export')}")
    _say(console, f"Compare the trials: {_tensorboard(run)}")
    return 0


def _print_trials(
    console: Console, trials: Sequence[TrialUpdate], held: Sequence[str], most: int | None = None
) -> None:
    """The trials, those with the full budget first, then by validation AUROC."""
    order: list[State] = ["done", "running", "pruned", "failed", "waiting"]
    ranked = sorted(
        trials,
        key=lambda t: (order.index(t.state), -math.inf if t.auroc is None else -t.auroc, t.number),
    )
    table = _table("trial", "state", "epochs", "validation AUROC", "settings")
    for trial in ranked[:most]:
        table.add_row(
            str(trial.number),
            Text(trial.state, style=_STYLES[trial.state]),
            f"{trial.epoch}/{trial.epochs}",
            _figure(trial.auroc),
            escape(trial.reason if trial.state == "failed" else _settings(trial.settings, held)),
        )
    console.print(table)


def _print_leaderboard(console: Console, board: "Leaderboard") -> None:
    """Figures of the retrained configurations, and whether the chosen one beats the default."""
    primary = board.primary_score
    others = [name for name in board.rows[0].test if name != primary]
    heads = [f"test AUROC of {primary}", "95% interval", *(f"of {name}" for name in others)]
    table = _table("", f"retrained, {_seeds(board.seeds)}", "validation AUROC", *heads)
    _never_cut(table.columns[2:])
    for row in board.rows:
        in_use = row.test[primary]
        table.add_row(
            "*" if row.chosen else "",
            row.configuration,
            _figure(row.validation_auroc, row.validation_spread),
            _figure(in_use.auroc, in_use.auroc_spread),
            f"{in_use.auroc_low:.3f} to {in_use.auroc_high:.3f}",
            *(_figure(row.test[name].auroc, row.test[name].auroc_spread) for name in others),
        )
    console.print(table)

    chosen = board.chosen
    test = chosen.test[board.primary_score]
    _say(console, f"\n* {chosen.configuration}, chosen on validation images:")
    _say(console, f"  {_settings(chosen.settings)}")
    _say(
        console,
        f"Test AUROC of {board.primary_score}: {_figure(test.auroc, test.auroc_spread)}, 95% "
        f"interval {test.auroc_low:.3f} to {test.auroc_high:.3f} ({board.test_normals} normal and "
        f"{board.test_anomalies} anomalous images)",
    )
    _say(
        console,
        f"AUPR {_figure(test.aupr, test.aupr_spread)}, FPR at 95% TPR "
        f"{_figure(test.fpr95, test.fpr95_spread)}",
    )
    _print_honesty(console, board)
    for name, own in chosen.test_by_set.items():
        interval = f"{own.auroc_low:.3f} to {own.auroc_high:.3f}"
        figure = _figure(own.auroc, own.auroc_spread)
        _say(console, f"  against {name}: {figure}, 95% interval {interval}")
    if board.comparison is not None:
        versus = board.comparison
        _say(
            console,
            f"{versus.verdict[0].upper()}{versus.verdict[1:]}; standard error of the difference "
            f"{versus.standard_error:.3f}",
        )
    elif chosen.default:
        _say(console, "The default was chosen: the search found nothing clearly better.")
    failures = [f"{row.configuration}: {failure}" for row in board.rows for failure in row.failures]
    for line in (*failures, *board.dropped, *board.warnings):
        _say(console, f"warning: {line}")


def _print_honesty(console: Console, board: "Leaderboard") -> None:
    """Why this one was chosen, what the search's own figure is worth, and what it all took."""
    if board.choice:
        _say(console, f"Choice: {board.choice}")
    if board.selection is not None:
        _say(console, f"The search's best validation AUROC: {board.selection}")
    if (effort := board.effort) is not None:
        gpu = f", {effort.gpu_hours:.2f} GPU-hours" if effort.gpu_hours else ""
        _say(
            console,
            f"The search took {effort.trials} trials ({effort.done} to the end, {effort.pruned} "
            f"pruned, {effort.failed} failed), {effort.epochs:,} epochs, {effort.hours:.2f} hours "
            f"of training{gpu}",
        )


# --- showing what happens -------------------------------------------------------------------------

_STYLES: dict[State, str] = {
    "done": "green",
    "pruned": "yellow",
    "failed": "red",
    "running": "cyan",
    "waiting": "dim",
}
_ENDED: tuple[State, ...] = ("done", "pruned", "failed")


@dataclass(frozen=True)
class _Training:
    """One line of a progress display: a trial of a search, or a seed of a retraining."""

    label: str
    state: State
    epoch: int
    epochs: int
    auroc: float | None  # validation
    detail: str  # settings, or why it failed
    note: str = ""  # why it waits to be tried again
    gpu_bytes: int | None = None

    @property
    def rank(self) -> tuple[bool, float]:
        """Full budget first, then by AUROC."""
        return self.state == "done", -math.inf if self.auroc is None else self.auroc


@dataclass
class _View:
    """Follows the events of a search or a retraining; the subclasses show them."""

    console: Console
    held: Sequence[str] = ()  # settings not worth repeating for every trial: those held fixed
    time_budget: float | None = None  # seconds
    run: Path | None = None
    trainings: dict[str, _Training] = field(default_factory=dict)
    total: int = 0
    earlier: int = 0  # ended before this command
    sides: tuple[int, int] | None = None  # validation anomalies and normal images
    began: float = field(default_factory=time.monotonic)
    ending: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Self:
        from amatune.data.pictures import reporting_to

        self.ending.enter_context(reporting_to(self.read))
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.close()

    def read(self, what: str, done: int, total: int) -> None:
        """Take in how far the reading of many pictures is."""
        raise NotImplementedError

    def __call__(self, event: Event) -> None:
        """Take in one event: this is the listener of `run_search` and `run_best`."""
        match event:
            case SearchStarted():
                self.begin(event.run, event.trials)
                self.sides = event.validation_anomalies, event.validation_normals
                self.say(f"run {_near(event.run)}: {event.problem}")
                gpus = f" and {event.gpus_per_trial:g} GPU" if event.gpus_per_trial else ""
                self.say(
                    f"{event.method}: {event.trials} trials of up to {event.epochs} epochs, "
                    f"{event.concurrent} at a time with {event.cpus_per_trial:g} CPU{gpus} each"
                )
                self.recall(event.run, event.finished)
                self.warn(event.warnings)
            case RetrainStarted():
                all_of_them = len(event.configurations) * len(event.seeds)
                self.begin(event.run, all_of_them - event.finished)
                seeds = _seeds(event.seeds)
                self.say(
                    f"retraining {', '.join(event.configurations)}: {seeds} of {event.epochs} "
                    "epochs each"
                )
                if event.finished:
                    self.say(f"{event.finished} of {all_of_them} trainings are finished already")
                self.warn(event.warnings)
            case TrialUpdate():
                self.update(self.trial(event))
            case RetrainUpdate(configuration=configuration, seed=seed, reason=reason):
                waits = event.state == "waiting"
                self.update(
                    _Training(
                        label=f"{configuration} seed {seed}",
                        state=event.state,
                        epoch=event.epoch,
                        epochs=event.epochs,
                        auroc=event.auroc,
                        detail="" if waits else reason,
                        note=reason if waits else "",
                        gpu_bytes=event.gpu_bytes,
                    )
                )
            case TestStarted():
                self.say(
                    f"chosen on validation images: {event.chosen}; scoring the test images with "
                    f"{event.models} models"
                )

    def begin(self, run: Path, total: int) -> None:
        """Start the clock."""
        self.run, self.total, self.began = run, total, time.monotonic()

    def trial(self, event: TrialUpdate) -> _Training:
        """A trial as a line of the display."""
        failed = event.state == "failed"
        return _Training(
            label=f"trial {event.number}",
            state=event.state,
            epoch=event.epoch,
            epochs=event.epochs,
            auroc=event.auroc,
            detail=event.reason if failed else _settings(event.settings, self.held),
            note=event.reason if event.state == "waiting" else "",
            gpu_bytes=event.gpu_bytes,
        )

    def recall(self, run: Path, finished: int) -> None:
        """Take in the trials that an earlier session of the run finished."""
        if not finished:
            return
        from amatune.tuning.study import read_trials

        known = [self.trial(t) for t in read_trials(RunFolder(run)) if t.state in _ENDED]
        self.trainings = {training.label: training for training in known}
        self.earlier = len(known)
        self.say(f"{finished} trials are finished already")

    def update(self, training: _Training) -> None:
        """Take in a training's new state."""
        self.trainings[training.label] = training

    def say(self, line: str) -> None:
        """Print a line that stays."""
        _say(self.console, line)

    def warn(self, warnings: Sequence[str]) -> None:
        """Print what the user should know before hours of work."""
        for warning in warnings:
            self.say(f"warning: {warning}")

    def now(self) -> list[_Training]:
        """All trainings; a copy, since another thread may be drawing it."""
        return list(self.trainings.values())

    def count(self, *states: State) -> int:
        """How many trainings are in one of these states."""
        return sum(training.state in states for training in self.now())

    def running(self) -> list[_Training]:
        """The trainings under way."""
        return [training for training in self.now() if training.state == "running"]

    def best(self, most: int) -> list[_Training]:
        """The best trainings that ended, best first."""
        ended = [training for training in self.now() if training.state in ("done", "pruned")]
        return sorted(ended, key=lambda training: training.rank, reverse=True)[:most]

    def error(self, auroc: float | None) -> float | None:
        """The standard error of a validation AUROC, from its value and the number of images."""
        from amatune.metrics import hanley_mcneil

        return None if auroc is None or self.sides is None else hanley_mcneil(auroc, *self.sides)

    def times(self) -> str:
        """Time gone and, once a training has ended, about how much is left."""
        gone = time.monotonic() - self.began
        ended = self.count(*_ENDED)
        left = math.inf
        if ended > self.earlier:
            left = gone / (ended - self.earlier) * (self.total - ended)
        if self.time_budget is not None:
            left = min(left, max(0.0, self.time_budget - gone))
        return f"{_clock(gone)} gone" + ("" if left == math.inf else f", about {_clock(left)} left")


class _QuietView(_View):
    """Shows nothing but warnings."""

    def say(self, line: str) -> None:
        """Only what may change what the user does."""
        if line.startswith("warning:"):
            _say(self.console, line)


class _JsonView(_View):
    """One JSON object per event, for programs."""

    def __call__(self, event: Event) -> None:
        """Print the event and its fields."""
        super().__call__(event)
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
        values = {"event": name, **dataclasses.asdict(event)}
        print(json.dumps(values, default=str), flush=True)

    def say(self, line: str) -> None:
        """The events say it all."""


class _LiveView(_View):
    """A table that redraws itself: how far things are, what runs, the best few."""

    reading: tuple[str, int, int] | None = None  # what, pictures done, in all

    def __enter__(self) -> Self:
        super().__enter__()
        self.ending.enter_context(
            Live(get_renderable=self.draw, console=self.console, transient=True)
        )
        return self

    def read(self, what: str, done: int, total: int) -> None:
        """Show a bar until all are read."""
        self.reading = (what, done, total) if done < total else None

    def draw(self) -> RenderableType:
        """The display as of now; called from the refreshing thread."""
        if (reading := self.reading) is not None:
            what, done, total = reading
            line = Table.grid(padding=(0, 2))
            bar = ProgressBar(total=total, completed=done, width=20)
            line.add_row(bar, f"{done:,} of {total:,}", what)
            return line
        if not self.total:
            return Text("starting ...", style="dim")
        ended = self.count(*_ENDED)
        states: tuple[State, ...] = ("running", *_ENDED)
        counts = Text("  ").join(Text(f"{self.count(s)} {s}", style=_STYLES[s]) for s in states)
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self.total, completed=ended, width=20)
        head.add_row(bar, f"{ended} of {self.total}", counts)

        # Lines for the head, the times, the headings, a gap and the lines said above.
        room = max(4, self.console.height - 10)
        running, best = self.running(), self.best(min(5, room // 2))
        shown = running[: room - len(best)]
        on_gpu = any(training.gpu_bytes for training in shown)
        memory = ("GPU memory",) if on_gpu else ()
        table = _table("", "state", "epoch", "validation AUROC", *memory, "settings")
        # The settings get the width that is left, and one line.
        table.expand, table.columns[-1].ratio, table.columns[-1].no_wrap = True, 1, True
        for training in [*shown, None, *best]:
            if training is None:
                table.add_row(Text("best", style="bold") if best else "")
                continue
            table.add_row(
                training.label,
                Text(training.state, style=_STYLES[training.state]),
                f"{training.epoch}/{training.epochs}",
                _figure(training.auroc, self.error(training.auroc)),
                *(["" if training.gpu_bytes is None else _bytes(training.gpu_bytes)] * on_gpu),
                escape(training.note or training.detail),
            )
        hidden = len(running) - len(shown)
        more = [Text(f"{hidden} more are running", style="dim")] if hidden else []
        return Group(head, Text(self.times(), style="dim"), table, *more)


class _PlainView(_View):
    """A line per training that ended, and one now and then about those under way."""

    spoke = 0.0  # when the last line was said
    reading: Progress | None = None  # a bar on a terminal, when standard error is one

    def __enter__(self) -> Self:
        super().__enter__()
        self.spoke = time.monotonic()
        return self

    def read(self, what: str, done: int, total: int) -> None:
        """Show a bar on standard error; without a terminal a line now and then."""
        if self.reading is None:
            self.reading = self.ending.enter_context(_pictures_bar())
            self.reading.add_task(what)
        if not self.reading.disable:
            task, unfinished = self.reading.task_ids[0], done < total
            self.reading.update(
                task, description=what, completed=done, total=total, visible=unfinished
            )
        elif done < total and time.monotonic() - self.spoke > PROGRESS_SECONDS:
            self.say(f"{what}: {done:,} of {total:,}")

    def say(self, line: str) -> None:
        """Print a line at once, so that a log can be followed."""
        super().say(line)
        self.console.file.flush()
        self.spoke = time.monotonic()

    def update(self, training: _Training) -> None:
        """Report an ending, or how far things are when nothing was said for a while."""
        super().update(training)
        if training.state in _ENDED:
            facts = [
                f"{training.label} {training.state}",
                f"epoch {training.epoch}/{training.epochs}",
                f"validation AUROC {_figure(training.auroc)}",
            ]
            if training.detail:
                facts.append(training.detail)
            self.say(f"[{_clock(time.monotonic() - self.began)}] {', '.join(facts)}")
        elif training.note:
            self.say(f"[{_clock(time.monotonic() - self.began)}] {training.label}: {training.note}")
        elif time.monotonic() - self.spoke > PROGRESS_SECONDS:
            running = [f"{t.label} at {t.epoch}/{t.epochs}" for t in self.running()]
            facts = [f"{self.count(*_ENDED)} of {self.total} ended"]
            if running:
                more = f" and {len(running) - 4} more" if len(running) > 4 else ""
                facts.append(f"running {', '.join(running[:4])}{more}")
            facts += [f"best {_figure(t.auroc)} ({t.label})" for t in self.best(1)]
            self.say(f"[{self.times()}] {'; '.join(facts)}")


def _console(file: TextIO | None = None) -> Console:
    """Standard output or a file; in a pipe without colours, and wide enough for a table."""
    console = Console(highlight=False, file=file)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console


def _view(console: Console, kind: type["_View"] | None = None, **options: Any) -> _View:
    live = console.is_terminal and not console.is_dumb_terminal
    return (kind or (_LiveView if live else _PlainView))(console, **options)


def _table(*columns: str) -> Table:
    """A table without rules; its last column wraps, the others do not."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column != columns[-1])
    return table


def _never_cut(columns: Sequence[Column]) -> None:
    """Figures go on in the next line, on however narrow a terminal."""
    for column in columns:
        column.no_wrap, column.overflow = False, "fold"


def _say(console: Console, line: str = "") -> None:
    """Print a line as it is, unbroken, so that it can be copied and searched."""
    console.print(line, markup=False, soft_wrap=True)


# --- scores ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _destination(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears under its name only when it is complete."""
    if output is None:
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError as error:  # `amatune score ... | head`
            # Nothing more can be written, not even by the interpreter when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise AmatuneError("whoever reads the scores has stopped reading") from error
        except OSError as error:
            raise AmatuneError(f"cannot write the scores: {error.strerror or error}") from error
        return
    if output.is_dir() or not output.parent.is_dir():
        raise RequestError(f"cannot write to {output}: name a file in a folder that exists")
    partial_file = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        with partial_file.open("w", encoding="utf-8", newline="") as file:
            yield file
        partial_file.replace(output)
    except OSError as error:
        raise AmatuneError(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial_file.unlink(missing_ok=True)


class _ScoringProgress:
    """How far the scoring is, on standard error: a bar, or without a terminal a line now and
    then."""

    def __init__(self, bar: Progress, total: int) -> None:
        self._bar = bar
        self._total = total
        self._done = 0
        self._task = bar.add_task("pictures", total=total)
        self._spoke = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line that stays, above the bar."""
        _say(self._bar.console, line)

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        self._bar.advance(self._task)
        now = time.monotonic()
        if self._bar.disable and now - self._spoke > PROGRESS_SECONDS:
            self.say(f"{self._done:,} of {self._total:,} pictures scored")
            self._spoke = now


@contextlib.contextmanager
def _scoring_progress(total: int) -> Iterator[_ScoringProgress]:
    with _pictures_bar() as bar:
        yield _ScoringProgress(bar, total)


def _pictures_bar() -> Progress:
    """A bar on standard error that goes when it is done; disabled when that is no terminal."""
    console = Console(stderr=True)
    described = TextColumn("{task.description}")
    columns = (BarColumn(), MofNCompleteColumn(), described, TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _writer(
    file: TextIO, names: Sequence[str], threshold: float | None, as_json: bool
) -> Callable[["ScoredPicture"], None]:
    """What writes one scored picture to `file`: a CSV row, or a line with a JSON object."""
    from amatune.export import printable

    table = csv.writer(file, lineterminator="\n")
    if not as_json:
        table.writerow(["path", "score", *names, "p_value", "flag"])

    def write(picture: "ScoredPicture") -> None:
        # Six digits: what lies beyond depends on how pictures were batched. The flag is that of
        # the whole score.
        scores = {"score": picture.score, **picture.scores, "p_value": picture.p_value}
        row: dict[str, Any] = {"path": printable(picture.path)}
        row |= {n: None if v is None else float(f"{v:.6g}") for n, v in scores.items()}
        flagged = None if threshold is None else (picture.score or 0.0) > threshold
        if as_json:
            print(json.dumps({**row, "flag": flagged}), file=file)
        else:
            flag = "" if flagged is None else str(flagged).lower()
            table.writerow([*row.values(), flag])

    return write


# --- how values read ------------------------------------------------------------------------------


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, tuple | list):
        return f"[{','.join(map(_value, value))}]"
    return "none" if value is None else str(value)


def _settings(settings: Mapping[str, Any], without: Sequence[str] = ()) -> str:
    return " ".join(f"{k}={_value(v)}" for k, v in settings.items() if k not in without)


def _figure(value: float | None, spread: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if spread is None else f"{value:.3f} ± {spread:.3f}"


def _seeds(seeds: Sequence[int]) -> str:
    return "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _near(path: Path) -> str:
    """The path as short as it gets: relative when it lies below the working directory."""
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


def _about(run: RunFolder, *words: str) -> str:
    """An `amatune` command line about a run, to copy."""
    runs_dir = _near(run.path.parent)
    tail = [] if runs_dir == RUNS_DIR else ["--runs-dir", runs_dir]
    return shlex.join(["amatune", *words, *tail])


def _how_to_resume(run: RunFolder) -> str:
    return f"continue with: {_about(run, 'search', '--resume', '--name', run.name)}"


def _tensorboard_folder(run: RunFolder) -> Path:
    from amatune.tuning.search import tensorboard_place

    return tensorboard_place(run, run.record().request.storage_path)


def _tensorboard(run: RunFolder) -> str:
    return shlex.join(["tensorboard", "--logdir", _near(_tensorboard_folder(run))])


def _tensorboard_of_all(runs: Sequence[RunFolder]) -> str:
    """The command that shows these runs together: their folder's, or one that names each."""
    places = [_tensorboard_folder(run) for run in runs]
    parents = {place.parent.parent for place in places}
    if len(parents) == 1:
        (parent,) = parents
        if {run.path for run in all_runs(parent)} <= {run.path for run in runs}:
            return shlex.join(["tensorboard", "--logdir", _near(parent)])
    named = [f"{place.parent.name}:{_near(place)}" for place in places]
    return shlex.join(["tensorboard", "--logdir_spec", ",".join(named)])


if __name__ == "__main__":
    sys.exit(main())
