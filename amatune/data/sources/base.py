"""What every source of images offers.

A source has two parts, "train" and "test", fixed once and for all whatever the seed. It tells the
ids and classes of both without decoding a test image, and decodes the images of given ids on
demand.
"""

# ruff: noqa: ARG002 - not every source needs every argument

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from amatune.data.pictures import Header, ImageShape, Pixels

Part = Literal["train", "test"]
Id = int | str  # a position in an array, or a path relative to the folder, with forward slashes

PARTS: tuple[Part, Part] = ("train", "test")


class Source(ABC):
    """A set of images in two fixed parts."""

    name: str  # canonical: paths are absolute
    location: Path | None = None  # the file or folder behind it
    # Damaged pictures to pass over: a number, or below 1 a share of all; None: the source's own.
    max_broken: float | None = None
    largest_side: int | None = None  # pixels; what a method makes use of, see `native_shape`
    # Share of the test part of pictures that lie in no train/ and test/; set before they are used.
    test_share: float = 0.3
    group_by: str | None = None  # what belongs together there, see `data.groups`; set before
    columns: Mapping[str, Mapping[Id, str]] = {}  # what else is known of every image, by name
    # Whether its classes are `good` and kinds of defect: those of the test part are then all
    # tested, and figures are told for each kind.
    tells_defects: bool = False

    @property
    @abstractmethod
    def image_shape(self) -> ImageShape | None:
        """The (C, H, W) that this set decides as the normal set; None when it cannot be one."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """All classes, numbers in numerical order; empty when the images have none."""

    @abstractmethod
    def ids(self, part: Part) -> Sequence[Id]:
        """The ids of a part, sorted."""

    @property
    def why_no_classes(self) -> str:
        """What is missing for `class_names` to have any."""
        return "its images have no classes"

    @property
    def more_anomalies(self) -> str:
        """What to do where there are too few of them."""
        return "add pictures or another --ood"

    @abstractmethod
    def labels(self, part: Part) -> Sequence[str]:
        """The class of every id of a part, in the order of `ids`; empty without classes."""

    @abstractmethod
    def read(
        self, part: Part, ids: Sequence[Id], image_shape: ImageShape
    ) -> tuple[Pixels, list[Id]]:
        """Decode images by the geometry rule: uint8 (N, *image_shape), and the N ids read.

        Ids of damaged pictures are left out and noted in `unreadable`. Raises `DataError` when
        there are more of them than can be passed over, or nothing can be read.
        """

    @abstractmethod
    def record(self, used: Mapping[Part, Sequence[Id]]) -> dict[str, Any]:
        """JSON values that change when the images do, without decoding a test image.

        `used` are the ids that matter; a source may vouch for more.
        """

    def kind(self, one: Id) -> str | None:
        """The class of an image whatever its part, of a source that tells kinds of defect; None of
        any other."""
        return None

    def mask(self, one: Id, size: tuple[int, int]) -> NDArray[np.bool_] | None:
        """Where an image of the test part is anomalous, brought to `size` (H, W); None where that
        is not known. Raises `DataError` for a mask that cannot be used."""
        return None

    def require_masks(self, ids: Iterable[Id]) -> None:
        """Raise `DataError` when `mask` would, of any of these images."""
        return

    @property
    def unreadable(self) -> Mapping[Id, str]:
        """Damaged pictures met so far, with the reason."""
        return {}

    @property
    def notes(self) -> Sequence[str]:
        """What else the user should know."""
        return []

    def headers(self) -> Mapping[Header, int]:
        """How many images have which size and mode before they are brought to one; of pictures,
        those met so far."""
        if self.image_shape is None:
            return {}
        channels, height, width = self.image_shape
        return {Header(channels == 3, height, width): sum(len(self.ids(part)) for part in PARTS)}

    def missing(self, part: Part, ids: Iterable[Id]) -> list[Id]:
        """Those of `ids` that the part does not have."""
        present = set(self.ids(part))
        return [one for one in ids if one not in present]


def sorted_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """Each class once; whole numbers in numerical order, before the rest."""

    def key(name: str) -> tuple[bool, int, str]:
        is_number = name.removeprefix("-").isdecimal()
        return not is_number, int(name) if is_number else 0, name

    return tuple(sorted(set(labels), key=key))
