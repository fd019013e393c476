"""What a search asks of its study and tells it, without Ray: proposals, rungs, resuming."""

import itertools
import os
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from fake_method import FakeConfig
from fake_search import request, write_record
from fake_session import open_session, play
from optuna.trial import TrialState

from amatune.cluster.checkpoints import Checkpoints
from amatune.cluster.job import Failure, Progress, Trained
from amatune.data.problem import Problem
from amatune.errors import RequestError
from amatune.runs import RunFolder
from amatune.tuning import retrain, search
from amatune.tuning import study as studies
from amatune.tuning.seeds import derive_seed
from amatune.tuning.study import open_study, read_trials


class Killed(BaseException):
    """Stands in for a kill -9 in the middle of something."""


def test_poor_trials_are_pruned_at_a_rung_and_told_so(tmp_path):
    session, study = open_session(tmp_path, trials=9, epochs=9)
    play(session, lambda number, epoch: 0.9 - number / 20 + epoch / 1000)  # ever worse
    trials = study.get_trials()
    assert trials[0].state == TrialState.COMPLETE
    assert trials[0].value == pytest.approx(0.909)
    assert len(trials[0].intermediate_values) == 9
    for trial in trials[1:]:
        assert trial.state == TrialState.PRUNED
        assert list(trial.intermediate_values) == [1, 2, 3]
        assert trial.value == trial.intermediate_values[3]
        assert "not among the best at epoch 3" in trial.user_attrs[studies.REASON]


def test_the_grace_period_of_a_trials_own_configuration_is_kept(tmp_path):
    session, study = open_session(tmp_path, trials=6, epochs=9, fixed={"warmup": 3})
    play(session, lambda number, _epoch: 0.9 - number / 20)
    pruned = [t for t in study.get_trials() if t.state == TrialState.PRUNED]
    assert len(pruned) == 5
    assert {max(t.intermediate_values) for t in pruned} == {4}


def test_without_a_pruner_all_reach_the_end(tmp_path):
    session, study = open_session(tmp_path, grace=99, trials=5, epochs=9)
    play(session, lambda number, _epoch: 0.9 - number / 20)
    assert {t.state for t in study.get_trials()} == {TrialState.COMPLETE}


def test_best_trials_come_first(tmp_path):
    session, study = open_session(tmp_path, grace=99, trials=4)
    play(session, lambda number, _epoch: [0.5, 0.9, 0.7, 0.9][number])
    assert [t.number for t in studies.full_trials(study)] == [1, 3, 2, 0]


def test_impossible_settings_fail_and_the_search_goes_on(tmp_path):
    events = []
    session, study = open_session(tmp_path, trials=3, listener=events.append)
    complete = session._complete_config

    def picky(settings):
        if len(study.trials) == 2:
            return FakeConfig(quality=7.0)
        return complete(settings)

    session._complete_config = picky
    play(session, lambda _number, _epoch: 0.5)
    assert [t.state for t in study.get_trials()] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.COMPLETE,
    ]
    failed = next(e for e in events if e.state == "failed")
    assert failed.number == 1
    assert "quality must be in [0, 1], got 7.0" in failed.reason
    assert read_trials(RunFolder(tmp_path / "run"))[1].reason == failed.reason


def test_proposals_depend_on_seed_and_history_alone(tmp_path):
    """Stopping after a trial and opening the study again changes nothing, for TPE as well."""

    def values(number, _epoch):
        return (number * 37 % 11) / 11

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    session, whole = open_session(tmp_path / "a", grace=99, trials=16, epochs=2)
    play(session, values)
    for trials in (1, 2, 11, 12, 16):
        session, parts = open_session(tmp_path / "b", grace=99, trials=trials, epochs=2)
        play(session, values)
    assert [t.params for t in parts.trials] == [t.params for t in whole.trials]
    assert len({str(t.params) for t in whole.trials}) == 16


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_seeds_make_different_searches(tmp_path, sampler):
    first = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        session, study = open_session(tmp_path / str(seed), trials=2, seed=seed, sampler=sampler)
        play(session, lambda _number, _epoch: 0.5)
        first.append(study.trials[0].params)
    assert first[0] != first[1]


