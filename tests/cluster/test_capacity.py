"""How many trials fit, and the share of a GPU that serves them best. No cluster, no GPU."""

import dataclasses

import pytest
import torch
from fake_method import METHOD, FakeConfig, FakeDetector
from fake_search import FakeProblem, request, write_record

from amatune.cluster import capacity, connection, device
from amatune.cluster.capacity import Measured, Probe, choose_share, find_room
from amatune.errors import RequestError
from amatune.runs import RunFolder
from amatune.runs.record import GpuShare
from amatune.tuning import search

CARD = 80_000_000_000


def choose(rates, size=1_000_000_000, most=16, mps=True):
    """The share chosen when `rates[n]` images per second are trained by n trials on a card."""
    asked = []

    def measure(trials):
        asked.append(trials)
        return Measured(rates[trials], size, CARD, mps) if trials in rates else None

    return choose_share(measure, most), asked


def test_more_trials_share_a_card_as_long_as_it_trains_more():
    share, asked = choose({1: 100.0, 2: 180.0, 4: 250.0, 8: 255.0, 16: 900.0})
    assert share.gpus == 0.25
    assert asked == [1, 2, 4, 8]  # 16 is not tried: 8 brought nothing
    assert share.images_per_second == {1: 100.0, 2: 180.0, 4: 250.0, 8: 255.0}
    assert (share.bytes_per_trial, share.mps) == (1_000_000_000, True)


@pytest.mark.parametrize(
    ("rates", "size", "most", "gpus"),
    [
        ({1: 10.0, 2: 9.0}, 1_000, 16, 1.0),  # sharing costs
        ({1: 10.0, 2: 20.0, 4: 40.0, 8: 80.0}, 20_000_000_000, 16, 0.5),  # memory: 1.25 x 20 x 4
        ({1: 10.0, 2: 20.0, 4: 40.0, 8: 80.0, 16: 160.0}, 1_000, 3, 0.5),  # processors
        ({1: 10.0, 2: 20.0}, 1_000, 16, 0.5),  # four at a time failed
        ({1: 10.0}, 50_000_000_000, 16, 1.0),
    ],
)
def test_memory_and_processors_limit_the_sharing(rates, size, most, gpus):
    share, asked = choose(rates, size, most)
    assert share.gpus == gpus
    assert max(asked) <= most


def test_nothing_measured_is_no_share():
    assert choose({})[0] is None


def test_a_probe_trains_the_settings_on_the_images():
    config = FakeConfig(seconds=0.01)
    images = FakeProblem().train_images()
    probe = Probe(FakeDetector, config, images, 0, 1.0, 0.0)
    assert probe.prepare() == 0  # no card
    rate, held, mps = probe.run(0.2)
    assert len(images) / 0.2 < rate < len(images) / 0.01
    assert (held, mps) == (0, False)
    assert probe._detector.epoch > 2


@pytest.fixture
def machines(monkeypatch):
    """Tells `find_room` what the cluster has."""

    def set_up(*nodes):
        alive = [
            {"Alive": True, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}
            for cpus, gpus in nodes
        ]
        monkeypatch.setattr(connection.ray, "nodes", lambda: alive)
        total = {"GPU": sum(gpus for _, gpus in nodes)}
        monkeypatch.setattr(connection.ray, "cluster_resources", lambda: total)

    return set_up


@pytest.mark.parametrize(
    ("nodes", "concurrent", "share", "expected"),
    [
        ([(8, 2)], None, 0.25, (8, 0.25)),
        ([(8, 2)], 2, 0.25, (2, 1.0)),  # one on each card, not two on the first
        ([(8, 2)], 4, 0.25, (4, 0.5)),
        ([(8, 2)], 3, 0.25, (3, 0.5)),
        ([(8, 1)], 2, 0.25, (2, 0.25)),  # one card: what was asked for
        ([(8, 2), (8, 2)], 4, 0.25, (4, 1.0)),
        ([(8, 0)], 2, 0.0, (2, 0.0)),
    ],
)
def test_several_cards_are_filled_evenly(machines, nodes, concurrent, share, expected):
    machines(*nodes)
    found = find_room(cpus_per_trial=1.0, gpus_per_trial=share, concurrent=concurrent)
    assert (found.concurrent, found.gpus_per_trial) == expected


def test_a_cluster_may_grow(machines):
    machines((0, 0))
    shares = {"cpus_per_trial": 1.0, "gpus_per_trial": 0.0}
    with pytest.raises(RequestError, match="wait for machines that are still to come"):
        find_room(**shares, concurrent=4)
    assert find_room(**shares, concurrent=4, may_grow=True).concurrent == 4
    with pytest.raises(RequestError, match="no machine has room"):
        find_room(**shares, concurrent=None, may_grow=True)


@pytest.mark.parametrize("running", [True, False])
def test_cuda_mps_is_found_by_its_pipe(tmp_path, monkeypatch, running):
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    if running:
        (tmp_path / "control").touch()
    assert device.mps_is_running() == running


def test_the_measured_share_is_kept_in_the_run(machines, tmp_path, monkeypatch):
    machines((8, 2))
    run = RunFolder(tmp_path)
    asked = request(tmp_path, gpus_per_trial=None)
    record = write_record(run, asked)
    found = [GpuShare(0.25, {1: 1.0}, 5, False)]
    monkeypatch.setattr(capacity, "measure_share", lambda *_: found.pop())
    images = FakeProblem().train_images()
    for _ in range(2):  # the second time it is known
        record = search._measured(run, run.record(), METHOD, images)
        assert search.gpu_share(record, METHOD) == (0.25, [capacity.NO_MPS])
        assert run.record() == record
    told = dataclasses.replace(asked, gpus_per_trial=0.5)
    assert search.gpu_share(dataclasses.replace(record, request=told), METHOD) == (0.5, [])
    machines((8, 0))
    assert search.gpu_share(record, METHOD) == (0.0, [])


def test_without_a_measurement_the_methods_own_share_is_taken(machines, tmp_path, monkeypatch):
    machines((8, 2))
    run = RunFolder(tmp_path)
    write_record(run, request(tmp_path, gpus_per_trial=None))
    monkeypatch.setattr(capacity, "measure_share", lambda *_: None)
    record = search._measured(run, run.record(), METHOD, FakeProblem().train_images())
    assert record.share_is_known
    gpus, (note,) = search.gpu_share(record, METHOD)
    assert gpus == 0.25
    assert "could not be measured" in note


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_card_is_measured():
    import ray

    from amatune.detectors.ama import AMA, AMAConfig

    with connection.cluster(None, RunFolder("unused").log):
        config = AMAConfig(width=0.25).resolve((1, 28, 28))
        images = torch.randint(0, 256, (2048, 1, 28, 28), dtype=torch.uint8).numpy()
        share = capacity.measure_share(AMA, config, images, 1.0)
    assert share is not None
    assert share.gpus in [1 / n for n in capacity.TRIALS_ON_A_CARD]
    assert share.bytes_per_trial > 100_000_000
    assert not ray.is_initialized()
