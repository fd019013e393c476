"""Images in files that hold many of them."""

# ruff: noqa: ARG002, D102 - as `Source` says; not every source needs every argument

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amatune.data.pictures import ImageShape, Pixels, fit
from amatune.data.sources.base import Id, Part, Source, sorted_classes


class ArraySource(Source):
    """Images in a few files that hold many; ids are positions in the part."""

    def __init__(
        self,
        name: str,
        file: Path,
        digest: str,
        image_shape: ImageShape,
        labels: Mapping[Part, Sequence[str]],
        images: Callable[[Part, NDArray[np.intp]], Pixels],  # the images at these positions
    ) -> None:
        self.name = name
        self.location = file
        self._digest = digest
        self._image_shape = image_shape
        self._labels = labels
        self._images = images

    @property
    def image_shape(self) -> ImageShape:
        return self._image_shape

    @property
    def class_names(self) -> tuple[str, ...]:
        return sorted_classes([*self._labels["train"], *self._labels["test"]])

    def ids(self, part: Part) -> Sequence[Id]:
        return range(len(self._labels[part]))

    def labels(self, part: Part) -> Sequence[str]:
        return self._labels[part]

    def read(
        self, part: Part, ids: Sequence[Id], image_shape: ImageShape
    ) -> tuple[Pixels, list[Id]]:
        images = self._images(part, np.asarray(ids, np.intp))
        return fit(np.ascontiguousarray(images), image_shape), list(ids)

    def record(self, used: Mapping[Part, Sequence[Id]]) -> dict[str, Any]:
        return {
            "train images": len(self._labels["train"]),
            "test images": len(self._labels["test"]),
            "content": self._digest,
        }
