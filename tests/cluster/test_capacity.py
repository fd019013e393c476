"""How many trials fit, and the share of a GPU that serves them best. No cluster, no GPU."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from fake_method import METHOD, FakeConfig, FakeDetector
from fake_search import FakeProblem, request, write_record
from ray.exceptions import GetTimeoutError

from amatune.cluster import capacity, connection, device
from amatune.cluster.capacity import Measured, Probe, choose_share, find_room
from amatune.errors import RequestError
from amatune.runs import RunFolder
from amatune.runs.record import GpuShare
from amatune.tuning import room

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


def test_memory_of_others_limits_the_sharing():
    """What counts is what was free before the first training, not the card's size."""
    rates = {1: 10.0, 2: 20.0, 4: 40.0, 8: 80.0}
    found = []

    def measure(trials):
        found.append(trials)
        # Memory of trainings that have just been ended may not be back when the next ones look.
        return Measured(rates[trials], 5_000_000_000, 30_000_000_000 // trials, True)

    assert choose_share(measure, most=16).gpus == 0.25  # 1.25 x 5 GB x 4 in 30 GB, not x 8
    assert found == [1, 2, 4]


GIB = 2**30


@pytest.mark.parametrize(
    ("cards", "share", "note"),
    [
        ([], 1.0, None),
        ([(79 * GIB, 80 * GIB)], 79 / 80, None),  # a process's context, and a desktop
        (
            [(79 * GIB, 80 * GIB), (20 * GIB, 80 * GIB), (20 * GIB, 24 * GIB)],
            0.25,
            "other processes hold 59.4 GiB of a GPU's 80.0 GiB; all trials on it together use no "
            "more than the 20.0 GiB that are free",
        ),
    ],
)
def test_the_fullest_card_says_what_is_free(cards, share, note):
    found = capacity.least_free(cards)
    assert found.share == share
    assert found.notes == (() if note is None else (note,))
    assert found.bytes == (20 * GIB if note else 79 * GIB if cards else float("inf"))


def test_what_is_free_is_asked_of_every_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: (10 - card, 20))
    assert capacity.free_on_cards() == [(10, 20), (9, 20)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert capacity.free_on_cards() == []


@pytest.mark.parametrize(
    ("share", "size", "free", "expected"),
    [
        (0.25, 5, 80, 0.25),
        (0.25, 5, 20, 0.5),  # 1.25 x 5 into a quarter of 20 does not go
        (0.25, 50, 20, 1.0),  # nothing is enough: it has all there is
        (2.0, 500, 20, 2.0),
        (0.125, 0, 1, 0.125),
    ],
)
def test_a_share_grows_where_less_is_free_than_it_was(share, size, free, expected):
    memory = capacity.FreeMemory(0.5, free)
    assert capacity.share_that_fits(share, size, memory) == expected


@pytest.mark.parametrize(
    ("gpus", "memory", "limit"),
    [
        (0.25, 1.0, 0.25),
        (0.25, 0.5, 0.125),  # others hold half of the card
        (1.0, 0.5, 0.5),
        (2.0, 0.5, 0.5),
        (1.0, 1.0, None),
        (0.01, 0.5, 0.02),
    ],
)
def test_a_worker_leaves_alone_what_others_hold(monkeypatch, gpus, memory, limit):
    total = 60e9
    limits = []
    card = SimpleNamespace(total_memory=total)
    monkeypatch.setattr(device.ray, "get_gpu_ids", lambda: [0])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, _: limits.append(share)
    )
    threads = torch.get_num_threads()
    assert device.claim_device(threads, gpus, memory) == "cuda:0"
    context = device.CUDA_CONTEXT / total
    assert limits == ([] if limit is None else [max(limit - context, 0.02)])


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
            {
                "NodeID": f"{number:056x}",
                "Alive": True,
                "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})},
            }
            for number, (cpus, gpus) in enumerate(nodes)
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
        record = room.measured(run.record(), METHOD, images)
        run.write(record)
        assert room.gpu_share(record, METHOD) == (0.25, [capacity.NO_MPS])
        assert run.record() == record
    told = dataclasses.replace(asked, gpus_per_trial=0.5)
    assert room.gpu_share(dataclasses.replace(record, request=told), METHOD) == (0.5, [])
    machines((8, 0))
    assert room.gpu_share(record, METHOD) == (0.0, [])


