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
from amatune.data.pictures import fit
from amatune.detector import Detector
from amatune.detectors.ama import AMA, AMAConfig
from amatune.detectors.features import Features, FeaturesConfig
from amatune.errors import AmatuneError
from amatune.export import TOLERANCE, onnx_bytes
from amatune.export.preparation import preparation

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
    maps = detector.pixel_map(torch.from_numpy(images))
    assert maps is not None
    model = onnx_bytes(detector)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET
    # Converting a copy leaves the detector as it was, spectral norm included.
    for name, scores in detector.scores(torch.from_numpy(images)).items():
        assert torch.equal(scores, expected[name])
    detector.train_epoch(torch.from_numpy(images))

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("pictures", "tensor(uint8)")
    assert given.shape == ["batch", "height", "width", "channels"]
    names = list(detector.score_names)
    outputs = [(n, ["batch"]) for n in names] + [("map", ["batch", *SHAPE[1:]])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == outputs
    wanted = [*(expected[name].numpy() for name in names), maps.numpy()]
    for count in (1, 2, 9):
        found = session.run(None, {"pictures": images[:count].transpose(0, 2, 3, 1)})
        for scores, whole in zip(found, wanted, strict=True):
            assert scores.dtype == np.float32
            gap = np.abs(scores - whole[:count])
            assert (gap <= TOLERANCE * np.maximum(1, np.abs(whole[:count]))).all()


def test_what_scores_and_map_share_is_there_once(onnx_model: bytes) -> None:
    nodes = onnx.load_from_string(onnx_model).graph.node
    layers = [
        (n.op_type, *n.input) for n in nodes if n.op_type in ("Conv", "ConvTranspose", "Gemm")
    ]
    assert len(layers) == len(set(layers)) > 3


def test_a_network_that_two_parts_bring_along_is_there_once() -> None:
    images = torch.from_numpy(pixels(6, (1, 32, 32)))
    detector = Features(FeaturesConfig(backbone="random", layers="1+2"), (1, 32, 32))
    detector.train_epoch(images)
    detector.calibrate(images)
    model = onnx.load_from_string(onnx_bytes(detector))
    assert len(model.opset_import) == 1
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 2
    weights = [one.SerializeToString() for one in model.graph.initializer if len(one.dims) == 4]
    assert len(weights) == 2


# --- pictures of any size -------------------------------------------------------------------------


def prepared(shape: ImageShape) -> onnxruntime.InferenceSession:
    model = preparation(shape, opset=20, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("shape", [(1, 12, 17), (3, 40, 32), (1, 256, 256)])
def test_the_graph_fits_pictures_to_the_byte(shape: ImageShape) -> None:
    session = prepared(shape)
    rng = np.random.default_rng(0)
    for size in ((1, 1), (12, 17), (24, 34), (5, 300), (301, 7), (256, 128), (97, 211)):
        for channels in (1, 3):
            given = rng.integers(0, 256, (2, *size, channels), np.uint8)
            (found,) = session.run(None, {"pictures": given})
            wanted = fit(np.ascontiguousarray(given.transpose(0, 3, 1, 2)), shape)
            assert found.dtype == np.uint8
            assert np.array_equal(found, wanted)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)])
@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_no_picture(shape: ImageShape, channels: int) -> None:
    with pytest.raises(Exception, match="Non-zero status code"):
        prepared(shape).run(None, {"pictures": np.zeros((1, 9, 9, channels), np.uint8)})


def test_each_set_of_operators_is_imported_once(onnx_model: bytes) -> None:
    imported = [one.domain for one in onnx.load_from_string(onnx_model).opset_import]
    assert sorted(imported) == sorted(set(imported))


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
