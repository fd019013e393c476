"""The ONNX form of a detector: a batch of uint8 images in, every score out.

Why there is no `torch.export` file beside it: `torch.export.load` evaluates expressions that it
finds in the file (`sympy.sympify`), so that reading a file from somewhere else may run code.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from amatune.detector import Detector, to_unit_range
from amatune.errors import AmatuneError, RequestError
from amatune.extras import require_extra
from amatune.stored import StoredDetector

INPUT = "images"
BATCH = "batch"  # name of the free axis, of the input and of every output
_OUTPUT = "output_"  # begins the outputs' names while other values may have theirs
TOLERANCE = 1e-4  # between the scores of both forms: absolute up to a score of 1, relative above


class _FromBytes(nn.Module):
    """Scores of uint8 images (B, C, H, W): one float32 (B,) per name."""

    def __init__(self, scorer: nn.Module) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(scores.float() for scores in self.scorer(to_unit_range(images)))


def onnx_bytes(detector: Detector) -> bytes:
    """A calibrated detector as an ONNX model.

    Input `images`: uint8 (batch, C, H, W), any batch. Outputs by `score_names`: float32 (batch,).
    Raises `RequestError` for a method that declares that it has no such form, `AmatuneError` when
    the scorer uses what ONNX cannot express, and `MissingExtraError` where the packages for it are
    not installed.
    """
    if not detector.exports_to_onnx:
        raise RequestError("; ".join(detector.limits()))
    require_extra("onnx")
    module = _FromBytes(_plain_scorer(detector)).eval()
    example = torch.zeros(2, *detector.image_shape, dtype=torch.uint8)
    axis = {0: torch.export.Dim(BATCH)}
    with _silence(), torch.no_grad():
        import onnx

        try:
            # Traced here, since `torch.onnx.export` would go on with a batch of fixed size.
            program = torch.export.export(module, (example,), dynamic_shapes=(axis,))
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[_OUTPUT + name for name in detector.score_names],
            )
        except Exception as error:  # whatever comes from the depths of three compilers
            reason = " ".join((str(error).strip() or type(error).__name__).splitlines()[:2])
            raise AmatuneError(
                f"{detector.name} could not be converted to ONNX: {reason}"
            ) from error
        if exported is None:
            raise AmatuneError(f"{detector.name} could not be converted to ONNX")
        model = exported.model_proto
        _name_outputs(model.graph, detector.score_names)
        _tidy(model)
        onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _plain_scorer(detector: Detector) -> nn.Module:
    """The scorer of a detector of its own on the CPU, with parametrised weights made plain.

    Not a deep copy: parametrisations live in the class of a module, which a copy shares, so that
    removing them from the copy would break the original.
    """
    scorer = StoredDetector.of(detector).build("cpu", type(detector)).scorer()
    for module in scorer.modules():
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name)
    return scorer


def _name_outputs(graph: Any, names: Sequence[str]) -> None:
    """Call the outputs by these names, and whatever is called so by chance, such as the result of a
    mean, by another."""
    called = {name: f"inner_{name}" for name in names} | {_OUTPUT + name: name for name in names}
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [called.get(value, value) for value in values]
    for value in [*graph.output, *graph.value_info, *graph.initializer]:
        value.name = called.get(value.name, value.name)


def _tidy(model: Any) -> None:
    """Name the free axis, and drop what tells of the machine: stack traces with its paths."""
    values = [*model.graph.input, *model.graph.output]
    for value in values:
        axis = value.type.tensor_type.shape.dim[0]
        if not axis.dim_param:
            raise AmatuneError(f"the ONNX model takes batches of {axis.dim_value} images alone")
    old = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in [*values, *model.graph.value_info]:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = axis.dim_param.replace(old, BATCH)
    for part in (model, model.graph, *model.graph.node, *values, *model.graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing printed, warned or logged: the exporter tells its own developers a lot."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
