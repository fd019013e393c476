"""Optuna's figures of a search, made fit for a page of any width and colour.

They are Optuna's own, of a copy of the study in memory: without what the search keeps beside the
trials, and with the names that users choose escaped, since plotly reads markup in every text. All
show validation AUROCs, which select: none is a result.
"""

import copy
import html
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import optuna.visualization
import plotly.colors
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from amatune import registry
from amatune.errors import RequestError
from amatune.results.effort import state_text
from amatune.runs import RunFolder
from amatune.tuning import study as studies
from amatune.tuning.defaults import first_decision
from amatune.tuning.proposals import quiet_optuna
from amatune.tuning.stopping import decision_epochs

MOST_CURVES = 300  # learning curves and lines of parallel coordinates; those best or newest
ENOUGH_TO_RANK = 5  # full-budget trials for which the importance of settings is worth a look
TELLING = 30  # ... and is more than a hint
VALIDATION = "validation AUROC"

# Legible on white and on near-black alike.
BLUE, ORANGE, GREEN, RED, GREY = "#3d8bd9", "#e0700a", "#2e9e6b", "#dc5050", "#8a94a6"
LOW_TO_HIGH = [[0.0, GREY], [0.5, BLUE], [1.0, ORANGE]]
STATE_COLOURS = {
    "COMPLETE": GREEN,
    "PRUNED": GREY,
    "FAIL": RED,
    "RUNNING": BLUE,
    "WAITING": GREY,
}


@dataclass(frozen=True)
class SearchFigure:
    """A figure about the trials of a search, or the reason why there is none."""

    kind: str  # "history", "curves", "importance", "parallel", "slice" or "timeline"
    title: str
    figure: go.Figure | None
    note: str = ""  # what to know about it; the reason when there is no figure
    wide: bool = False  # needs more width than a phone has


def search_figures(run: RunFolder, *, over: bool = False) -> list[SearchFigure]:
    """Figures of a run's search, in the order they are best read; unless it is `over`, it may be
    going on.

    Raises `RequestError` when the run has no study.
    """
    trials = studies.open_study(run).get_trials(deepcopy=False)
    epochs = run.record().request.epochs
    study = _copy(trials)
    full = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    full.sort(key=lambda t: (-_value(t), t.number))
    return [
        _history(study, full),
        _curves(study, full, rung_epochs(run), epochs, _compared(trials), over=over),
        _importance(study, full),
        _parallel(full),
        *_slices(study, full),
        _timeline(study, over=over),
    ]


def rung_epochs(run: RunFolder) -> list[int]:
    """The epochs at which a run's scheduler compares trials; empty when not at fixed ones."""
    record = run.record()
    request = record.request
    if request.scheduler == "median":
        return []
    try:
        method = registry.searched_method(request.method)
        grace = first_decision(record, method)
    except RequestError:  # a method, or a setting of it, that is no longer there
        return []
    return list(decision_epochs(request.scheduler, request.epochs, grace))


def _copy(trials: Sequence[FrozenTrial]) -> optuna.Study:
    """A study in memory with the same trials and numbers, all names in it escaped."""
    with quiet_optuna():
        study = optuna.create_study(direction="maximize")
    for trial in trials:
        one = copy.copy(trial)
        one.user_attrs = {}
        one.params = {_escaped(n): _escaped(v) for n, v in trial.params.items()}
        one.distributions = {_escaped(n): _renamed(d) for n, d in trial.distributions.items()}
        study.add_trial(one)
    return study


def _escaped(value: Any) -> Any:
    return html.escape(value, quote=False) if isinstance(value, str) else value


def _renamed(distribution: BaseDistribution) -> BaseDistribution:
    if isinstance(distribution, CategoricalDistribution):
        return CategoricalDistribution([_escaped(choice) for choice in distribution.choices])
    return distribution


def _value(trial: FrozenTrial) -> float:
    return trial.value if trial.value is not None else -math.inf


