"""From the shortlist to the leaderboard: fresh seeds, one choice, one look at the test images."""

import dataclasses
import errno
import json
import shutil

import fake_method
import numpy as np
import pytest
import torch
from fake_method import METHOD, FakeConfig, FakeDetector, FakeTrainable
from fake_run import add_trial, write_run
from fake_search import FakeProblem, install, request
from optuna.trial import TrialState

from amatune import metrics
from amatune.cluster import execution
from amatune.cluster.job import Trained
from amatune.errors import AmatuneError, DiskFullError, RequestError
from amatune.results.leaderboard import compare, figures, read_leaderboard
from amatune.results.scores import load_scores
from amatune.runs import RunFolder
from amatune.stored import StoredDetector
from amatune.tuning import retrain
from amatune.tuning.events import RetrainEnded, RetrainStarted, RetrainUpdate, TestStarted
from amatune.tuning.retrain import run_best
from amatune.tuning.retrainings import Retraining, Retrainings
from amatune.tuning.search import run_search
from amatune.tuning.seeds import derive_seed
from amatune.tuning.shortlists import shortlist

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
    install(monkeypatch)
    monkeypatch.setattr(FakeProblem, "may_test", True)


@pytest.fixture(scope="module")
def searched(tmp_path_factory, ray_cluster):  # noqa: ARG001
    """A search of 4 trials with its retraining; tests that change something copy it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch)
        runs = tmp_path_factory.mktemp("runs")
        run = run_search(request(runs, trials=4, scheduler="none", fixed={"batch_size": 16})).run
        monkeypatch.setattr(FakeProblem, "may_test", True)
        events = []
        board = run_best(run, top=2, seeds=3, listener=events.append)
    return run, board, events


def copy(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def updates(events):
    return [e for e in events if isinstance(e, RetrainUpdate)]


def test_shortlist_is_the_best_trials_and_the_default(searched):
    run, board, events = searched
    started = events[0]
    assert isinstance(started, RetrainStarted)
    assert started.seeds == (1, 2, 3)
    assert started.configurations[-1] == "default"
    assert len(started.configurations) == 3
    assert "trial-0" not in started.configurations  # that is the default, and in there once
    trials = {t.number: t for t in retrain.studies.read_trials(run)}
    others = sorted((1, 2, 3), key=lambda n: -trials[n].auroc)[:2]
    assert started.configurations[:2] == tuple(f"trial-{n}" for n in others)
    rows = {row.configuration: row for row in board.rows}
    assert rows["default"].search_auroc == trials[0].auroc
    assert rows["default"].default
    for number in others:
        assert rows[f"trial-{number}"].search_auroc == trials[number].auroc
        assert rows[f"trial-{number}"].settings == trials[number].settings


def test_every_configuration_trains_with_the_same_fresh_seeds(searched):
    run, board, events = searched
    done = [e for e in updates(events) if e.state == "done"]
    assert len(done) == 9
    assert {e.epoch for e in done} == {9}
    train = torch.from_numpy(FakeProblem().train_images())
    test_normal, test_anomaly = (torch.from_numpy(a) for a in FakeProblem().test_images())
    for row in board.rows:
        assert row.seeds == (1, 2, 3)
        for seed in row.seeds:
            config = FakeConfig.from_dict(row.config)
            assert config.batch_size == 16
            detector = FakeDetector(config, (1, 8, 8), seed=derive_seed(0, "retrain", seed))
            for _ in range(9):
                detector.train_epoch(train)
            detector.calibrate(train)
            folder = run.best / "models" / row.configuration / f"seed{seed}"
            kept = load_scores(folder / "test.npz")
            assert np.array_equal(kept["bright"]["normal"], detector.score(test_normal).numpy())
            assert np.array_equal(kept["dark"]["anomaly"], -detector.score(test_anomaly).numpy())


def test_the_choice_is_made_on_validation_images(searched):
    run, board, events = searched
    best = max(board.rows, key=lambda row: row.validation_auroc)
    assert board.chosen is best
    assert board.rows[0] is best
    for row in board.rows:
        by_seed = []
        for seed in row.seeds:
            folder = run.best / "models" / row.configuration / f"seed{seed}"
            scores = load_scores(folder / "validation.npz")["bright"]
            by_seed.append(metrics.auroc(scores["normal"], scores["anomaly"]))
        assert row.validation_by_seed == tuple(by_seed)
        assert row.validation_auroc == pytest.approx(np.mean(by_seed))
        assert row.validation_spread == pytest.approx(np.std(by_seed, ddof=1))
    told = [type(e) for e in events]
    assert told.index(TestStarted) > max(i for i, t in enumerate(told) if t is RetrainUpdate)


def test_test_figures_are_those_of_the_kept_scores(searched):
    run, board, _ = searched
    assert (board.test_normals, board.test_anomalies) == (80, 40)
    for row in board.rows:
        for name in ("bright", "dark"):
            scores = [
                load_scores(run.best / "models" / row.configuration / f"seed{s}" / "test.npz")[name]
                for s in row.seeds
            ]
            aurocs = [metrics.auroc(s["normal"], s["anomaly"]) for s in scores]
            assert row.test[name].auroc == pytest.approx(np.mean(aurocs))
            assert row.test[name].auroc_spread == pytest.approx(np.std(aurocs, ddof=1))
            assert row.test[name].auroc_low < row.test[name].auroc < row.test[name].auroc_high
        assert np.mean(row.test_auroc_by_seed) == pytest.approx(row.test["bright"].auroc)


def test_the_leaderboard_is_written_and_read_back(searched):
    run, board, _ = searched
    assert read_leaderboard(run).rows == board.rows
    assert read_leaderboard(run).comparison == board.comparison
    values = json.loads((run.best / "leaderboard.json").read_text())
    assert "not a result" in values["notes"]["search_auroc"]


def test_the_chosen_model_scores_what_was_tested(searched):
    board = searched[1]
    detector = StoredDetector.load(board.chosen_model).build()
    normal, _ = FakeProblem().test_images()
    kept = load_scores(board.chosen_model / "test.npz")
    assert np.array_equal(
        detector.score(torch.from_numpy(normal)).numpy(), kept["bright"]["normal"]
    )
    best = max(board.chosen.validation_by_seed)
    seed = board.chosen.seeds[board.chosen.validation_by_seed.index(best)]
    assert board.chosen_model.name == f"seed{seed}"


def test_called_again_it_trains_only_what_is_missing_or_was_cut_short(searched, tmp_path):
    """A killed machine, a full disk: `best` goes on from what can be read."""
    run, board, _ = searched
    run = copy(run, tmp_path)
    events = []
    again = run_best(run, top=2, seeds=3, listener=events.append)
    assert [type(e) for e in events] == [RetrainStarted, RetrainEnded]
    assert (events[0].finished, events[0].concurrent) == (9, 0)
    chosen = again.chosen.test[again.primary_score]
    assert events[1].chosen == again.chosen.configuration
    assert (events[1].test_auroc, events[1].test_auroc_low) == (chosen.auroc, chosen.auroc_low)
    assert again.rows == board.rows
    before = json.loads((run.best / "leaderboard.json").read_text(encoding="utf-8"))
    for kept in ("default/seed1/test.npz", "default/seed2/validation.npz"):
        file = run.best / "models" / kept
        file.write_bytes(file.read_bytes()[:200])
    (run.best / "baselines.npz").write_bytes(b"")
    shutil.rmtree(run.best / "models" / "default" / "seed3")
    events.clear()
    again = run_best(run, top=2, seeds=3, listener=events.append)
    trained = {(e.configuration, e.seed) for e in updates(events)}
    assert trained == {("default", 2), ("default", 3)}
    assert next(e for e in events if isinstance(e, TestStarted)).models == 3
    assert again.rows == board.rows
    assert again.baselines == board.baselines
    after = json.loads((run.best / "leaderboard.json").read_text(encoding="utf-8"))
    assert after["rows"] == before["rows"]


def test_another_budget_trains_anew(searched, tmp_path):
    run = copy(searched[0], tmp_path)
    events = []
    board = run_best(run, top=1, seeds=1, epochs=4, listener=events.append)
    assert events[0].finished == 0
    assert {e.epoch for e in updates(events) if e.state == "done"} == {4}
    assert board.epochs == 4
    assert all(row.config["epochs"] == 4 for row in board.rows)
    assert all(row.validation_spread is None for row in board.rows)


def test_a_kill_between_scores_and_model_leaves_no_older_model(searched, tmp_path, monkeypatch):
    """It would be taken for finished with the scores of the newer one."""
    run = copy(searched[0], tmp_path)
    (*_, default) = shortlist(run, run.record(), METHOD, 1, 9)
    training = Retraining.of(run, default, 0, 1)
    assert training.facts is not None
    work = Retrainings(run, run.record(), [], lambda _: None, 60.0)
    work.left.append(training)
    work.start("a")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(StoredDetector, "save", killed)
    scores, model = training.scores("validation.npz"), StoredDetector.load(training.folder)
    with pytest.raises(KeyboardInterrupt):
        work.keep("a", Trained(scores=scores, primary="bright", model=model))
    assert training.facts is None


def test_a_model_that_was_changed_is_refused(searched, tmp_path):
    run = copy(searched[0], tmp_path)
    weights = run.best / "models" / "default" / "seed1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(AmatuneError, match="not what was saved there"):
        StoredDetector.load(weights.parent)
    (weights.parent / "config.json").unlink()
    with pytest.raises(AmatuneError, match="holds no complete model"):
        StoredDetector.load(weights.parent)


def test_a_seed_that_fails_is_reported_and_costs_the_choice(searched, tmp_path, monkeypatch):
    run, board, _ = searched
    run = copy(run, tmp_path)
    shutil.rmtree(run.best / "models" / board.chosen.configuration / "seed3")
    unstable = board.chosen.config

    class Unstable(FakeTrainable):
        def step(self):
            if self._job.config == unstable:
                raise ValueError("first line\nthe last line says why")
            return super().step()

    method = dataclasses.replace(METHOD, trainable=Unstable)
    monkeypatch.setattr(fake_method, "METHOD", method)
    again = run_best(run, top=2, seeds=3)
    row = next(r for r in again.rows if r.configuration == board.chosen.configuration)
    assert row.failures == ("seed 3: ValueError: the last line says why",)
    assert row.seeds == (1, 2)
    assert not row.chosen
    assert again.chosen.configuration != board.chosen.configuration


def test_nothing_to_retrain(tmp_path):
    run = write_run(tmp_path / "run", FakeProblem().to_dict())
    add_trial(run, {"quality": 0.5, "kind": "plain"}, [], TrialState.FAIL, reason="diverged")
    with pytest.raises(RequestError, match="no trial of the run 'run' has reached the full budget"):
        run_best(run)
    with pytest.raises(RequestError, match="has no leaderboard yet"):
        read_leaderboard(run)
    with pytest.raises(RequestError, match="seeds must be at least 1, got 0"):
        run_best(run, seeds=0)


def scores(shift, seed):
    generator = np.random.default_rng(seed)
    return {"normal": generator.normal(0, 1, 400), "anomaly": generator.normal(shift, 1, 100)}


def paired(a, b):
    return metrics.delong_paired(a["normal"], a["anomaly"], b["normal"], b["anomaly"])


def test_figures_of_one_seed_are_those_of_metrics():
    one = scores(1.5, 0)
    pair = one["normal"], one["anomaly"]
    found = figures([one])
    assert found.auroc == metrics.auroc(*pair)
    assert (found.auroc_low, found.auroc_high) == metrics.delong_interval(*pair)
    assert found.aupr == metrics.average_precision(*pair)
    assert found.fpr95 == metrics.fpr_at_tpr(*pair)
    assert found.auroc_spread is None


def test_comparison_finds_what_is_there_and_nothing_else():
    """With identical normal images and one seed: DeLong's paired test itself."""
    a, b = scores(2.0, 0), scores(1.0, 1)
    expected = paired(a, b)
    found = compare([a], [b])
    assert found.difference == expected.difference
    assert found.standard_error == pytest.approx(expected.standard_error)
    assert found.p == pytest.approx(expected.p_value)
    assert "better than the default by" in found.verdict
    assert "one seed" in found.verdict
    assert "worse than the default" in compare([b], [a]).verdict
    same = compare([a, a], [a, a])
    assert (same.difference, same.p) == (0, 1)
    assert same.verdict.startswith("no evidence of improvement over the default")


