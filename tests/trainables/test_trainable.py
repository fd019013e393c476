"""The one trainable: what it trains, saves, reports and logs. No cluster: all in this process."""

import dataclasses
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_method import FakeConfig, FakeDetector, FakeTrainable
from fake_search import FakeProblem
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from amatune.cluster.job import Job
from amatune.detectors.ama import AMA, AMAConfig
from amatune.errors import DivergedError, OutOfMemoryError, TrainingWarning
from amatune.registry import find_method, method_names, searched_method
from amatune.several import METHOD
from amatune.trainables._base import DetectorTrainable, _calibrate


@pytest.fixture(autouse=True)
def _folders(tmp_path, monkeypatch):
    # Without Tune a trainable makes a folder of its own below the home directory.
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))


def images():
    normal, anomaly = FakeProblem().validation_images()
    return {
        "train": FakeProblem().train_images(),
        "normal": normal,
        "anomaly": anomaly,
        "labelled": FakeProblem().train_anomalies(),
        "bounds": np.array([0, 20, 50]),
    }


def job(tmp_path, name="0000", seed=7, epochs=5, **changes):
    config = FakeConfig(
        epochs=epochs, **{k: v for k, v in changes.items() if hasattr(FakeConfig, k)}
    )
    other = {k: v for k, v in changes.items() if not hasattr(FakeConfig, k)}
    return Job(
        folder=name,
        config=config.to_dict(),
        settings={"quality": config.quality, "list": (1, 2)},
        seed=seed,
        tensorboard=str(tmp_path / "tensorboard" / name),
        **other,
    )


def make(the_job, cls=FakeTrainable):
    class WithImages(cls):
        def setup(self, config):
            super().setup(config, **images())

    return WithImages({"job": the_job.to_dict()})


def train(trainable, epochs):
    return [trainable.train() for _ in range(epochs)]


def figures(results):
    return [(r["epoch"], r["auroc"], r["aurocs"], r["losses"]) for r in results]


def test_settings_reach_the_running_detector(tmp_path):
    trainable = make(job(tmp_path, quality=0.75, kind="boosted", boost=0.25, batch_size=16))
    trainable.train()
    detector = trainable._detector
    assert detector.config == FakeConfig(
        epochs=5, quality=0.75, kind="boosted", boost=0.25, batch_size=16
    )
    assert detector.seed == 7
    assert detector.image_shape == (1, 8, 8)


def test_it_is_done_at_the_last_epoch_and_hands_over_the_scores(tmp_path):
    results = train(make(job(tmp_path, keep_model=True)), 5)
    assert [r["epoch"] for r in results] == [1, 2, 3, 4, 5]
    assert [r["done"] for r in results] == [False] * 4 + [True]
    assert "trained" not in results[3]
    trained = results[4]["trained"]
    assert trained["scores"]["bright"]["normal"].shape == (60,)
    assert trained["scores"]["dark"]["anomaly"].shape == (50,)
    assert set(trained["model"].tensors) == {"weight", "mean"}
    assert train(make(job(tmp_path)), 5)[4]["trained"]["model"] is None


def test_what_a_method_says_against_its_training_is_handed_over(tmp_path, monkeypatch):
    """A worker has nobody who reads it. Other warnings stay warnings."""

    def doubted(detector, images):
        warnings.warn(f"fake at epoch {detector.epoch}", TrainingWarning, stacklevel=2)
        if len(images) == 3:
            warnings.warn("else", UserWarning, stacklevel=2)

    monkeypatch.setattr(FakeDetector, "prepare", doubted)
    last = train(make(job(tmp_path)), 5)[4]
    assert last["trained"]["warnings"] == ("fake at epoch 5",)
    few = torch.arange(3 * 64).reshape(3, 1, 8, 8).to(torch.uint8)
    with pytest.warns(UserWarning, match="else"):
        told = _calibrate(FakeDetector(FakeConfig(), (1, 8, 8)), few)
    assert told == ("fake at epoch 0",)


def test_reported_auroc_is_that_of_the_primary_score(tmp_path):
    last = train(make(job(tmp_path)), 5)[4]
    normal, anomaly = (last["trained"]["scores"]["bright"][s] for s in ("normal", "anomaly"))
    above = (anomaly[:, None] > normal[None, :]).mean()
    assert last["auroc"] == pytest.approx(above)
    assert last["aurocs"]["bright"] == last["auroc"]
    assert last["aurocs"]["dark"] == pytest.approx(1 - above)