def _drawn(draw: Callable[[], go.Figure]) -> go.Figure:
    """A figure without its title, colours of the page, and margins."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what matters is said in the notes
        figure = draw()
    figure.update_layout(title=None, template=None, width=None, plot_bgcolor=None)
    return figure


def _history(study: optuna.Study, full: Sequence[FrozenTrial]) -> SearchFigure:
    title = "Optimisation history"
    if not full:
        return SearchFigure("history", title, None, "No trial has reached the full budget yet.")
    figure = _drawn(
        lambda: optuna.visualization.plot_optimization_history(study, target_name=VALIDATION)
    )
    colours = {VALIDATION: BLUE, "Best Value": ORANGE}
    for trace in figure.data:
        trace.marker.update(color=colours.get(trace.name, GREY), size=7)
        trace.line.color = colours.get(trace.name, GREY)
        if trace.name == "Best Value":
            trace.update(name="best so far", line_shape="hv")
    figure.update_layout(xaxis_title="trial")
    return SearchFigure(
        "history",
        title,
        figure,
        "Trials that reached the full budget. The best of many is picked for its luck too: these "
        "figures choose, they are no results.",
    )


def _compared(trials: Sequence[FrozenTrial]) -> dict[int, dict[int, float]]:
    """By a trial's number, epoch by epoch what it is compared by while it runs, where that is
    another figure than the one that ranks it."""
    found = {}
    for trial in trials:
        by_epoch = {int(e): v for e, v in trial.user_attrs.get(studies.EARLY, {}).items()}
        if any(trial.intermediate_values.get(e, v) != v for e, v in by_epoch.items()):
            found[trial.number] = by_epoch
    return found


def _curves(
    study: optuna.Study,
    full: Sequence[FrozenTrial],
    rungs: Sequence[int],
    epochs: int,
    compared: Mapping[int, Mapping[int, float]],
    *,
    over: bool,
) -> SearchFigure:
    title = "Learning curves, and where trials were stopped"
    trials = study.get_trials(deepcopy=False)
    figure = _drawn(lambda: optuna.visualization.plot_intermediate_values(study))
    if not figure.data:
        return SearchFigure("curves", title, None, "No trial has finished an epoch yet.")
    curves = {int(trace.name.removeprefix("Trial")): trace for trace in figure.data}
    ranked = [trial.number for trial in full]
    others = [number for number in curves if number not in ranked]
    shown = [*ranked, *others[::-1]][:MOST_CURVES]
    groups = {
        TrialState.PRUNED: ("stopped early", GREY, 0.45, 1.0, "solid"),
        TrialState.COMPLETE: ("full budget", BLUE, 0.8, 1.5, "solid"),
        TrialState.RUNNING: (state_text("running", over=over), GREEN, 0.9, 1.5, "dot"),
    }
    # Faint ones first, the best last: it lies above the others.
    drawing_order = [
        number for state in groups for number in shown[::-1] if trials[number].state == state
    ]
    named = set()
    for number in drawing_order:
        name, colour, opacity, width, dash = groups[trials[number].state]
        if number in ranked[:1]:
            name, colour, opacity, width = f"best, trial {number}", ORANGE, 1.0, 3.0
        epochs_run = len(curves[number].x)
        curves[number].update(
            mode="lines+markers",
            name=name,
            legendgroup=name,
            showlegend=name not in named,
            opacity=opacity,
            line={"color": colour, "width": width, "dash": dash},
            # One marker, where it ended.
            marker={"color": colour, "size": [0] * (epochs_run - 1) + [5], "maxdisplayed": 0},
            hovertemplate=f"trial {number}<br>epoch %{{x}}<br>AUROC %{{y:.3f}}<extra></extra>",
        )
        named.add(name)
    hidden = len(curves) - len(drawing_order)
    figure.data = [curves[number] for number in drawing_order]
    figure.update_layout(
        showlegend=True,
        xaxis={"title": "epoch", "range": [0, epochs * 1.02]},
        yaxis={"title": VALIDATION},
    )
    points = [
        (rung, compared[number][rung], number)
        for number in drawing_order
        for rung in rungs
        if rung in compared.get(number, {})
    ]
    if points:
        figure.add_scatter(
            x=[epoch for epoch, _, _ in points],
            y=[value for _, value, _ in points],
            customdata=[number for _, _, number in points],
            mode="markers",
            name="compared by",
            marker={"color": GREY, "symbol": "diamond-open", "size": 7},
            hovertemplate="trial %{customdata}<br>epoch %{x}<br>compared by %{y:.3f}"
            "<extra></extra>",
        )
    for rung in rungs:
        figure.add_vline(rung, line={"color": GREY, "dash": "dash", "width": 1})
        figure.add_annotation(
            x=rung, y=1, yref="paper", yanchor="bottom", showarrow=False, text=f"rung {rung}"
        )
    told = []
    if rungs:
        listed = ", ".join(map(str, rungs))
        told.append(f"Dashed: the epochs at which trials are compared ({listed}).")
        if points:
            told.append(
                "Diamonds: what they are compared by there, the AUROC of the score that says "
                "earliest how a training will end."
            )
    if hidden:
        told.append(f"{hidden} more are left out: trials stopped long ago, or the poorest.")
    return SearchFigure("curves", title, figure, " ".join(told))


def _importance(study: optuna.Study, full: Sequence[FrozenTrial]) -> SearchFigure:
    title = "Importance of the settings"
    if len(full) < ENOUGH_TO_RANK:
        return SearchFigure(
            "importance",
            title,
            None,
            f"Importance needs at least {ENOUGH_TO_RANK} trials with the full budget; there "
            f"{'is' if len(full) == 1 else 'are'} {len(full)}.",
        )
    try:
        figure = _drawn(
            lambda: optuna.visualization.plot_param_importances(study, target_name=VALIDATION)
        )
    except (ValueError, RuntimeError) as error:  # all trials equally good, or nothing in common
        reason = html.unescape(str(error)).partition("\n")[0]
        return SearchFigure("importance", title, None, f"Optuna cannot rank them: {reason}")
    if not any(len(trace.x) for trace in figure.data):
        return SearchFigure("importance", title, None, "The trials do not differ in any setting.")
    figure.update_traces(marker_color=BLUE)
    longest = max(max(trace.x) for trace in figure.data)
    figure.update_layout(
        xaxis={
            "title": "share of what distinguishes good trials",
            "range": [0, 1.15 * longest],  # leaves room for the figure beside each bar
        },
        yaxis_title=None,
        showlegend=False,
    )
    ranked = {name for trace in figure.data for name in trace.y}
    missing = sorted({name for t in full for name in t.params} - ranked)
    told = f"From {len(full)} trials with the full budget"
    told += ": a hint at most." if len(full) < TELLING else "."
    if missing:
        told += f" Not ranked, as not every trial has them: {', '.join(missing)}."
    if any(len(trial.params) != len(full[0].params) for trial in full):
        told += " Settings that only some trials have are the least sure."
    return SearchFigure("importance", title, figure, html.unescape(told))


def _parallel(full: Sequence[FrozenTrial]) -> SearchFigure:
    title = "Parallel coordinates"
    if len(full) < 2:
        return SearchFigure(
            "parallel", title, None, "Needs at least 2 trials with the full budget."
        )
    some = optuna.create_study(direction="maximize")
    some.add_trials(full[:MOST_CURVES][::-1])  # the best ones are drawn last, above the others
    figure = _drawn(
        lambda: optuna.visualization.plot_parallel_coordinate(some, target_name=VALIDATION)
    )
    for trace in figure.data:
        if trace.type == "parcoords":  # Optuna 4
            trace.line.update(colorscale=LOW_TO_HIGH, reversescale=False)
        elif trace.mode == "lines":
            # The first axis is the objective, scaled to 0 to 1.
            (trace.line.color,) = plotly.colors.sample_colorscale(LOW_TO_HIGH, [trace.y[0]])
            trace.opacity = 0.8
        elif trace.marker.color is not None:
            trace.marker.update(colorscale=LOW_TO_HIGH, reversescale=False)
    figure.update_annotations(font_color=None)
    told = "A setting that a trial does not have is drawn at None."
    if len(full) > MOST_CURVES:
        told += f" The best {MOST_CURVES} of {len(full)} trials."
    return SearchFigure("parallel", title, figure, told, wide=True)


def _slices(study: optuna.Study, full: Sequence[FrozenTrial]) -> list[SearchFigure]:
    """One figure per setting, in the order in which the space asks for them."""
    names = list(dict.fromkeys(name for trial in full for name in trial.params))
    values = [_value(trial) for trial in full]
    found = []
    for name in names:
        figure = _drawn(
            lambda name=name: optuna.visualization.plot_slice(  # type: ignore[misc]
                study, params=[name], target_name=VALIDATION
            )
        )
        figure.update_traces(marker={"colorscale": LOW_TO_HIGH, "showscale": False, "size": 8})
        figure.update_yaxes(range=[min(values) - 0.03, max(values) + 0.03])  # the same for all
        having = sum(name in trial.params for trial in full)
        told = "" if having == len(full) else f"{having} of {len(full)} trials have it."
        found.append(SearchFigure("slice", html.unescape(name), figure, told))
    return found


def _timeline(study: optuna.Study, *, over: bool) -> SearchFigure:
    title = "When the trials ran"
    if all(t.datetime_start is None for t in study.get_trials(deepcopy=False)):
        return SearchFigure("timeline", title, None, "No trial has started yet.")
    figure = _drawn(lambda: optuna.visualization.plot_timeline(study))
    for trace in figure.data:
        state = studies.STATES[TrialState[trace.name]]
        colour = STATE_COLOURS[trace.name]
        trace.update(marker_color=colour, name=state_text(state, over=over))
        trace.update(hovertemplate="%{text}<extra></extra>", width=0.8)
    figure.update_layout(xaxis_title=None, yaxis_title="trial", barmode="overlay")
    return SearchFigure("timeline", title, figure)
