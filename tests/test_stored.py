"""The one form of a trained detector: the same scores after every way it travels."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amatune.detectors.ama import AMA, AMAConfig
from amatune.errors import ConfigError, RequestError
from amatune.sealed import own_hash, read_facts
from amatune.stored import StoredDetector

IMAGES = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (9, 1, 12, 12), np.uint8))


def edit(folder: Path, **changes: Any) -> None:
    """Change config.json and its own hash."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    config["config_sha256"] = own_hash(config)
    path.write_text(json.dumps(config))


@pytest.fixture
def folder(detector: AMA, tmp_path: Path) -> Path:
    StoredDetector.of(detector).save(tmp_path / "model")
    return tmp_path / "model"


def test_it_scores_as_the_detector_did(detector: AMA, folder: Path) -> None:
    stored = StoredDetector.of(detector)
    for one in (stored, pickle.loads(pickle.dumps(stored)), StoredDetector.load(folder)):
        built = one.build()
        assert type(built) is AMA
        assert built.config == detector.config
        assert (built.seed, built.image_shape) == (detector.seed, detector.image_shape)
        for name, scores in detector.scores(IMAGES).items():
            assert torch.equal(built.scores(IMAGES)[name], scores)
        assert one.primary == detector.primary_score


def test_training_on_does_not_change_it() -> None:
    detector = AMA(AMAConfig(epochs=3, batch_size=4, width=0.05, critic_steps=1), (1, 12, 12))
    detector.train_epoch(IMAGES)
    detector.calibrate(IMAGES)
    scores = detector.score(IMAGES)
    stored = StoredDetector.of(detector)
    detector.train_epoch(IMAGES)
    detector.calibrate(IMAGES)
    assert not torch.equal(detector.score(IMAGES), scores)
    assert torch.equal(stored.build().score(IMAGES), scores)


def test_an_uncalibrated_detector_is_refused() -> None:
    with pytest.raises(RequestError, match="calibrate"):
        StoredDetector.of(AMA(AMAConfig(width=0.05), (1, 12, 12)))


def test_its_class_may_be_handed_in(detector: AMA) -> None:
    class Private(AMA):
        name = "private"

    private = Private(detector.config, detector.image_shape)
    private.load_inference_state(detector.inference_state())
    stored = StoredDetector.of(private)
    assert type(stored.build("cpu", Private)) is Private
    with pytest.raises(RequestError, match="unknown method 'private'"):
        stored.build()


def test_another_one_takes_its_place(detector: AMA, folder: Path) -> None:
    (folder / "scores.npz").write_bytes(b"kept")
    other = AMA(detector.config, detector.image_shape, seed=5)
    other.train_epoch(IMAGES)
    other.calibrate(IMAGES)
    StoredDetector.of(other).save(folder)
    assert torch.equal(StoredDetector.load(folder).build().score(IMAGES), other.score(IMAGES))
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "scores.npz",
    ]


def test_what_is_cut_short_counts_as_missing(
    detector: AMA, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the two files leaves no config.json that tells of other weights."""
    facts = read_facts(folder)
    assert facts is not None
    assert (facts["method"], facts["config"]) == ("ama", detector.config.to_dict())

    def killed(path: Path, content: bytes) -> None:
        if path.name == "config.json":
            raise KeyboardInterrupt
        path.write_bytes(content)

    monkeypatch.setattr("amatune.stored.write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        StoredDetector.of(detector).save(folder)
    assert read_facts(folder) is None
    with pytest.raises(RequestError, match=r"no complete model: it has no config\.json; `amatune"):
        StoredDetector.load(folder)


def test_what_was_changed_is_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    told = r"model\.safetensors is not what was saved there .* call `amatune best` again"
    with pytest.raises(RequestError, match=told):
        StoredDetector.load(folder)
    weights.write_bytes(content)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RequestError, match=r"config\.json is not what was saved there"):
        read_facts(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schema_version": 4}, "schema version 4, this amatune reads 3; .* `amatune best` again"),
        ({"schema_version": 2}, "schema version 2"),  # exports alone had that one
        ({"kind": "other"}, "does not describe a detector"),
        ({"kind": None}, "does not describe a detector"),
        ({"seed": "one"}, "unusable seed"),
        ({"seed": False}, "unusable seed"),
        ({"seed": 2**64}, "unusable seed"),
        ({"primary": None}, "unusable primary"),
        ({"image_shape": [1, 12]}, "unusable image_shape"),
        ({"sha256": {"../secret": "00"}}, "unusable sha256"),
        ({"sha256": {"model.safetensors": "00", "config.json": "00"}}, "unusable sha256"),
    ],
)
def test_what_was_edited_is_refused(folder: Path, changes: dict[str, Any], told: str) -> None:
    edit(folder, **changes)
    with pytest.raises(RequestError, match=told):
        StoredDetector.load(folder)


def test_settings_and_tensors_that_do_not_fit_are_told(detector: AMA, folder: Path) -> None:
    edit(folder, config={**detector.config.to_dict(), "widht": 1.0})
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        StoredDetector.load(folder).build()
    edit(folder, config={**detector.config.to_dict(), "latent_dim": 7})
    with pytest.raises(ConfigError, match="the weights do not belong to this configuration"):
        StoredDetector.load(folder).build()


def test_a_model_of_amatune_0_1_is_read(detector: AMA, folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    then = {
        "method": "ama",
        "config": detector.config.to_dict(),
        "image_shape": [1, 12, 12],
        "seed": 0,
        "primary": "A",
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    (folder / "config.json").write_text(json.dumps(then))
    stored = StoredDetector.load(folder)
    assert stored.primary == "A"
    assert torch.equal(stored.build().score(IMAGES), detector.score(IMAGES))
    (folder / "model.safetensors").write_bytes(weights[:-1] + b"\1")
    with pytest.raises(RequestError, match="not what was saved"):
        StoredDetector.load(folder)
