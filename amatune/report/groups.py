"""Several images judged at once, for methods whose paper does."""

from amatune.report.blocks import Block, Column, Heading, Row, Table, Text
from amatune.report.evidence import Judged
from amatune.wording import figure


def groups(judged: Judged) -> list[Block]:
    """AUROC, and what is rejected at given false alarms; nothing for other methods."""
    if not judged.groups:
        return []
    rates = [*judged.groups[0].rejected]
    columns = [Column(title="images"), Column(title="AUROC")]
    for rate in rates:
        columns += [Column(title=f"rejected at {rate:.0%}"), Column(title="false alarms")]
    rows = [
        Row(
            cells=(
                str(one.size),
                figure(one.auroc),
                *(f"{of[rate]:.1%}" for rate in rates for of in (one.rejected, one.false_alarms)),
            )
        )
        for one in judged.groups
    ]
    text = (
        f"Groups of test images, all normal or all anomalous, of {judged.title}: how far "
        "their mean score is from that of the validation normals. A group is rejected above a "
        "threshold that a share of the groups drawn from these exceed; false alarms are the normal "
        "groups that were rejected. One image alone is a group too."
    )
    return [
        Heading("Several images at once"),
        Text(text=text, style="caption"),
        Table(columns=tuple(columns), rows=tuple(rows), numbers=True),
    ]
