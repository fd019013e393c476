"""The S score: its units and its parts against independent calculations, and what an export says of
its compressor."""

import json
import math
from pathlib import Path

import optuna
import pytest
import torch
from torch import nn

from amatune.detectors.likelihood_ratio import LikelihoodRatio, LikelihoodRatioConfig
from amatune.detectors.s_score import SScore, SScoreConfig, _Scorer
from amatune.detectors.typicality import Typicality, TypicalityConfig
from amatune.errors import ConfigError, RequestError
from amatune.export import export_detector, load
from amatune.extras import MissingExtraError
from amatune.nets import compressors
from amatune.nets.compressors import Compressor, compress, version_of
from amatune.sealed import own_hash
from amatune.search_spaces.s_score import space
from amatune.testing import noise
from amatune.tuning.spaces import HeldFixed

SHAPE = (1, 8, 8)
GLOW_DRAW = {"compressor": "png", "glow_steps": 4, "glow_hidden": 64, "glow_levels": 2, "lr": 1e-3}
TINY = {"epochs": 2, "batch_size": 8, "width": 0.25, "resolutions": 1, "mixtures": 2}


def images(count=16, seed=0, shape=SHAPE):
    return noise((count, *shape), seed)


def trained(shape=SHAPE, **settings):
    detector = SScore(SScoreConfig(**{**TINY, **settings}), shape)
    for _ in range(detector.config.epochs):
        detector.train_epoch(images(shape=shape))
    detector.calibrate(images(shape=shape))
    return detector


@pytest.fixture(scope="module")
def detector():
    return trained()


def test_a_file_of_a_byte_per_value_and_a_likelihood_of_8_bits_give_0(monkeypatch):
    class Uniform(nn.Module):
        def log_prob(self, batch):
            return torch.full((len(batch),), -math.log(256) * 784)

    monkeypatch.setitem(
        compressors.COMPRESSORS, "png", Compressor(lambda _: bytes(784), lambda: "none")
    )
    found = _Scorer(Uniform(), "png")(torch.zeros(3, 1, 28, 28))
    assert [score.tolist() for score in found] == [
        pytest.approx([0.0] * 3, abs=1e-5),
        pytest.approx([8.0] * 3),
        pytest.approx([-8.0] * 3),
    ]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 8)])
def test_s_is_nll_less_the_size_of_the_file(shape):
    detector = trained(shape, compressor="png")
    pictures = images(6, seed=1, shape=shape)
    found = detector.scores(pictures)
    values = math.prod(shape)
    batch = pictures.float() / 127.5 - 1
    sizes = torch.tensor([8 * len(file) / values for file in compress("png", batch)])
    with torch.no_grad():
        nll = -detector.density(batch).double().flatten(1).sum(1) / (values * math.log(2))
    assert found["nll"].tolist() == pytest.approx(nll.tolist(), rel=1e-5)
    assert torch.allclose(found["simplicity"], -sizes)
    assert torch.allclose(found["s"], found["nll"] + found["simplicity"], atol=1e-6)
    assert detector.primary_score == "s"


def test_with_glow_it_is_the_likelihood_of_typicality_less_the_size():
    """Of the same settings and seed: one density, trained by the same schedule."""
    both = {"epochs": 3, "batch_size": 8, "lr": 2e-3, "lr_decay": 0.1}
    glow = {"glow_steps": 2, "glow_hidden": 4, "glow_levels": 1, "compressor": "png"}
    alone = SScore(SScoreConfig(**both, **glow, density="glow"), SHAPE, seed=3)
    other = Typicality(TypicalityConfig(**both, steps=2, hidden=4, levels=1), SHAPE, seed=3)
    for detector in (alone, other):
        for _ in range(3):
            detector.train_epoch(images())
        detector.calibrate(images())
    found = alone.scores(images(6, seed=1))
    assert torch.equal(found["nll"], other.scores(images(6, seed=1))["nll"])
    assert torch.allclose(found["s"], found["nll"] + found["simplicity"], atol=1e-6)

    again = SScore(alone.config, SHAPE, seed=4)
    again.load_state_dict(alone.state_dict())
    assert torch.equal(again.scores(images(6, seed=1))["s"], found["s"])
    assert alone.config.grace_epochs() == other.config.grace_epochs() == 2


def test_glow_needs_even_sides_and_its_space_draws_its_own_settings():
    with pytest.raises(ConfigError, match="9x8 pixels cannot be squeezed"):
        SScoreConfig(density="glow").resolve((1, 9, 8))
    with pytest.raises(ConfigError, match="glow_steps must be at least 1, got 0"):
        SScoreConfig(glow_steps=0)
    drawn = space(HeldFixed(optuna.trial.FixedTrial(GLOW_DRAW), {"density": "glow"}))
    assert drawn == {**GLOW_DRAW, "density": "glow"}
    assert SScoreConfig.from_dict(drawn).glow_hidden == 64


def test_its_density_is_the_foreground_of_the_likelihood_ratio():
    """Of the same settings and seed: a benchmark trains it once for both."""
    both = {**TINY, "dropout": 0.1}
    ratio = LikelihoodRatio(LikelihoodRatioConfig(**{**both, "epochs": 4}), SHAPE, seed=3)
    alone = SScore(SScoreConfig(**both), SHAPE, seed=3)
    for _ in range(2):
        ratio.train_epoch(images())
        alone.train_epoch(images())
    for first, second in zip(
        ratio.foreground.parameters(), alone.density.parameters(), strict=True
    ):
        assert torch.allclose(first, second, atol=1e-6)


def test_the_presets_are_the_defaults_and_what_is_published():
    assert SScoreConfig.from_dict(SScore.presets["small"]) == SScoreConfig()
    config = SScoreConfig.from_dict(SScore.presets["paper"])
    assert (config.filters, config.blocks, config.resolutions, config.mixtures) == (160, 5, 3, 10)
    assert (config.dropout, config.lr) == (0.5, 1e-3)


def test_it_says_before_a_training_that_there_is_no_onnx_form():
    (told,) = SScore.limits()
    assert told == (
        "s-score cannot be exported to ONNX: its score needs the size of a file that a compressor "
        "writes"
    )


# --- compressors ----------------------------------------------------------------------------------


def test_a_compressor_that_is_not_there_is_refused_before_a_training(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"compressor must be .*'webp'"):
        SScoreConfig(compressor="zip")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match="`flif` on the path"):
        SScoreConfig(compressor="flif").resolve(SHAPE)
    monkeypatch.setattr("amatune.extras.is_installed", lambda _package: False)
    with pytest.raises(MissingExtraError, match=r"amatune\[jpegxl\]"):
        SScoreConfig(compressor="jxl").resolve(SHAPE)


def test_an_export_keeps_the_compressor_and_tells_of_another_one(detector, tmp_path: Path):
    export_detector(detector, tmp_path / "model", figures={}, data={})
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["scored_with"] == {"webp": version_of("webp")}
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"- Scores depend on webp: made with {version_of('webp')}\n" in card
    assert "There is no model.onnx" in card
    again = load(tmp_path / "model")
    assert again.warnings == ()
    assert torch.equal(again.detector.score(images(5)), detector.score(images(5)))

    config["scored_with"] = {"webp": "libwebp 0.1"}
    config["config_sha256"] = own_hash(config)
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (told,) = load(tmp_path / "model").warnings
    assert told.startswith("scores depend on webp: the export was made with libwebp 0.1, here is")
