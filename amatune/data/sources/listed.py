"""Pictures whose part and class are known from elsewhere than their folders."""

# ruff: noqa: D102 - as `Source` says; not every source needs every argument

from collections.abc import Mapping, Sequence
from pathlib import Path

from amatune.data.pictures import ImageShape, find_pictures
from amatune.data.sources.base import PARTS, Id, Part
from amatune.data.sources.files import PictureFiles


class ListedPictures(PictureFiles):
    """Pictures with their parts and classes; none is looked at before it is asked for."""

    def __init__(
        self,
        name: str,
        home: Path,
        image_shape: ImageShape,
        labels: Mapping[Part, Mapping[str, str]],  # by id; empty text without classes
    ) -> None:
        self._image_shape = image_shape
        self._labels = labels
        self._parts: dict[Part, list[str]] = {part: sorted(labels[part]) for part in PARTS}
        super().__init__(name, home, [one for part in PARTS for one in self._parts[part]])

    @property
    def image_shape(self) -> ImageShape:
        return self._image_shape

    def ids(self, part: Part) -> Sequence[Id]:
        return self._parts[part]

    def labels(self, part: Part) -> Sequence[str]:
        return [label for one in self._parts[part] if (label := self._labels[part][one])]


def ids_below(home: Path, folder: str) -> list[str]:
    """The ids of all pictures in a folder of a set's home."""
    return [path.relative_to(home).as_posix() for path in find_pictures([home / folder])]
