"""Images that came with a library."""

# ruff: noqa: ARG002, D102 - as `Source` says; not every source needs every argument

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amatune.data.pictures import ImageShape, Pixels, fit
from amatune.data.sources.base import Id, Part, Source, sorted_classes


class EmbeddedSource(Source):
    """Images that came with a library and are in memory anyway; ids count over both parts."""

    def __init__(
        self, name: str, images: Pixels, labels: Sequence[str], in_test: NDArray[np.bool_]
    ) -> None:
        self.name = name
        self._images = images  # (N, C, H, W)
        self._labels = labels
        self._ids = {
            "train": np.flatnonzero(~in_test).tolist(),
            "test": np.flatnonzero(in_test).tolist(),
        }

    @property
    def image_shape(self) -> ImageShape:
        _, channels, height, width = self._images.shape
        return channels, height, width

    @property
    def class_names(self) -> tuple[str, ...]:
        return sorted_classes(self._labels)

    def ids(self, part: Part) -> Sequence[Id]:
        return self._ids[part]

    def labels(self, part: Part) -> Sequence[str]:
        return [self._labels[i] for i in self._ids[part]]

    def read(
        self, part: Part, ids: Sequence[Id], image_shape: ImageShape
    ) -> tuple[Pixels, list[Id]]:
        return fit(self._images[np.asarray(ids, np.intp)], image_shape), list(ids)

    def record(self, used: Mapping[Part, Sequence[Id]]) -> dict[str, Any]:
        train = self._images[self._ids["train"]]
        return {
            "train images": len(self._ids["train"]),
            "test images": len(self._ids["test"]),
            "content": hashlib.sha256(train.tobytes()).hexdigest(),
        }