def test_trials_are_compared_by_the_detectors_early_score(tmp_path, monkeypatch):
    (result,) = train(make(job(tmp_path, epochs=2)), 1)
    assert result["early"] == result["auroc"] == result["aurocs"]["bright"]  # none is named
    dark = 1 - result["auroc"]
    for name, early in (("dark", dark), ("auto", max(dark, 1 - dark))):
        monkeypatch.setattr(FakeDetector, "early_score", name)
        (result,) = train(make(job(tmp_path, name=name, epochs=2)), 1)
        assert result["early"] == pytest.approx(early)
        assert result["auroc"] == result["aurocs"]["bright"]


@pytest.mark.parametrize(("objective", "combine"), [("mean", np.mean), ("worst", min)])
def test_several_anomaly_sets_become_one_figure(tmp_path, objective, combine):
    (result,) = train(make(job(tmp_path, epochs=1, objective=objective)), 1)
    scores = result["trained"]["scores"]["bright"]
    parts = [scores["anomaly"][:20], scores["anomaly"][20:]]
    expected = combine([roc_auc(scores["normal"], part) for part in parts])
    assert result["auroc"] == pytest.approx(expected)
    (pooled,) = train(make(job(tmp_path, name="1", epochs=1)), 1)
    assert pooled["auroc"] == pytest.approx(roc_auc(scores["normal"], scores["anomaly"]))
    assert pooled["auroc"] != pytest.approx(result["auroc"], abs=1e-6)


def roc_auc(normal, anomaly):
    """By counting pairs."""
    return float(np.mean(anomaly[:, None] > normal) + np.mean(anomaly[:, None] == normal) / 2)


def test_it_equals_a_plain_loop(tmp_path):
    last = train(make(job(tmp_path, quality=0.9)), 5)[4]
    detector = FakeDetector(FakeConfig(epochs=5, quality=0.9), (1, 8, 8), seed=7)
    arrays = {name: torch.from_numpy(values) for name, values in images().items()}
    for _ in range(5):
        detector.train_epoch(arrays["train"])
    detector.calibrate(arrays["train"])
    expected = detector.score(arrays["anomaly"]).numpy()
    assert np.array_equal(last["trained"]["scores"]["bright"]["anomaly"], expected)


def test_labelled_anomalies_reach_the_detector(tmp_path, monkeypatch):
    seen = []
    train_epoch = FakeDetector.train_epoch

    def watched(self, images, anomalies=None):
        seen.append(anomalies)
        return train_epoch(self, images)

    monkeypatch.setattr(FakeDetector, "train_epoch", watched)
    train(make(job(tmp_path)), 1)
    monkeypatch.setattr(FakeProblem, "labelled", 7)
    train(make(job(tmp_path)), 1)
    assert seen[0] is None
    assert np.array_equal(seen[1].numpy(), FakeProblem().train_anomalies())


def test_a_reused_worker_equals_a_fresh_one(tmp_path):
    """Everything differs between the two trials, so that whatever is kept shows."""
    first = job(tmp_path, "0000", seed=1, epochs=3, quality=0.1, kind="boosted", boost=0.5)
    second = job(tmp_path, "0001", seed=2, epochs=6, quality=0.9)
    fresh = train(make(second), 6)
    reused = make(first)
    train(reused, 2)
    assert reused.reset({"job": second.to_dict()})
    again = train(reused, 6)
    assert figures(again) == figures(fresh)
    assert again[-1]["done"]
    assert not fresh[2]["done"]


def test_save_and_load_continue_exactly(tmp_path):
    whole = figures(train(make(job(tmp_path)), 5))
    first = make(job(tmp_path))
    train(first, 2)
    first.save(str(tmp_path / "saved"))
    second = make(job(tmp_path))
    second.restore(str(tmp_path / "saved"))
    assert figures(train(second, 3)) == whole[2:]


def test_a_job_starts_from_the_newest_checkpoint_that_can_be_read(tmp_path):
    whole = figures(train(make(job(tmp_path)), 5))
    first = make(job(tmp_path))
    for epoch in (1, 2, 3):
        first.train()
        first.save(str(tmp_path / f"saved{epoch}"))
    newest = tmp_path / "saved3" / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:-100])  # the kill came while it was written
    places = (tmp_path / "saved3", tmp_path / "gone", tmp_path / "saved2", tmp_path / "saved1")
    second = make(job(tmp_path, checkpoints=tuple(map(str, places))))
    assert figures(train(second, 3)) == whole[2:]


