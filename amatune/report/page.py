"""A run as one HTML file that needs no network: what was asked, found, and spent.

Two kinds of figures, never to be confused. Validation figures have selected something and carry a
badge that says so. Test figures come from images that nothing was selected on; test images are
opened only when the run has a leaderboard, that is, once `amatune best` has opened them.

Whatever a user may have named (runs, classes, files, settings) is escaped, and the page's own
policy lets no script run but the three written here, and loads nothing.
"""

import base64
import dataclasses
import hashlib
import html
import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.offline
import torch
from numpy.typing import NDArray
from PIL import Image

import amatune
from amatune import metrics
from amatune.data.protocol import Problem, ProblemRequest, Selection, describe
from amatune.data.sources import find_dataset
from amatune.detector import Detector
from amatune.errors import AmatuneError, DataError
from amatune.report.figures import BLUE, GREY, ORANGE, RED, SearchFigure, search_figures
from amatune.results.leaderboard import (
    Leaderboard,
    LeaderboardRow,
    TestFigures,
    model_folder,
    read_leaderboard,
)
from amatune.results.scores import TEST, VALIDATION, load_scores
from amatune.runs import RunFolder
from amatune.stored import load_model
from amatune.tuning import study as studies
from amatune.tuning.events import State, TrialUpdate
from amatune.tuning.session import validation_file

FALSE_ALARMS = 0.05  # false positive rate of the threshold; larger where normals are few
TRAINING_IMAGES = 1000  # scored for the density
PICTURES = 8  # in each of the four groups
PICTURE_SIDE = 160  # pixels; larger pictures are made smaller
BOOTSTRAP = 300  # draws of images for the band of a ROC curve
MOST_TRIALS = 100  # rows in the table of trials
GRID = np.linspace(0, 1, 201)  # false positive rates at which ROC curves are drawn

Floats = NDArray[np.float64]
Sides = Mapping[str, np.ndarray]  # "normal" (N,), "anomaly" (M,), higher = more anomalous

SELECTS = '<span class="selects">selection figure, not a result</span>'


@dataclass(frozen=True)
class Report:
    """A finished page, and what could not be shown in it."""

    page: str
    notes: tuple[str, ...]


