"""Images of noise."""

# ruff: noqa: ARG002, D102 - as `Source` says; not every source needs every argument

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from amatune.data.pictures import ImageShape, Pixels
from amatune.data.sources.base import PARTS, Id, Part, Source


class NoiseSource(Source):
    """Images of independent noise in the shape of the normal set, the same on every call."""

    COUNT = 10_000  # per part

    def __init__(self, name: str, draw: Callable[[np.random.Generator, ImageShape], Any]) -> None:
        self.name = name
        self._draw = draw  # pixel values, on the scale where black is 0 and white is 1

    @property
    def image_shape(self) -> None:
        return None

    @property
    def class_names(self) -> tuple[str, ...]:
        return ()

    def ids(self, part: Part) -> Sequence[Id]:
        return range(self.COUNT)

    def labels(self, part: Part) -> Sequence[str]:
        return []

    def read(
        self, part: Part, ids: Sequence[Id], image_shape: ImageShape
    ) -> tuple[Pixels, list[Id]]:
        images = np.empty((len(ids), *image_shape), np.uint8)
        for row, one in enumerate(ids):
            generator = np.random.default_rng([PARTS.index(part), int(one)])
            values = self._draw(generator, image_shape)
            images[row] = np.round(np.clip(values, 0, 1) * 255)
        return images, list(ids)

    def record(self, used: Mapping[Part, Sequence[Id]]) -> dict[str, Any]:
        # NumPy does not promise the same stream in every version: vouch for a sample.
        sample, _ = self.read("train", range(3), (3, 32, 32))
        return {"content": hashlib.sha256(sample.tobytes()).hexdigest()}
