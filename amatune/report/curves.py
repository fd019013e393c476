"""Figures about scores: ROC curves with their bands, densities, and test AUROCs with intervals."""

import html
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from amatune.metrics import Groups
from amatune.report.evidence import Judged, Sides
from amatune.report.figures import BLUE, GREY, ORANGE, RED
from amatune.results.leaderboard import Leaderboard
from amatune.results.selection import draw_groups

BOOTSTRAP = 300  # draws of images for the band of a ROC curve
GRID = np.linspace(0, 1, 201)  # false positive rates at which ROC curves are drawn

Floats = NDArray[np.float64]


def forest(board: Leaderboard) -> go.Figure:
    """Test AUROC of each configuration by its score: the mean, its interval, and every seed; below
    them what needs no detector."""
    rows = list(reversed(board.rows))
    names = [plain(row.name) for row in rows]
    tests = [row.test[row.score] for row in rows]
    trivial = list(reversed(board.baselines))
    figure = go.Figure()
    figure.add_scatter(
        x=[one.test.auroc for one in trivial],
        y=[plain(one.name) for one in trivial],
        mode="markers",
        marker={"size": 9, "color": GREY, "symbol": "diamond"},
        error_x={
            "array": [one.test.auroc_high - one.test.auroc for one in trivial],
            "arrayminus": [one.test.auroc - one.test.auroc_low for one in trivial],
            "color": GREY,
        },
        name="without a detector",
    )
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
        xaxis_title="test AUROC",
        legend={"y": 1, "yanchor": "bottom"},
    )
    return figure


def roc_figure(judged: Judged) -> go.Figure:
    """ROC curves of what was judged, and of its control: the mean over seeds and its band."""
    figure = go.Figure()
    for name, by_seed, colour in (
        (judged.name, judged.by_seed, ORANGE),
        (judged.control, judged.control_by_seed, BLUE),
    ):
        if not by_seed:
            continue
        mean, low, high = roc_band(by_seed, judged.belonging)
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
            x=GRID, y=mean, mode="lines", name=plain(name), line={"color": colour, "width": 2.5},
            hovertemplate="%{y:.3f} found at %{x:.3f} false alarms<extra></extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="chance", line={"color": GREY, "dash": "dot"},
        hoverinfo="skip",
    )  # fmt: skip
    figure.update_layout(
        xaxis={"title": "false positive rate", "range": [0, 1]},
        yaxis={"title": "true positive rate", "range": [0, 1.01]},
    )
    return figure


def roc_band(
    by_seed: Sequence[Sides], groups: Groups | None = None
) -> tuple[Floats, Floats, Floats]:
    """True positive rates at GRID: the mean over seeds, and a pointwise 95% band.

    The band is for the choice of images: normal images and anomalies are drawn with replacement,
    the same ones for every seed; of images in groups, whole groups.
    """
    mean = np.mean([_roc(**scores) for scores in by_seed], axis=0)
    generator = np.random.default_rng(0)
    normals, anomalies = len(by_seed[0]["normal"]), len(by_seed[0]["anomaly"])
    draws = []
    for _ in range(BOOTSTRAP):
        if groups is None:
            normal, anomaly = (generator.integers(0, size, size) for size in (normals, anomalies))
        else:
            drawn = draw_groups(generator, groups, 1)
            normal, anomaly = (np.repeat(np.arange(len(n)), n[:, 0].astype(int)) for n in drawn)
            if not (len(normal) and len(anomaly)):
                continue
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


def density_figure(
    sets: Mapping[str, np.ndarray], score: str, threshold: float | None = None
) -> go.Figure:
    """Gaussian kernel densities of a score, where nearly all of its values lie.

    `sets` are named "training", "..., normal" and "..., anomalous".
    """
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
        xaxis_title=plain(score), yaxis={"title": "density", "rangemode": "tozero"}
    )
    beyond = sum(int((values > grid[-1]).sum()) for values in sets.values())
    if beyond:
        figure.add_annotation(
            x=1, y=1, xref="paper", yref="paper", xanchor="right", showarrow=False,
            text=f"{beyond} beyond →",
        )  # fmt: skip
    if threshold is not None:
        figure.add_vline(threshold, line={"color": RED, "dash": "dash", "width": 1.5})
        figure.add_annotation(
            x=threshold, y=1, yref="paper", yanchor="bottom", showarrow=False,
            text="threshold", font={"color": RED},
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


def plain(text: str) -> str:
    """Text for a figure: plotly reads markup in it."""
    return html.escape(text, quote=False)


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
