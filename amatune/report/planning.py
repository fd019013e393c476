"""What more anomalies would buy, as a part of a report's result."""

import plotly.graph_objects as go

from amatune.errors import AmatuneError
from amatune.report.blocks import Block, Drawing, Heading, Text
from amatune.report.figures import BLUE, GREEN, GREY, ORANGE
from amatune.results.plan import ALARMS, Plan
from amatune.runs import RunFolder
from amatune.tuning.planning import plan_run
from amatune.wording import sentence


def planning(run: RunFolder) -> list[Block]:
    """The picture of `amatune plan`; nothing where there are no scores to plan by."""
    try:
        found = plan_run(run)
    except AmatuneError:
        return []
    return [
        Heading("What more anomalies would buy"),
        Text(text=" ".join(f"{sentence(one)}." for one in found.remarks)),
        Drawing(figure=plan_figure(found), label="By the number of anomalies", height=360),
        Text(
            text=f"By {found.of}; other images are taken to be like these. More:",
            command=f"amatune plan {run.name}",
            style="caption",
        ),
    ]


def plan_figure(found: Plan) -> go.Figure:
    """Width of the interval, detectable difference and recall to promise, by anomalies."""
    x = [row.anomalies for row in found.anomalies]
    curves: list[tuple[str, list[float | None], str, str]] = [
        ("width of the 95% interval", [row.width for row in found.anomalies], BLUE, "solid"),
        ("by their number alone", [row.width_by_size for row in found.anomalies], GREY, "dot"),
        (
            f"recall to promise at {ALARMS:.0%} false alarms",
            [row.recall for row in found.anomalies],
            GREEN,
            "solid",
        ),
    ]
    if found.against:
        differences = [row.detectable for row in found.anomalies]
        curves.append((f"difference from {found.against} found", differences, ORANGE, "solid"))
    figure = go.Figure()
    for name, y, colour, dash in curves:
        figure.add_scatter(
            x=x, y=y, mode="lines+markers", name=name, line={"color": colour, "dash": dash}
        )
    figure.update_layout(
        xaxis={"title": "anomalies in the test", "type": "log", "tickvals": x, "ticktext": x},
        yaxis={"range": [0, 1]},
        legend={"y": 1, "yanchor": "bottom"},
    )
    return figure
