"""The training loop that all detectors share, on a detector of one weight."""

import io
from dataclasses import dataclass

import pytest
import torch
from flat_weights import vector
from torch import nn

from amatune.config import DetectorConfig
from amatune.detector import Detector, Optimisation, adam, drops
from amatune.errors import ConfigError, DataError, DivergedError, RequestError
from amatune.loop import LossMeans, load_optimizer, shuffled_batches
from amatune.registry import find_method, method_names

SHAPE = (1, 8, 8)


@dataclass(frozen=True, kw_only=True)
class LineConfig(DetectorConfig):
    batch_size: int = 4
    lr: float = 0.1
    explodes: bool = False


class Line(Detector):
    """Its weight goes to the mean brightness; the score is the distance from that."""

    name = "line"
    summary = "for tests"
    Config = LineConfig
    score_names = ("distance",)

    def __init__(self, config=None, image_shape=SHAPE, device="cpu", seed=0):
        super().__init__(config or LineConfig(), image_shape, device, seed)
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.module.weight)
        self.hold({"module": self.module})
        self.batches = []

    def make_optimisation(self):
        optimizer = adam(self.device, self.module.parameters(), self.config.lr)
        return Optimisation({"adam": optimizer}, drops([optimizer], (0.5,), 4, 0.1))

    def train_step(self, batch, anomalies=None):  # noqa: ARG002
        assert self.module.training
        self.batches.append(batch.mean(dim=(1, 2, 3)).tolist())
        loss = (self.module.weight - batch.mean()).square().sum()
        self.descend(loss, "adam")
        return {"loss": loss.detach() * (float("nan") if self.config.explodes else 1)}

    def raw_scorer(self):
        module = self.module

        class Distance(nn.Module):
            def forward(self, images):
                return ((images.mean(dim=(1, 2, 3)) - module.weight.squeeze()).abs(),)

        return Distance()


def images(count):
    """Each of another grey."""
    greys = torch.arange(count, dtype=torch.uint8) * 10
    return greys[:, None, None, None].expand(count, *SHAPE).clone()


def test_an_epoch_is_one_pass_in_batches_of_one_size():
    detector = Line()
    detector.train_epoch(images(11))
    seen = [grey for one in detector.batches for grey in one]
    assert [len(one) for one in detector.batches] == [4, 4]  # the rest of three is left out
    assert len(set(seen)) == 8
    assert not detector.module.training


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_an_epoch_of_steps_takes_as_many_passes_as_it_needs(steps):
    detector = Line(LineConfig(steps_per_epoch=steps))
    for _ in range(2):
        detector.train_epoch(images(11))
    assert len(detector.batches) == 2 * steps
    first = detector.batches[: min(steps, 2)]
    assert len({grey for one in first for grey in one}) == 4 * len(first)
    assert detector.epoch == 2


def test_steps_are_at_least_one():
    with pytest.raises(ConfigError, match="steps_per_epoch must be at least 1, got 0"):
        LineConfig(steps_per_epoch=0)


def test_epochs_of_steps_resume_exactly():
    config = LineConfig(steps_per_epoch=3)
    whole, first, second = (Line(config) for _ in range(3))
    for _ in range(4):
        whole.train_epoch(images(11))
    for _ in range(2):
        first.train_epoch(images(11))
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.train_epoch(images(11))
    assert torch.equal(whole.module.weight, second.module.weight)
    assert whole.batches[6:] == second.batches


def test_the_schedule_steps_once_an_epoch():
    detector, seen = Line(), []
    for _ in range(4):
        detector.train_epoch(images(8))
        seen.append(detector.optimisation.optimizers["adam"].param_groups[0]["lr"])
    assert seen == pytest.approx([0.1, 0.01, 0.01, 0.01])


def test_a_loss_that_is_not_finite_ends_the_training():
    with pytest.raises(DivergedError, match="line diverged in epoch 1: loss not finite"):
        Line(LineConfig(explodes=True)).train_epoch(images(8))


def test_equal_scores_are_a_collapse():
    with pytest.raises(DivergedError, match="line collapsed in epoch 0: over 4 training images"):
        Line().calibrate(images(1).expand(4, *SHAPE))


def test_nothing_is_scored_before_the_calibration():
    with pytest.raises(RequestError, match="call calibrate"):
        Line().scores(images(2))


def test_the_state_of_another_version_is_refused():
    state = {**Line().state_dict(), "format": 1}
    with pytest.raises(ConfigError, match="format 1; this version reads 2"):
        Line().load_state_dict(state)


def test_a_detector_without_reconstructions_gives_none():
    assert Line().reconstruct(images(3)) is None


def test_losses_are_means_over_the_steps_that_had_them():
    means = LossMeans()
    means.add({"a": torch.tensor(1.0)})
    means.add({"a": torch.tensor(3.0), "b": torch.tensor(5.0)})
    assert means.read() == {"a": 2.0, "b": 5.0}


