"""The methods under Ray Tune: one thin adapter per method, `TRAINABLE = ...`."""

from ._base import DetectorTrainable

__all__ = ["DetectorTrainable"]
