"""The ONNX form of a detector: pictures of any size in, every score and a map out.

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
from amatune.export.preparation import BATCH, FITTED, MAP, preparation
from amatune.extras import require_extra
from amatune.stored import StoredDetector

_OUTPUT = "output_"  # begins the outputs' names while other values may have theirs
TOLERANCE = 1e-4  # between the scores of both forms: absolute up to a score of 1, relative above


class _FromBytes(nn.Module):
    """Scores of uint8 images (B, C, H, W), one float32 (B,) per name, and their map (B, H, W)."""

    def __init__(self, scorer: nn.Module, mapper: nn.Module | None) -> None:
        super().__init__()
        self.scorer, self.mapper = scorer, mapper

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        images = to_unit_range(images)
        maps = () if self.mapper is None else (self.mapper(images),)
        return tuple(values.float() for values in (*self.scorer(images), *maps))


def output_names(detector: Detector) -> list[str]:
    """What the ONNX form gives: the scores, and where there is one, the map."""
    return [*detector.score_names, *([] if detector.mapper() is None else [MAP])]


def onnx_bytes(detector: Detector) -> bytes:
    """A calibrated detector as an ONNX model.

    Input `pictures`: uint8 (batch, height, width, channels), any batch and any size, 1 channel of
    grey or 3 of RGB, 8 bits decoded as in step 1 of the geometry rule; the graph takes the others.
    Outputs by `score_names`: float32 (batch,); and `map`, float32 (batch, H, W), of a detector that
    has a `mapper`.

    Raises `RequestError` for a method that declares that it has no such form, `AmatuneError` when
    the scorer uses what ONNX cannot express, and `MissingExtraError` where the packages for it are
    not installed.
    """
    if not detector.exports_to_onnx:
        raise RequestError("; ".join(detector.limits()))
    require_extra("onnx")
    names = output_names(detector)
    module = _plain_module(detector).eval()
    example = torch.zeros(2, *detector.image_shape, dtype=torch.uint8)
    axis = {0: torch.export.Dim(BATCH)}
    with silence(), torch.no_grad():
        import onnx
        import onnx.compose

        try:
            # Traced here, since `torch.onnx.export` would go on with a batch of fixed size.
            program = torch.export.export(module, (example,), dynamic_shapes=(axis,))
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                input_names=[FITTED],
                output_names=[_OUTPUT + name for name in names],
            )
        except Exception as error:  # whatever comes from the depths of three compilers
            reason = " ".join((str(error).strip() or type(error).__name__).splitlines()[:2])
            raise AmatuneError(
                f"{detector.name} could not be converted to ONNX: {reason}"
            ) from error
        if exported is None:
            raise AmatuneError(f"{detector.name} could not be converted to ONNX")
        _share(exported.model)
        model = exported.model_proto
        _name_outputs(model.graph, names)
        _tidy(model)
        (opset,) = (one.version for one in model.opset_import if not one.domain)
        before = preparation(detector.image_shape, opset, model.ir_version)
        model = onnx.compose.merge_models(before, model, [(FITTED, FITTED)])
        _import_once(model)
        onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _plain_module(detector: Detector) -> nn.Module:
    """What scores and maps, of a detector of its own on the CPU, with parametrised weights made
    plain.

    Not a deep copy: parametrisations live in the class of a module, which a copy shares, so that
    removing them from the copy would break the original.
    """
    own = StoredDetector.of(detector).build("cpu", type(detector))
    for network in (*own.networks.values(), *own.averages.values()):
        _compute_once(network)
    whole = _FromBytes(own.scorer(), own.mapper())
    for module in whole.modules():
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name)
    return whole


def _compute_once(network: nn.Module) -> None:
    """Let a network that is asked twice for the same tensors, by the scores and by the map, answer
    from memory: it is traced, and part of the graph, once."""
    compute = network.forward
    asked: tuple[Any, ...] = ()
    answer: Any = None

    def forward(*inputs: Any) -> Any:
        nonlocal asked, answer
        same = len(asked) == len(inputs) > 0
        if not same or any(old is not new for old, new in zip(asked, inputs, strict=True)):
            asked, answer = inputs, compute(*inputs)
        return answer

    network.forward = forward


def _share(model: Any) -> None:
    """Compute once what scores and map have in common, such as a network, with its weights kept
    once."""
    from onnx_ir.passes import common

    # `_compute_once` sees to networks that are one object; here, to what each part has of its own.
    common.DeduplicateInitializersPass(size_limit=2**62)(model)  # its default: small ones alone
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)


def _name_outputs(graph: Any, names: Sequence[str]) -> None:
    """Call the outputs by these names, and whatever is called so by chance, such as the result of a
    mean, by another."""
    called = {name: f"inner_{name}" for name in names} | {_OUTPUT + name: name for name in names}
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [called.get(value, value) for value in values]
    for value in [*graph.output, *graph.value_info, *graph.initializer]:
        value.name = called.get(value.name, value.name)


def _import_once(model: Any) -> None:
    """Leave one line for each set of operators; two of the same confuse other tools."""
    sets = {one.domain: one.version for one in model.opset_import}
    del model.opset_import[:]
    for domain, version in sets.items():
        model.opset_import.add(domain=domain, version=version)


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
def silence() -> Iterator[None]:
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