@pytest.mark.parametrize("die_at", [1, 3, 4, 5, 6, 8, 12, 19])
def test_killed_anywhere_a_search_resumes(tmp_path, die_at):
    """Die at the die_at-th write to the study, then open it again: every trial ends, once."""

    def values(number, epoch):
        return (number * 37 % 11 + epoch) / 30

    session, study = open_session(tmp_path, trials=3, epochs=3)
    storage = study._storage
    writes = itertools.count(1)

    def dying(original):
        def write(*args, **kwargs):
            if next(writes) == die_at:
                raise Killed
            return original(*args, **kwargs)

        return write

    for name in dir(storage):
        if name.startswith(("set_trial", "create_new_trial")):
            setattr(storage, name, dying(getattr(storage, name)))
    with pytest.raises(Killed):
        play(session, values)
    before = [t.params for t in open_study(RunFolder(tmp_path / "run")).trials]

    session, study = open_session(tmp_path, trials=3, epochs=3)
    play(session, values)
    trials = study.trials
    assert [t.number for t in trials] == [0, 1, 2]
    assert all(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials)
    for trial, params in zip(trials, before, strict=False):
        assert params.items() <= trial.params.items()
    for trial in trials:
        assert trial.user_attrs[studies.CONFIG]["quality"] == trial.params["quality"]
        epochs = range(1, len(trial.intermediate_values) + 1)
        assert trial.intermediate_values == {e: values(trial.number, e) for e in epochs}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RequestError("jpeg2000 is not there"), "jpeg2000 is not there"),
        (ZeroDivisionError("division by zero"), "no settings: ZeroDivisionError: division by zero"),
        (SystemExit("enough"), "no settings: SystemExit: enough"),
    ],
)
def test_settings_that_cannot_be_made_fail_alone(tmp_path, error, told):
    """Else no session would get past that trial."""
    session, study = open_session(tmp_path, trials=2)
    complete = session._complete_config

    def breaks_once(settings):
        if len(study.trials) == 1:
            raise error
        return complete(settings)

    session._complete_config = breaks_once
    assert session.start("a").folder == "0001"
    assert study.trials[0].state == TrialState.FAIL
    assert study.trials[0].user_attrs[studies.REASON] == told


def test_what_the_study_cannot_do_is_no_fault_of_the_settings(tmp_path):
    session, study = open_session(tmp_path, trials=2)

    def breaks(error):
        def space(_):
            raise error

        return space

    session._space = breaks(optuna.exceptions.StorageInternalError("locked"))
    with pytest.raises(optuna.exceptions.StorageInternalError):
        session.start("a")
    session._space = breaks(
        ValueError("CategoricalDistribution does not support dynamic value space.")
    )
    with pytest.raises(RequestError, match=r"other choices .*; search anew, with --warm-start run"):
        session.start("a")
    assert study.trials[0].state == TrialState.RUNNING


def test_a_trial_with_its_last_figure_is_complete_whenever_it_was_killed(tmp_path, monkeypatch):
    def killed(*_, **__):
        raise Killed

    asked = {"trials": 6, "epochs": 4, "scheduler": "median"}
    session, study = open_session(tmp_path, **asked)
    for number in range(6):
        session.start("a")
        for epoch in (1, 2, 3):
            session.report("a", Progress(epoch=epoch, auroc=0.97))
        last = Progress(epoch=4, auroc=0.97 if number < 5 else 0.6)
        if number < 5:
            session.finish("a", last)
    with monkeypatch.context() as patch:
        patch.setattr(study, "tell", killed)
        with pytest.raises(Killed):
            session.finish("a", last)
    session, study = open_session(tmp_path, **asked)
    assert session.start("b").folder.startswith("0005")
    session.finish("b", last)
    assert study.trials[5].state == TrialState.COMPLETE


def test_checkpoints_that_cannot_be_removed_stay(tmp_path, caplog):
    def refused(_):
        raise PermissionError("not yours")

    checkpoints = Checkpoints(str(tmp_path))
    checkpoints._files = SimpleNamespace(get_file_info=refused)
    checkpoints.delete("0000")
    assert "checkpoints of 0000 were left" in caplog.text


