"""The budget of a trial: steps, and the slices they are looked at in."""

import pytest

from amatune.errors import RequestError
from amatune.runs.request import SLICES, SearchRequest, budget
from amatune.tuning.options import budgeted, with_options


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"),
    [
        (None, None, (SLICES, 3000)),  # the usual steps of the method
        (None, 800, (SLICES, 800)),
        (None, 7, (7, 7)),  # no slice without a step
        (40, None, (40, None)),  # passes over the images
        (40, 800, (40, 800)),
    ],
)
def test_what_is_left_out_follows(epochs, steps, expected):
    assert budget(3000, epochs, steps) == expected


def test_a_method_that_learns_in_one_pass_has_no_other_budget():
    assert budget(None, 9, 100) == (1, None)
    for options in ({}, {"epochs": 1}, {"epochs": None, "steps": None}):
        request = with_options(SearchRequest(), budgeted({"method": "features", **options}))
        assert (request.epochs, request.steps) == (1, None)
    for options in ({"epochs": 5}, {"steps": 100}, {"steps": 100, "epochs": 1}):
        with pytest.raises(
            RequestError, match=r"features learns all .* leave steps and epochs out"
        ):
            budgeted({"method": "features", **options})
    # Beside others it keeps its pass, and they have the steps.
    for method in ("auto", ["features", "ama"]):
        assert budgeted({"method": method, "steps": 100})["steps"] == 100


@pytest.mark.parametrize("name", ["epochs", "steps"])
@pytest.mark.parametrize("method", ["ama", "auto", "features"])
def test_a_budget_is_a_whole_number(name, method):
    for value in ("5", 2.5, [5]):
        with pytest.raises(RequestError, match=f"{name} must be a whole number"):
            budgeted({"method": method, name: value})


def test_a_new_search_takes_the_usual_steps_of_its_method():
    request = with_options(SearchRequest(), budgeted({"method": "deep-svdd"}))
    assert (request.epochs, request.steps) == (SLICES, 3000)
    request = with_options(SearchRequest(), budgeted({"epochs": 12}))
    assert (request.epochs, request.steps) == (12, None)


def test_steps_are_said_once():
    with pytest.raises(RequestError, match="say the same thing; give one of them, got 9 and 3"):
        SearchRequest(steps=9, fixed={"steps_per_epoch": 3})
    with pytest.raises(RequestError, match="steps must be at least 1, got 0"):
        SearchRequest(steps=0)
