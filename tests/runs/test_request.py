"""Requests come back from `run.json` as they were, so that a run can be continued."""

import json
from pathlib import Path
from typing import Any

import pytest

from amatune.registry import survey_methods
from amatune.reproduce.plan import make_plan
from amatune.reproduce.scales import SCALES
from amatune.reproduce.tables import TABLES
from amatune.runs.request import SearchRequest
from amatune.tuning.options import budgeted, with_options


def differences(request: SearchRequest) -> list[str]:
    """From what is read back."""
    again = SearchRequest.from_dict(json.loads(json.dumps(request.to_dict())))
    assert again == request
    return again.differences(request)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("table", TABLES)
def test_every_search_of_a_table_can_be_continued(table: str, scale: str, tmp_path: Path) -> None:
    jobs = make_plan(TABLES[table], SCALES[scale], tmp_path, sources={}).jobs
    assert jobs
    for job in jobs:
        assert differences(job.request) == [], job.name


def test_every_preset_can_be_continued() -> None:
    for method in survey_methods()[0]:
        for preset in method.detector.presets:
            options = budgeted({"method": method.name, "preset": preset})
            assert differences(with_options(SearchRequest(), options)) == [], preset


@pytest.mark.parametrize("given", [(0.3, 0.6), [0.3, 0.6]])
def test_tuples_and_lists_are_the_same_request(given: Any) -> None:
    request = with_options(SearchRequest(), {"fix": {"milestones": given, "k": 2}})
    assert request.fixed == {"milestones": [0.3, 0.6], "k": 2}
    assert differences(request) == []
    assert request.differences(SearchRequest(fixed={"milestones": (0.3, 0.7), "k": 2})) != []
