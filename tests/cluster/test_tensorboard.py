"""Event files as TensorBoard's own plugins read them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_method import FakeConfig, FakeDetector
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

from amatune.cluster.tensorboard import PICTURE_SIDE, TrainingLog


def train(folder: Path, settings: dict[str, Any], epochs: int = 3) -> None:
    log = TrainingLog(folder, settings, epochs, 0)
    for epoch in range(1, epochs + 1):
        log.scalars(epoch, {"loss": 1.0, "penalty": 2.0}, {"A": 0.7, "R": 0.6, "": 0.7})
    log.close()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs of different methods, with settings that only some trainings have."""
    train(tmp_path / "one/tensorboard/0000", {"kind": "ray", "delta": 0.5, "k": 3, "extra": None})
    train(tmp_path / "one/tensorboard/0001", {"kind": "cube", "k": 4, "extra": 2, "fast": True})
    train(tmp_path / "two/tensorboard/0000", {"nu": 0.1, "list": (1, 2)})
    return tmp_path


def provider(runs: Path) -> MultiplexerDataProvider:
    events = EventMultiplexer().AddRunsFromDirectory(str(runs))
    events.Reload()
    return MultiplexerDataProvider(events, str(runs))


def test_one_table_of_settings_over_all_runs(runs: Path) -> None:
    data = provider(runs)
    plugin = Context(TBContext(data_provider=data))
    request = context.RequestContext()
    found = plugin.hparams_metadata(request, "")
    experiment = plugin.experiment_from_metadata(request, "", True, found, None)
    kinds = {info.name: info.type for info in experiment.hparam_infos}
    text, number = 1, 3  # api_pb2.DataType
    assert kinds == {
        "run": text,
        "kind": text,
        "list": text,
        "fast": text,
        **dict.fromkeys(("delta", "k", "extra", "nu"), number),
    }
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert metrics == {"auroc", "auroc/A", "auroc/R", "loss/loss", "loss/penalty"}
    starts = {
        name: parse_session_start_info_plugin_data(tags["_hparams_/session_start_info"])
        for name, tags in found.items()
    }
    # What the table's narrow first column shows: unique, the trial first.
    assert {name: start.group_name for name, start in starts.items()} == {
        "one/tensorboard/0000": "0000 one",
        "one/tensorboard/0001": "0001 one",
        "two/tensorboard/0000": "0000 two",
    }
    assert "extra" not in starts["one/tensorboard/0000"].hparams
    assert starts["one/tensorboard/0001"].hparams["fast"].string_value == "true"


def test_losses_and_scores_have_a_chart_each(runs: Path) -> None:
    data = provider(runs)
    tensors = data.read_tensors(
        context.RequestContext(),
        experiment_id="",
        plugin_name="custom_scalars",
        downsample=1,
    )
    layouts = {
        tags[CONFIG_SUMMARY_TAG][0].numpy.item()
        for tags in tensors.values()
        if CONFIG_SUMMARY_TAG in tags
    }
    (layout,) = layouts  # equal ones are merged
    (category,) = layout_pb2.Layout.FromString(layout).category
    charts = {chart.title: list(chart.multiline.tag) for chart in category.chart}
    assert charts == {
        "losses": ["loss/.+"],
        "validation AUROC of each score": ["auroc/.+"],
    }


@pytest.mark.parametrize("side", [8, 300])
def test_a_training_stays_small(tmp_path: Path, side: int) -> None:
    """Noise, which does not compress, for as many epochs as a real training has."""
    shape = (3, side, side)
    detector = FakeDetector(FakeConfig(epochs=20), shape)
    images = torch.randint(0, 256, (8, *shape), dtype=torch.uint8)
    folder = tmp_path / "tensorboard" / "0000"
    log = TrainingLog(folder, {}, 20, 0)
    shown = [epoch for epoch in range(1, 21) if log.shows_pictures(epoch)]
    for epoch in shown:
        log.reconstructions(epoch, detector, {"normal": images, "anomaly": images})
        values = np.random.default_rng(0).normal(size=1024)
        log.histograms(epoch, {s: dict.fromkeys("abc", values) for s in ("A", "R")})
    log.close()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6_500_000
    events = EventMultiplexer().AddRun(str(folder), "it")
    events.Reload()
    blob = events.Tensors("it", "images/normal")
    width, height, *_ = (int(v) for v in blob[0].tensor_proto.string_val[:2])
    scaled = min(side, PICTURE_SIDE)
    assert (width, height) == (scaled * min(8, 512 // scaled), 2 * scaled)


@pytest.mark.parametrize("again", [0, 2])
def test_what_an_interrupted_training_wrote_is_hidden(tmp_path: Path, again: int) -> None:
    """Also of one that begins at its beginning."""
    for begin, end in ((0, 5), (again, 7)):
        log = TrainingLog(tmp_path / "0000", {}, 7, begin)
        for epoch in range(begin + 1, end + 1):
            log.scalars(epoch, {"loss": 1.0}, {"": 0.5}, None)
        log.close()
    events = EventMultiplexer().AddRun(str(tmp_path / "0000"), "it")
    events.Reload()
    assert [event.step for event in events.Tensors("it", "loss/loss")] == list(range(1, 8))
