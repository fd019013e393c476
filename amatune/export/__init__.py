"""Exported detectors: a folder that scores pictures without a search's tools.

    export/  model.safetensors        weights and calibration of the detector, by flat name
             calibration.safetensors  scores of held-out normal images, for p-values and thresholds;
                                      left out where the detector was exported without any
             model.onnx               the same detector for other programs: uint8 images in, every
                                      score out; left out where the method has no such form
             model.int8.onnx          the same with convolutions in 8 bits, and
             calibration.int8.safetensors  of its scores; where `quantize` added them
             config.json              schema version, method, settings, preprocessing, calibration,
                                      thresholds, figures, data, SHA-256 of every other file
             README.md                model card: data, settings, figures, limits, how to use it

    import amatune
    exported = amatune.load("export")
    for picture in exported.score_files(["photos/"]):
        print(picture.path, picture.score, picture.p_value)    # higher score = more anomalous

Loading reads no pickle, and imports neither Ray nor Optuna nor ONNX. A file that is not the one
that was exported is refused. Called, `amatune.export(run, folder)` makes an export of a run.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amatune.export.calibration import DEFAULT_RATE as DEFAULT_RATE
    from amatune.export.calibration import Calibration as Calibration
    from amatune.export.explanation import MAP_FORMATS as MAP_FORMATS
    from amatune.export.explanation import explain as explain
    from amatune.export.explanation import require_explainable as require_explainable
    from amatune.export.explanation import write_map as write_map
    from amatune.export.exported import Exported as Exported
    from amatune.export.folder import export_detector as export_detector
    from amatune.export.folder import fingerprint as fingerprint
    from amatune.export.folder import require_replaceable as require_replaceable
    from amatune.export.loading import load as load
    from amatune.export.onnx import TOLERANCE as TOLERANCE
    from amatune.export.onnx import onnx_bytes as onnx_bytes
    from amatune.export.quantization import quantize as quantize
    from amatune.export.runtime import OnnxExport as OnnxExport
    from amatune.export.scoring import AnyExport as AnyExport
    from amatune.export.scoring import Inputs as Inputs
    from amatune.export.scoring import ScoredPicture as ScoredPicture
    from amatune.export.scoring import find_inputs as find_inputs
    from amatune.export.scoring import printable as printable
    from amatune.results.operating import STATED_RATES as STATED_RATES

# Where each name is: looked up when it is used, so that the ONNX Runtime scores without torch.
_PLACES = {
    "DEFAULT_RATE": "amatune.export.calibration",
    "STATED_RATES": "amatune.results.operating",
    "Calibration": "amatune.export.calibration",
    "MAP_FORMATS": "amatune.export.explanation",
    "explain": "amatune.export.explanation",
    "require_explainable": "amatune.export.explanation",
    "write_map": "amatune.export.explanation",
    "Exported": "amatune.export.exported",
    "export_detector": "amatune.export.folder",
    "fingerprint": "amatune.export.folder",
    "require_replaceable": "amatune.export.folder",
    "load": "amatune.export.loading",
    "TOLERANCE": "amatune.export.onnx",
    "onnx_bytes": "amatune.export.onnx",
    "quantize": "amatune.export.quantization",
    "OnnxExport": "amatune.export.runtime",
    "AnyExport": "amatune.export.scoring",
    "Inputs": "amatune.export.scoring",
    "ScoredPicture": "amatune.export.scoring",
    "find_inputs": "amatune.export.scoring",
    "printable": "amatune.export.scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})


class _Package(types.ModuleType):
    """This package. The function of the same name, `amatune.export`, is calling it."""

    def __call__(self, *run_and_folder: Any, **options: Any) -> "Exported":
        """As `amatune.export.winner.export`."""
        from amatune.export.winner import export

        return export(*run_and_folder, **options)


sys.modules[__name__].__class__ = _Package