@dataclass
class _Page:
    """Collects figures and notes while the sections are written."""

    figures: list[go.Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def figure(
        self, figure: go.Figure, label: str, *, height: int = 360, wide: bool = False
    ) -> str:
        """A place for a figure."""
        self.figures.append(figure)
        name = f"figure-{len(self.figures) - 1}"
        place = (
            f'<div class="figure" id="{name}" role="img" aria-label="{_e(label)}" '
            f'style="height:{height}px"></div>'
        )
        return f'<div class="{"scrolls wide" if wide else "scrolls"}">{place}</div>'

    def note(self, text: str) -> str:
        """A remark, in the page and for whoever asked for it."""
        self.notes.append(text)
        return _remark(text)


@dataclass(frozen=True)
class _Judged:
    """Images that a detector has scored, and the detectors' scores of them."""

    which: str  # "test" or "validation"
    name: str  # of the configuration
    seed: int | None  # of the one detector that is looked at image by image; None: of the search
    primary: str
    scores: Mapping[str, Sides]  # by score name, of that detector
    threshold: float  # of the primary score
    false_alarms: float  # the share of normal images that should lie above it, at most
    by_seed: tuple[Sides, ...]  # primary scores with each seed
    default_by_seed: tuple[Sides, ...]  # likewise of the default configuration; may be empty
    model: Path | None  # folder of that detector; None: it was not kept

    @property
    def title(self) -> str:
        """The detector in words."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"


def make_report(run: RunFolder, data_dir: str | None = None) -> Report:
    """The report on a run, which may be going on.

    Pictures come from the run's data sets: from `data_dir`, or the folder that the search used;
    nothing is downloaded. What is missing is left out, and `notes` say why. Raises `RequestError`
    for a run that cannot be read.
    """
    contents = run.read()
    study = studies.open_study(run)
    trials = studies.read_trials(run)
    has_board = (run.best / "leaderboard.json").exists()
    board = read_leaderboard(run) if has_board else None
    page = _Page()
    try:
        judged = _judged_by_best(run, board) if board else _judged_by_search(run, study)
    except AmatuneError as error:
        judged, why = None, str(error)
    else:
        why = ""
    problem, detector = _open(contents, judged, data_dir, page) if judged else (None, None)

    search = search_figures(run)
    sections = [
        ("asked", "What was asked", _asked(contents)),
        ("result", "Result", _result(board, run, page)),
    ]
    if judged is None:
        sections.append(("scores", "Scores", page.note(why)))
    else:
        sections += [
            ("roc", "ROC", _roc_section(judged, page)),
            ("scores", "Scores", _densities(judged, problem, detector, page)),
            ("pictures", "Pictures", _pictures(judged, problem, detector, page)),
        ]
    sections += [
        ("search", "The search", _search(search, page)),
        ("trials", "Trials", _trials(trials, contents["request"])),
        ("cost", "Cost", _cost(study, contents["request"], board, search, page)),
    ]
    return Report(_assemble(run, contents, trials, board, sections, page), tuple(page.notes))


# --- what the detectors said ----------------------------------------------------------------------


def _judged_by_best(run: RunFolder, board: Leaderboard) -> _Judged:
    """The test images, scored by the configuration chosen on validation images."""
    chosen, model = board.chosen, board.chosen_model
    own = _read_scores(model / TEST)
    threshold, rate = _threshold(_read_scores(model / VALIDATION)[board.primary_score])
    return _Judged(
        which="test",
        name=chosen.configuration,
        seed=int(model.name.removeprefix("seed")),
        primary=board.primary_score,
        scores=own,
        threshold=threshold,
        false_alarms=rate,
        by_seed=_seeds(run, chosen, board.primary_score),
        default_by_seed=tuple(
            scores
            for row in board.rows
            if row.default and not row.chosen
            for scores in _seeds(run, row, board.primary_score)
        ),
        model=model,
    )


def _seeds(run: RunFolder, row: LeaderboardRow, primary: str) -> tuple[Sides, ...]:
    return tuple(
        _read_scores(model_folder(run, row.configuration, seed) / TEST)[primary]
        for seed in row.seeds
    )


def _judged_by_search(run: RunFolder, study: Any) -> _Judged:
    """The validation images, scored by the best trial of the search."""
    for trial in studies.full_trials(study):
        file, primary = validation_file(run, trial.number), trial.user_attrs.get(studies.PRIMARY)
        if primary is not None and file.exists():
            scores = _read_scores(file)
            threshold, rate = _threshold(scores[primary])
            return _Judged(
                which="validation",
                name=f"trial {trial.number}",
                seed=None,
                primary=primary,
                scores=scores,
                threshold=threshold,
                false_alarms=rate,
                by_seed=(scores[primary],),
                default_by_seed=(),
                model=None,
            )
    raise DataError("There are no scores yet: no trial has reached the full budget.")


def _read_scores(file: Path) -> dict[str, dict[str, np.ndarray]]:
    """Kept scores. Raises `DataError` when they are not there, or not what was kept."""
    try:
        return load_scores(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"The scores in {file} cannot be read: {error}") from error


def _threshold(validation: Sides) -> tuple[float, float]:
    """The threshold that an export states, and the false positive rate that it stands for."""
    normal = validation["normal"]
    least = math.ceil(10_000 / (len(normal) + 1)) / 10_000  # 1 / (n + 1), rounded up
    rate = max(FALSE_ALARMS, least)
    return metrics.conformal_threshold(normal, rate), rate


def _open(
    contents: Mapping[str, Any],
    judged: _Judged,
    data_dir: str | None,
    page: _Page,
) -> tuple[Problem | None, Detector | None]:
    """The images, of the training part a sample, and the detector; None for what cannot be had."""
    try:
        problem = _open_problem(contents, data_dir)
    except AmatuneError as error:
        page.notes.append(f"no pictures, and no scores of training images: {error}")
        return None, None
    if judged.model is None:
        return problem, None
    try:
        return problem, load_model(judged.model)
    except (AmatuneError, OSError) as error:
        page.notes.append(f"no reconstructions, and no scores of training images: {error}")
        return problem, None


def _open_problem(contents: Mapping[str, Any], data_dir: str | None) -> Problem:
    folder = data_dir or contents["request"].get("data_dir")
    saved = contents["problem"]
    for name in saved["sources"]:
        found = find_dataset(name, folder)
        if found.state in ("missing", "incomplete"):
            raise DataError(
                f"{name} is {found.state} in {found.place}; --data-dir says where else it is"
            )
    problem = Problem.from_dict(saved, folder)
    (whole,) = problem.splits.train_normals
    places = np.unique(np.linspace(0, len(whole.ids) - 1, TRAINING_IMAGES).round().astype(int))
    sample = dataclasses.replace(whole, ids=tuple(whole.ids[place] for place in places))
    problem.splits = dataclasses.replace(
        problem.splits, train_normals=(sample,), hidden_anomalies=()
    )
    return problem


# --- sections -------------------------------------------------------------------------------------


def _asked(contents: Mapping[str, Any]) -> str:
    request, problem = contents["request"], contents["problem"]
    counts = problem["counts"]
    what = describe(ProblemRequest.from_dict(problem["request"]), counts)
    objective = {
        "pooled": "",
        "mean": ", the mean over the anomaly sets",
        "worst": ", that of the worst anomaly set",
    }[request["objective"]]
    protocol = (
        f"Trained on {counts['train_normals']:,} normal images; settings chosen by AUROC on "
        f"{counts['validation_normals']:,} normal and {counts['validation_anomalies']:,} anomalous "
        f"validation images{objective}; the {counts['test_normals']:,} normal and "
        f"{counts['test_anomalies']:,} anomalous test images are opened once, after the choice."
    )
    for name, words in (
        ("train_anomalies", "labelled anomalies are learned from"),
        ("hidden_anomalies", "anomalies hide among the training images"),
    ):
        if counts.get(name):
            protocol += f" {counts[name]:,} {words}."
    versions = ", ".join(f"{name} {version}" for name, version in contents["versions"].items())
    facts = {
        "problem": what,
        "method": request["method"],
        "trials": f"{request['trials']} of up to {request['epochs']} epochs",
        "sampler, scheduler": f"{request['sampler']}, {request['scheduler']}",
        "held fixed": _settings(request["fixed"]) or "nothing",
        "own search space": "yes" if request.get("space") else "no",
        "seed": str(request["seed"]),
        "started": contents["started"][:19].replace("T", " ") + " UTC",
        "versions": versions,
        "command": contents["command"],
    }
    continued = len(contents.get("continued", ()))
    if continued:
        facts["continued"] = "once" if continued == 1 else f"{continued} times"
    warned = "".join(_remark(f"Warning: {warning}") for warning in problem["warnings"])
    return f"<p>{_e(protocol)}</p>{warned}{_facts(facts)}"


# The leaderboard's columns, and the facts below it. A figure that says nothing gives "".
_Cell = Callable[[Leaderboard, LeaderboardRow], str]


def _test_columns(board: Leaderboard) -> list[tuple[str, _Cell]]:
    columns: list[tuple[str, _Cell]] = []
    for score in board.rows[0].test:
        columns.append((f"AUROC of {score}", _of_score(score, lambda t: _over_seeds(t, "auroc"))))
        columns.append(
            ("95% interval", _of_score(score, lambda t: f"{t.auroc_low:.3f} to {t.auroc_high:.3f}"))
        )
    primary = board.primary_score
    columns.append((f"AUPR of {primary}", _of_score(primary, lambda t: _over_seeds(t, "aupr"))))
    columns.append(
        (f"FPR at 95% TPR of {primary}", _of_score(primary, lambda t: _over_seeds(t, "fpr95")))
    )
    return columns


def _of_score(score: str, text: Callable[[TestFigures], str]) -> _Cell:
    return lambda _board, row: text(row.test[score])


def _over_seeds(test: TestFigures, name: str) -> str:
    return _figure(getattr(test, name), getattr(test, f"{name}_spread"))


_SELECTION_COLUMNS: list[tuple[str, _Cell]] = [
    (
        "AUROC, retrained",
        lambda _, row: _figure(row.validation_auroc, row.validation_spread),
    ),
    (
        "AUROC, search",
        lambda _, row: "" if row.search_auroc is None else f"{row.search_auroc:.3f}",
    ),
]

_BOARD_FACTS: list[tuple[str, Callable[[Leaderboard], str]]] = [
    ("against the default", lambda board: board.comparison.verdict if board.comparison else ""),
    ("why this one", lambda board: board.choice),
    (
        "the search's best validation AUROC, optimistic",
        lambda board: str(board.selection) if board.selection else "",
    ),
    ("retrained", lambda board: f"{_seeds_of(board)} of {board.epochs} epochs each"),
    ("test images", lambda b: f"{b.test_normals:,} normal, {b.test_anomalies:,} anomalous"),
    ("failed", lambda b: "; ".join([f for r in b.rows for f in r.failures] + list(b.dropped))),
    ("warnings", lambda board: "; ".join(board.warnings)),
]


def _seeds_of(board: Leaderboard) -> str:
    return "1 seed" if len(board.seeds) == 1 else f"{len(board.seeds)} seeds"


def _result(board: Leaderboard | None, run: RunFolder, page: _Page) -> str:
    if board is None:
        return (
            "<p class=remark>No test figures yet: everything below is about validation images, by "
            f"which settings are chosen. <code>amatune best {_e(run.name)}</code> retrains the "
            "best settings and makes results; no test image was opened for this report.</p>"
        )
    test = _test_columns(board)
    rows = []
    for row in board.rows:
        name = f"{row.configuration}{' (chosen)' if row.chosen else ''}"
        cells = "".join(f"<td>{_e(cell(board, row))}</td>" for _, cell in test)
        cells += "".join(
            f'<td class="muted">{_e(cell(board, row))}</td>' for _, cell in _SELECTION_COLUMNS
        )
        style = ' class="chosen"' if row.chosen else ""
        rows.append(f"<tr{style}><th scope=row>{_e(name)}</th>{cells}</tr>")
    heads = "".join(f"<th scope=col>{_e(name)}</th>" for name, _ in test)
    heads += "".join(
        f'<th scope=col class="muted">{_e(name)}</th>' for name, _ in _SELECTION_COLUMNS
    )
    groups = (
        f"<th></th><th scope=colgroup colspan={len(test)}>test images</th>"
        f'<th scope=colgroup colspan={len(_SELECTION_COLUMNS)} class="muted">validation images '
        f"{SELECTS}</th>"
    )
    table = (
        f"<div class=scrolls><table class=numbers><thead><tr>{groups}</tr><tr><th></th>{heads}</tr>"
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
    facts = {name: text for name, fact in _BOARD_FACTS if (text := fact(board))}
    parts = [
        f"<p>Test figures: the mean over {_seeds_of(board)} ± their standard deviation; intervals "
        "are DeLong's, for the choice of test images.</p>",
        table,
        page.figure(
            _forest(board), "Test AUROC of every configuration", height=150 + 44 * len(rows)
        ),
        _facts(facts),
    ]
    if board.chosen.test_by_set:
        sets = {
            name: f"{_over_seeds(own, 'auroc')}, 95% interval {own.auroc_low:.3f} to "
            f"{own.auroc_high:.3f}"
            for name, own in board.chosen.test_by_set.items()
        }
        parts.append(
            f"<h3>Test AUROC of {_e(board.primary_score)}, by anomaly set</h3>{_facts(sets)}"
        )
    parts.append(_chosen_settings(board))
    return "".join(parts)


def _forest(board: Leaderboard) -> go.Figure:
    """Test AUROC of each configuration: the mean, its interval, and every seed."""
    rows = list(reversed(board.rows))
    names = [_plotly_text(row.configuration) for row in rows]
    tests = [row.test[board.primary_score] for row in rows]
    figure = go.Figure()
    figure.add_scatter(
        x=[t.auroc for t in tests],
        y=names,
        mode="markers",
        marker={"size": 11, "color": [ORANGE if row.chosen else BLUE for row in rows]},
        error_x={
            "array": [t.auroc_high - t.auroc for t in tests],
            "arrayminus": [t.auroc - t.auroc_low for t in tests],
            "color": GREY,
        },
        name="mean, 95% interval",
    )
    figure.add_scatter(
        x=[value for row in rows for value in row.test_auroc_by_seed],
        y=[name for name, row in zip(names, rows, strict=True) for _ in row.test_auroc_by_seed],
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 12, "color": GREY},
        name="each seed",
    )
    figure.add_vline(0.5, line={"color": GREY, "dash": "dot", "width": 1})
    figure.update_layout(
        xaxis_title=f"test AUROC of {_plotly_text(board.primary_score)}",
        legend={"y": 1, "yanchor": "bottom"},
    )
    return figure


def _chosen_settings(board: Leaderboard) -> str:
    """The chosen settings beside the default ones."""
    default = next((row.settings for row in board.rows if row.default), {})
    names = list(dict.fromkeys([*board.chosen.settings, *default]))
    rows = "".join(
        f"<tr{' class=chosen' if ours != theirs else ''}><th scope=row>{_e(name)}</th>"
        f"<td>{_e(ours)}</td><td>{_e(theirs)}</td></tr>"
        for name in names
        for ours in [_value(board.chosen.settings[name]) if name in board.chosen.settings else "-"]
        for theirs in [_value(default[name]) if name in default else "-"]
    )
    return (
        f"<details><summary>Settings of {_e(board.chosen.configuration)}, beside the default's"
        "</summary><div class=scrolls><table><thead><tr><th>setting</th><th>chosen</th>"
        f"<th>default</th></tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _roc_section(judged: _Judged, page: _Page) -> str:
    figure = go.Figure()
    told = []
    for name, by_seed, colour in (
        (judged.name, judged.by_seed, ORANGE),
        ("default", judged.default_by_seed, BLUE),
    ):
        if not by_seed:
            continue
        mean, low, high = roc_band(by_seed)
        text = _plotly_text(name)
        figure.add_scatter(
            x=[*GRID, *GRID[::-1]],
            y=[*high, *low[::-1]],
            fill="toself",
            fillcolor=_translucent(colour),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
        for scores in by_seed if len(by_seed) > 1 else ():
            figure.add_scatter(
                x=GRID, y=_roc(**scores), mode="lines", opacity=0.4, showlegend=False,
                line={"color": colour, "width": 1, "shape": "hv"}, hoverinfo="skip",
            )  # fmt: skip
        figure.add_scatter(
            x=GRID, y=mean, mode="lines", name=text, line={"color": colour, "width": 2.5},
            hovertemplate="%{y:.3f} found at %{x:.3f} false alarms<extra></extra>",
        )  # fmt: skip
        aurocs = [metrics.auroc(**scores) for scores in by_seed]
        told.append(f"{name} {np.mean(aurocs):.3f}")
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="chance", line={"color": GREY, "dash": "dot"},
        hoverinfo="skip",
    )  # fmt: skip
    figure.update_layout(
        xaxis={"title": "false positive rate", "range": [0, 1]},
        yaxis={"title": "true positive rate", "range": [0, 1.01]},
    )
    seeds = f" Thin lines: each of {len(judged.by_seed)} seeds." if len(judged.by_seed) > 1 else ""
    caption = (
        f"{judged.which.capitalize()} images, score {judged.primary}, AUROC: {', '.join(told)}. "
        f"Band: pointwise 95%, from {BOOTSTRAP} bootstrap draws of the images.{seeds}"
    )
    return _caption(caption, judged) + page.figure(figure, "ROC curves", height=420)


def roc_band(by_seed: Sequence[Sides]) -> tuple[Floats, Floats, Floats]:
    """True positive rates at GRID: the mean over seeds, and a pointwise 95% band.

    The band is for the choice of images: normal images and anomalies are drawn with replacement,
    the same ones for every seed.
    """
    mean = np.mean([_roc(**scores) for scores in by_seed], axis=0)
    generator = np.random.default_rng(0)
    normals, anomalies = len(by_seed[0]["normal"]), len(by_seed[0]["anomaly"])
    draws = []
    for _ in range(BOOTSTRAP):
        normal, anomaly = (generator.integers(0, size, size) for size in (normals, anomalies))
        draws.append(
            np.mean([_roc(s["normal"][normal], s["anomaly"][anomaly]) for s in by_seed], axis=0)
        )
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return mean, low, high


def _roc(normal: np.ndarray, anomaly: np.ndarray) -> Floats:
    """The share of anomalies above the threshold that GRID's share of the normal images exceeds."""
    falling = np.append(np.sort(normal)[::-1], -np.inf)
    allowed = np.floor(GRID * len(normal) + 1e-9).astype(int)
    found = len(anomaly) - np.searchsorted(np.sort(anomaly), falling[allowed], side="right")
    return np.asarray(found / len(anomaly), dtype=np.float64)


def _densities(
    judged: _Judged, problem: Problem | None, detector: Detector | None, page: _Page
) -> str:
    """The density of each score over training, normal and anomalous images (the paper's Fig. 4)."""
    training: Mapping[str, np.ndarray] = {}
    if problem is not None and detector is not None:
        images = torch.from_numpy(problem.train_images())
        training = {name: values.numpy() for name, values in detector.scores(images).items()}
    parts = []
    names = [judged.primary, *(name for name in judged.scores if name != judged.primary)]
    for name in names:
        sides = judged.scores[name]
        sets = {
            f"{judged.which}, normal": sides["normal"],
            f"{judged.which}, anomalous": sides["anomaly"],
        }
        if name in training:
            sets = {"training": training[name], **sets}
        figure = _density_figure(sets, name)
        if name == judged.primary:
            figure.add_vline(judged.threshold, line={"color": RED, "dash": "dash", "width": 1.5})
            figure.add_annotation(
                x=judged.threshold, y=1, yref="paper", yanchor="bottom", showarrow=False,
                text="threshold", font={"color": RED},
            )  # fmt: skip
        parts.append(page.figure(figure, f"Densities of the score {name}"))
    own = judged.scores[judged.primary]
    alarms = float((own["normal"] > judged.threshold).mean())
    found = float((own["anomaly"] > judged.threshold).mean())
    caption = (
        f"Scores of {judged.title}; higher is more anomalous. The threshold {judged.threshold:.4g} "
        f"on {judged.primary} comes from the validation normals, for a false positive rate of "
        f"{judged.false_alarms:.1%}; of the {judged.which} images it flags {alarms:.1%} of the "
        f"normal and {found:.1%} of the anomalous ones."
    )
    if not training:
        caption += (
            " Without training images: a search keeps no detectors."
            if (judged.model is None)
            else " Without training images: they or the detector could not be read."
        )
    return _caption(caption, judged) + f'<div class="pair">{"".join(parts)}</div>'


def _density_figure(sets: Mapping[str, np.ndarray], score: str) -> go.Figure:
    """Gaussian kernel densities, where nearly all of the scores lie."""
    low = min(float(values.min()) for values in sets.values())
    high = max(float(np.quantile(values, 0.98)) for values in sets.values())
    margin = 0.05 * (high - low) or 1.0
    grid = np.linspace(low - margin, high + margin, 256)
    figure = go.Figure()
    colours = {"training": GREY, "normal": BLUE, "anomalous": ORANGE}
    for name, values in sets.items():
        colour = colours[name.rpartition(", ")[2]]
        figure.add_scatter(
            x=grid, y=density(values, grid), mode="lines", name=name, fill="tozeroy",
            line={"color": colour, "width": 2}, fillcolor=_translucent(colour),
        )  # fmt: skip
    figure.update_layout(
        xaxis_title=_plotly_text(score), yaxis={"title": "density", "rangemode": "tozero"}
    )
    beyond = sum(int((values > grid[-1]).sum()) for values in sets.values())
    if beyond:
        figure.add_annotation(
            x=1, y=1, xref="paper", yref="paper", xanchor="right", showarrow=False,
            text=f"{beyond} beyond →",
        )  # fmt: skip
    return figure


def density(values: np.ndarray, grid: Floats) -> Floats:
    """A Gaussian kernel density of `values` (N,) at `grid` (G,), with Silverman's bandwidth."""
    values = values.astype(np.float64)
    quarters = np.quantile(values, [0.25, 0.75])
    spreads = [s for s in (values.std(), (quarters[1] - quarters[0]) / 1.34) if s > 0]
    width = 0.9 * min(spreads, default=0.0) * len(values) ** -0.2
    width = max(width, (grid[-1] - grid[0]) / len(grid))  # of equal scores: a peak that shows
    scaled = (grid[:, None] - values[None, :]) / width
    total = np.exp(-0.5 * scaled**2).sum(axis=1)
    return np.asarray(total / (len(values) * width * np.sqrt(2 * np.pi)), dtype=np.float64)


def _pictures(
    judged: _Judged, problem: Problem | None, detector: Detector | None, page: _Page
) -> str:
    """The images that were told apart worst and best."""
    if problem is None:
        return _remark(f"There are no pictures: {page.notes[-1].partition(': ')[2]}")
    scores = judged.scores[judged.primary]
    try:
        test = judged.which == "test"
        normal, anomaly = problem.test_images() if test else problem.validation_images()
        splits = problem.splits
    except AmatuneError as error:
        return page.note(f"There are no pictures: {error}")
    images = {"normal": normal, "anomaly": anomaly}
    if any(len(images[side]) != len(scores[side]) for side in images):
        return page.note(
            f"There are no pictures: {len(normal)} normal and {len(anomaly)} anomalous "
            f"{judged.which} images can be read, {len(scores['normal'])} and "
            f"{len(scores['anomaly'])} were scored."
        )
    names = {
        side: _names(getattr(splits, f"{judged.which}_{split}"))
        for side, split in (("normal", "normals"), ("anomaly", "anomalies"))
    }
    groups = [
        ("Normal, highest scores: false alarms", "normal", -1),
        ("Anomalous, lowest scores: misses", "anomaly", 1),
        ("Normal, lowest scores: clearly normal", "normal", 1),
        ("Anomalous, highest scores: clearly anomalous", "anomaly", -1),
    ]
    parts = []
    rebuilt_any = False
    for title, side, direction in groups:
        order = np.argsort(direction * scores[side], kind="stable")[:PICTURES]
        chosen = images[side][order]
        rebuilt = _reconstructions(detector, chosen)
        rebuilt_any = rebuilt_any or rebuilt is not None
        shown = []
        for index, place in enumerate(order):
            score = float(scores[side][place])
            wrong = (score > judged.threshold) == (side == "normal")
            pair = _img(chosen[index], "")
            if rebuilt is not None:
                pair += _img(rebuilt[index], "reconstruction")
            name = names[side][place]
            shown.append(
                f'<figure class="picture{" wrong" if wrong else ""}" title="{_e(name)}">{pair}'
                f"<figcaption>{score:.4g}<br><small>{_e(name[-18:])}</small></figcaption></figure>"
            )
        parts.append(f'<h3>{title}</h3><div class="pictures">{"".join(shown)}</div>')
    below = "below each its reconstruction; " if rebuilt_any else ""
    caption = (
        f"{judged.which.capitalize()} images by their score {judged.primary} of {judged.title}; "
        f"{below}red: on the wrong side of the threshold."
    )
    return _caption(caption, judged) + "".join(parts)


def _names(split: Sequence[Selection]) -> list[str]:
    return [f"{selection.source} {one}" for selection in split for one in selection.ids]


def _reconstructions(detector: Detector | None, images: np.ndarray) -> np.ndarray | None:
    """uint8 (N, C, H, W) like `images`; None without a detector, or when it makes none."""
    if detector is None:
        return None
    with torch.no_grad():
        rebuilt = detector.reconstruct(torch.from_numpy(images).to(detector.device))
    if rebuilt is None:
        return None
    return rebuilt.float().clamp(-1, 1).add(1).mul(127.5).round().byte().cpu().numpy()


def _img(image: np.ndarray, kind: str) -> str:
    """An image (C, H, W) as part of the page."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{kind or "image"}" src="data:image/png;base64,{data}">'


def _search(figures: Sequence[SearchFigure], page: _Page) -> str:
    parts = [f"<p>{SELECTS} All of these are validation AUROCs, by which settings are chosen.</p>"]
    slices = []
    for one in figures:
        if one.kind == "timeline":
            continue
        told = f"<p class=caption>{_e(one.note)}</p>" if one.note else ""
        if one.figure is None:
            parts.append(f"<h3>{_e(one.title)}</h3>{told}")
        elif one.kind == "slice":
            drawn = page.figure(one.figure, f"Validation AUROC by {one.title}", height=260)
            slices.append(f"<div><h4>{_e(one.title)}</h4>{told}{drawn}</div>")
        else:
            drawn = page.figure(one.figure, one.title, height=400, wide=one.wide)
            parts.append(f"<h3>{_e(one.title)}</h3>{told}{drawn}")
    if slices:
        parts.append(
            "<h3>Each setting</h3><p class=caption>Trials with the full budget; later ones are "
            f'more orange.</p><div class="slices">{"".join(slices)}</div>'
        )
    return "".join(parts)


_ORDER: list[State] = ["done", "running", "pruned", "failed", "waiting"]


def _trials(trials: Sequence[TrialUpdate], request: Mapping[str, Any]) -> str:
    ranked = sorted(trials, key=lambda t: (_ORDER.index(t.state), -(t.auroc or 0.0), t.number))
    failed = [trial for trial in ranked if trial.state == "failed"]
    parts = []
    if failed:
        rows = "".join(
            f"<tr><th scope=row>{trial.number}</th><td>{trial.epoch}</td>"
            f"<td>{_e(trial.reason)}</td>"
            f"<td class=settings>{_e(_settings(trial.settings, request['fixed']))}</td></tr>"
            for trial in failed[:MOST_TRIALS]
        )
        parts.append(
            f"<h3>{len(failed)} failed</h3><div class=scrolls><table><thead><tr><th>trial</th>"
            "<th>epoch</th><th>reason</th><th>settings</th></tr></thead>"
            f"<tbody>{rows}</tbody></table></div>"
        )
    rows = "".join(
        f"<tr><th scope=row>{trial.number}</th><td>{trial.state}</td>"
        f"<td>{trial.epoch}/{trial.epochs}</td>"
        f'<td class="muted">{"-" if trial.auroc is None else f"{trial.auroc:.3f}"}</td>'
        f"<td class=settings>{_e(_settings(trial.settings, request['fixed']))}</td></tr>"
        for trial in ranked[:MOST_TRIALS]
    )
    more = ""
    if len(ranked) > MOST_TRIALS:
        more = f"<p>And {len(ranked) - MOST_TRIALS} more: <code>amatune status</code>.</p>"
    parts.append(
        f"<details><summary>All {len(ranked)} trials</summary><div class=scrolls><table><thead>"
        f'<tr><th>trial</th><th>state</th><th>epochs</th><th class="muted">validation AUROC<br>'
        f"{SELECTS}</th><th>settings</th></tr></thead><tbody>{rows}</tbody></table></div>{more}</details>"
    )
    return "".join(parts)


def _cost(
    study: Any,
    request: Mapping[str, Any],
    board: Leaderboard | None,
    figures: Sequence[SearchFigure],
    page: _Page,
) -> str:
    trials = study.get_trials(deepcopy=False)
    spent = studies.effort(study)
    starts = [trial.datetime_start for trial in trials if trial.datetime_start]
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    states = [studies.STATES[trial.state] for trial in trials]
    planned = len(starts) * request["epochs"]
    facts = {
        "trials": ", ".join(f"{states.count(s)} {s}" for s in _ORDER if s in states) or "none yet",
        "epochs trained": f"{spent.epochs:,}, of {planned:,} had every trial had the full budget",
    }
    if starts and ends and max(ends) > min(starts):
        facts["from first to last"] = f"{_duration(max(ends) - min(starts))}, pauses included"
    if spent.hours:
        facts["time of training"] = (
            f"{_duration(timedelta(hours=spent.hours))}, added up over trials that ran side by side"
        )
    if spent.gpu_hours:
        facts["GPU-hours"] = f"{spent.gpu_hours:.2f}"
    if board is not None:
        trained = sum(len(row.seeds) for row in board.rows)
        facts["retraining"] = f"{trained} trainings of {board.epochs} epochs"
    parts = [_facts(facts)]
    for one in figures:
        if one.kind == "timeline" and one.figure is not None:
            height = 160 + min(16 * len(trials), 440)
            parts.append(
                f"<h3>{one.title}</h3>" + page.figure(one.figure, one.title, height=height)
            )
    return "".join(parts)


# --- the page -------------------------------------------------------------------------------------


def _assemble(
    run: RunFolder,
    contents: Mapping[str, Any],
    trials: Sequence[TrialUpdate],
    board: Leaderboard | None,
    sections: Sequence[tuple[str, str, str]],
    page: _Page,
) -> str:
    library = plotly.offline.get_plotlyjs()
    data = _for_script([json.loads(figure.to_json()) for figure in page.figures])
    scripts = (library, _DRAW)
    allowed = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    # Plotly compiles the code of some figures, hence unsafe-eval; nothing else may run or load.
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {allowed} 'unsafe-eval'"
    )
    nav = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    body = "".join(
        f'<section id="{name}"><h2>{title}</h2>{text}</section>' for name, title, text in sections
    )
    text = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_e(run.name)}: amatune report</title>
<style>{_STYLE}</style></head><body>
<header><h1>{_e(run.name)}</h1>{_headline(contents, trials, board)}<nav>{nav}</nav>
<noscript><p class=remark>The figures need JavaScript; tables and pictures do not.</p></noscript>
</header>
<main>{body}</main>
<footer>Made by amatune {_e(amatune.__version__)} on {datetime.now():%Y-%m-%d %H:%M}. This file
loads nothing from elsewhere: SIZE, of which {_megabytes(len(library))} are the library that draws
its figures.</footer>
<script type="application/json" id="figures">{data}</script>
<script>{library}</script>
<script>{_DRAW}</script>
</body></html>
"""
    return text.replace("SIZE", _megabytes(len(text.encode("utf-8"))), 1)


def _headline(
    contents: Mapping[str, Any], trials: Sequence[TrialUpdate], board: Leaderboard | None
) -> str:
    ended = sum(trial.state in ("done", "pruned", "failed") for trial in trials)
    wanted = contents["request"]["trials"]
    lines = []
    if board is not None:
        test = board.chosen.test[board.primary_score]
        lines.append(
            f"<p class=headline>Test AUROC <strong>{_e(_over_seeds(test, 'auroc'))}</strong>, 95% "
            f"interval {test.auroc_low:.3f} to {test.auroc_high:.3f}</p><p>"
            f"{_e(board.method)}, {_e(board.chosen.configuration)}, score "
            f"{_e(board.primary_score)}, over {_seeds_of(board)}.</p>"
        )
    else:
        lines.append("<p class=headline>Not tested yet</p>")
    if ended < wanted:
        lines.append(_remark(f"The search is not over: {ended} of {wanted} trials have ended."))
    return "".join(lines)


def _caption(text: str, judged: _Judged) -> str:
    badge = f" {SELECTS}" if judged.which == "validation" else ""
    return f"<p class=caption>{_e(text)}{badge}</p>"


def _remark(text: str) -> str:
    return f"<p class=remark>{_e(text)}</p>"


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{_e(name)}</dt><dd>{_e(text)}</dd>" for name, text in facts.items())
    return f"<dl>{rows}</dl>"


def _e(text: object) -> str:
    return html.escape(str(text), quote=True)


def _plotly_text(text: str) -> str:
    """Text for a figure: plotly reads markup in it."""
    return html.escape(text, quote=False)


def _for_script(values: Any) -> str:
    """JSON that may stand inside a script element, whatever it says."""
    text = json.dumps(values, separators=(",", ":"))  # ASCII alone
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)


