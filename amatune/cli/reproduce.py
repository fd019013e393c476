"""`amatune reproduce`."""

import contextlib
import dataclasses
import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amatune.cli.options import DATA_DIR, JSON, QUIET, RUNS, command, path, plain, whole
from amatune.cli.output import RUNS_DIR, Interrupted, make_console, near, say
from amatune.errors import AmatuneError, RequestError, did_you_mean
from amatune.extras import require_extra
from amatune.wording import clock, counted

if TYPE_CHECKING:
    from rich.console import Console

    from amatune.reproduce.plan import Job, Plan
    from amatune.reproduce.run import JobUpdate

_SCALE = "What a training may cost: small and medium for CPUs, paper as published."
_METHODS = "Row of the table, such as ama or deep-svdd; by default all. May be repeated."
_ONLY = "Column, such as mnist-3, or what some begin with, such as mnist. May be repeated."
_SOURCE = "What stands for a named data set: mnist=npz:PATH. May be repeated."
_JOIN = "Take cells from a TABLE.json that was written elsewhere. May be repeated."
_SEED = "Decides the seeds of the columns; each has its own."
_ADDRESS = "Address of a running Ray cluster; by default this machine alone."
_CONCURRENT = "Trainings at a time; by default as many as fit."
_DRY = "Say what is to be done and what it would take, from a few steps of each method."
_TABLE = "Write the table of what is there already; run nothing."


@command(
    "amatune reproduce table2 --only mnist --method ama --method deep-svdd",
    "amatune reproduce table1 --scale small --dry-run",
    "amatune reproduce table3 --only fashion-mnist --source fashion-mnist=npz:fashion.npz",
)
def reproduce(
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="table1, table2 or table3 of the paper.")
    ],
    scale: Annotated[str, plain("small|medium|paper", _SCALE)] = "small",
    method: Annotated[list[str] | None, plain("ROW", _METHODS)] = None,
    only: Annotated[list[str] | None, plain("COLUMN", _ONLY)] = None,
    source: Annotated[list[str] | None, plain("NAME=PATH", _SOURCE)] = None,
    join: Annotated[list[Path] | None, plain("FILE", _JOIN, parser=path)] = None,
    seed: Annotated[int, plain("N", _SEED, parser=whole)] = 0,
    data_dir: Annotated[Path | None, plain("DIR", DATA_DIR, parser=path)] = None,
    address: Annotated[str | None, plain("ADDRESS", _ADDRESS)] = None,
    concurrent: Annotated[int | None, plain("N", _CONCURRENT, parser=whole)] = None,
    runs_dir: Annotated[Path, plain("DIR", RUNS, parser=path)] = Path(RUNS_DIR),
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_DRY)] = False,
    only_table: Annotated[bool, typer.Option("--table", help=_TABLE)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help=QUIET)] = False,
    as_json: Annotated[bool, typer.Option("--json", help=JSON)] = False,
) -> int:
    """Compute a table of the AMA paper anew, with every method under the same rules.

    For each cell: a search, a retraining of its best settings and of the defaults over seeds, and
    one test, as `amatune search` and `amatune best` do them. Runs lie in a folder of their own,
    RUNS/TABLE-SCALE; called again, the same command goes on where it stopped and skips what is
    there. The table beside the published figures is written there as Markdown, CSV, LaTeX and HTML,
    also when it is not yet complete, and as JSON, which --join puts together with others.
    """
    require_extra("search")
    require_extra("report", "jinja2")
    from amatune.cli.views import kind_of_view
    from amatune.reproduce.elsewhere import read_elsewhere
    from amatune.reproduce.plan import make_plan
    from amatune.reproduce.scales import SCALES
    from amatune.reproduce.tables import TABLES

    for what, given, known in (("table", table, TABLES), ("scale", scale, SCALES)):
        if given not in known:
            raise RequestError(f"unknown {what} {given!r}, {did_you_mean(given, known)}")
    if dry_run and only_table:
        raise RequestError("--dry-run and --table exclude each other; give one of them")
    kind = kind_of_view(quiet=quiet, as_json=as_json)
    plan = make_plan(
        TABLES[table],
        SCALES[scale],
        runs_dir,
        methods=method or (),
        only=only or (),
        sources=_sources(source or ()),
        elsewhere=read_elsewhere(join or (), TABLES[table], scale),
        data_dir=data_dir,
        address=address,
        concurrent=concurrent,
        seed=seed,
    )
    console = make_console()
    if not (as_json or quiet):
        _print_plan(console, plan)
    if not plan.jobs and not plan.elsewhere:
        raise RequestError(
            f"nothing of {table} can be run: {'; '.join(dict.fromkeys(plan.missing.values()))}"
        )
    if dry_run:
        _print_cost(console, plan, brief=quiet, as_json=as_json)
        return 0
    if not only_table:
        _run(console, plan, kind, brief=quiet, as_json=as_json)
    return _write(console, plan, ran=not only_table, as_json=as_json)


