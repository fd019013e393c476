"""Several methods in one search: what each gets, whose turn it is, what is compared with what."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from fake_method import OtherConfig, OtherTrainable
from fake_search import SHAPE, FakeProblem, install, request, write_record
from fake_session import play
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from amatune.cluster import capacity
from amatune.cluster.checkpoints import Checkpoints
from amatune.cluster.job import Job
from amatune.errors import DivergedError, RequestError
from amatune.registry import Method, SeveralMethods, find_method, searched_method
from amatune.runs import RunFolder
from amatune.runs.record import Circumstances, ProblemRecord, RunRecord
from amatune.runs.request import SearchRequest
from amatune.several import METHOD
from amatune.tuning import study as studies
from amatune.tuning.allocation import Allocation
from amatune.tuning.first_trials import first_trials, known_settings
from amatune.tuning.methods import first_of_several, resumed, settled, side_made_use_of, told
from amatune.tuning.options import budgeted, first_settings, options_of, with_options
from amatune.tuning.session import Session
from amatune.tuning.stopping import make_pruner
from amatune.tuning.study import open_study

BOTH = ("fake", "other")


class Killed(BaseException):
    """Stands in for a kill -9 in the middle of something."""


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def asked(method: str = "fake+other", **changes: Any) -> SearchRequest:
    return replace(request("runs", method=method, **changes))


def settle(
    asked: SearchRequest, problem: Any = None
) -> tuple[SearchRequest, Method, dict[str, Any] | None]:
    method = searched_method(asked.method)
    assert isinstance(method, SeveralMethods)
    found, method_found, _, held = settled(asked, method, problem or FakeProblem(), [])
    return found, method_found, held


def record_of(found: SearchRequest, held: Any, shape: Any = SHAPE, auto: bool = False) -> RunRecord:
    problem = {**FakeProblem().to_dict(), "image_shape": list(shape)}
    return RunRecord(
        request=found,
        problem=ProblemRecord.from_dict(problem),
        begun=Circumstances.now(),
        asked="auto" if auto else "",
        held=held,
    )


# --- What each gets -----------------------------------------------------------------------------


def test_without_a_request_for_steps_each_has_its_usual_number() -> None:
    found, method, held = settle(asked(epochs=9))
    assert found.epochs == 1  # of the fewest usual steps, of which an epoch has one or more
    assert held == {"fake.steps_per_epoch": 1, "other.steps_per_epoch": 36}
    assert found.fixed == {}  # it stays what was asked
    assert method.name == "fake+other"
    (line,) = told(record_of(found, held))
    assert "2 methods in one search, trials of fake 1 step, other 36 steps" in line


@pytest.mark.parametrize(
    ("paces", "expected"),
    [
        # 2 steps of the costlier one take 2 x 0.3 + 0.1 s, and as long 6 of the other; or as many
        # as its usual 4.
        ({"fake": (0.3, 0.1), "other": (0.1, 0.1)}, {"fake": 2, "other": 6}),
        ({"fake": (0.3, 0.1), "other": (0.01, 0.1)}, {"fake": 2, "other": 9}),
        # Scoring counts.
        ({"fake": (0.1, 0.0), "other": (0.1, 0.3)}, {"fake": 5, "other": 2}),
        # What no clock can tell from nothing
        ({"fake": (0.0, 0.0), "other": (0.0, 0.0)}, {"fake": 2, "other": 2}),
    ],
)
def test_steps_that_are_asked_for_are_those_of_the_costliest(
    monkeypatch: pytest.MonkeyPatch, paces: dict[str, Any], expected: dict[str, int]
) -> None:
    monkeypatch.setattr(find_method("fake").detector, "usual_steps", 40)
    monkeypatch.setattr(capacity, "pace", lambda detector, *_: paces[detector.name])
    found, _, held = settle(asked(epochs=4, steps=8))
    assert held == {f"{name}.steps_per_epoch": one for name, one in expected.items()}
    assert (found.epochs, found.steps) == (4, 8)


@pytest.mark.parametrize("broken", [("other",), ("fake", "other")])
def test_who_diverges_while_it_is_measured_has_the_steps_that_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, broken: tuple[str, ...]
) -> None:
    def pace(detector: Any, *_: Any) -> tuple[float, float]:
        if detector.name in broken:
            raise DivergedError("it collapsed")
        return 0.1, 0.0

    monkeypatch.setattr(find_method("fake").detector, "usual_steps", 40)
    monkeypatch.setattr(capacity, "pace", pace)
    _, _, held = settle(asked(epochs=4, steps=8))
    assert held == {"fake.steps_per_epoch": 2, "other.steps_per_epoch": 2}


def test_what_is_held_fixed_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_method("other").detector, "usual_steps", None)
    fixed = {"fake.steps_per_epoch": 7, "batch_size": 9, "other.glow": 0.2}
    found, _, held = settle(asked(epochs=4, fixed=fixed))
    assert found.fixed == fixed
    assert held == {
        "fake.steps_per_epoch": 7,
        "fake.batch_size": 9,
        "other.batch_size": 9,
        "other.glow": 0.2,
        "other.epochs": 1,
        "other.steps_per_epoch": None,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fixed": {"method": "fake"}}, "the method cannot be held fixed; name it alone"),
        ({"fixed": {"fake.epochs": 3}}, "fake.epochs cannot be held fixed"),
        ({"fixed": {"glou": 3}}, "none of fake, other has the setting 'glou'; did you mean 'glow'"),
        ({"fixed": {"fake.glow": 3}}, "unknown setting 'fake.glow' of fake"),
        ({"space": "x.json"}, "a search space belongs to one method"),
    ],
)
def test_what_none_of_them_can_is_refused(changes: dict[str, Any], message: str) -> None:
    wanted = asked(**{k: v for k, v in changes.items() if k != "space"})
    if "space" in changes:
        object.__setattr__(wanted, "space", {"kind": "json"})
    with pytest.raises(RequestError, match=message):
        settle(wanted)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"glow": 0.2}, {METHOD: "other", "other.glow": 0.2}),
        ({METHOD: "fake", "quality": 0.2}, {METHOD: "fake", "fake.quality": 0.2}),
        ({"fake.quality": 0.2}, {METHOD: "fake", "fake.quality": 0.2}),
        ({METHOD: "fake"}, {METHOD: "fake"}),
        ({METHOD: "fake", "glow": 0.2}, "glow is no setting of fake"),
        ({METHOD: "fake", "other.quality": 0.2}, "other.quality is no setting of fake"),
        ({"quality": 0.2}, '"method" must say whose they are: fake or other'),
        ({METHOD: "fame"}, "the method 'fame' is none of fake, other"),
        ({METHOD: ["fake"]}, "is none of fake, other"),
        ({"glou": 1}, "none of fake, other has the setting 'glou'"),
    ],
)
def test_settings_to_try_first_have_a_method(given: dict[str, Any], expected: Any) -> None:
    members = {name: find_method(name) for name in BOTH}
    if isinstance(expected, str):
        with pytest.raises(RequestError, match=expected):
            first_of_several(members, given)
    else:
        assert first_of_several(members, given) == expected


# --- auto ---------------------------------------------------------------------------------------


class Pictures(FakeProblem):
    """Of another size."""

    def __init__(self, side: int) -> None:
        self.image_shape = (1, side, side)
        self.warnings: Any = []


@pytest.fixture
def features(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Whether its network is on this machine."""
    there = {"there": True}

    def require_available(_config: Any) -> None:
        if not there["there"]:
            raise RequestError("no network")

    detector = find_method("features").detector
    monkeypatch.setattr(detector, "require_available", require_available)
    return there


