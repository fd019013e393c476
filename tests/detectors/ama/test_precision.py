"""What makes a training step fast must not change what it computes; and it must never wait.

What needs a GPU is skipped without one.
"""

import pytest
import torch
from waiting import Indexing, Watching

from amatune.detectors.ama import AMA, AMAConfig
from amatune.detectors.ama.config import PAPER
from amatune.detectors.ama.detector import _has_bfloat16
from amatune.errors import ConfigError
from amatune.nets.capture import EAGER_STEPS

SHAPES = {"small": (1, 16, 16), "residual": (3, 16, 16)}
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def make(family="small", device="cpu", **changes):
    values = {"network": family, "width": 0.2, "epochs": 8, "batch_size": 16, "critic_steps": 2}
    config = AMAConfig.from_dict({**PAPER, **values, **changes})
    return AMA(config, SHAPES[family], device, seed=3)


def pictures(family="small", count=64, device="cpu"):
    """Smooth ones: on noise, adversarial training amplifies rounding until nothing compares."""
    generator = torch.Generator().manual_seed(0)
    channels = SHAPES[family][0]
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, SHAPES[family][1:], mode="bilinear")
    return (smooth * 255).to(torch.uint8).to(device)


def train(detector, images, epochs=3):
    losses = [detector.train_epoch(images) for _ in range(epochs)]
    detector.calibrate(images)
    return losses


def test_the_watch_sees_a_wait():
    with Watching() as watch, Indexing() as indexed:
        float(torch.ones(()))
        _ = torch.ones(3)[[0, 1]]
    assert watch.waited
    assert indexed.from_host == [[0, 1]]


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"geometry": "shell", "radius": "codes"},
        {"geometry": "cube"},
        {"precision": "bfloat16"},
        {"mirrored": False},
        AMA.presets["authors-code"],
    ],
    ids=str,
)
def test_a_step_never_waits_for_the_device(family, changes, monkeypatch):
    # On a CPU, Adam reads its step counter; on a GPU that is on the device, as one kernel wants.
    monkeypatch.setattr(torch.optim.Adam, "step", lambda _self: None)
    detector = make(family, warmup=0.0, **changes)
    batch = pictures(family, 16).float() / 127.5 - 1
    with Watching() as watch, Indexing() as indexed:
        detector.train_step(batch)
        detector.train_step(batch, pictures(family, 4))
    assert not watch.waited
    assert not indexed.from_host


@pytest.mark.parametrize("family", SHAPES)
def test_bfloat16_stays_near_float32(family):
    images = pictures(family)
    exact, low = make(family), make(family, precision="bfloat16")
    first, second = (train(detector, images) for detector in (exact, low))
    for mine, theirs in zip(first, second, strict=True):
        assert mine.keys() == theirs.keys()
        for name in ("wasserstein", "reconstruction", "code_norm", "penalty"):
            assert theirs[name] == pytest.approx(mine[name], rel=0.1, abs=0.05), name
    assert first != second  # it does something
    for detector in (exact, low):
        for module in detector.networks.values():
            assert all(p.dtype == torch.float32 for p in module.parameters())
    similar = torch.corrcoef(torch.stack([exact.scores(images)["R"], low.scores(images)["R"]]))
    assert float(similar[0, 1]) > 0.98


def test_the_penalty_and_spectral_norm_stay_in_float32(monkeypatch):
    seen = []
    detector = make("residual", precision="bfloat16")
    features = detector.critic.features
    monkeypatch.setattr(
        detector.critic,
        "features",
        lambda pairs: seen.append(torch.is_autocast_enabled("cpu")) or features(pairs),
    )
    detector.critic.train()
    detector.train_step(pictures("residual", 16).float() / 127.5 - 1)
    # Values in bfloat16, the penalty not: twice, and the step of E and G.
    assert seen == [True, False, True, False, True]
    for name, buffer in detector.critic.named_buffers():
        assert buffer.dtype == torch.float32, name


def test_auto_is_what_the_device_can_do(monkeypatch):
    on_cpu = make(precision="auto", cuda_graphs="auto")
    assert (on_cpu._bfloat16, on_cpu._graphs) == (False, False)
    assert train(on_cpu, pictures()) == train(make(), pictures())
    for capability, expected in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda _, c=capability: c)
        assert _has_bfloat16(torch.device("cuda")) is expected
    assert not _has_bfloat16(torch.device("cpu"))
    with pytest.raises(ConfigError, match="cuda_graphs must be true or false or 'auto', got 'on'"):
        make(cuda_graphs="on")


@GPU
def test_auto_captures_on_a_gpu():
    detector = make("small", "cuda", precision="auto", cuda_graphs="auto")
    assert detector._graphs
    train(detector, pictures("small", device="cuda"))
    assert detector._captured


def test_graphs_need_a_gpu():
    with pytest.raises(ConfigError, match="cuda_graphs needs a CUDA device, this is a cpu"):
        make(cuda_graphs=True).train_epoch(pictures())


# --- on a GPU -------------------------------------------------------------------------------------


@GPU
@pytest.mark.parametrize("family", SHAPES)
def test_graphs_compute_what_steps_compute(family):
    images = pictures(family, device="cuda")
    plain, graphs = make(family, "cuda"), make(family, "cuda", cuda_graphs=True)
    # 4 steps an epoch: the graph is captured within the first and again when negatives start.
    assert EAGER_STEPS < 4
    for mine, theirs in zip(train(plain, images), train(graphs, images), strict=True):
        for name, value in mine.items():
            assert theirs[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    a, b = plain.scores(images)["R"], graphs.scores(images)["R"]
    assert torch.allclose(a, b, rtol=1e-2)


@GPU
def test_graphs_draw_anew_at_every_step():
    detector = make("small", "cuda", cuda_graphs=True, lr=1e-12)
    batch = pictures("small", 16, "cuda").float() / 127.5 - 1
    step = detector._captured_step(batch, None, (True,))
    values = [float(step(batch)["penalty"]) for _ in range(EAGER_STEPS + 4)]
    assert len(set(values)) == len(values)


@GPU
@pytest.mark.parametrize("graphs", [False, True])
def test_resuming_is_exact_on_a_gpu(graphs):
    images = pictures(device="cuda")
    straight = make(device="cuda", cuda_graphs=graphs)
    losses = [straight.train_epoch(images) for _ in range(4)]
    first = make(device="cuda", cuda_graphs=graphs)
    for _ in range(2):
        first.train_epoch(images)
    second = make(device="cuda", cuda_graphs=graphs)
    second.load_state_dict(first.state_dict())
    for epoch in (2, 3):
        for name, value in second.train_epoch(images).items():
            assert value == pytest.approx(losses[epoch][name], rel=1e-4, abs=1e-5), name


@GPU
@pytest.mark.parametrize("family", SHAPES)
def test_the_gpu_computes_what_the_cpu_computes(family, monkeypatch):
    """One step from the same weights, without what is drawn at random."""
    monkeypatch.setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee")  # not TF32
    still = {"k": 1, "negative_share": 0.0, "lambda_gp": 0.0, "critic_steps": 1}
    batch = pictures(family, 16).float() / 127.5 - 1
    on_cpu = make(family, **still).train_step(batch)
    on_gpu = make(family, "cuda", **still).train_step(batch.cuda())
    for name, value in on_cpu.items():
        assert float(on_gpu[name]) == pytest.approx(float(value), rel=1e-2, abs=1e-3), name
