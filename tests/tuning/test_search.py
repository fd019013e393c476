"""Whole searches on a small cluster, with a detector that trains in no time."""

import dataclasses
import errno
import json
import logging
import time

import numpy as np
import pytest
import torch
from fake_method import FakeConfig, FakeDetector
from fake_search import FakeProblem, install, request

from amatune.cluster import capacity, connection, execution
from amatune.cluster.connection import cluster as connect
from amatune.cluster.connection import places
from amatune.cluster.job import Job
from amatune.data.request import ProblemRequest
from amatune.errors import AmatuneError, ConfigError, DiskFullError, RequestError
from amatune.results.scores import load_scores
from amatune.runs import RunFolder
from amatune.tuning.events import SearchEnded, SearchStarted, TimeEstimate, TrialUpdate
from amatune.tuning.rehearsal import rehearse
from amatune.tuning.search import run_search
from amatune.tuning.seeds import derive_seed
from amatune.tuning.study import CONFIG, open_study, read_trials

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
    install(monkeypatch)


def search(tmp_path, resume=False, checkpoint_seconds=60.0, **changes):
    events = []
    asked = request(tmp_path, **changes)
    outcome = run_search(asked, events.append, resume, checkpoint_seconds=checkpoint_seconds)
    return outcome, events


def trials(tmp_path):
    return read_trials(RunFolder(tmp_path / "run"))


def updates(events, *states):
    return [e for e in events if isinstance(e, TrialUpdate) and e.state in states]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_cluster):  # noqa: ARG001
    """A search that several tests look at: 6 trials, two at a time, none of them stopped."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch)
        tmp_path = tmp_path_factory.mktemp("finished")
        outcome, events = search(
            tmp_path, trials=6, concurrent=2, scheduler="none", fixed={"batch_size": 32}
        )
    return tmp_path, outcome, events


def test_events_tell_the_story(finished):
    _, outcome, events = finished
    assert isinstance(events[0], SearchStarted)
    assert (events[0].trials, events[0].epochs, events[0].finished) == (6, 9, 0)
    assert isinstance(events[-1], SearchEnded)
    end = events[-1]
    assert (end.ending, end.done, end.best) == ("finished", 6, outcome.best_number)
    for number in range(6):
        states = [e.state for e in events if isinstance(e, TrialUpdate) and e.number == number]
        assert states == ["waiting", *["running"] * 9, "done"]
    epochs = [e.epoch for e in updates(events, "running", "done") if e.number == 3]
    assert epochs == list(range(10))


def test_damaged_pictures_and_copies_are_listed_in_the_run(finished):
    run = RunFolder(finished[0] / "run")
    assert run.broken == run.path / "broken.txt"
    assert run.broken.read_text() == "a damaged picture\n"
    assert run.near_copies.read_text() == "a copy\n"


def test_the_outcome_is_the_best_full_trial(finished):
    tmp_path, outcome, _ = finished
    best = max(trials(tmp_path), key=lambda t: t.auroc)
    assert outcome.best_number == best.number
    assert outcome.best_auroc == best.auroc
    assert outcome.best_settings == best.settings
    assert (outcome.done, outcome.pruned, outcome.failed) == (6, 0, 0)


def test_the_default_configuration_comes_first(finished):
    first = trials(finished[0])[0]
    assert first.settings == {"quality": 0.5, "kind": "plain", "batch_size": 32}


def test_every_trial_trained_its_own_settings_in_reused_workers(finished):
    """Each trial's validation scores, image by image, are those of a plain loop."""
    tmp_path = finished[0]
    normal, anomaly = (torch.from_numpy(a) for a in FakeProblem().validation_images())
    train = torch.from_numpy(FakeProblem().train_images())
    for trial in trials(tmp_path):
        config = FakeConfig.from_dict({**trial.settings, "epochs": 9})
        detector = FakeDetector(config, (1, 8, 8), seed=derive_seed(0, "trial", trial.number))
        for _ in range(9):
            detector.train_epoch(train)
        detector.calibrate(train)
        kept = load_scores(tmp_path / "run" / "trials" / f"{trial.number:04d}" / "validation.npz")
        assert np.array_equal(kept["bright"]["normal"], detector.score(normal).numpy())
        assert np.array_equal(kept["bright"]["anomaly"], detector.score(anomaly).numpy())


