"""Requests: impossible ones are refused, all faults at once."""

import json
import pickle

import pytest
from pictures_on_disk import write_npz
from problems import problem

from amatune.data.request import ProblemRequest
from amatune.errors import DataError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "photos"}, r"photos says what is normal .* --ood .*classes: china, flower"),
        ({"dataset": "photos", "normal_classes": ("cat",)}, "no class 'cat'; its classes: china"),
        ({"normal_classes": ("3", "12", "x")}, "no class '12', 'x'"),
        ({"normal_classes": tuple("0123456789")}, "every class of digits is normal"),
        ({"ood": ("digits",)}, "digits is both the normal set and an anomaly set"),
        ({"ood": ("uniform-noise", "uniform-noise")}, "uniform-noise is given twice"),
        ({"ood": ("mnits",)}, "unknown data set 'mnits'"),
        ({"dataset": "uniform-noise"}, "uniform-noise cannot be the normal set"),
        ({"val_anomalies": 9}, "val_anomalies must be a whole number of at least 10, got 9"),
        ({"val_anomalies": True, "seed": -1}, "got True; seed must be .* got -1"),
        ({"anomaly_fraction": 0.6}, r"anomaly_fraction must be a share in \[0, 0.5\], got 0.6"),
        ({"contamination": float("nan")}, r"contamination must be a share .* got nan"),
        ({"anomaly_fraction": 0.5}, r"0.5 needs \d+ anomalies beside \d+ .* enough for 0\.\d+"),
        ({"image_size": 7}, "image_size must be a whole number of 8 to 2048 pixels, or .* got 7"),
        *(
            ({"image_size": value}, "image_size must be .* or a height and a width of such, got")
            for value in ((64, 7), (64,), (64, 64, 64), (64, True), "64x64", 2049)
        ),
        ({"channels": 2}, r"channels must be 1 \(grey\) or 3 \(colour\), got 2"),
        *(
            ({"max_broken": value}, "max_broken must be a whole number of pictures, or a share")
            for value in (-1, -0.5, 1.5, True, "5", float("nan"), float("inf"))
        ),
        ({"normal_classes": (3,)}, "normal_classes must be names of classes"),
        ({"ood": "uniform-noise"}, "ood must be names of data sets"),
        ({"dataset": ""}, "dataset must be a name"),
    ],
)
def test_impossible_requests(fields, message):
    with pytest.raises(DataError, match=message):
        problem(**fields)


def test_classes_need_labels(tmp_path):
    path = write_npz(tmp_path / "x.npz", labels=False)
    with pytest.raises(DataError, match=r"--normal-class cannot be used .* no train_labels"):
        problem(dataset=f"npz:{path}", normal_classes=("1",))
    with pytest.raises(DataError, match="says what is normal but not what is anomalous"):
        problem(dataset=f"npz:{path}")


def test_request_survives_json_and_pickle():
    request = ProblemRequest(dataset="digits", normal_classes=("3",), image_size=(16, 24))
    assert ProblemRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request
    assert pickle.loads(pickle.dumps(request)) == request
    with pytest.raises(DataError, match=r"unknown setting 'odd', did you mean 'ood'\?"):
        ProblemRequest.from_dict({"odd": []})
