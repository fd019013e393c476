"""The unit in which densities of images are compared."""

import math

from torch import Tensor


def to_bits(log_probability: Tensor, dimensions: int) -> Tensor:
    """-log p in nats to bits per dimension, of images of so many values."""
    return log_probability * (-1 / (dimensions * math.log(2)))
