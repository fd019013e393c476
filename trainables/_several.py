"""Several methods under Ray Tune: each training is that of the method its configuration names."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from amatune.detector import Detector
from amatune.several import METHOD

from ._base import DetectorTrainable


def joined_trainable(
    detector: type[Detector], members: Mapping[str, type[DetectorTrainable]]
) -> type[DetectorTrainable]:
    """A trainable for the methods `members`, whose detectors the class `detector` can build. A
    trial's share of a GPU is that of the one that needs most."""

    class Joined(DetectorTrainable):
        detector_class: ClassVar[type[Detector]] = detector
        gpu_share: ClassVar[float] = max(one.gpu_share for one in members.values())

        def _new_detector(self) -> Detector:
            """As the member's own trainable makes it."""
            config = dict(self._job.config)
            member = object.__new__(members[config.pop(METHOD)])
            vars(member).update(vars(self), _job=dataclasses.replace(self._job, config=config))
            return member._new_detector()

    return Joined