def test_an_unfinished_trial_goes_on_with_its_number_settings_and_results(tmp_path):
    session, study = open_session(tmp_path, trials=2, epochs=9)
    job = session.start("a")
    session.report("a", Progress(epoch=1, auroc=0.5))
    session.report("a", Progress(epoch=2, auroc=0.6))

    events = []
    session, study = open_session(tmp_path, trials=2, epochs=9, listener=events.append)
    again = session.start("b")
    assert (again.config, again.seed, again.settings) == (job.config, job.seed, job.settings)
    assert (events[0].number, events[0].epoch, events[0].auroc) == (0, 2, 0.6)
    session.report(
        "b", Progress(epoch=1, auroc=0.1)
    )  # from an older checkpoint: repeated, and not believed
    session.report("b", Progress(epoch=3, auroc=0.7))
    assert study.trials[0].intermediate_values == {1: 0.5, 2: 0.6, 3: 0.7}
    assert session.left == 1


@pytest.mark.parametrize("die_before", ["deciding", "the record"])
def test_a_trial_that_was_to_be_stopped_is_stopped_after_a_kill(tmp_path, monkeypatch, die_before):
    """Killed at a rung, before or after the pruner was asked: the trial does not slip past it."""

    def killed(*_):
        raise Killed

    session, _ = open_session(tmp_path, trials=9, epochs=9)
    for number in range(4):
        session.start("a")
        progress = Progress(epoch=3, auroc=0.9 - number / 10)
        if number == 3:
            with monkeypatch.context() as patch:
                if die_before == "deciding":
                    patch.setattr(optuna.Trial, "should_prune", killed)
                    with pytest.raises(Killed):
                        session.report("a", progress)
                else:
                    assert session.report("a", progress)
        elif session.report("a", progress):
            session.finish("a", progress)
    session, study = open_session(tmp_path, trials=9, epochs=9)
    while job := session.start("b"):
        if job.folder.startswith("0004"):
            break
    assert study.trials[3].state == TrialState.PRUNED
    assert list(study.trials[3].intermediate_values) == [3]


def test_a_lost_trial_goes_on_from_its_checkpoint_as_often_as_it_gets_further(tmp_path):
    events = []
    session, study = open_session(tmp_path, trials=1, epochs=9, listener=events.append)
    lost = Failure("its worker died", "lost")
    for epoch in range(1, 7):
        session.start("a")
        session.report("a", Progress(epoch=epoch, auroc=0.5))
        session.fail("a", lost)
        assert events[-1].state == "waiting"
        assert events[-1].reason == "its worker died; it is tried again"
    for _ in range(2):
        session.start("a")
        session.fail("a", lost)
    assert study.trials[0].state == TrialState.RUNNING
    session.start("a")
    session.fail("a", lost)  # the fourth time without another epoch
    assert study.trials[0].state == TrialState.FAIL
    assert study.trials[0].user_attrs[studies.REASON] == "its worker died"
    assert session.start("a") is None


def test_what_is_seldom_scored_gets_further_without_a_figure(tmp_path):
    session, study = open_session(tmp_path, trials=1, epochs=30)
    lost = Failure("its worker died", "lost")
    for epoch in (10, 13, 16, 19, 22):
        session.start("a")
        session.report("a", Progress(epoch=epoch, auroc=None))
        session.fail("a", lost)
    assert study.trials[0].state == TrialState.RUNNING
    for epoch in (20, 21, 22):  # no further than it was, whatever the one before
        session.start("a")
        session.report("a", Progress(epoch=epoch, auroc=None))
        session.fail("a", lost)
    assert study.trials[0].state == TrialState.FAIL


def test_out_of_memory_is_tried_again_once_with_a_larger_share(tmp_path):
    session, study = open_session(tmp_path, trials=1)
    assert session.start("a").share == 1
    session.fail("a", Failure("out of memory", "memory"))
    # Also by another session, after a kill.
    session, study = open_session(tmp_path, trials=1)
    assert session.start("a").share == 2
    session.report("a", Progress(epoch=3, auroc=0.5))
    session.fail("a", Failure("out of memory", "memory"))
    assert study.trials[0].state == TrialState.FAIL


def test_what_a_method_says_against_a_trial_is_told_and_kept(tmp_path):
    events = []
    session, _ = open_session(tmp_path, trials=1, listener=events.append)
    job = session.start("a")
    session.started("a")
    sides = {"normal": np.zeros(3), "anomaly": np.ones(3)}
    against = ("not converged", "nor is that")
    session.keep("a", Trained(scores={"x": sides}, primary="x", model=None, warnings=against))
    session.finish("a", Progress(epoch=job.config["epochs"], auroc=0.7))
    (kept,) = read_trials(RunFolder(tmp_path / "run"))
    for one in (events[-1], kept):
        assert (one.state, one.reason) == ("done", "not converged; nor is that")


