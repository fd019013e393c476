"""A table of the paper with runs that were never run."""

import json
from pathlib import Path
from typing import Any

from fake_run import scores, write_leaderboard

from amatune import metrics
from amatune.reproduce.plan import Job, Plan, make_plan
from amatune.reproduce.scales import SCALES
from amatune.reproduce.tables import TABLES
from amatune.reproduce.write import joinable
from amatune.results.leaderboard import model_folder
from amatune.results.scores import TEST, save_scores
from amatune.runs import RunFolder

DIGITS = [f"mnist-{digit}" for digit in range(10)]
SOURCES = {"mnist": "npz:/nowhere/mnist.npz"}
SMALL = SCALES["small"]
AMA = ("ama", "ama-r", "ama-chosen")


def plan_of(folder: Path, *methods: str, only: tuple[str, ...] = ("mnist",), **more: Any) -> Plan:
    """Of table 2, with an array that is nowhere for MNIST."""
    given = {"methods": methods, "only": only, "sources": SOURCES, **more}
    return make_plan(TABLES["table2"], SMALL, folder, **given)


def leave_result(
    job: Job | RunFolder,
    shift: float,
    *,
    default: float | None = None,
    defaults_by: str = "bright",
) -> list[dict[str, float]]:
    """Leave a tested run behind, and its test AUROC by seed and score. With its defaults, where
    they have a shift, and the score by which validation took them."""
    run = job.run if isinstance(job, Job) else job
    run.path.mkdir(parents=True, exist_ok=True)
    by_seed = []
    for seed in (1, 2):
        kept = {name: scores(shift + more, seed) for name, more in SHIFTS.items()}
        save_scores(model_folder(run, "trial-3", seed) / TEST, kept)
        by_seed.append(kept)
    found = {"trial-3": by_seed}
    if default is not None:
        found["default"] = [
            {name: scores(default + more, seed) for name, more in SHIFTS.items()} for seed in (1, 2)
        ]
    write_leaderboard(run, found, defaults_by=defaults_by)
    return [{name: metrics.auroc(**kept[name]) for name in kept} for kept in by_seed]


SHIFTS = {"bright": 0.3, "A": 0.0, "R": 0.1}


def saved(
    filled: Any,
    folder: Path,
    *columns: str,
    rows: Any = (),
    name: str = "table2.json",
    **change: Any,
) -> Path:
    """Some columns of the filled table, and of them some rows, in a file."""
    values = json.loads(joinable(filled.outcome))
    if columns:
        values["columns"] = {column: values["columns"][column] for column in columns}
    for column in values["columns"].values():
        column["cells"] = {k: v for k, v in column["cells"].items() if not rows or k in rows}
    file = folder / name
    file.write_text(json.dumps(values | change))
    return file
