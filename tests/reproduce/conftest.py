"""A table that is partly there."""

from types import SimpleNamespace

import pytest
from fake_table import DIGITS, leave_result, plan_of

from amatune.reproduce.outcome import read_outcome


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """AMA and Deep SVDD on seven digits; ALAD asked for and not there."""
    plan = plan_of(tmp_path_factory.mktemp("runs"), "ama", "deep-svdd", "alad")
    figures = {}
    for number, name in enumerate(DIGITS[:7]):
        for row, shift in (("ama", 1.0 + 0.1 * number), ("deep-svdd", 0.8 + 0.05 * number)):
            job = next(j for j in plan.jobs if (j.row.name, j.column.name) == (row, name))
            figures[row, name] = leave_result(job, shift)
    return SimpleNamespace(plan=plan, figures=figures, outcome=read_outcome(plan))
