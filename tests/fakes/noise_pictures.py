"""Pictures of noise that a detector is tried on, and its networks in the mode of training."""

from amatune.testing import noise

SHAPE = (1, 16, 16)


def images(count=16, seed=0, shape=SHAPE):
    """uint8 (count, *shape)."""
    return noise((count, *shape), seed)


def batch(count=8, seed=0, shape=SHAPE):
    """The same as floats in [-1, 1]."""
    return images(count, seed, shape).float() / 127.5 - 1


def training(detector):
    """The detector, whose networks train."""
    for network in detector.networks.values():
        network.train()
    return detector
