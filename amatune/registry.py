"""Finds the methods: the folder is the registry.

A method `deep-svdd` is three files named `deep_svdd.py`: the detector in `amatune/detectors`
(`DETECTOR = ...`), its search space in `search_spaces` (`def space(trial)`) and its trainable in
`trainables` (`TRAINABLE = ...`). The last two are looked up by name at run time only, so that using
a detector needs neither Ray nor Optuna.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, cast

import amatune.detectors
from amatune.detector import Detector
from amatune.errors import RequestError, did_you_mean

# Suggests a configuration for an Optuna trial, which is duck-typed here.
SearchSpace = Callable[[Any], dict[str, Any]]


def method_names() -> list[str]:
    """Names of all methods, as the command line spells them, sorted."""
    modules = pkgutil.iter_modules(amatune.detectors.__path__)
    return sorted(m.name.replace("_", "-") for m in modules if not m.name.startswith("_"))


def detector_class(method: str) -> type[Detector]:
    """The detector class of a method. Raises `RequestError` for an unknown name."""
    return cast(type[Detector], _load("amatune.detectors", method).DETECTOR)


def search_space(method: str) -> SearchSpace:
    """The function that suggests a configuration for an Optuna trial: `space(trial) -> dict`."""
    return cast(SearchSpace, _load("amatune.search_spaces", method).space)


def trainable_class(method: str) -> type:
    """The method's `tune.Trainable`."""
    return cast(type, _load("amatune.trainables", method).TRAINABLE)


def _load(package: str, method: str) -> Any:
    if method not in method_names():
        raise RequestError(f"unknown method {method!r}; {did_you_mean(method, method_names())}")
    return importlib.import_module(f"{package}.{method.replace('-', '_')}")
