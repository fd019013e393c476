"""`amatune plan`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amatune.cli.options import Run, RunsDir, command
from amatune.cli.output import RUNS_DIR, make_console, say
from amatune.cli.tables import print_by_columns
from amatune.extras import require_extra
from amatune.runs import RunFolder
from amatune.wording import figure, sentence

if TYPE_CHECKING:
    from amatune.results.plan import Plan

_JSON = "One JSON object instead of tables."


@command("amatune plan", "amatune plan zero-one --json")
def plan(
    run: Run = None,
    runs_dir: RunsDir = Path(RUNS_DIR),
    as_json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Say what more anomalies, seeds and trials would buy.

    By the scores that the run has kept: how wide the interval of an AUROC would be, which
    difference between two configurations would be found four times in five, and which recall could
    be promised. `amatune report` draws it. Reads the run's folder alone, and trains nothing.
    """
    require_extra("search", "optuna")
    from amatune.tuning.planning import plan_run

    found = plan_run(RunFolder.open(run, runs_dir))
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        _print(found)


def _print(found: "Plan") -> None:
    from amatune.results.plan import ALARMS

    console = make_console()

    def table(*rows: Sequence[str]) -> None:
        say(console)
        print_by_columns(console, rows[0], rows[1:], named=1)

    say(console, f"By {found.of}: AUROC {figure(found.auroc)}")
    compared = bool(found.against)
    heads = ["anomalies", "95% interval is wide", "by their number alone"]
    heads += [f"difference from {found.against} found"] * compared
    heads += [f"recall to promise at {ALARMS:.0%} false alarms", "if none is missed"]
    table(
        heads,
        *(
            [
                f"{row.anomalies:,}",
                *map(figure, (row.width, row.width_by_size)),
                *([figure(row.detectable)] * compared),
                *map(figure, (row.recall, row.recall_at_best)),
            ]
            for row in found.anomalies
        ),
    )
    table(
        ["normal images", "lowest rate of false alarms to promise"],
        *([f"{row.normals:,}", f"{row.rate:.4f}"] for row in found.normals),
    )
    if found.seeds:
        table(
            ["seeds", "their luck, standard error", f"difference from {found.against} found"],
            *([str(row.seeds), figure(row.error), figure(row.detectable)] for row in found.seeds),
        )
    if found.trials:
        table(
            ["trials", "best validation AUROC, on average"],
            *([f"{row.trials:,}", figure(row.best)] for row in found.trials),
        )
    say(console)
    for remark in found.remarks:
        say(console, f"{sentence(remark)}.")
