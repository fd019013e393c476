"""amatune: hyperparameter search for adversarial autoencoder anomaly detectors."""

from typing import TYPE_CHECKING, Any

from amatune.version import __version__ as __version__

if TYPE_CHECKING:
    from amatune.estimator import AnomalyDetector as AnomalyDetector
    from amatune.export import load as load


def __getattr__(name: str) -> Any:
    # Deferred, so that `import amatune` (and with it `amatune --help`) does not wait for torch.
    if name == "load":
        from amatune.export import load

        return load
    if name == "AnomalyDetector":
        from amatune.estimator import AnomalyDetector

        return AnomalyDetector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