def test_auto_compares_what_suits_the_pictures(features: dict[str, bool]) -> None:
    small, large = (1, 28, 28), (1, 256, 256)
    found, _, held = settle(asked("auto", epochs=25), Pictures(28))
    assert found.method == "features+deep-svdd+ama"
    assert held is not None
    assert held["features.epochs"] == 1
    assert held["ama.steps_per_epoch"] * found.epochs == 3000
    lines = told(record_of(found, held, small, auto=True))
    assert "auto compares features, deep-svdd, ama on pictures of 28x28;" in lines[0]
    # Whoever named them knows.
    assert len(told(record_of(found, held, small))) == 1
    features["there"] = False
    found, _, held = settle(asked("auto"), Pictures(256))
    assert found.method == "deep-svdd+ama"
    lines = told(record_of(found, held, large, auto=True))
    assert "features needs a network that is not here" in lines[0]
    assert side_made_use_of(asked("auto"), searched_method("auto")) is None


@pytest.mark.usefixtures("features")
def test_auto_takes_frozen_features_alone_for_large_pictures() -> None:
    fixed = {"batch_size": 8, "ama.lr": 1e-3, "features.coreset": 0.2}
    wanted = asked("auto", fixed=fixed, epochs=25, steps=500)
    found, method, held = settle(wanted, Pictures(256))
    assert (found.method, method.name, held) == ("features", "features", None)
    assert (found.epochs, found.steps) == (1, None)
    assert found.fixed == {"batch_size": 8, "coreset": 0.2}
    (line,) = told(record_of(found, held, (1, 256, 256), auto=True))
    assert "auto takes features alone on pictures of 256x256" in line
    assert "--image-size 64, or less, compares them too" in line
    assert side_made_use_of(wanted, searched_method("auto")) == 256
    several = searched_method("auto")
    assert isinstance(several, SeveralMethods)
    first = [{METHOD: "features", "dims": 50}]
    assert settled(wanted, several, Pictures(256), first)[2] == [{"dims": 50}]
    with pytest.raises(RequestError, match="auto takes features alone on these pictures"):
        settled(wanted, several, Pictures(256), [{METHOD: "ama", "k": 3}])
    with pytest.raises(RequestError, match=r"features alone .* has no setting 'width'; leave it"):
        settled(asked("auto", fixed={"width": 0.5}), several, Pictures(256), [])


