"""`amatune best`."""

import json
import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from amatune.cli.config import Config, given
from amatune.cli.options import (
    JSON,
    QUIET,
    ItsDataDir,
    Run,
    RunsDir,
    command,
    number,
    option,
    path,
    plain,
    whole,
)
from amatune.cli.output import RUNS_DIR, Interrupted, make_console, near, say
from amatune.cli.tables import print_leaderboard
from amatune.runs import RunFolder

_threshold = partial(option, "The threshold")

_FOLDS = "Let all anomalies, the test's too, choose and test in K folds, as a second figure."
_RECALL = "Find a threshold that flags at least this share of the anomalies, with 95% confidence."
_FPR = "Find one that flags at most this share of normal pictures, with 95% confidence."
_MISS = "Find the cheapest threshold; what an anomaly costs that is not flagged."
_ALARM = "What a normal picture costs that is flagged, in the same unit."
_SHARE = "Anomalies among the pictures in use, for the costs; by default as in the test."


@command(
    "amatune best --export",
    "amatune best zero-one --top 5 --seeds 5 --export-dir models/zero-one",
    "amatune best zero-one --cross-fit 5",
    "amatune best zero-one --max-fpr 0.01 --export",
    "amatune best zero-one --cost-miss 50 --cost-alarm 1 --anomaly-share 0.02",
    "amatune best zero-one --concurrent 2 --quiet",
)
def best(
    context: typer.Context,
    run: Run = None,
    top: Annotated[int, plain("N", "Trials to retrain, beside the defaults.", parser=whole)] = 3,
    seeds: Annotated[int, plain("N", "Trainings of each, from fresh seeds.", parser=whole)] = 3,
    epochs: Annotated[
        int | None, plain("N", "Epochs of each; by default those of the search.", parser=whole)
    ] = None,
    export: Annotated[
        bool, typer.Option("--export", help="Write the chosen detector to a folder of its own.")
    ] = False,
    export_dir: Annotated[
        Path | None,
        plain("DIR", "That folder, by default RUN/best/export; implies --export.", parser=path),
    ] = None,
    cross_fit: Annotated[int | None, plain("K", _FOLDS, parser=whole)] = None,
    min_recall: Annotated[float | None, _threshold("SHARE", _RECALL, parser=number)] = None,
    max_fpr: Annotated[float | None, _threshold("SHARE", _FPR, parser=number)] = None,
    cost_miss: Annotated[float | None, _threshold("COST", _MISS, parser=number)] = None,
    cost_alarm: Annotated[float | None, _threshold("COST", _ALARM, parser=number)] = None,
    anomaly_share: Annotated[float | None, _threshold("SHARE", _SHARE, parser=number)] = None,
    data_dir: ItsDataDir = None,
    address: Annotated[
        str | None,
        plain("ADDRESS", "Address of a running Ray cluster, or local; by default the search's."),
    ] = None,
    concurrent: Annotated[
        int | None,
        plain("N", "Trainings at a time; by default as in the search.", parser=whole),
    ] = None,
    runs_dir: RunsDir = Path(RUNS_DIR),
    config: Config = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help=QUIET)] = False,
    as_json: Annotated[bool, typer.Option("--json", help=JSON)] = False,
) -> int:
    """Retrain the best settings of a run over fresh seeds, and test them once.

    The winner is chosen on validation images, by its mean over the seeds; only then are the test
    images read. The default settings, with the same values held fixed, take part as a control.

    With --cross-fit every anomaly of the validation and the test is judged by what the others
    chose, without further training; the choice and the test above stay as they are.

    With limits or costs a threshold of the model to export is looked for, and what is said of it
    holds with 95% confidence; where there are too few test images for that, the number is told
    that would do. The export keeps the threshold by its name, certified or cheapest.
    """
    from amatune import api
    from amatune.cli.views import kind_of_view, make_view
    from amatune.export.winner import require_exportable

    kind = kind_of_view(quiet=quiet, as_json=as_json)
    folder = RunFolder.open(run, runs_dir)
    target = export_dir or (folder.best / "export" if export else None)
    if target is not None:
        require_exportable(folder, target)
    others = ("run", "export", "export_dir", "runs_dir", "config", "quiet", "as_json")
    options = given(context, but_for=others)
    console = make_console()
    try:
        with make_view(console, kind) as view:
            board = api.retrain(folder, **options, listener=view)
    except KeyboardInterrupt:
        told = "interrupted; the same command goes on from the finished trainings"
        raise Interrupted(told) from None
    if not as_json:
        if not quiet:
            say(console)
        print_leaderboard(console, board)
    if target is not None:
        api.export(folder, target, data_dir=data_dir)
        if as_json:
            print(json.dumps({"event": "exported", "folder": str(target)}), flush=True)
            return 0
        say(console)
        say(console, f"Exported model: {near(target)}")
        say(console, f"Score pictures: {shlex.join(['amatune', 'score', near(target)])} PATH...")
    return 0
