"""What the thresholds of the exported model flag, as a part of a report's result."""

from amatune.report.blocks import Block, Column, Heading, Row, Table, Text
from amatune.results.leaderboard import Leaderboard
from amatune.results.operating import rates_text


def thresholds(board: Leaderboard) -> list[Block]:
    """What thresholds of the model that is exported flag, and what was demanded of one."""
    held = board.guarantee
    points = [*board.thresholds, *([held.point] if held and held.point else [])]
    told = "" if held is None else f" What was demanded: {held.statement}."
    text = (
        "Made of held-out normal images; what they flag of these and of the test's anomalies, with "
        f"exact intervals for the true shares.{told}"
    )
    rates = ("normal flagged", "95% interval", "anomalies flagged", "95% interval")
    table = Table(
        columns=tuple(Column(title=one) for one in ("threshold for", "score above", *rates)),
        rows=tuple(
            Row(
                cells=(one.name, f"{one.threshold:.6g}", *rates_text(one)),
                stands_out=held is not None and one is held.point,
            )
            for one in points
        ),
        numbers=True,
    )
    return [Heading("Thresholds of the exported model"), Text(text=text), table] if points else []