def test_auto_that_is_said_again_goes_on_with_what_it_took() -> None:
    saved, _, held = settle(asked(fixed={"quality": 0.3}, epochs=9))
    record = record_of(saved, held, auto=True)
    assert resumed(record, replace(saved, method="auto")) == saved
    assert resumed(record, saved) == saved
    assert resumed(record, replace(saved, method="ama")).method == "ama"  # which is refused
    own = {"epochs": 1, "steps": None}
    alone = record_of(asked("features", fixed={"coreset": 0.2}, **own), None, auto=True)
    fixed = {"features.coreset": 0.2, "ama.lr": 1e-3}
    again = replace(alone.request, method="auto", fixed=fixed, steps=500, epochs=25)
    assert resumed(alone, again) == alone.request
    other = replace(again, fixed={"features.coreset": 0.1})
    assert resumed(alone, other).fixed == {"coreset": 0.1}  # which is refused, as any change
    named = record_of(saved, held)
    assert resumed(named, replace(saved, method="auto")).method == "auto"


def test_a_runs_options_begin_the_same_search_again() -> None:
    wanted = asked(fixed={"quality": 0.3, "other.glow": 0.2}, epochs=25)
    found, _, held = settle(wanted)
    options = options_of(found)
    again = with_options(SearchRequest(), budgeted(options))
    assert settle(replace(again, name=found.name))[2] == held
    more = with_options(SearchRequest(), budgeted({**options, "steps": 50}))
    assert more.steps == 50
    assert more.fixed == found.fixed


