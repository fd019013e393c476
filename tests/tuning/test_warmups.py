"""Warm-ups in common: who has the same one, and that sharing it changes nothing."""

import optuna
import pytest
import torch
from fake_method import FakeConfig, FakeDetector
from test_search_session import open_session
from test_trainable import figures, job, make, train

from amatune.cluster.checkpoints import Checkpoints, read_state, write_state
from amatune.cluster.job import Progress
from amatune.config import DetectorConfig
from amatune.detectors.ama import AMA, AMAConfig
from amatune.registry import detector_class, method_names, search_space
from amatune.tuning import study as studies
from amatune.tuning.warmups import warm_up_name, warm_ups_repeat

SHAPE = (1, 16, 16)


@pytest.fixture(autouse=True)
def _folders(tmp_path, monkeypatch):
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))


def drawn(method: str, seed: int) -> dict:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return search_space(method)(study.ask())


def tiny(method: str, settings: dict) -> DetectorConfig:
    known = detector_class(method).Config.__dataclass_fields__
    small = {"epochs": 10, "batch_size": 8, "width": 0.1}
    config = detector_class(method).Config.from_dict(
        {**settings, **{k: v for k, v in small.items() if k in known}}
    )
    return config.resolve(SHAPE)


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_said_to_be_inert_is(method, seed):
    """Settings of two random trials, the second with the first one's warm-up: until that is over
    they train the same weights, and not after it."""
    cls = detector_class(method)
    if not cls.inert_in_warmup:
        return
    one, two = drawn(method, 2 * seed), drawn(method, 2 * seed + 1)
    inert = {k: v for k, v in two.items() if k in cls.inert_in_warmup}
    rest = {k: v for k, v in one.items() if k not in cls.inert_in_warmup}
    configs = [tiny(method, one), tiny(method, {**rest, **inert})]
    assert warm_up_name(cls, configs[0]) == warm_up_name(cls, configs[1]) is not None
    images = torch.randint(
        0, 256, (24, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    detectors = [cls(config, SHAPE, seed=3) for config in configs]
    for _ in range(configs[0].warmup_epochs):
        losses = [detector.train_epoch(images) for detector in detectors]
        assert losses[0] == losses[1]
    # Handed over with all that belongs to it, the rest of the training is the second one's own.
    heir = cls(configs[1], SHAPE, seed=4)
    heir.load_state_dict(detectors[0].state_dict())
    for _ in range(2):
        own, inherited = detectors[1].train_epoch(images), heir.train_epoch(images)
        assert own == inherited


def test_names_of_warm_ups():
    config = AMAConfig().resolve(SHAPE)
    same = config.replace(geometry="shell", delta=2.0, lambda_neg=1.0, direction="inward")
    other = config.replace(lr=1e-3)
    assert warm_up_name(AMA, config) == warm_up_name(AMA, same)
    assert warm_up_name(AMA, config) != warm_up_name(AMA, other)
    assert warm_up_name(AMA, config.replace(warmup=0.0)) is None
    assert warm_up_name(FakeDetector, FakeConfig()) is None


@pytest.mark.parametrize(
    ("fixed", "repeat"),
    [
        ({}, False),
        ({"lr": 1e-3, "lambda_inter": 0.5, "lambda_reg": 1.0}, True),
        ({"lr": 1e-3, "lambda_inter": 0.5}, False),
        ({"lr": 1e-3, "lambda_inter": 0.5, "lambda_reg": 1.0, "warmup": 0.0}, False),
    ],
)
def test_sharing_pays_when_what_decides_the_warm_up_is_fixed(fixed, repeat):
    def complete(settings):
        return AMAConfig.from_dict(settings).resolve(SHAPE)

    space = search_space("ama")
    assert warm_ups_repeat(space, fixed, complete, lambda c: warm_up_name(AMA, c)) == repeat


def test_a_shared_warm_up_changes_no_result(tmp_path):
    place = str(tmp_path / "shared" / "warm-up.pt")
    alone = train(make(job(tmp_path, warmup=2, push=0.3)), 5)
    train(make(job(tmp_path, warmup=2, push=0.1, warm_up=place)), 3)
    heir = make(job(tmp_path, warmup=2, push=0.3, warm_up=place))
    assert figures(train(heir, 3)) == figures(alone[2:])


def test_the_own_checkpoint_comes_first(tmp_path):
    place = str(tmp_path / "shared" / "warm-up.pt")
    first = make(job(tmp_path, warmup=2, warm_up=place))
    train(first, 3)
    (tmp_path / "checkpoint").mkdir()
    first.save_checkpoint(str(tmp_path / "checkpoint"))
    again = make(
        job(tmp_path, warmup=2, warm_up=place, checkpoints=(str(tmp_path / "checkpoint"),))
    )
    assert again.train()["epoch"] == 4


def test_a_warm_up_is_written_once_and_whole(tmp_path):
    place = f"file://{tmp_path}/deep/folder/one.pt"
    assert read_state(place, "cpu") is None
    write_state(place, {"epoch": 2})
    write_state(place, {"epoch": 3})
    assert read_state(place, "cpu") == {"epoch": 2}
    assert [p.name for p in (tmp_path / "deep/folder").iterdir()] == ["one.pt"]
    checkpoints = Checkpoints(f"file://{tmp_path}/run")
    write_state(checkpoints.warm_up("abc"), {"epoch": 1})
    assert (tmp_path / "run/warm-up/abc.pt").is_file()
    checkpoints.delete_warm_ups()
    checkpoints.delete_warm_ups()
    assert list((tmp_path / "run").iterdir()) == []


def test_few_warm_ups_are_kept(tmp_path):
    session, _ = open_session(tmp_path, trials=1)
    session._share_warm_ups = True
    kept = tmp_path / "run" / "trials" / "warm-up"
    for number in [0, 1, 2, 0, 3, 4, 5, 0]:
        write_state(session._shared_warm_up(str(number)), {"epoch": 1})
    assert sorted(p.name for p in kept.iterdir()) == ["0.pt", "3.pt", "4.pt", "5.pt"]


def test_trials_with_one_warm_up_get_one_seed_and_each_others_results(tmp_path):
    def name(config):
        return "the same" if config.quality < 0.5 else "another"

    session, study = open_session(tmp_path, trials=9, epochs=4, fixed={"warmup": 2})
    session._warm_up, session._share_warm_ups = name, True
    jobs, where = {}, {}
    while job := session.start("a"):
        shared = job.warm_up in where.values()
        where[job.folder] = job.warm_up
        jobs[job.folder] = job
        for epoch in range(3 if shared else 1, 5):
            progress = Progress(epoch=epoch, auroc=0.5 + epoch / 100)
            if epoch == 4 or session.report("a", progress):
                session.finish("a", progress)
                break
    groups = {p: {j.seed for j in jobs.values() if j.warm_up == p} for p in where.values()}
    assert len(groups) == 2
    assert all(len(seeds) == 1 for seeds in groups.values())
    saved = [trial.user_attrs.get(studies.SHARED, 0) for trial in study.trials]
    assert sum(saved) == 2 * (9 - 2)
    for trial in study.trials:
        assert list(trial.intermediate_values)[:2] == [1, 2]
        assert trial.intermediate_values[2] == 0.52
