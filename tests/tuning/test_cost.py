"""What a search is said to take, before it begins and once steps are measured."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_method import METHOD, FakeConfig
from fake_search import request, write_record
from some_events import trial

from amatune.cluster import capacity, connection
from amatune.detectors.ama import AMAConfig
from amatune.runs import RunFolder
from amatune.tuning import cost
from amatune.tuning.cost import Budget, Estimating, Plan
from amatune.tuning.events import Event, RetrainUpdate, TimeEstimate

PLAN = Plan(
    budget=Budget(epochs=30, steps_per_epoch=10, batch=32, images=400),
    trainings=11,
    concurrent=2,
    may_stop=True,
)


def test_what_a_training_takes() -> None:
    passes = AMAConfig(epochs=4, batch_size=32)
    assert Budget.of(passes, 100).steps_per_epoch == 3
    assert Budget.of(passes, 100).steps == 12
    slices = AMAConfig(epochs=4, batch_size=32, steps_per_epoch=50)
    assert Budget.of(slices, 100).steps == 200
    assert (Budget.of(passes, 20).batch, Budget.of(passes, 20).steps_per_epoch) == (20, 1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 40}, "a trial trains for 45 steps, and fake learns little"),
        ({"steps": 400}, None),
        ({"epochs": 20, "fixed": {"batch_size": 20}}, "20 epochs of 2: batches of 20 from 50 im"),
        ({"steps": 400, "fixed": {"batch_size": 64}}, "batch_size 64 is more than the 50 training"),
    ],
)
def test_few_steps_and_large_batches_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str | None
) -> None:
    monkeypatch.setattr(connection, "gpus", lambda: 0)
    monkeypatch.setattr(capacity, "seconds_per_step", lambda *_: 0.5)
    monkeypatch.setattr(METHOD.detector, "usual_steps", 300)
    changes = {"fixed": {"batch_size": 16}, **changes}
    record = write_record(RunFolder(tmp_path), request(tmp_path, **changes))
    config = record.configuration(METHOD, record.fixed)
    found = cost.warnings_of(record, METHOD, config, np.zeros((50, 1, 8, 8), np.uint8))
    assert bool(found) == (told is not None)
    assert told is None or told in found[0]
    if told and "learns" in told:
        assert found[0].endswith(
            "--steps 300 is usual for it, about 2.5 minutes a trial on a core of this machine"
        )


def test_the_whole_time_counts_what_runs_at_once_and_says_what_it_leaves_out() -> None:
    told = PLAN.estimate(2.0)
    assert told == TimeEstimate(
        trainings=11, seconds_per_step=0.2, seconds=6 * 30 * 2.0, at_most=True, concurrent=2
    )
    assert not dataclasses.replace(PLAN, may_stop=False).estimate(2.0).at_most


@pytest.mark.parametrize(
    ("budget", "may_stop", "warning"),
    [
        (360.0, True, None),
        (
            200.0,
            True,
            "the time budget of 0:03:20 may not be enough: if none is stopped early, for "
            "about 6 of 11 trials",
        ),
        (200.0, False, "the time budget of 0:03:20 is enough for about 6 of 11 trials"),
        (10.0, False, "the time budget of 0:00:10 is enough for about 0 of 11 trials"),
    ],
)
def test_a_time_budget_that_is_too_short(
    budget: float, may_stop: bool, warning: str | None
) -> None:
    told = dataclasses.replace(PLAN, may_stop=may_stop, time_budget=budget).estimate(2.0)
    assert told.warnings == (() if warning is None else (warning,))


class Clock:
    """Time as the test says."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_estimate_comes_once_and_without_the_start_of_the_workers() -> None:
    events: list[Event] = []
    clock = Clock()
    watch = Estimating(events.append, clock)
    watch(trial(0, "running", 0))  # before it was told what there is to do
    watch.begin(PLAN)
    watch(trial(0, "running", 0))
    watch(trial(1, "running", 0))
    clock.now = 9.0  # a worker that starts slowly
    watch(trial(0, "running", 1))
    for epoch in range(2, 6):
        clock.now += 0.5
        watch(trial(0, "running", epoch))
        watch(trial(1, "running", epoch - 1))
        watch(trial(1, "running", epoch - 1))
    told = [event for event in events if isinstance(event, TimeEstimate)]
    assert told == []  # 3.5 s of training in all
    for epoch in range(6, 10):
        clock.now += 2.0
        watch(trial(0, "running", epoch))
    told = [event for event in events if isinstance(event, TimeEstimate)]
    assert told == [PLAN.estimate(5.5 / 8)]


def test_an_epoch_that_takes_long_is_not_waited_for_twice() -> None:
    events: list[Event] = []
    clock = Clock()
    watch = Estimating(events.append, clock)
    watch.begin(PLAN)
    facts: dict[str, Any] = {"configuration": "default", "seed": 1, "epochs": 30, "auroc": None}
    watch(RetrainUpdate(state="waiting", epoch=0, **facts))
    watch(RetrainUpdate(state="running", epoch=0, **facts))
    clock.now = 60.0
    watch(RetrainUpdate(state="running", epoch=1, **facts))
    assert events[-1] == PLAN.estimate(60.0)


def test_the_measured_step_is_that_of_the_configuration() -> None:
    images = np.zeros((64, 1, 8, 8), np.uint8)
    config = FakeConfig(batch_size=16, seconds=0.02)
    assert 0.01 <= capacity.seconds_per_step(METHOD.detector, config, images) < 0.2