def test_a_full_disk_fails_no_trial(tmp_path):
    session, study = open_session(tmp_path, trials=1)
    session.start("a")
    session.fail("a", Failure("no space", "disk"))
    assert study.trials[0].state == TrialState.RUNNING
    session, _ = open_session(tmp_path, trials=1)
    assert session.start("b") is not None


def test_what_a_trial_costs_is_noted(tmp_path, monkeypatch):
    clock = itertools.count(100.0, 3.0)
    monkeypatch.setattr("amatune.tuning.session.time.monotonic", lambda: next(clock))
    session, study = open_session(tmp_path, trials=1, epochs=2)
    session.gpus_per_trial = 0.25
    session.start("a")
    session.started("a")
    session.fail("a", Failure("its worker died", "lost"))
    assert study.trials[0].user_attrs[studies.COST] == {"seconds": 3.0, "gpu_seconds": 0.75}
    session.start("b")
    session.started("b")
    session.finish("b", Progress(epoch=2, auroc=0.5))
    assert study.trials[0].user_attrs[studies.COST] == {"seconds": 6.0, "gpu_seconds": 1.5}


def test_a_trial_starts_from_its_newest_checkpoint(tmp_path):
    trials = tmp_path / "run" / "trials"
    for place in ["0000/checkpoint_000000", "0000/checkpoint_000001", "0000.2/checkpoint_000000"]:
        (trials / place).mkdir(parents=True)
    (trials / "0001").mkdir()
    session, _ = open_session(tmp_path, trials=2)
    job = session.start("a")
    assert job.folder == "0000.3"
    assert [str(c) for c in job.checkpoints] == [
        str(trials / place)
        for place in [
            "0000.2/checkpoint_000000",
            "0000/checkpoint_000001",
            "0000/checkpoint_000000",
        ]
    ]
    session.finish("a", Progress(epoch=9, auroc=0.5))
    assert not list(trials.glob("0000*/checkpoint_*"))


def test_a_folder_is_given_once(tmp_path):
    """A worker may die before it has written anything: its folder is not there, and yet taken."""
    checkpoints = Checkpoints(str(tmp_path))
    assert [checkpoints.next_folder("0001") for _ in range(3)] == ["0001", "0001.2", "0001.3"]
    assert checkpoints.next_folder("0002") == "0002"
    assert Checkpoints(str(tmp_path)).next_folder("0001") == "0001"