def test_fewer_images_than_a_batch_are_one_batch_and_one_is_none():
    generator = torch.Generator()
    assert [len(b) for b in shuffled_batches(3, 8, generator)] == [3]
    with pytest.raises(DataError, match="at least 2 images, got 1"):
        next(shuffled_batches(1, 8, generator))


TRAINED = [name for name in method_names() if find_method(name).detector.usual_steps is not None]
LAID_OUT = [name for name in TRAINED if find_method(name).detector.channels_last]
COLOURED = (3, 16, 16)


def small(name, **more):
    """A detector whose class may be told to lay its weights out otherwise."""
    method = find_method(name).detector
    values = {"epochs": 9, "batch_size": 16, "width": 0.25, "steps_per_epoch": 1}
    return method(method.Config.from_dict(values | more), COLOURED, seed=0)


def weights(detector):
    """Those of all networks, whatever their layout."""
    return torch.cat([vector(network) for network in detector.networks.values()])


@pytest.fixture(scope="module")
def coloured():
    torch.manual_seed(1)
    return torch.randint(0, 256, (32, *COLOURED), dtype=torch.uint8)


@pytest.mark.parametrize("name", LAID_OUT)
def test_the_memory_format_changes_no_figure(name, coloured, monkeypatch):
    def trained():
        detector = small(name)
        losses = detector.train_epoch(coloured)
        four = [p for n in detector.networks.values() for p in n.parameters() if p.ndim == 4]
        return losses, any(not p.is_contiguous() for p in four)

    losses, laid_out = trained()
    assert laid_out
    monkeypatch.setattr(find_method(name).detector, "channels_last", False)
    plain, laid_out = trained()
    assert not laid_out
    assert losses == pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(
    ("name", "more"), [*((n, {}) for n in LAID_OUT), ("waic", {"optimizer": "adam"})]
)
def test_a_training_goes_on_in_another_memory_format(name, more, saved, coloured, monkeypatch):
    """As one does that was saved on a GPU and is resumed on a CPU."""
    method = find_method(name).detector
    monkeypatch.setattr(method, "channels_last", saved)
    first = small(name, **more)
    for _ in range(4):
        first.train_epoch(coloured)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    before = weights(first)

    def step(channels_last):
        monkeypatch.setattr(method, "channels_last", channels_last)
        file.seek(0)
        second = small(name, **more)
        second.load_state_dict(torch.load(file, weights_only=True))
        second.train_epoch(coloured)
        return weights(second) - before

    same, other = step(saved), step(not saved)
    assert (other - same).norm() < 1e-2 * same.norm()


def test_a_training_goes_on_on_another_kind_of_device():
    """Whose streams of random numbers have another length: then one from seed and epoch."""
    began, goes_on, again = Line(), Line(), Line()
    began.train_epoch(images(8))
    state = {**began.state_dict(), "generator": torch.zeros(16, dtype=torch.uint8)}  # a GPU's
    for detector in (goes_on, again):
        detector.load_state_dict(state)
        detector.train_epoch(images(8))
    assert torch.equal(goes_on.module.weight, again.module.weight)
    assert goes_on.batches == again.batches != began.batches


def test_how_an_optimiser_computes_stays_its_own():
    """A training of a CPU goes on on a GPU, where a CUDA graph reads the rate from the device."""

    def stepped(**how):
        weight = nn.Parameter(torch.ones(3))
        weight.grad = torch.ones(3)
        optimizer = torch.optim.Adam([weight], fused=True, **how)
        optimizer.step()
        return optimizer, weight

    def kept(optimizer, weight):
        return [float(optimizer.state[weight][name].sum()) for name in ("step", "exp_avg")]

    (usual, weight), (graphed, other) = stepped(lr=0.5), stepped(lr=torch.tensor(0.1))
    usual.step()
    graphed.param_groups[0]["capturable"] = True
    rate = graphed.param_groups[0]["lr"]
    load_optimizer(graphed, usual.state_dict())
    assert graphed.param_groups[0]["lr"] is rate
    assert float(rate) == 0.5
    assert graphed.param_groups[0]["capturable"]
    before = kept(graphed, other)
    assert before == kept(usual, weight)
    usual.step()
    assert kept(graphed, other) == before  # nothing is shared

    back, _ = stepped(lr=0.2)
    load_optimizer(back, graphed.state_dict())
    assert back.param_groups[0]["lr"] == 0.5
    assert type(back.param_groups[0]["lr"]) is float
    assert not back.param_groups[0]["capturable"]


def test_a_step_that_no_graph_takes_up_is_not_made_for_one():
    weight = [nn.Parameter(torch.ones(3))]
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    made = [adam(gpu, weight, 0.1), adam(gpu, weight, 0.1, True), adam(cpu, weight, 0.1, True)]
    assert [one.param_groups[0]["capturable"] for one in made] == [False, True, False]