def test_free_memory_decides_how_many_trials_run(machines, tmp_path, monkeypatch):
    """A measured share grows with what others hold; one that was asked for stays, of the rest."""
    machines((8, 1))
    run = RunFolder(tmp_path)
    record = write_record(run, request(tmp_path, gpus_per_trial=None, concurrent=None))
    record = record.with_gpu_share(GpuShare(0.25, {1: 1.0}, 10 * GIB, True))
    full = [(20 * GIB, 80 * GIB)]
    for cards, share, concurrent in (
        ([], 0.25, 4),
        ([(79 * GIB, 80 * GIB)], 0.25, 4),
        (full, 1, 1),
    ):
        monkeypatch.setattr(capacity, "free_memory", lambda c=cards: capacity.least_free(c))
        found = room.find_room(record, METHOD)
        assert (found.gpus_per_trial, found.concurrent) == (share, concurrent)
    assert found.gpu_memory == 0.25
    assert "are free" in found.notes[0]
    asked = dataclasses.replace(record, request=request(tmp_path, gpus_per_trial=0.5, concurrent=4))
    found = room.find_room(asked, METHOD)
    assert (found.gpus_per_trial, found.concurrent, found.gpu_memory) == (0.5, 2, 0.25)


def test_cards_that_do_not_answer_are_taken_as_they_are(machines, monkeypatch):
    machines((8, 1), (8, 0))
    cancelled = []

    def late(_answers, timeout):
        raise GetTimeoutError(f"not within {timeout} s")

    worker = SimpleNamespace(options=lambda **_: worker, remote=lambda: "answer")
    monkeypatch.setattr(capacity.ray, "remote", lambda _: worker)
    monkeypatch.setattr(capacity.ray, "get", late)
    monkeypatch.setattr(capacity.ray, "cancel", lambda answer, **_: cancelled.append(answer))
    assert capacity.free_memory() == dataclasses.replace(
        capacity.ALL_FREE, notes=(capacity.NOT_SEEN,)
    )
    assert cancelled == ["answer"]  # of the one machine that has a card


def test_without_a_measurement_the_methods_own_share_is_taken(machines, tmp_path, monkeypatch):
    machines((8, 2))
    run = RunFolder(tmp_path)
    write_record(run, request(tmp_path, gpus_per_trial=None))
    monkeypatch.setattr(capacity, "measure_share", lambda *_: None)
    record = room.measured(run.record(), METHOD, FakeProblem().train_images())
    assert record.share_is_known
    gpus, (note,) = room.gpu_share(record, METHOD)
    assert gpus == 0.25
    assert "could not be measured" in note


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_card_is_measured(tmp_path):
    import ray

    from amatune.detectors.ama import AMA, AMAConfig

    with connection.cluster(None, tmp_path / "log.txt"):
        config = AMAConfig(width=0.25).resolve((1, 28, 28))
        images = torch.randint(0, 256, (2048, 1, 28, 28), dtype=torch.uint8).numpy()
        share = capacity.measure_share(AMA, config, images, 1.0)
        memory = capacity.free_memory()
    assert share is not None
    assert share.gpus in [1 / n for n in capacity.TRIALS_ON_A_CARD]
    assert share.bytes_per_trial > 100_000_000
    assert 0 < memory.share <= 1
    assert 0 < memory.bytes <= torch.cuda.get_device_properties(0).total_memory
    assert not ray.is_initialized()