def test_training_seeds():
    assert derive_seed(0, "trial", 1) == derive_seed(0, "trial", 1)
    seeds = {
        derive_seed(s, p, n) for s in range(3) for p in ("trial", "retrain") for n in range(50)
    }
    assert len(seeds) == 300
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_study_that_is_not_there_or_broken(tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(RequestError, match="has no study"):
        open_study(run)
    run.study_path.write_bytes(b"not a database, " * 100)
    with pytest.raises(RequestError, match="cannot be read as a study"):
        open_study(run)


def test_optuna_itself_opens_the_study(tmp_path):
    session, _ = open_session(tmp_path, trials=1)
    play(session, lambda _number, _epoch: 0.5)
    study = optuna.load_study(study_name="run", storage=f"sqlite:///{tmp_path}/run/study.db")
    assert study.best_value == 0.5
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"time_budget": -1.0}, "time budget must be a positive time"),
        ({"gpus_per_trial": 1.5}, "GPUs per trial .* got 1.5"),
        ({"cpus_per_trial": 0}, "CPUs per trial must be more than 0"),
        ({"sampler": "cma"}, "unknown sampler 'cma'; known: tpe, random"),
        ({"scheduler": "pbt"}, "unknown scheduler 'pbt'; known: asha, hyperband, median, none"),
        ({"fixed": {"epochs": 3}}, "epochs cannot be held fixed"),
        ({"address": "ray://head:10001"}, "Ray client address"),
        ({"address": "head"}, "HOST:PORT, or 'auto'.*got 'head'"),
        ({"address": "head:ray"}, "HOST:PORT"),
        ({"address": "127.0.0.1:99999"}, "HOST:PORT"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_impossible_requests(changes, message):
    with pytest.raises(RequestError, match=message):
        request("runs", **changes)


def test_request_round_trip_and_differences():
    asked = request("runs", fixed={"quality": 0.3})
    assert type(asked).from_dict(asked.to_dict()) == asked
    free = {"time_budget": 5.0, "concurrent": 1, "data_dir": "/data"}
    other = request("elsewhere", trials=9, fixed={"quality": 0.3}, **free)
    assert asked.differences(other) == []
    other = request("runs", trials=3, seed=1, fixed={"quality": 0.4})
    assert asked.differences(other) == [
        "fixed was {'quality': 0.3}, now {'quality': 0.4}",
        "seed was 0, now 1",
        "trials was 4, now fewer: 3",
    ]


@pytest.mark.parametrize(("told", "used"), [(None, "saved"), ("told", "told")])
def test_sets_are_looked_for_where_the_request_says(told, used, tmp_path, monkeypatch):
    looked_in = []

    def look(_, data_dir, *_others):
        looked_in.append(data_dir)
        raise Killed

    monkeypatch.setattr(search, "make_problem", look)
    monkeypatch.setattr(Problem, "from_dict", look)
    asked = request(tmp_path, method="ama", data_dir=str(tmp_path / "saved"))
    with pytest.raises(Killed):
        search.run_search(asked)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    write_record(run, asked)
    with pytest.raises(Killed):
        retrain.run_best(run, data_dir=told and str(tmp_path / told))
    assert looked_in == [str(tmp_path / "saved"), str(tmp_path / used)]


def test_the_first_trial_has_the_given_settings(tmp_path):
    first = {"quality": 0.25, "kind": "boosted", "boost": 0.125}
    session, _ = open_session(tmp_path, trials=2, first=first)
    assert session.start("a").settings == first
    assert session.start("b").settings != first


def test_reading_while_the_study_is_made_disturbs_nothing(tmp_path, monkeypatch):
    """The file appears whole: a reader never finds a database without tables."""
    run = RunFolder(tmp_path)
    original = os.replace

    def replace(source, target):
        with pytest.raises(RequestError, match="has no study"):
            open_study(run)
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    studies.create_study(run, [{}])
    assert len(open_study(run).trials) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["study.db"]


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "qmc"])
def test_every_sampler_proposes_the_same_again(tmp_path, sampler):
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for trials in (4, 12, 16):  # continued again and again
            session, study = open_session(tmp_path / name, sampler=sampler, trials=trials, epochs=2)
            play(session, lambda number, _: 0.5 + number / 100)
        found.append([trial.params for trial in study.trials])
    assert found[0] == found[1]
    assert len({tuple(params.items()) for params in found[0]}) == 16


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median", "none"])
def test_every_scheduler_stops_the_poor_and_never_the_best(tmp_path, scheduler):
    session, study = open_session(tmp_path, scheduler=scheduler, trials=16, epochs=9)
    play(session, lambda number, epoch: 0.5 + (number * 7 % 16) / 100 + epoch / 1000)
    states = [trial.state for trial in study.trials]
    assert (TrialState.PRUNED in states) == (scheduler != "none")
    best = max(range(16), key=lambda number: number * 7 % 16)
    assert states[best] == TrialState.COMPLETE


def test_no_more_trials_start_once_one_is_good_enough(tmp_path):
    session, study = open_session(tmp_path, trials=10, epochs=3, scheduler="none", stop_at=0.8)
    play(session, lambda number, epoch: 0.9 if epoch < 3 else 0.5 + number / 10)
    assert [trial.value for trial in study.trials] == [0.5, 0.6, 0.7, 0.8]
    assert session.is_satisfied
    session, _ = open_session(tmp_path, trials=10, epochs=3, scheduler="none", stop_at=0.95)
    assert not session.is_satisfied


def test_epochs_that_were_not_scored_decide_nothing(tmp_path):
    session, study = open_session(tmp_path, trials=1, epochs=4, scheduler="median")
    session.start("a")
    session.started("a")
    assert not session.report("a", Progress(epoch=1, auroc=None))
    assert not session.report("a", Progress(epoch=2, auroc=0.6))
    assert not session.report("a", Progress(epoch=3, auroc=None))
    session.finish("a", Progress(epoch=4, auroc=0.7))
    (trial,) = study.get_trials()
    assert trial.intermediate_values == {2: 0.6, 4: 0.7}
    assert trial.value == 0.7
