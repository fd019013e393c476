"""The sections of a report, made of the evidence: texts, tables and figures as plain data.

Two kinds of figures, never to be confused. Validation figures have selected something and carry a
badge that says so. Test figures come from images that nothing was selected on.
"""

from collections.abc import Callable

import numpy as np

from amatune import metrics
from amatune.report.blocks import (
    Beside,
    Block,
    Column,
    Details,
    Drawing,
    Facts,
    Gallery,
    Group,
    Heading,
    Picture,
    Row,
    Section,
    Table,
    Text,
)
from amatune.report.curves import BOOTSTRAP, density_figure, forest, roc_figure
from amatune.report.evidence import Evidence, Images, Judged, Shown
from amatune.report.groups import groups
from amatune.report.paths import shortened
from amatune.report.planning import planning
from amatune.report.thresholds import thresholds
from amatune.report.trials import cost, search, trials
from amatune.results.leaderboard import Leaderboard, LeaderboardRow, TestFigures
from amatune.results.settings import side_by_side
from amatune.runs.record import RunRecord
from amatune.wording import counted, figure, interval, sentence, settings_text

NAME = 32  # characters below a picture


def make_sections(evidence: Evidence) -> list[Section]:
    """The sections, in the order in which they are best read."""
    judged = evidence.judged
    sections = [
        Section("asked", "What was asked", tuple(_asked(evidence.record))),
        Section("result", "Result", tuple(_result(evidence))),
    ]
    if judged is None:
        why = Text(text=evidence.why_not_judged, style="remark")
        sections.append(Section("scores", "Scores", (why,)))
    else:
        sections += [
            Section("roc", "ROC", tuple(_roc(judged))),
            Section("scores", "Scores", tuple(_scores(judged, evidence.images))),
            Section("pictures", "Pictures", tuple(_pictures(judged, evidence.images))),
        ]
    return [
        *sections,
        Section("search", "The search", tuple(search(evidence.search))),
        Section("trials", "Trials", tuple(trials(evidence))),
        Section("cost", "Cost", tuple(cost(evidence))),
    ]


def headline(evidence: Evidence) -> list[Text]:
    """What stands below the title."""
    board, lines = evidence.board, []
    if board is not None:
        lines.append(
            Text(
                text=f"{board.method}, {board.chosen.configuration}, score {board.primary_score}, "
                f"over {_seeds(board)}."
            )
        )
    ended = sum(trial.state in ("done", "pruned", "failed") for trial in evidence.trials)
    wanted = evidence.record.request.trials
    if ended < wanted:
        have = "has" if wanted == 1 else "have"
        lines.append(
            Text(
                text=f"The search is not over: {ended} of {counted(wanted, 'trial')} {have} ended.",
                style="remark",
            )
        )
    return lines


# --- what was asked -------------------------------------------------------------------------------

_OBJECTIVES = {
    "pooled": "",
    "mean": ", the mean over the anomaly sets",
    "worst": ", that of the worst anomaly set",
}


def _asked(record: RunRecord) -> list[Block]:
    request, problem, counts = record.request, record.problem, record.problem.counts
    protocol = (
        f"Trained on {counts['train_normals']:,} normal images; settings chosen by AUROC on "
        f"{counts['validation_normals']:,} normal and {counts['validation_anomalies']:,} anomalous "
        f"validation images{_OBJECTIVES[request.objective]}; the {counts['test_normals']:,} "
        f"normal and {counts['test_anomalies']:,} anomalous test images are opened once, after the "
        "choice."
    )
    for name, words in (
        ("train_anomalies", "labelled anomalies are learned from"),
        ("hidden_anomalies", "anomalies hide among the training images"),
    ):
        if counts.get(name):
            protocol += f" {counts[name]:,} {words}."
    continued = len(record.continued)
    facts = {
        "problem": problem.request.describe(counts),
        "grouped by": problem.request.group_by or "",
        "method": request.method,
        "trials": f"{request.trials:,} of up to {counted(request.epochs, 'epoch')}",
        "sampler, scheduler": f"{request.sampler}, {request.scheduler}",
        "held fixed": settings_text(request.fixed) or "nothing",
        "own search space": "yes" if request.space else "no",
        "seed": str(request.seed),
        "started": record.begun.started[:19].replace("T", " ") + " UTC",
        "continued": "once" if continued == 1 else counted(continued, "time") if continued else "",
        "versions": ", ".join(f"{name} {own}" for name, own in record.begun.versions.items()),
        "command": record.begun.command,
    }
    warnings = [Text(text=f"Warning: {w}", style="remark") for w in problem.warnings]
    return [Text(text=protocol), *warnings, Facts(facts)]


# --- the result -----------------------------------------------------------------------------------

# The leaderboard's columns, and the facts below it.
_Cell = Callable[[LeaderboardRow], str]


