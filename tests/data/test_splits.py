"""Lists of ids: they may not overlap."""

import pytest
from problems import problem

from amatune.data.problem import Problem
from amatune.data.splits import Selection, Splits
from amatune.errors import DataError


def test_overlapping_splits_are_refused():
    saved = problem().to_dict()
    saved["splits"]["validation_normals"][0]["ids"][0] = saved["splits"]["train_normals"][0]["ids"][
        0
    ]
    with pytest.raises(DataError, match="validation normals and train normals share"):
        Problem.from_dict(saved)
    one = (Selection("digits", "train", (1,)),)
    with pytest.raises(DataError, match="test normals come from the train part"):
        Splits(
            train_normals=(),
            validation_normals=(),
            validation_anomalies=(),
            test_normals=one,
            test_anomalies=(),
        )
