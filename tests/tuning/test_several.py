"""Several methods in one search: what each gets, whose turn it is, what is compared with what."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from fake_search import SHAPE, FakeProblem, install, request, write_record
from fake_session import play
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from amatune.cluster import capacity
from amatune.cluster.checkpoints import Checkpoints
from amatune.errors import RequestError
from amatune.registry import Method, SeveralMethods, find_method, searched_method
from amatune.runs import RunFolder
from amatune.runs.request import SearchRequest
from amatune.several import METHOD
from amatune.tuning import search
from amatune.tuning import study as studies
from amatune.tuning.allocation import Allocation
from amatune.tuning.methods import first_of_several, resumed, settled, side_made_use_of, told
from amatune.tuning.options import first_settings, with_options
from amatune.tuning.session import Session
from amatune.tuning.stopping import make_pruner
from amatune.tuning.study import open_study

BOTH = ("fake", "other")


class Killed(Exception):
    """Stands in for a kill -9 in the middle of something."""


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def asked(method: str = "fake+other", **changes: Any) -> SearchRequest:
    return replace(request("runs", method=method, **changes))


def settle(asked: SearchRequest, problem: Any = None) -> tuple[SearchRequest, Method, list[Any]]:
    method = searched_method(asked.method)
    assert isinstance(method, SeveralMethods)
    return settled(asked, method, problem or FakeProblem(), [])


# --- What each gets -----------------------------------------------------------------------------


def test_without_a_request_for_steps_each_has_its_usual_number() -> None:
    found, method, _ = settle(asked(epochs=9))
    assert found.epochs == 1  # of the fewest usual steps, of which an epoch has one or more
    assert found.fixed == {"fake.steps_per_epoch": 1, "other.steps_per_epoch": 36}
    assert method.name == "fake+other"
    (line,) = told(found, SHAPE)
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
    found, _, _ = settle(asked(epochs=4, steps=8))
    assert found.fixed == {f"{name}.steps_per_epoch": one for name, one in expected.items()}
    assert found.epochs == 4


def test_what_is_held_fixed_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_method("other").detector, "usual_steps", None)
    fixed = {"fake.steps_per_epoch": 7, "batch_size": 9, "other.glow": 0.2}
    found, _, _ = settle(asked(epochs=4, fixed=fixed))
    assert found.fixed == {
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
    found, _, _ = settle(asked("auto", epochs=25), Pictures(28))
    assert found.method == "features+deep-svdd+ama"
    assert found.fixed["features.epochs"] == 1
    assert found.fixed["ama.steps_per_epoch"] * found.epochs == 3000
    assert (
        "auto compares features, deep-svdd, ama on pictures of 28x28;"
        in told(found, (1, 28, 28))[0]
    )
    features["there"] = False
    found, _, _ = settle(asked("auto"), Pictures(256))
    assert found.method == "deep-svdd+ama"
    assert "features needs a network that is not here" in told(found, SHAPE)[0]
    assert side_made_use_of(asked("auto"), searched_method("auto")) is None


@pytest.mark.usefixtures("features")
def test_auto_takes_frozen_features_alone_for_large_pictures() -> None:
    problem = Pictures(256)
    fixed = {"batch_size": 8, "ama.lr": 1e-3, "features.coreset": 0.2}
    found, method, _ = settle(asked("auto", fixed=fixed, epochs=25, steps=500), problem)
    assert (found.method, method.name) == ("features", "features")
    assert (found.epochs, found.steps) == (1, None)
    assert found.fixed == {"batch_size": 8, "coreset": 0.2}
    (line,) = problem.warnings
    assert "auto takes features alone on pictures of 256x256" in line
    assert "--image-size 64, or less, compares them too" in line
    assert side_made_use_of(asked("auto"), searched_method("auto")) == 256


def test_a_run_goes_on_by_what_was_asked_at_its_beginning() -> None:
    saved, _, _ = settle(asked(fixed={"quality": 0.3}, epochs=9))
    again = resumed(saved, replace(saved, fixed={"quality": 0.3}), SHAPE)
    assert again == saved
    of_auto = replace(saved, method="features+deep-svdd+ama", fixed={"ama.lr": 1e-3})
    assert resumed(of_auto, replace(of_auto, method="auto", fixed={}), (1, 28, 28)) == of_auto
    alone = replace(saved, method="features", fixed={})
    assert resumed(alone, replace(alone, method="auto"), (3, 256, 256)) == alone
    other = resumed(saved, replace(saved, method="auto"), SHAPE)
    assert saved.differences(other)


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
    assert (
        ALLOCATION.next_method(trials) == "fake"
    )  # .900 + .0302 against .870 + .0523: .9302, .9223
    trials[-1] = tried("other", 0.88)
    assert ALLOCATION.next_method(trials) == "other"  # .9323
    # A trial that was stopped counts by what it was compared by.
    trials[-1] = tried("other", 0.88, TrialState.PRUNED)
    assert ALLOCATION.next_method(trials) == "other"


# --- The session --------------------------------------------------------------------------------


def open_session(tmp_path: Path, trials: int, epochs: int = 9) -> tuple[Session, optuna.Study]:
    """Over a study of two methods in a file."""
    run = RunFolder(tmp_path / "run")
    run.path.mkdir(exist_ok=True)
    wanted = request(tmp_path, method="fake+other", trials=trials, epochs=epochs)
    record = write_record(run, wanted)
    method = searched_method(wanted.method)
    assert isinstance(method, SeveralMethods)
    if not run.study_path.exists():
        first = search._first_trials(record, method, [])
        assert [one[METHOD] for one in first] == list(BOTH)
        studies.create_study(run, first)
    studies.take_over(run)
    study = open_study(run, make_pruner("asha", epochs, 2))

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
        allocation=Allocation(BOTH, 3, (50, 60)),
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


def test_a_method_is_not_stopped_by_another_one_s_figures(tmp_path: Path) -> None:
    session, study = open_session(tmp_path, trials=8)
    names: dict[int, str] = {}

    def values(number: int, _epoch: int) -> float:
        names[number] = study.get_trials()[number].params[METHOD]
        return {"fake": 0.9, "other": 0.5}[names[number]] + number / 1000  # each ever better

    play(session, values)
    assert {t.state for t in study.get_trials()} == {TrialState.COMPLETE}
    assert set(names.values()) == set(BOTH)


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
    assert [t.params[METHOD] for t in trials[:2]] == list(BOTH)
    assert all(METHOD in t.params for t in trials)


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
