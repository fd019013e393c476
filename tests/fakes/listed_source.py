"""A source of numbered images whose labels are given."""

import hashlib

import numpy as np
import pytest

from amatune.data.sources.base import PARTS, Source


class ListSource(Source):
    """A source of numbered images whose labels are given; every image is distinct."""

    def __init__(self, name, train, test):
        self.name, self._labels = name, {"train": train, "test": test}

    image_shape = (1, 8, 8)

    @property
    def class_names(self):
        return tuple(sorted({*self._labels["train"], *self._labels["test"]} - {None}))

    def ids(self, part):
        return range(len(self._labels[part]))

    def labels(self, part):
        return self._labels[part] if self.class_names else []

    def read(self, part, ids, image_shape):
        if part == "test" and not self.may_read_test:
            pytest.fail("a test image was read")
        words = np.random.default_rng([len(self.name), part == "test"]).bytes(8)
        images = np.zeros((len(ids), *image_shape), np.uint8)
        for row, one in enumerate(ids):
            source = words + self.name.encode() + int(one).to_bytes(8, "big")
            noise = hashlib.shake_128(source).digest(images[row].size)
            images[row] = np.frombuffer(noise, np.uint8).reshape(image_shape)
            stamp = words + int(one).to_bytes(8, "big") + self.name.encode().ljust(16)
            images[row].reshape(-1)[: len(stamp)] = np.frombuffer(stamp, np.uint8)
        return images, list(ids)

    may_read_test = False

    def record(self, used):  # noqa: ARG002 - the interface of a source
        return {"labels": [len(self._labels[part]) for part in PARTS]}