@pytest.mark.parametrize("other", ["format", "epoch"])
def test_a_checkpoint_of_another_version_is_passed_over(tmp_path, other):
    first = make(job(tmp_path))
    train(first, 3)
    (tmp_path / "checkpoint").mkdir()
    first.save_checkpoint(str(tmp_path / "checkpoint"))
    file = tmp_path / "checkpoint" / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    del state[other]
    torch.save(state | ({"format": 1} if other == "format" else {}), file)
    again = make(job(tmp_path, checkpoints=(str(tmp_path / "checkpoint"),)))
    assert figures(train(again, 5)) == figures(train(make(job(tmp_path)), 5))


def test_a_checkpoint_of_another_training_is_passed_over(tmp_path):
    first = make(job(tmp_path))
    train(first, 3)
    (tmp_path / "checkpoint").mkdir()
    first.save_checkpoint(str(tmp_path / "checkpoint"))
    places = {"checkpoints": (str(tmp_path / "checkpoint"),)}
    assert make(job(tmp_path, **places)).train()["epoch"] == 4
    assert make(job(tmp_path, seed=8, **places)).train()["epoch"] == 1
    assert make(job(tmp_path, quality=0.9, **places)).train()["epoch"] == 1
    assert make(job(tmp_path, run="of the same name", **places)).train()["epoch"] == 1


def test_without_a_readable_checkpoint_it_starts_at_the_beginning(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "checkpoint.pt").write_bytes(b"nonsense")
    trainable = make(job(tmp_path, checkpoints=(str(tmp_path / "bad"),)))
    assert figures(train(trainable, 5)) == figures(train(make(job(tmp_path)), 5))


def test_checkpoints_are_asked_for_by_time_and_not_at_the_end(tmp_path):
    seldom = train(make(job(tmp_path)), 5)
    assert not any(r["should_checkpoint"] for r in seldom)
    always = train(make(job(tmp_path, checkpoint_seconds=0.0)), 5)
    assert [r["should_checkpoint"] for r in always] == [True] * 4 + [False]


def test_divergence_is_an_error(tmp_path):
    trainable = make(job(tmp_path, quality=0.9, diverges_at=0.5))
    with pytest.raises(DivergedError, match="fake diverged in epoch 1: loss"):
        trainable.train()


def test_scores_that_are_not_finite_are_an_error(tmp_path, monkeypatch):
    nan = {"bright": torch.tensor([math.nan]), "dark": torch.zeros(1)}
    monkeypatch.setattr(FakeDetector, "scores", lambda *_: nan)
    with pytest.raises(DivergedError, match="scores bright of validation images"):
        make(job(tmp_path)).train()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
@pytest.mark.parametrize("where", ["train_epoch", "calibrate", "_take_images_to_device"])
def test_running_out_of_gpu_memory_says_what_helps(tmp_path, monkeypatch, error, where):
    def out_of_memory(*_):
        raise error

    owner = FakeDetector if hasattr(FakeDetector, where) else DetectorTrainable
    monkeypatch.setattr(owner, where, out_of_memory)
    trainable = make(job(tmp_path))
    with pytest.raises(OutOfMemoryError, match="--gpus-per-trial"):
        trainable.train()


def test_several_methods_take_their_steps(tmp_path):
    cls = searched_method("alad+ama").trainable_class()
    config = {**AMAConfig(epochs=2, width=0.1, batch_size=8).to_dict(), METHOD: "ama"}
    trainable = make(dataclasses.replace(job(tmp_path), config=config), cls)
    for again in range(2):  # a worker that is reused
        trainable.reset_config({"job": dataclasses.replace(job(tmp_path), config=config).to_dict()})
        assert [r["epoch"] for r in train(trainable, 2)] == [1, 2], again