def _sources(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, separator, place = text.partition("=")
        if not separator or not name or not place:
            raise RequestError(f"a source is NAME=PATH, such as mnist=npz:mnist.npz, got {text!r}")
        found[name] = place
    return found


def _print_plan(console: "Console", plan: "Plan") -> None:
    """What there is to do."""
    left = sum(not job.tested for job in plan.jobs)
    say(console, f"{plan.table.title}. Scale {plan.scale.name}: {plan.scale.summary}.")
    told = f"{counted(len(plan.jobs), 'run')} in {near(plan.folder)}, {left} to do"
    if left:
        told += f": at most {counted(plan.trainings, 'training')}"
        if plan.scale.seconds is not None:
            hours = plan.trainings * plan.scale.seconds / 3600
            told += f", some {hours:.1f} hours of one core if none is stopped early"
    say(console, f"{told}.")
    shown = {row.name for row in plan.table.rows}
    for name, column in plan.elsewhere.items():
        rows = counted(len(shown & column.cells.keys()), "row")
        say(console, f"{name}: {rows} taken from {column.file}")
    for name, why in plan.apart.items():
        say(console, f"note: {name}: {why}")
    for name in plan.both:
        say(console, f"note: {name} is here, and shown; what is joined of it is not")
    joined = plan.elsewhere.keys() | {row for c in plan.elsewhere.values() for row in c.cells}
    here = {job.column.name for job in plan.jobs}
    for name, why in plan.missing.items():
        has = ["what is here"] * (name in here) + ["what is joined"] * (name in joined)
        told = f"has only {' and '.join(has)}" if has else "stays empty"
        say(console, f"note: {name} {told}: {why}")


def _print_cost(console: "Console", plan: "Plan", *, brief: bool, as_json: bool) -> None:
    """Measured on the first run of each method and kind of pictures; the others are like it."""
    from amatune.tuning.rehearsal import rehearse

    by_like: dict[tuple[str, str, str], list[Job]] = {}
    for job in plan.jobs:
        if not job.tested:
            fixed = sorted(job.row.fixed.items())
            by_like.setdefault((job.row.method, str(fixed), job.column.dataset), []).append(job)
    total, tried = 0.0, 0
    failed: list[AmatuneError] = []
    for jobs in by_like.values():
        row, dataset = jobs[0].row, jobs[0].column.dataset
        about = {"method": row.method, "row": row.name, "dataset": dataset, "runs": len(jobs)}
        try:
            # Without its name, which is taken where it has begun.
            estimate = rehearse(dataclasses.replace(jobs[0].request, name=None))
        except AmatuneError as error:
            failed.append(error)
            if as_json:
                event = {"event": "estimate", **about, "seconds": None, "reason": str(error)}
                print(json.dumps(event), flush=True)
            else:
                say(console, f"note: {row.title} on {dataset} cannot be tried: {error}")
            continue
        scale = plan.scale
        counts = scale.trials, (scale.top + 1) * scale.seeds
        searched, retrained = (math.ceil(count / estimate.concurrent) for count in counts)
        each = estimate.seconds * (searched + retrained) / searched
        total += len(jobs) * each
        tried += 1
        if as_json:
            pace = {"seconds": each, "seconds_per_step": estimate.seconds_per_step}
            print(json.dumps({"event": "estimate", **about, **pace}), flush=True)
        elif not brief:
            say(
                console,
                f"{row.title} on {dataset}: {counted(len(jobs), 'run')} of at most {clock(each)} "
                f"on this machine ({1000 * estimate.seconds_per_step:.0f} ms a step)",
            )
    if failed and not tried:
        raise failed[0]
    if as_json:
        print(json.dumps({"event": "total", "seconds": total, "tried": tried}), flush=True)
        return
    told = f"All: at most {clock(total)}; {tried} of the runs were tried for it."
    if any(not job.tested and job.run.path.exists() for job in plan.jobs):
        told += " What has begun is counted whole."
    say(console, told)


def _run(
    console: "Console", plan: "Plan", kind: "type | None", *, brief: bool, as_json: bool
) -> None:
    from amatune.cli.views import View, make_view
    from amatune.reproduce.run import carry_out

    # A view for each search and each retraining: it is of one run.
    with contextlib.ExitStack() as stack:

        def listener_of(_: "Job") -> View:
            stack.close()
            return stack.enter_context(make_view(console, kind))

        def tell(update: "JobUpdate") -> None:
            if update.state != "begins":
                stack.close()
            if as_json:
                about = {"run": update.job.name, "number": update.number, "of": update.total}
                event = {"event": "run", "state": update.state, **about, "reason": update.reason}
                print(json.dumps(event), flush=True)
            elif not (brief and update.state in ("begins", "there")):
                say(console, _line(update))

        try:
            carry_out(plan, tell, listener_of)
        except KeyboardInterrupt:
            stack.close()
            again = "interrupted; the same command goes on where it stopped, and with --table shows"
            raise Interrupted(f"{again} what is there") from None


def _line(update: "JobUpdate") -> str:
    about = f"[{update.number}/{update.total}] {update.job.column.title}, {update.job.row.title}"
    if update.state == "failed":
        return f"{about}: failed: {update.reason}"
    if update.state == "there":
        return f"{about}: there already"
    return f"{about}: tested" if update.state == "tested" else about


def _write(console: "Console", plan: "Plan", *, ran: bool, as_json: bool) -> int:
    """The table in all formats, and on the terminal. Raises `AmatuneError` where something that was
    `ran` failed."""
    from amatune.cli.tables import print_by_columns
    from amatune.reproduce.outcome import read_outcome
    from amatune.reproduce.run import failures
    from amatune.reproduce.write import blocks, sentences, write_all

    outcome = read_outcome(plan)
    files = write_all(outcome, plan.folder)
    failed = failures(plan)
    if as_json:
        event = {"event": "table", "files": [str(file) for file in files], "failed": failed}
        print(json.dumps(event), flush=True)
    else:
        for block in blocks(outcome):
            say(console)
            print_by_columns(console, block.heads, block.rows, 1)
        say(console)
        for line in sentences(outcome):
            say(console, line)
        say(console, f"Written: {', '.join(near(file) for file in files)}")
    if failed and ran:
        listed = shlex.join(sorted(failed))
        told = f"{counted(len(failed), 'run')} failed ({listed}); the same command tries again"
        raise AmatuneError(told)
    return 0