def test_epochs_alone_are_refused() -> None:
    with pytest.raises(RequestError, match="5 epochs alone are passes over the images"):
        budgeted({"method": ["fake", "other"], "epochs": 5})
    assert budgeted({"method": ["fake", "other"], "epochs": 5, "steps": 50})["epochs"] == 5
    assert budgeted({"method": ["fake", "other"], "steps": 10})["epochs"] == 10
    with pytest.raises(RequestError, match="epochs"):
        with_options(SearchRequest(), budgeted({"method": "auto", "epochs": 0, "steps": 5}))


def test_methods_that_cannot_be_told_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = find_method("other").detector
    monkeypatch.setattr(other, "Config", find_method("fake").detector.Config)
    with pytest.raises(RequestError, match="fake, other have one class of settings"):
        searched_method("fake+other")


def test_a_trainable_that_is_none_of_ours_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    method = searched_method("fake+other")
    monkeypatch.setattr(type(find_method("other")), "trainable_class", lambda _: dict)
    with pytest.raises(RequestError, match="cannot be searched beside other methods"):
        method.trainable_class()


def test_a_member_makes_its_detector_by_its_own_trainable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that goes on to its base class."""
    made = []

    def new_detector(self: Any) -> Any:
        made.append(type(self).__name__)
        return super(OtherTrainable, self)._new_detector()

    monkeypatch.setattr(OtherTrainable, "_new_detector", new_detector)
    joined = object.__new__(searched_method("fake+other").trainable_class())
    config = {**OtherConfig(glow=0.2).to_dict(), METHOD: "other"}
    joined._job = Job(folder="", config=config, settings={}, seed=3, tensorboard="")
    joined._train, joined._device = torch.zeros((4, *SHAPE), dtype=torch.uint8), "cpu"
    detector = joined._new_detector()
    assert type(detector) is find_method("other").detector
    assert detector.config.to_dict()["glow"] == 0.2
    assert made == ["OtherTrainable"]
    assert joined._job.config == config


# --- Whose turn it is ---------------------------------------------------------------------------


def tried(
    name: str, value: float | None, state: TrialState = TrialState.COMPLETE
) -> optuna.trial.FrozenTrial:
    choice = CategoricalDistribution(list(BOTH))
    return create_trial(
        state=state,
        params={METHOD: name},
        distributions={METHOD: choice},
        intermediate_values={} if value is None else {1: value},
        value=value if state == TrialState.COMPLETE else None,
    )


ALLOCATION = Allocation(BOTH, rung=1, sides=(50, 50))


def test_who_was_not_tried_comes_first() -> None:
    assert ALLOCATION.next_method([]) == "fake"
    assert ALLOCATION.next_method([tried("fake", 0.9)]) == "other"
    # One that was handed out and has no settings yet is nobody's.
    nobody = create_trial(state=TrialState.RUNNING)
    assert ALLOCATION.next_method([tried("fake", 0.9), nobody]) == "other"


def test_equals_take_turns() -> None:
    trials = [tried("fake", 0.8), tried("other", 0.8)]
    for _ in range(10):
        trials.append(tried(ALLOCATION.next_method(trials), 0.8))
    assert [t.params[METHOD] for t in trials] == list(BOTH) * 6


def test_the_better_one_has_most_and_the_other_is_not_forgotten() -> None:
    trials = [tried("fake", 0.95), tried("other", 0.9)]
    for _ in range(60):
        name = ALLOCATION.next_method(trials)
        trials.append(tried(name, {"fake": 0.95, "other": 0.9}[name]))
    turns = [t.params[METHOD] for t in trials]
    assert 2 <= turns.count("other") <= 6
    # A figure that chance cannot tell apart keeps its turn.
    trials = [tried("fake", 0.95), tried("other", 0.94)]
    for _ in range(20):
        name = ALLOCATION.next_method(trials)
        trials.append(tried(name, {"fake": 0.95, "other": 0.94}[name]))
    assert 5 <= [t.params[METHOD] for t in trials].count("other") <= 11


def test_what_still_runs_has_had_its_turn() -> None:
    trials = [tried("fake", 0.8), tried("other", 0.8), tried("fake", None, TrialState.RUNNING)]
    assert ALLOCATION.next_method(trials) == "other"


def test_the_rule_by_hand() -> None:
    """UCB1 with the best figure for the mean."""
    trials = [tried("fake", 0.7), tried("fake", 0.9), tried("fake", 0.6), tried("other", 0.87)]
    # Error at .9 with 50 and 50: Hanley and McNeil's, .0314; sqrt(2 ln 4 / n): .961 and 1.665.
    # .900 + .0302 against .870 + .0523
    assert ALLOCATION.next_method(trials) == "fake"
    trials[-1] = tried("other", 0.88)
    assert ALLOCATION.next_method(trials) == "other"  # .9323
    # Nothing is sure: at 1 the other one is tried again, now and then.
    certain = [tried("fake", 1.0), tried("other", 0.98)]
    for _ in range(60):
        name = ALLOCATION.next_method(certain)
        certain.append(tried(name, {"fake": 1.0, "other": 0.98}[name]))
    assert [t.params[METHOD] for t in certain].count("other") > 1
    # A trial that was stopped counts by what it was compared by.
    trials[-1] = tried("other", 0.88, TrialState.PRUNED)
    assert ALLOCATION.next_method(trials) == "other"


# --- The session --------------------------------------------------------------------------------


class InTurn(Allocation):
    """Without any learning."""

    def next_method(self, trials: Any) -> str:
        return self.names[len(trials) % 2]


def open_session(
    tmp_path: Path,
    trials: int,
    epochs: int = 9,
    kind: type[Allocation] = Allocation,
    known: dict[str, Any] | None = None,
    **changes: Any,
) -> tuple[Session, optuna.Study]:
    """Over a study of two methods in a file."""
    run = RunFolder(tmp_path / "run")
    run.path.mkdir(exist_ok=True)
    wanted = request(tmp_path, method="fake+other", trials=trials, epochs=epochs, **changes)
    record = write_record(run, wanted)
    method = searched_method(wanted.method)
    assert isinstance(method, SeveralMethods)
    if not run.study_path.exists():
        first, _ = first_trials(record, method, [])
        assert [one[METHOD] for one in first] == list(BOTH)
        studies.create_study(run, first)
    studies.take_over(run)
    study = open_study(run, make_pruner(wanted.scheduler, epochs, 2))

    def complete(settings: Mapping[str, Any]) -> Any:
        return record.configuration(method, settings)

    session = Session(
        study,
        wanted,
        run,
        Checkpoints(str(run.trials)),
        method.space,
        complete,
        lambda _event: None,
        allocation=kind(BOTH, 3, (50, 60), known or {}),
    )
    return session, study


def worse_and_worse(number: int, epoch: int) -> float:
    return 0.9 - number / 50 + epoch / 1000


def test_defaults_are_evaluated_in_full_and_rungs_compare_within_a_method(tmp_path: Path) -> None:
    session, study = open_session(tmp_path, trials=12)
    play(session, worse_and_worse)
    trials = study.get_trials()
    assert [t.params[METHOD] for t in trials[:2]] == list(BOTH)
    assert {t.state for t in trials[:2]} == {TrialState.COMPLETE}
    for name in BOTH:
        own = [t for t in trials if t.params[METHOD] == name]
        assert {t.state for t in own[1:]} == {TrialState.PRUNED}
        named = {name.partition(".")[0] for t in own for name in t.params}
        assert named == {METHOD, name}
    assert {t.user_attrs[studies.SETTINGS][METHOD] for t in trials} == set(BOTH)


@pytest.mark.parametrize(("scheduler", "trials"), [("asha", 8), ("median", 16)])
def test_a_method_is_not_stopped_by_another_ones_figures(
    tmp_path: Path, scheduler: str, trials: int
) -> None:
    session, study = open_session(tmp_path, trials=trials, kind=InTurn, scheduler=scheduler)

    def values(number: int, _epoch: int) -> float:
        # Each ever better than those of its method before it, one method far behind.
        return [0.9, 0.5][number % 2] + number / 1000

    play(session, values)
    assert [t.params[METHOD] for t in study.get_trials()] == list(BOTH) * (trials // 2)
    assert {t.state for t in study.get_trials()} == {TrialState.COMPLETE}


def test_a_default_is_not_stopped_by_better_ones_that_came_before_it(tmp_path: Path) -> None:
    """As when trials run side by side."""
    session, study = open_session(tmp_path, trials=6)
    for value in (0.9, 0.91, 0.92, 0.93):
        study.add_trial(tried_at_rung("other", value))
    play(session, lambda _number, _epoch: 0.6)
    assert {t.state for t in study.get_trials()[:2]} == {TrialState.COMPLETE}


def test_a_methods_known_settings_come_when_it_is_its_turn(tmp_path: Path) -> None:
    good = [{METHOD: "other", "other.quality": q, "other.glow": 0.2} for q in (0.7, 0.75)]
    session, study = open_session(
        tmp_path, trials=8, kind=InTurn, known={"other": good}, scheduler="none"
    )
    play(session, lambda _number, _epoch: 0.6)
    params = [t.params for t in study.get_trials()]
    assert [one[METHOD] for one in params] == list(BOTH) * 4
    assert params[3:6:2] == good
    assert params[7] not in good
    assert params[2] != params[4]


def test_known_settings_wait_behind_what_the_user_wants_tried(tmp_path: Path) -> None:
    good = [{METHOD: "other", "other.quality": q, "other.glow": 0.2} for q in (0.7, 0.75)]
    session, study = open_session(
        tmp_path, trials=10, kind=InTurn, known={"other": good}, scheduler="none"
    )
    study.enqueue_trial({METHOD: "other", "other.quality": 0.3, "other.glow": 0.1})
    study.enqueue_trial(good[1])  # which is then not tried again
    play(session, lambda _number, _epoch: 0.6)
    params = [t.params for t in study.get_trials()]
    assert params.count(good[0]) == 1
    assert params.count(good[1]) == 1


def test_each_of_several_methods_is_known_for_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    method = searched_method("fake+other")
    for name, known in (
        ("other", [{"quality": 0.7, "glow": 0.2}]),
        ("fake", [{"quality": 0.9}, {"quality": 9.0}]),
    ):
        whole = replace(method.members[name], known=known)
        monkeypatch.setitem(method.members, name, whole)  # type: ignore[attr-defined]
    record = record_of(*settle(asked("fake+other"))[::2])
    assert known_settings(record, method) == [
        {METHOD: "fake", "fake.quality": 0.9, "fake.kind": "plain"},
        {METHOD: "other", "other.quality": 0.7, "other.glow": 0.2},
    ]
    assert len(first_trials(record, method, [])[0]) == 2


def tried_at_rung(name: str, value: float) -> optuna.trial.FrozenTrial:
    return create_trial(
        params={METHOD: name},
        distributions={METHOD: CategoricalDistribution(list(BOTH))},
        intermediate_values=dict.fromkeys(range(1, 10), value),
        value=value,
    )


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_method_that_is_behind_is_searched_by_its_own_trials(
    tmp_path: Path, sampler: str
) -> None:
    """As if the other one, far ahead with each trial, were not there: its late proposals come
    near to its best ones."""
    session, study = open_session(tmp_path, 44, 1, InTurn, scheduler="none", sampler=sampler)

    def values(number: int, _epoch: int) -> float:
        own = study.get_trials()[number].params
        if own[METHOD] == "fake":
            return 0.95
        return 0.7 - abs(own["other.quality"] - 0.8) / 2 - abs(own["other.glow"] - 0.15) / 2

    play(session, values)
    found = [t.params for t in study.get_trials() if t.params[METHOD] == "other"]
    assert len(found) == 22
    late = [one["other.quality"] for one in found[12:]][::2]  # every other one is at random
    at_random = [one["other.quality"] for one in found[1:10]]
    assert np.mean(np.abs(np.array(late) - 0.8)) < 0.6 * np.mean(np.abs(np.array(at_random) - 0.8))


@pytest.mark.parametrize("die_at", [1, 3, 5, 8, 13, 21, 30, 40])
def test_killed_anywhere_the_same_methods_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, die_at: int
) -> None:
    """Die at the die_at-th write to the study, then open it again: every trial ends, once."""
    session, study = open_session(tmp_path, trials=5, epochs=4)
    storage = study._storage
    writes = 0

    def count(real: Any) -> Any:
        def write(*arguments: Any, **named: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == die_at:
                raise Killed
            return real(*arguments, **named)

        return write

    with monkeypatch.context() as patched:
        for name in (
            "create_new_trial",
            "set_trial_param",
            "set_trial_intermediate_value",
            "set_trial_user_attr",
            "set_trial_state_values",
        ):
            patched.setattr(type(storage), name, count(getattr(type(storage), name)))
        with pytest.raises(Killed):
            play(session, worse_and_worse)
    session, study = open_session(tmp_path, trials=5, epochs=4)
    play(session, worse_and_worse)
    trials = study.get_trials()
    assert len(trials) == 5
    assert all(t.state.is_finished() for t in trials)
    (tmp_path / "whole").mkdir()
    session, whole = open_session(tmp_path / "whole", trials=5, epochs=4)
    play(session, worse_and_worse)
    assert [(t.params, t.state) for t in trials] == [
        (t.params, t.state) for t in whole.get_trials()
    ]


# --- Options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["fake", "other"], "fake+other"),
        ("fake+other", "fake+other"),
        ("auto", "auto"),
        (["auto", "fake"], "auto chooses the methods itself"),
        (["fake", "fake"], "the method 'fake' is named twice"),
        (["fake", ""], "a method must have a name"),
        ("fake+", "a method must have a name"),
    ],
)
def test_methods_are_named(given: Any, expected: str) -> None:
    if " " in expected:
        with pytest.raises(RequestError, match=expected):
            with_options(SearchRequest(), {"method": given})
    else:
        assert with_options(SearchRequest(), {"method": given}).method == expected


def test_a_warm_start_crosses_from_one_method_to_several_and_back(tmp_path: Path) -> None:
    session, _ = open_session(tmp_path, trials=2)
    play(session, worse_and_worse)
    both = first_settings(warm_start="run", runs_dir=tmp_path, method="fake+other")
    assert [one[METHOD] for one in both] == list(BOTH)
    assert "fake.quality" in both[0]
    (alone,) = first_settings(warm_start="run", runs_dir=tmp_path, method="other")
    assert alone.keys() == {"quality", "glow"}
    (other,) = first_settings(warm_start="run", runs_dir=tmp_path, method="other+ama")
    assert other[METHOD] == "other"
    with pytest.raises(RequestError, match="must name the settings by text"):
        first_settings([{3: 0.2}])  # type: ignore[dict-item]
    with pytest.raises(RequestError, match="with the method ama has reached its full budget"):
        first_settings(warm_start="run", runs_dir=tmp_path, method="ama")


def test_what_is_made_is_the_members_own() -> None:
    method = searched_method("fake+other")
    config = method.detector.Config.from_dict({METHOD: "other", "other.glow": 0.2, "quality": 0.4})
    own = find_method("other").detector
    assert type(config) is own.Config
    assert config.to_dict()["glow"] == 0.2
    assert config.to_dict()["quality"] == 0.4
    detector = method.detector(config, SHAPE)
    assert type(detector) is own