def test_another_error_of_torch_is_what_it_is(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(FakeDetector, "train_epoch", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        make(job(tmp_path)).train()


def test_calibration_uses_few_images_until_the_end(tmp_path, monkeypatch):
    seen = []
    original = FakeDetector.calibrate
    monkeypatch.setattr("amatune.trainables._base.CALIBRATION_IMAGES", 32)
    monkeypatch.setattr(
        FakeDetector, "calibrate", lambda self, x: (seen.append(len(x)), original(self, x))
    )
    train(make(job(tmp_path)), 5)
    assert seen == [32] * 4 + [200]


def test_tensorboard_files(tmp_path):
    trainable = make(job(tmp_path, epochs=20, quality=0.5))
    train(trainable, 20)
    trainable.cleanup()
    folder = tmp_path / "tensorboard" / "0000"
    assert [p.name.startswith("events") for p in folder.iterdir()] == [True]  # no further runs
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0}).Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) == {
        "loss/loss",
        "loss/weight",
        "auroc/bright",
        "auroc/dark",
        "auroc",
        "compared",
    }
    assert [e.step for e in events.Scalars("auroc")] == list(range(1, 21))
    assert set(tags["images"]) == {"images/normal", "images/anomaly"}
    assert [e.step for e in events.Images("images/normal")] == [
        1,
        2,
        4,
        6,
        8,
        10,
        12,
        14,
        16,
        18,
        20,
    ]
    picture = events.Images("images/anomaly")[0]
    assert (picture.width, picture.height) == (8 * 8, 2 * 8)
    assert set(tags["histograms"]) == {
        f"score/{score}/{part}"
        for score in ("bright", "dark")
        for part in ("training", "normal", "anomaly")
    }
    assert sum(p.stat().st_size for p in folder.iterdir()) < 1_000_000


def test_hyperparameters_are_in_tensorboard_also_of_a_stopped_trial(tmp_path):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    trainable = make(job(tmp_path, quality=0.25))
    train(trainable, 2)  # of 5
    trainable.reset({"job": job(tmp_path, "0001").to_dict()})
    (file,) = (tmp_path / "tensorboard" / "0000").iterdir()
    found = {}
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                found[value.tag] = content
    # No description of the experiment: TensorBoard would use one run's for all of them.
    assert set(found) == {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    settings = found["_hparams_/session_start_info"].session_start_info.hparams
    assert settings["quality"].number_value == 0.25
    assert settings["list"].string_value == "(1, 2)"


@pytest.mark.parametrize("method", method_names())
def test_every_method_has_its_adapter(method):
    trainable = find_method(method).trainable_class()
    assert issubclass(trainable, DetectorTrainable)
    assert trainable.detector_class is find_method(method).detector
    assert 0 < trainable.gpu_share <= 1


def test_ama_trains_saves_and_continues(tmp_path):
    """The real thing, small: also that a whole AMA state can be read with weights_only."""
    shape = (1, 8, 8)
    config = AMAConfig(epochs=3, batch_size=16, width=0.05, critic_steps=1, warmup=0.3)
    the_job = Job(
        folder="0000",
        config=config.resolve(shape).to_dict(),
        settings={},
        seed=3,
        tensorboard=str(tmp_path / "tensorboard"),
        keep_model=True,
    )

    whole = make(the_job, find_method("ama").trainable_class())
    first, *rest = train(whole, 3)
    assert isinstance(whole._detector, AMA)
    assert set(first["aurocs"]) == {"A", "R", "AC", "RC"}
    half = make(the_job, find_method("ama").trainable_class())
    half.train()
    half.save(str(tmp_path / "saved"))
    other = make(the_job, find_method("ama").trainable_class())
    other.restore(str(tmp_path / "saved"))
    again = train(other, 2)
    assert figures(again) == figures(rest)
    scores = [r[-1]["trained"]["scores"]["R"]["normal"] for r in (again, rest)]
    assert np.array_equal(*scores)
    json.dumps({k: v for k, v in first.items() if k not in ("config", "trained")})
    assert Path(tmp_path / "tensorboard").is_dir()


def test_a_costly_method_is_scored_when_it_asks_where_trials_are_compared_and_at_the_end(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(FakeConfig, "score_every", lambda _config: 4)
    trainable = make(job(tmp_path, epochs=7, score_at=(3,)))
    results = [trainable.step() for _ in range(7)]
    assert [r["epoch"] for r in results if r["auroc"] is not None] == [3, 4, 7]
    assert all(r["losses"] for r in results)
    assert "trained" in results[-1]


def test_the_score_is_the_one_that_finds_the_validation_anomalies(tmp_path, monkeypatch):
    monkeypatch.setattr(FakeDetector, "chooses_score", True)
    result = make(job(tmp_path, epochs=1, quality=1.0)).step()
    assert result["auroc"] == max(result["aurocs"].values())
    best = max(result["aurocs"], key=result["aurocs"].get)
    assert result["trained"]["primary"] == best
