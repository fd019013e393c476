"""What a search did, trial by trial, and what that and the retraining cost: parts of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from amatune.report.blocks import (
    Beside,
    Block,
    Column,
    Details,
    Drawing,
    Facts,
    Heading,
    Row,
    Table,
    Text,
)
from amatune.report.evidence import Evidence
from amatune.report.figures import SearchFigure
from amatune.results.effort import state_text
from amatune.tuning.events import State, TrialUpdate
from amatune.wording import clock, counted, figure, settings_text

MOST_TRIALS = 100  # rows in a table of trials


def search(figures: Sequence[SearchFigure]) -> list[Block]:
    """Figures of the search."""
    blocks: list[Block] = [
        Text(text="All of these are validation AUROCs, by which settings are chosen.", selects=True)
    ]
    slices: list[tuple[Block, ...]] = []
    for one in figures:
        if one.kind == "timeline":
            continue
        told = [Text(text=one.note, style="caption")] if one.note else []
        if one.figure is None:
            blocks += [Heading(one.title), *told]
        elif one.kind == "slice":
            label = f"Validation AUROC by {one.title}"
            drawn = Drawing(figure=one.figure, label=label, height=260)
            slices.append((Heading(one.title, 4), *told, drawn))
        else:
            drawn = Drawing(figure=one.figure, label=one.title, height=400, wide=one.wide)
            blocks += [Heading(one.title), *told, drawn]
    if slices:
        text = "Trials with the full budget; later ones are more orange."
        blocks += [
            Heading("Each setting"),
            Text(text=text, style="caption"),
            Beside(tuple(slices), "slices"),
        ]
    return blocks


_ORDER: list[State] = ["done", "running", "pruned", "failed", "waiting"]


def trials(evidence: Evidence) -> list[Block]:
    """A table of all trials, and above it of those that failed."""
    fixed = evidence.record.fixed
    ranked = sorted(
        evidence.trials, key=lambda t: (_ORDER.index(t.state), -(t.auroc or 0.0), t.number)
    )
    failed = [trial for trial in ranked if trial.state == "failed"]
    blocks: list[Block] = []
    if failed:
        blocks.append(Heading(f"{len(failed)} failed"))
        blocks.append(
            Table(
                columns=(
                    Column(title="trial"),
                    Column(title="epoch"),
                    Column(title="reason", style="settings"),
                    Column(title="settings", style="settings"),
                ),
                rows=tuple(
                    Row(cells=(str(t.number), str(t.epoch), t.reason, _searched(t, fixed)))
                    for t in failed[:MOST_TRIALS]
                ),
            )
        )
    compared = any(t.early not in (None, t.auroc) for t in ranked)
    every = Table(
        columns=(
            Column(title="trial"),
            Column(title="state"),
            Column(title="epochs"),
            Column(title="validation AUROC", style="muted", selects=True),
            *([Column(title="compared by", style="muted")] if compared else []),
            Column(title="settings", style="settings"),
        ),
        rows=tuple(
            Row(
                cells=(
                    str(t.number),
                    state_text(t.state, over=evidence.over),
                    f"{t.epoch}/{t.epochs}",
                    figure(t.auroc),
                    *([figure(t.early)] if compared else []),
                    _searched(t, fixed),
                )
            )
            for t in ranked[:MOST_TRIALS]
        ),
    )
    unfolded: list[Block] = [every]
    if len(ranked) > MOST_TRIALS:
        unfolded.append(
            Text(
                text=f"And {len(ranked) - MOST_TRIALS:,} more:",
                command=f"amatune status {evidence.run.name}",
            )
        )
    title = f"All {len(ranked):,} trials" if len(ranked) > 1 else counted(len(ranked), "trial")
    return [*blocks, Details(title, tuple(unfolded))]


def _searched(trial: TrialUpdate, fixed: Mapping[str, Any]) -> str:
    return settings_text(trial.settings, fixed)


def cost(evidence: Evidence) -> list[Block]:
    """Epochs and hours, and when the trials ran."""
    board, effort = evidence.board, evidence.effort
    states = [trial.state for trial in evidence.trials]
    counts = [
        f"{states.count(s)} {state_text(s, over=evidence.over)}" for s in _ORDER if s in states
    ]
    facts = {
        "trials": ", ".join(counts) or "none yet",
        "epochs trained": f"{effort.epochs:,}, of {evidence.budget:,} had every trial had the full "
        "budget",
    }
    if evidence.took is not None:
        took = clock(evidence.took.total_seconds())
        facts["from first to last"] = f"{took}, pauses included"
    if effort.hours:
        hours = clock(3600 * effort.hours)
        facts["time of training"] = f"{hours}, added up over trials that ran side by side"
    if effort.gpu_hours:
        facts["GPU-hours"] = f"{effort.gpu_hours:.2f}"
    if board is not None:
        trained = counted(sum(len(row.seeds) for row in board.rows), "training")
        epochs = counted(sum(len(row.seeds) * row.epochs for row in board.rows), "epoch")
        facts["retraining"] = f"{trained}, {epochs} together"
    blocks: list[Block] = [Facts(facts)]
    for one in evidence.search:
        if one.kind == "timeline" and one.figure is not None:
            height = 160 + min(16 * len(states), 440)
            blocks.append(Heading(one.title))
            blocks.append(Drawing(figure=one.figure, label=one.title, height=height))
    return blocks
