"""Exported detectors: a folder that scores pictures without a search's tools.

    export/  model.safetensors        weights and calibration of the detector, by flat name
             calibration.safetensors  scores of held-out normal images, for p-values and thresholds;
                                      left out where the detector was exported without any
             model.onnx               the same detector for other programs: uint8 images in, every
                                      score out; left out where the method has no such form
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

import sys
import types
from typing import Any

from amatune.export.calibration import DEFAULT_RATE, Calibration
from amatune.export.explain import explain, require_explainable, write_map
from amatune.export.folder import export_detector, fingerprint, load, require_replaceable
from amatune.export.onnx import TOLERANCE, onnx_bytes
from amatune.export.scoring import Exported, Inputs, ScoredPicture, find_inputs, printable
from amatune.results.operating import STATED_RATES

__all__ = [
    "DEFAULT_RATE",
    "STATED_RATES",
    "TOLERANCE",
    "Calibration",
    "Exported",
    "Inputs",
    "ScoredPicture",
    "explain",
    "export_detector",
    "find_inputs",
    "fingerprint",
    "load",
    "onnx_bytes",
    "printable",
    "require_explainable",
    "require_replaceable",
    "write_map",
]


class _Package(types.ModuleType):
    """This package. The function of the same name, `amatune.export`, is calling it."""

    def __call__(self, *run_and_folder: Any, **options: Any) -> Exported:
        """As `amatune.export.winner.export`."""
        from amatune.export.winner import export

        return export(*run_and_folder, **options)


sys.modules[__name__].__class__ = _Package