def _settings(settings: Mapping[str, Any], without: Mapping[str, Any] | None = None) -> str:
    return " ".join(f"{k}={_value(v)}" for k, v in settings.items() if k not in (without or {}))


def _figure(value: float, spread: float | None) -> str:
    return f"{value:.3f}" if spread is None else f"{value:.3f} ± {spread:.3f}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _duration(time: timedelta) -> str:
    minutes, seconds = divmod(round(time.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


_STYLE = """
:root{--bg:#fff;--fg:#1b1f24;--muted:#5d6673;--line:#d8dde3;--soft:#f3f5f7;--accent:#a84b00;
--wrong:#c62f2f}
@media (prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e6e9ed;--muted:#9aa4b1;--line:#343a42;
--soft:#1e2329;--accent:#ff9a4a;--wrong:#ff7070}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1100px;padding:0 16px 48px;background:var(--bg);color:var(--fg);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:anywhere}
h1{margin:24px 0 4px;font-size:1.7rem}
h2{margin:40px 0 8px;padding-top:8px;border-top:1px solid var(--line);font-size:1.3rem}
h3{margin:24px 0 4px;font-size:1.05rem}h4{margin:8px 0 0;font-size:.95rem}
p{margin:6px 0}.headline{font-size:1.25rem}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin-top:12px}a{color:var(--accent)}
.caption,footer,small{color:var(--muted);font-size:.9rem}footer{margin-top:48px}
.remark{padding:8px 12px;border-left:3px solid var(--accent);background:var(--soft)}
.selects{display:inline-block;padding:0 6px;border:1px dashed var(--accent);border-radius:8px;
color:var(--accent);font-size:.75rem;font-weight:400;white-space:nowrap}
.scrolls{overflow-x:auto;max-width:100%}.wide>.figure{min-width:720px}
table{border-collapse:collapse;font-size:.9rem;margin:8px 0;overflow-wrap:normal}
th,td{padding:4px 12px 4px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
.numbers td{white-space:nowrap;font-variant-numeric:tabular-nums}
tbody th{font-weight:600;white-space:nowrap}thead th{font-weight:600;min-width:5.5em}
.chosen>*{background:var(--soft)}.muted{color:var(--muted);font-style:italic}
dl{display:grid;grid-template-columns:minmax(7em,auto) 1fr;gap:2px 16px;font-size:.95rem}
dt{color:var(--muted)}dd{margin:0}
.pair,.slices{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));
gap:8px 16px}.pair>*,.slices>*{min-width:0}
.pair{grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))}
.pictures{display:flex;flex-wrap:wrap;gap:10px}
.picture{margin:0;width:80px}.picture img{display:block;width:80px;height:80px;object-fit:contain;
image-rendering:pixelated;background:var(--soft);margin-bottom:2px}
.picture figcaption{font-size:.8rem;line-height:1.25}.wrong figcaption{color:var(--wrong)}
.wrong img{outline:2px solid var(--wrong);outline-offset:-1px}
.settings{min-width:16em}
summary{cursor:pointer;margin:8px 0}code{font-size:.9em}
"""

_DRAW = """
'use strict';
const figures = JSON.parse(document.getElementById('figures').textContent);
const places = [...document.querySelectorAll('.figure')];
const dark = matchMedia('(prefers-color-scheme: dark)');
const touch = matchMedia('(pointer: coarse)');
const drawn = new Set();
function template() {
  const style = getComputedStyle(document.documentElement);
  const colour = name => style.getPropertyValue(name).trim();
  const axis = {gridcolor: colour('--line'), linecolor: colour('--line'),
    zerolinecolor: colour('--line'), automargin: true, title: {standoff: 8}};
  return {layout: {
    font: {color: colour('--fg'), size: 12, family: getComputedStyle(document.body).fontFamily},
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', xaxis: axis, yaxis: axis,
    hoverlabel: {bgcolor: colour('--soft'), font: {color: colour('--fg')}, align: 'left'},
    annotationdefaults: {font: {color: colour('--muted'), size: 11}},
    margin: {l: 48, r: 12, t: 28, b: 40}, hovermode: 'closest',
    legend: {orientation: 'h', y: -0.22, x: 0}}};
}
function draw(place) {
  drawn.add(place);
  const {data, layout} = figures[places.indexOf(place)];
  Plotly.react(place, data, {...layout, template: template(),
    dragmode: touch.matches ? false : 'zoom'}, {responsive: true, displayModeBar: false});
}
const near = new IntersectionObserver(seen => seen.forEach(one => {
  if (one.isIntersecting && !drawn.has(one.target)) draw(one.target);
}), {rootMargin: '800px'});
places.forEach(place => near.observe(place));
dark.addEventListener('change', () => drawn.forEach(draw));
addEventListener('beforeprint', () => places.forEach(draw));
"""