def _test_columns(board: Leaderboard) -> list[tuple[str, _Cell]]:
    columns: list[tuple[str, _Cell]] = [("ranked by", lambda row: row.score)]
    for score in board.rows[0].test if board.chosen.method is None else [None]:
        auroc = _of_score(score, lambda t: _over_seeds(t, "auroc"))
        columns.append((f"AUROC of {score}" if score else "AUROC", auroc))
        columns.append(("95% interval", _of_score(score, _interval)))
    columns.append(("AUPR", lambda row: _over_seeds(row.test[row.score], "aupr")))
    columns.append(("FPR at 95% TPR", lambda row: _over_seeds(row.test[row.score], "fpr95")))
    if any(row.pixels is not None for row in board.rows):
        columns.append(("pixel AUROC", lambda row: _of_pixels(row, "auroc")))
        columns.append(("PRO to FPR 0.3", lambda row: _of_pixels(row, "pro")))
    return columns


def _of_score(score: str | None, text: Callable[[TestFigures], str]) -> _Cell:
    return lambda row: text(row.test[score or row.score])


def _over_seeds(test: TestFigures, name: str) -> str:
    return figure(getattr(test, name), getattr(test, f"{name}_spread"))


def _of_pixels(row: LeaderboardRow, name: str) -> str:
    own = row.pixels
    return "-" if own is None else figure(getattr(own, name), getattr(own, f"{name}_spread"))


def _interval(test: TestFigures) -> str:
    return interval(test.auroc_low, test.auroc_high)


_SELECTION_COLUMNS: list[tuple[str, _Cell]] = [
    ("AUROC, retrained", lambda row: figure(row.validation_auroc, row.validation_spread)),
    ("AUROC, search", lambda row: figure(row.search_auroc)),
]


def _seeds(board: Leaderboard) -> str:
    """Those that are behind the figures of the chosen configuration."""
    return counted(len(board.chosen.seeds), "seed")


def _retrained(board: Leaderboard) -> str:
    """Of several methods, each has its own epochs."""
    epochs = {row.configuration: counted(row.epochs, "epoch") for row in board.rows}
    if len(set(epochs.values())) == 1:
        return f"{_seeds(board)} of {epochs[board.chosen.configuration]} each"
    return f"{_seeds(board)} each: {', '.join(f'{name} of {own}' for name, own in epochs.items())}"


_BOARD_FACTS: list[tuple[str, Callable[[Leaderboard], str]]] = [
    ("against the default", lambda board: board.comparison.verdict if board.comparison else ""),
    (
        "against what needs no detector",
        lambda board: board.against_baseline.verdict if board.against_baseline else "",
    ),
    ("why this one", lambda board: board.choice),
    (
        "the search's best validation AUROC, optimistic",
        lambda board: str(board.selection) if board.selection else "",
    ),
    (
        "cross-fitted AUROC",
        lambda b: "; ".join(filter(None, [f"{b.cross_fit or ''}", b.other_choice])),
    ),
    ("retrained", _retrained),
    ("test images", lambda b: f"{b.test_normals:,} normal, {b.test_anomalies:,} anomalous"),
    ("failed", lambda board: "; ".join(board.failed)),
    ("warnings", lambda board: "; ".join(board.warnings)),
]


def _result(evidence: Evidence) -> list[Block]:
    board = evidence.board
    if board is None:
        return [
            Text(
                text="No test figures yet: everything below is about validation images, by which "
                "settings are chosen. No test image was opened for this report. To retrain the "
                "best settings and make results:",
                command=f"amatune best {evidence.run.name}",
                style="remark",
            )
        ]
    differ = any(board.title(row) != row.name for row in board.rows)
    others = ", or as many as a row names," if differ else ""
    blocks: list[Block] = [
        Text(
            text=f"Test figures: the mean over {_seeds(board)}{others} ± their standard deviation; "
            "intervals are DeLong's, for the choice of test images."
        ),
        _leaderboard(board),
        Drawing(
            figure=forest(board),
            label="Test AUROC of every configuration",
            height=150 + 44 * (len(board.rows) + len(board.baselines)),
        ),
        Facts({name: fact(board) for name, fact in _BOARD_FACTS}),
    ]
    if board.chosen.test_by_set:
        blocks.append(Heading(f"Test AUROC of {board.primary_score}, by kind of anomaly"))
        sets = {
            name: f"{_over_seeds(own, 'auroc')}, 95% interval {_interval(own)}"
            for name, own in board.chosen.test_by_set.items()
        }
        blocks.append(Facts(sets))
    return [*blocks, *thresholds(board), *planning(evidence.run), _chosen_settings(board)]


def _leaderboard(board: Leaderboard) -> Table:
    test = _test_columns(board)
    return Table(
        columns=(
            Column(title=""),
            *(Column(title=title) for title, _ in test),
            *(Column(title=title, style="muted") for title, _ in _SELECTION_COLUMNS),
        ),
        groups=(
            Group(title="", columns=1),
            Group(title="test images", columns=len(test)),
            Group(title="validation images", columns=len(_SELECTION_COLUMNS), selects=True),
        ),
        rows=tuple(
            Row(
                cells=(
                    f"{board.title(row)}{' (chosen)' if row.chosen else ''}",
                    *(cell(row) for _, cell in [*test, *_SELECTION_COLUMNS]),
                ),
                stands_out=row.chosen,
            )
            for row in board.rows
        ),
        numbers=True,
    )


