"""The ONNX form: the same scores for any batch, in another program.

Every method is converted in test_conformance.py; here it is AMA's residual family, which has
spectral norm.
"""

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from amatune.config import ImageShape
from amatune.detector import Detector
from amatune.detectors.ama import AMA, AMAConfig
from amatune.errors import AmatuneError
from amatune.export import TOLERANCE, onnx_bytes

SHAPE: ImageShape = (3, 32, 32)


def pixels(count: int, shape: ImageShape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def train() -> AMA:
    config = AMAConfig(epochs=1, batch_size=8, width=0.05, critic_steps=1)
    detector = AMA(config, SHAPE)
    images = torch.from_numpy(pixels(16, SHAPE))
    detector.train_epoch(images)
    detector.calibrate(images)
    return detector


def test_both_forms_agree(capfd: pytest.CaptureFixture[str]) -> None:
    detector = train()
    images = pixels(9, SHAPE, seed=1)
    expected = detector.scores(torch.from_numpy(images))
    model = onnx_bytes(detector)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET
    # Converting a copy leaves the detector as it was, spectral norm included.
    for name, scores in detector.scores(torch.from_numpy(images)).items():
        assert torch.equal(scores, expected[name])
    detector.train_epoch(torch.from_numpy(images))

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("images", "tensor(uint8)")
    assert given.shape == ["batch", *SHAPE]
    names = list(detector.score_names)
    assert [(o.name, o.shape) for o in session.get_outputs()] == [(n, ["batch"]) for n in names]
    for count in (1, 2, 9):
        found = session.run(names, {"images": images[:count]})
        for name, scores in zip(names, found, strict=True):
            assert scores.dtype == np.float32
            wanted = expected[name][:count].numpy()
            assert (np.abs(scores - wanted) <= TOLERANCE * np.maximum(1, np.abs(wanted))).all()


def test_the_model_tells_nothing_of_the_machine(onnx_model: bytes) -> None:
    assert b"site-packages" not in onnx_model
    assert b".py" not in onnx_model
    model = onnx.load_from_string(onnx_model)
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


class _Odd(nn.Module):
    """Breaks one rule of `Detector.scorer`."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        brightness = images.flatten(1).mean(1)
        if self.rule == "any batch":
            brightness = brightness + len(images)
        elif bool(brightness.sum() > 0):
            brightness = -brightness
        return brightness, brightness


@pytest.mark.parametrize("rule", ["any batch", "no branching"])
def test_what_cannot_be_converted_is_told(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    monkeypatch.setattr(type(detector), "scorer", lambda _: _Odd(rule))
    with pytest.raises(AmatuneError, match=r"ama could not be converted to ONNX: \w"):
        onnx_bytes(detector)
