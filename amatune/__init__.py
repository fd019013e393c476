"""amatune: hyperparameter search for image anomaly detectors.

From Python: `amatune.search`, `amatune.estimate`, `amatune.retrain`, `amatune.plan`,
`amatune.export` and `amatune.load` do what the command line does; `amatune.AnomalyDetector` is one
detector as a scikit-learn estimator.
"""

import importlib
from typing import TYPE_CHECKING, Any

from amatune.version import __version__ as __version__

if TYPE_CHECKING:
    from amatune.api import estimate as estimate
    from amatune.api import plan as plan
    from amatune.api import retrain as retrain
    from amatune.api import search as search
    from amatune.estimator import AnomalyDetector as AnomalyDetector
    from amatune.export import load as load
    from amatune.export.winner import export as export

# Where each name is: looked up when it is used, so that `import amatune` (and with it
# `amatune --help`) does not wait for torch. The package `amatune.export` is also a function.
_PLACES = {
    "AnomalyDetector": "amatune.estimator",
    "estimate": "amatune.api",
    "export": "amatune.export",
    "load": "amatune.export",
    "plan": "amatune.api",
    "retrain": "amatune.api",
    "search": "amatune.api",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_PLACES[name])
    return module if name == "export" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