def test_fixed_settings_are_in_the_trials_and_not_searched(finished):
    for trial in trials(finished[0]):
        assert trial.settings["batch_size"] == 32
    study = finished[0] / "run" / "study.db"
    import optuna

    loaded = optuna.load_study(study_name="run", storage=f"sqlite:///{study}")
    assert all("batch_size" not in t.params for t in loaded.trials)
    assert all(t.user_attrs["config"]["batch_size"] == 32 for t in loaded.trials)


def test_the_run_folder(finished):
    run = finished[1].run
    record = run.record()
    asked = request(finished[0], trials=6, concurrent=2, scheduler="none", fixed={"batch_size": 32})
    assert record.request == asked
    assert record.problem.to_dict() == FakeProblem().to_dict()
    assert set(record.begun.versions) == {"amatune", "python", "torch", "ray", "optuna"}
    assert record.begun.command
    assert record.first == ({"quality": 0.5, "kind": "plain"},)
    assert len(list(run.tensorboard.iterdir())) == 6
    assert not list(run.trials.glob("*/checkpoint_*"))


def test_machines_are_asked_for_the_free_memory_of_their_cards():
    """This one says that it has a card, which PyTorch cannot use."""
    assert sum(connection.cards().values()) == 1
    assert capacity.free_memory() == capacity.ALL_FREE


def test_a_rehearsal_trains_a_few_steps_and_leaves_nothing(tmp_path):
    events = []
    asked = request(tmp_path, concurrent=2, fixed={"seconds": 0.2}, time_budget=2.0, trials=5)
    told = rehearse(asked, events.append)
    assert [type(event) for event in events] == [SearchStarted, TimeEstimate]
    assert (events[0].run, events[0].concurrent, events[0].steps) == (None, 2, 9)
    assert events[1] == told
    # An epoch is one step here: 200 images in a batch of 256.
    assert told.seconds > 3 * 9 * 0.05 / 4
    assert (told.trainings, told.at_most) == (5, True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(AmatuneError, match="cannot be trained here: fake diverged"):
        rehearse(request(tmp_path, fixed={"quality": 0.9, "diverges_at": 0.8}))


def test_poor_trials_are_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("amatune.tuning.stopping.NOISE", 0.0)  # of so few pictures
    outcome, _ = search(tmp_path, trials=8, sampler="random")
    assert outcome.pruned > 0
    assert outcome.done > 0
    for trial in trials(tmp_path):
        if trial.state == "pruned":
            assert trial.epoch == 3
            assert "not among the best" in trial.reason


def test_a_trial_that_diverges_fails_with_its_reason_and_the_others_go_on(tmp_path):
    # The first two proposals have qualities .5 and .74: the default passes, the next one fails.
    outcome, events = search(tmp_path, trials=3, scheduler="none", fixed={"diverges_at": 0.7})
    for trial in trials(tmp_path):
        assert (trial.state == "failed") == (trial.settings["quality"] >= 0.7)
    assert (outcome.failed, outcome.done) == (1, 2)
    failed = updates(events, "failed")
    assert len(failed) == outcome.failed
    for event in failed:
        assert event.reason.startswith("fake diverged in epoch 1: loss not finite")
        assert "Traceback" not in event.reason


def troubled(tmp_path, trouble, **changes):
    traces = tmp_path / "traces"
    traces.mkdir()
    fixed = {"trouble": trouble, "traces": str(traces)}
    outcome, events = search(
        tmp_path, trials=1, fixed=fixed, scheduler="none", checkpoint_seconds=0.0, **changes
    )
    given = json.loads((traces / "given").read_text(encoding="utf-8"))
    return outcome, updates(events, "waiting"), given


def test_out_of_memory_is_tried_again_with_a_larger_share(tmp_path):
    outcome, waiting, given = troubled(tmp_path, "memory", gpus_per_trial=0.25)
    assert outcome.done == 1
    assert (given["CPU"], given["GPU"]) == (2, 0.5)
    assert "out of GPU memory" in waiting[1].reason
    assert "it is tried again" in waiting[1].reason
    assert waiting[1].epoch == 2  # from its checkpoint
    assert RunFolder(tmp_path / "run").trials.joinpath("0000.2").is_dir()


def test_a_worker_that_is_killed_costs_no_trial(tmp_path):
    outcome, waiting, given = troubled(tmp_path, "death")
    assert outcome.done == 1
    assert given["CPU"] == 1
    assert "its worker process died" in waiting[1].reason
    (trial,) = trials(tmp_path)
    assert trial.state == "done"


def test_a_full_disk_ends_the_session_and_loses_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("amatune.tuning.session.save_scores", full)
        with pytest.raises(DiskFullError, match=r"no space is left .* --resume --name run"):
            search(tmp_path, trials=2, scheduler="none")
    assert [t.state for t in trials(tmp_path)] == ["running"]
    outcome, _ = search(tmp_path, trials=2, scheduler="none", resume=True)
    assert outcome.done == 2


def test_what_ray_and_optuna_log_is_in_a_file(finished, tmp_path, capfd):
    folder, _, _ = finished
    log = (folder / "run" / "log.txt").read_text(encoding="utf-8")
    assert "INFO" in log
    assert "Failed to fetch metrics" not in log  # of trials of which nothing has failed
    with connect(None, tmp_path / "log.txt"):
        logging.getLogger("optuna").info("Optuna says")
        logging.getLogger("ray.tune").error("Tune says")
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "INFO optuna: Optuna says" in log
    assert "ERROR ray.tune: Tune says" in log
    assert capfd.readouterr() == ("", "")


def test_more_trials_on_resume(tmp_path):
    search(tmp_path, trials=2)
    before = trials(tmp_path)
    outcome, events = search(tmp_path, resume=True, trials=4)
    assert events[0].finished == 2
    after = trials(tmp_path)
    assert after[:2] == before
    assert [t.number for t in after] == [0, 1, 2, 3]
    record = outcome.run.record()
    assert record.request.trials == 4
    assert len(record.continued) == 1
    outcome, events = search(tmp_path, resume=True, trials=4)  # nothing left to do
    assert [type(e) for e in events] == [SearchEnded]
    assert trials(tmp_path) == after


def test_another_request_is_refused_on_resume(finished):
    tmp_path, outcome, _ = finished
    before = outcome.run.record()
    with pytest.raises(RequestError, match=r"epochs was 9, now 8; fixed was.*more trials"):
        search(tmp_path, resume=True, trials=9, epochs=8, scheduler="none")
    assert outcome.run.record() == before


def test_wrong_fixed_settings_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ConfigError, match="'qualty', did you mean 'quality'"):
        search(tmp_path, fixed={"qualty": 0.5})
    with pytest.raises(ConfigError, match=r"quality must be in \[0, 1\], got 3"):
        search(tmp_path, fixed={"quality": 3.0})
    assert not (tmp_path / "run").exists()


