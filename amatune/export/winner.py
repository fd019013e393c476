"""From a retrained run to an export: the chosen detector, and what is known about it."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from amatune.data.pictures import Pixels
from amatune.data.problem import Problem
from amatune.export.exported import Exported
from amatune.export.folder import export_detector, fingerprint, require_replaceable
from amatune.export.loading import load
from amatune.extras import require_extra
from amatune.registry import searched_method
from amatune.results.certify import held_out
from amatune.results.leaderboard import Leaderboard, read_leaderboard
from amatune.results.operating import held_out_normals
from amatune.runs import RunFolder
from amatune.stored import StoredDetector

FilePath = str | os.PathLike[str]

_CHECKED = 32  # validation images of each kind on which the ONNX form has to agree


def export(
    run: RunFolder | FilePath | None = None,
    folder: FilePath | None = None,
    *,
    data_dir: FilePath | None = None,
    runs_dir: FilePath = "runs",
) -> Exported:
    """Write the chosen detector of a retrained run to a folder, and read it back from there.

    `run` is a name in `runs_dir`, a folder, or the `run` of what a search returned; for None the
    newest. `folder` is by default `best/export` in the run's; an earlier export there is replaced.
    The training images are looked for in `data_dir`, by default the search's.

    Raises `RequestError` when there is no such run, it was not retrained yet, or the folder holds
    anything else.
    """
    board = read_leaderboard(RunFolder.open(run, runs_dir))
    return load(export_winner(board, folder, data_dir))


def export_winner(
    board: Leaderboard, folder: FilePath | None = None, data_dir: FilePath | None = None
) -> Path:
    """Write the detector that a leaderboard names as chosen to `folder`, which is returned.

    By default that is `best/export` in the run's folder. The export is calibrated by the scores of
    the test's normal images, which have chosen nothing: all figures are there before. The images of
    the training are read for their fingerprint, named sets from `data_dir`, by default that of the
    run.

    Raises `RequestError` as `export_detector` and `StoredDetector.load` do, and `DataError` when
    the images have changed since.
    """
    run, model = board.run, board.chosen_model
    target = Path(folder) if folder is not None else run.best / "export"
    require_replaceable(target)
    problem = run.record().open_problem(data_dir)
    validation, test, clause = held_out(board)
    normal, which = held_out_normals(validation["normal"], test["normal"])
    export_detector(
        _with_score(StoredDetector.load(model), board.primary_score).build(),
        target,
        figures=_figures(board),
        data=_data(board, problem),
        normal_scores=normal,
        normal_images=which + clause,
        thresholds=board.thresholds,
        guarantee=board.guarantee,
        check_on=_to_check_on(problem),
    )
    return target


def _to_check_on(problem: Problem) -> Pixels:
    """Some validation images of both kinds, from the first to the last."""
    both = problem.validation_images()
    places = [np.linspace(0, len(s) - 1, min(len(s), _CHECKED)).round().astype(int) for s in both]
    return np.concatenate([images[one] for images, one in zip(both, places, strict=True)])


def require_exportable(run: RunFolder, folder: FilePath) -> None:
    """Raise now, before hours of training, what would stop `export_winner` after them."""
    require_replaceable(folder)
    if searched_method(run.record().request.method).detector.exports_to_onnx:
        require_extra("onnx")


def _with_score(stored: StoredDetector, score: str) -> StoredDetector:
    """The detector with the score that was chosen over its seeds."""
    if "score" not in stored.config:
        return stored
    config = {**stored.config, "score": score}
    return dataclasses.replace(stored, config=config, primary=score)


def _figures(board: Leaderboard) -> dict[str, Any]:
    """What a model card says about the chosen configuration."""
    row, primary = board.chosen, board.chosen.test[board.primary_score]
    over = _over(len(row.seeds))
    figures: dict[str, Any] = {
        f"test AUROC of {name}": {
            "value": test.auroc,
            "spread": test.auroc_spread,
            "low": test.auroc_low,
            "high": test.auroc_high,
            "note": over if name == board.primary_score else f"{over}; not the score in use",
        }
        for name, test in row.test.items()
    }
    figures["test AUPR"] = {"value": primary.aupr, "spread": primary.aupr_spread, "note": over}
    figures["test FPR at 95% TPR"] = {
        "value": primary.fpr95,
        "spread": primary.fpr95_spread,
        "note": over,
    }
    if (pixels := row.pixels) is not None:
        of = f"{over}; {pixels.regions} regions of {pixels.masked} masked pictures"
        for name, value, spread in (
            ("test pixel AUROC", pixels.auroc, pixels.auroc_spread),
            ("test PRO, to a false positive rate of 0.3", pixels.pro, pixels.pro_spread),
        ):
            figures[name] = {"value": value, "spread": spread, "note": of}
    figures["validation AUROC"] = {
        "value": row.validation_auroc,
        "spread": row.validation_spread,
        "note": f"{over}; the settings were chosen by it, so it is optimistic",
    }
    if (fitted := board.cross_fit) is not None:  # of those that finished most seeds
        over = _over(max(len(one.seeds) for one in board.rows))
        figures["cross-fitted AUROC"] = {
            "value": fitted.auroc,
            "spread": fitted.spread,
            "low": fitted.low,
            "high": fitted.high,
            "note": f"{over}; each of {fitted.anomalies} anomalies judged by what the others chose",
        }
    return figures


def _over(seeds: int) -> str:
    """Of how many a figure is the mean."""
    return "one seed" if seeds == 1 else f"mean of {seeds} seeds"


def _data(board: Leaderboard, problem: Problem) -> dict[str, Any]:
    """What a model card says about the images behind the figures."""
    labelled = problem.train_anomalies()
    return {
        "summary": problem.describe(),
        "request": problem.request.to_dict(),
        "counts": problem.splits.counts(),
        "training_images": fingerprint(problem.train_images()),
        **({"training_anomalies": fingerprint(labelled)} if len(labelled) else {}),
        "warnings": [*problem.warnings, *board.warnings],
    }
