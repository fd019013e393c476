"""Scores of held-out normal images: what turns a score into a p-value and a decision.

For a new image with score s, among n held-out normal images,

    p = (1 + #{held-out scores >= s}) / (n + 1)

is the conformal p-value: were the image one more of the same kind, p <= a would happen with
probability a at most. Flagging p <= a is flagging s > t, with t the stated threshold for the false
positive rate a. No a below 1 / (n + 1) can be stated with n images.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import ArrayLike, NDArray

from amatune.errors import RequestError
from amatune.metrics import conformal_p_values, conformal_threshold
from amatune.results.operating import STATED_RATES
from amatune.wording import counted

DEFAULT_RATE = 0.05

_TENSOR = "normal_scores"


@dataclass(frozen=True)
class Calibration:
    """The primary scores of n held-out normal images, float32 (n,), ascending."""

    scores: NDArray[np.float32]

    @classmethod
    def of(cls, scores: ArrayLike) -> "Calibration":
        """From scores in any order. Raises `RequestError` for none, or one that is not finite."""
        values = np.sort(np.asarray(scores, np.float32))
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise RequestError(
                "a calibration needs one or more finite scores of normal images, (n,), got "
                f"{np.isfinite(values).sum()} finite ones in the shape {values.shape}"
            )
        return cls(values)

    @property
    def smallest_rate(self) -> float:
        """The smallest false positive rate that these images support: 1 / (n + 1)."""
        return 1 / (len(self.scores) + 1)

    @property
    def possible_rates(self) -> str:
        """A clause that names the false positive rates that can be stated."""
        normals = len(self.scores)
        least = math.ceil(10_000 * self.smallest_rate) / 10_000
        return (
            f"with {counted(normals, 'normal image')} in the calibration, rates from {least:g} "
            f"(1/{normals + 1}) to below 1 are possible"
        )

    def p_values(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Conformal p-values of finite scores, (k,) -> (k,)."""
        return conformal_p_values(self.scores, scores)

    def threshold(self, rate: float) -> float:
        """Scores above it, strictly, are flagged at the false positive rate `rate`.

        Raises `RequestError` that names the possible rates.
        """
        try:
            return conformal_threshold(self.scores, rate)
        except ValueError:
            raise RequestError(
                f"a false positive rate of {rate:g} cannot be stated: {self.possible_rates}"
            ) from None

    def stated(self) -> Iterator[tuple[float, float]]:
        """Those of `STATED_RATES` that are possible, each with its threshold."""
        for rate in STATED_RATES:
            if rate >= self.smallest_rate:
                yield rate, self.threshold(rate)

    def to_bytes(self) -> bytes:
        """As the contents of a safetensors file."""
        return safetensors.numpy.save({_TENSOR: self.scores})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Calibration":
        """The inverse of `to_bytes`. Raises `RequestError` for anything else."""
        try:
            tensors = safetensors.numpy.load(data)
        except safetensors.SafetensorError as error:
            raise RequestError(f"not a calibration: {error}") from error
        scores = tensors.get(_TENSOR)
        if scores is None or len(tensors) > 1 or scores.dtype != np.float32:
            raise RequestError(f"not a calibration: it must hold {_TENSOR}, float32, and no more")
        return cls.of(scores)