def test_labelled_anomalies_are_for_methods_that_learn_from_them(tmp_path, monkeypatch):
    problem = ProblemRequest(anomaly_fraction=0.1)
    with pytest.raises(RequestError, match=r"fake does not learn from labelled .* got 0\.1"):
        run_search(dataclasses.replace(request(tmp_path), problem=problem))
    assert not list(tmp_path.iterdir())

    monkeypatch.setattr(FakeDetector, "learns_from_anomalies", True)
    held = {"kind": "plain", "boost": 0.0}
    monkeypatch.setattr(FakeDetector, "held_with_anomalies", held)
    asked = dataclasses.replace(request(tmp_path, trials=2), problem=problem)
    run_search(asked)
    assert RunFolder(tmp_path / "run").record().request.fixed == held
    assert all(trial.settings.items() >= held.items() for trial in trials(tmp_path))
    # The same request is the same request: what was held fixed for it does not stand in the way.
    assert run_search(dataclasses.replace(asked, trials=3), resume=True).ending == "finished"
    assert len(trials(tmp_path)) == 3


def test_too_much_per_trial_is_refused(tmp_path):
    with pytest.raises(RequestError, match="no machine has room for a trial with 4096 CPUs"):
        search(tmp_path, cpus_per_trial=4096)


def test_stopped_in_good_order_nothing_is_trained_twice(tmp_path, monkeypatch):
    halts = []
    original = execution.Halt
    monkeypatch.setattr(
        execution, "Halt", lambda *a, **o: halts.append(original(*a, **o)) or halts[0]
    )

    def stop_soon(event):
        if getattr(event, "epoch", 0) == 3:
            halts[0].request("interrupted")

    asked = request(
        tmp_path,
        trials=2,
        epochs=8,
        scheduler="none",
        fixed={"seconds": 0.1},
        storage_path=f"file://{tmp_path}/shared",  # a URI, like s3://...
    )
    outcome = run_search(asked, stop_soon)
    assert outcome.ending == "interrupted"
    assert outcome.interrupted
    (unfinished,) = trials(tmp_path)
    assert (unfinished.state, outcome.done) == ("running", 0)
    assert 3 <= unfinished.epoch < 8
    (checkpoint,) = (tmp_path / "shared" / "run" / "trials").glob("0000/checkpoint_*/checkpoint.pt")
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["epoch"] >= unfinished.epoch - 1
    mine = Job(
        folder="",
        config=open_study(outcome.run).trials[0].user_attrs[CONFIG],
        settings={},
        seed=derive_seed(0, "trial", 0),
        tensorboard="",
        run=outcome.run.record().identity,
    )
    assert saved["training"] == mine.training  # and of no other run of that name

    monkeypatch.setattr(execution, "Halt", original)
    events = []
    run_search(asked, events.append, resume=True)
    epochs = [e.epoch for e in updates(events, "running", "done") if e.number == 0]
    assert epochs[1] >= unfinished.epoch
    assert [t.state for t in trials(tmp_path)] == ["done", "done"]
    uninterrupted, _ = search(
        tmp_path / "other", trials=2, epochs=8, scheduler="none", fixed={"seconds": 0.0}
    )
    aurocs = [t.auroc for t in trials(tmp_path)]
    assert aurocs == [t.auroc for t in read_trials(uninterrupted.run)]