def _chosen_settings(board: Leaderboard) -> Details:
    """The chosen settings beside the default ones of its method."""
    own = (row for row in board.rows if row.default and row.method == board.chosen.method)
    default = next((row.settings for row in own), {})
    rows = tuple(
        Row(cells=(one.name, *one.texts), stands_out=one.differs)
        for one in side_by_side([board.chosen.settings, default])
    )
    columns = tuple(Column(title=title) for title in ("setting", "chosen", "default"))
    return Details(
        f"Settings of {board.chosen.configuration}, beside the default's",
        (Table(columns=columns, rows=rows),),
    )


# --- the images -----------------------------------------------------------------------------------


def _caption(text: str, judged: Judged) -> Text:
    return Text(text=text, style="caption", selects=judged.which == "validation")


def _roc(judged: Judged) -> list[Block]:
    drawn = ((judged.name, judged.by_seed), (judged.control, judged.control_by_seed))
    told = [
        f"{figure(float(np.mean([metrics.auroc(**scores) for scores in by_seed])))} ({name})"
        for name, by_seed in drawn
        if by_seed
    ]
    seeds = len(judged.by_seed)
    of = "images" if judged.belonging is None else "groups of images"
    text = (
        f"{sentence(judged.which)} images, score {judged.primary}, AUROC: {', '.join(told)}. "
        f"Band: pointwise 95%, from {BOOTSTRAP} bootstrap draws of the {of}."
    )
    if seeds > 1:
        text += f" Thin lines: each of {seeds} seeds."
    return [
        _caption(text, judged),
        Drawing(figure=roc_figure(judged), label="ROC curves", height=420),
    ]


def _scores(judged: Judged, images: Images) -> list[Block]:
    """The density of each score over training, normal and anomalous images (the paper's Fig. 4)."""
    drawn = []
    for name in [judged.primary, *(name for name in judged.scores if name != judged.primary)]:
        sets = {
            f"{judged.which}, normal": judged.scores[name]["normal"],
            f"{judged.which}, anomalous": judged.scores[name]["anomaly"],
        }
        if name in images.training:
            sets = {"training": images.training[name], **sets}
        threshold = judged.threshold if name == judged.primary else None
        drawn.append(
            Drawing(
                figure=density_figure(sets, name, threshold),
                label=f"Densities of the score {name}",
            )
        )
    own = judged.scores[judged.primary]
    alarms, found = (float((own[side] > judged.threshold).mean()) for side in ("normal", "anomaly"))
    text = (
        f"Scores of {judged.title}; higher is more anomalous. The threshold {judged.threshold:.4g} "
        f"on {judged.primary} {judged.rule}; of the {judged.which} images it flags {alarms:.1%} of "
        f"the normal and {found:.1%} of the anomalous ones."
    )
    if images.training:
        sampled = len(images.training[judged.primary])
        text += f" Training: {counted(sampled, 'image')}."
    elif judged.model is None:
        text += " Without training images: a search keeps no detectors."
    else:
        text += " Without training images: they or the detector could not be read."
    beside = Beside(tuple((one,) for one in drawn), "pair")
    return [_caption(text, judged), beside, *groups(judged)]


def _pictures(judged: Judged, images: Images) -> list[Block]:
    """The images that were told apart worst and best."""
    extremes = images.extremes
    if extremes is None:
        return [Text(text=f"There are no pictures: {images.why_none}", style="remark")]
    below = "below each its reconstruction; " if extremes.are_rebuilt else ""
    if extremes.are_mapped:
        below += "below where it looks anomalous, in red, one scale for all, and the outline of "
        below += "its mask where there is one; "
    text = (
        f"{sentence(judged.which)} images by their score {judged.primary} of {judged.title}; "
        f"{below}red: on the wrong side of the threshold."
    )
    blocks: list[Block] = [_caption(text, judged)]
    for title, group in (
        ("Normal, highest scores: false alarms", extremes.false_alarms),
        ("Anomalous, lowest scores: misses", extremes.misses),
        ("Normal, lowest scores: clearly normal", extremes.clear_normals),
        ("Anomalous, highest scores: clearly anomalous", extremes.clear_anomalies),
    ):
        blocks += [Heading(title), Gallery(tuple(map(_picture, group)))]
    return blocks


def _picture(shown: Shown) -> Picture:
    full = f"{shown.source} {shown.id}"
    # A file is known by its name, an image of an array by its place there.
    name = shown.id.rpartition("/")[2] if isinstance(shown.id, str) else full
    return Picture(
        image=shown.image,
        rebuilt=shown.rebuilt,
        mapped=shown.mapped,
        score=f"{shown.score:.4g}",
        name=shortened(name, NAME),
        full_name=full,
        stands_out=shown.wrong,
    )