def test_the_spread_over_seeds_makes_a_comparison_less_sure():
    a, b, worse = scores(1.2, 0), scores(1.0, 1), scores(0.4, 2)
    steady = compare([a, a, a], [b, b, b])
    shaky = compare([a, a, worse], [b, b, b])
    assert shaky.standard_error > steady.standard_error


def test_an_interrupted_one_goes_on_from_the_finished_trainings(searched, tmp_path, monkeypatch):
    run = copy(searched[0], tmp_path)
    shutil.rmtree(run.best)
    halts, events = [], []
    original = execution.Halt
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(
            execution, "Halt", lambda *a, **o: halts.append(original(*a, **o)) or halts[0]
        )

        def stop_soon(event):
            events.append(event)
            if getattr(event, "state", "") == "done":
                halts[0].request("interrupted")

        with pytest.raises(KeyboardInterrupt):
            run_best(run, top=1, seeds=2, concurrent=1, listener=stop_soon)
    assert events[0].concurrent == 1
    finished = {(e.configuration, e.seed) for e in updates(events) if e.state == "done"}
    assert 0 < len(finished) < 4
    assert not (run.best / "leaderboard.json").exists()
    events.clear()
    again = run_best(run, top=1, seeds=2, listener=events.append)
    assert events[0].finished == len(finished)
    assert not finished & {(e.configuration, e.seed) for e in updates(events)}
    assert [row.seeds for row in again.rows] == [(1, 2), (1, 2)]
    with pytest.raises(RequestError, match="concurrent must be at least 1, got 0"):
        run_best(run, concurrent=0)


def test_a_full_disk_ends_it_with_a_message(tmp_path):
    run, full = RunFolder(tmp_path / "run"), OSError(errno.ENOSPC, "No space left on device")
    told = "no space .* call again: what is finished is kept"
    with pytest.raises(DiskFullError, match=told), retrain._disk_told(run):
        raise full
    with pytest.raises(ZeroDivisionError), retrain._disk_told(run):
        raise ZeroDivisionError


def test_scores_of_test_images_that_are_no_numbers_are_told(tmp_path):
    fine = np.zeros(3)
    retrain._require_finite(tmp_path, {"bright": {"normal": fine, "anomaly": fine}})
    wrong = {"normal": fine, "anomaly": np.array([np.nan, 1, np.inf])}
    with pytest.raises(AmatuneError, match="gives 2 test images no finite dark"):
        retrain._require_finite(tmp_path, {"dark": wrong})
