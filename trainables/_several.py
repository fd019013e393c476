"""Several methods under Ray Tune: each training is that of the method its configuration names."""

from collections.abc import Mapping
from typing import ClassVar

from amatune.detector import Detector
from amatune.several import METHOD

from ._base import DetectorTrainable


def joined_trainable(
    detector: type[Detector], members: Mapping[str, type[DetectorTrainable]]
) -> type[DetectorTrainable]:
    """A trainable for the methods `members`, built by the class `detector`. A trial's share of a
    GPU is that of the one that needs most."""

    class Joined(DetectorTrainable):
        detector_class: ClassVar[type[Detector]] = detector
        gpu_share: ClassVar[float] = max(one.gpu_share for one in members.values())

        def equip(self, made: Detector) -> None:
            members[self._job.config[METHOD]].equip(self, made)

    return Joined