def test_the_time_budget_ends_a_session():
    halt = execution.Halt(seconds=0.05)
    halt.unsaved.add("a trial")
    assert not halt.stop_all()
    time.sleep(0.06)
    assert not halt.stop_all()  # the trial may still save
    assert halt.ending == "out of time"
    halt.unsaved.clear()
    assert halt.stop_all()
    halt.request("interrupted")
    assert halt.ending == "out of time"  # the first reason stands


def test_saving_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(execution, "SAVING_SECONDS", 0.05)
    halt = execution.Halt()
    halt.unsaved.add("a trial that hangs")
    assert not halt.stop_all()
    halt.request("interrupted")
    assert not halt.stop_all()
    time.sleep(0.06)
    assert halt.stop_all()


def test_four_trials_share_a_gpu(tmp_path):
    """The cluster says it has one GPU; the method asks for a quarter when the user does not. The
    trials wait for one another, so that the search ends only if four run at a time."""
    running, most, started = set(), 0, []

    def watch(event):
        nonlocal most
        if isinstance(event, SearchStarted):
            started.append(event)
        if isinstance(event, TrialUpdate):
            (running.add if event.state == "running" else running.discard)(event.number)
            most = max(most, len(running))

    traces = tmp_path / "traces"
    traces.mkdir()
    asked = request(
        tmp_path,
        trials=5,
        epochs=4,
        concurrent=None,
        gpus_per_trial=None,
        cpus_per_trial=0.5,
        scheduler="none",
        fixed={"together": 4, "traces": str(traces)},
    )
    run_search(asked, watch)
    assert (started[0].concurrent, started[0].gpus_per_trial) == (4, 0.25)
    assert most == 4
    assert {t.state for t in trials(tmp_path)} == {"done"}


@pytest.mark.parametrize(
    ("cpus", "gpus", "fit"),
    [(1, 0, 4), (3, 0, 1), (0.5, 0, 8), (1, 0.25, 4), (1, 0.3, 3), (1, 1, 1), (1, 2, 0), (5, 0, 0)],
)
def test_what_fits_on_the_cluster(cpus, gpus, fit):
    assert places(cpus, gpus) == fit


def test_a_refused_search_leaves_no_run_behind(tmp_path):
    with pytest.raises(RequestError, match="no machine has room"):
        run_search(request(tmp_path, cpus_per_trial=1000.0))
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_before_there_is_a_record_leaves_no_run_behind(tmp_path, monkeypatch):
    """A folder without one could be neither resumed nor searched again by its name."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_search(request(tmp_path, name="mine"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at '127.0.0.1:1'"),
        (f"{'x' * 70}:1", "no Ray cluster answers"),  # no name of a machine
    ],
)
def test_addresses_that_are_none(address, message, monkeypatch, tmp_path):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(RequestError, match=message), connect(address, tmp_path / "log.txt"):
        pass
