"""MNIST: handwritten digits."""

from amatune.data.dataset import DatasetInfo
from amatune.data.published.mnist_family import mnist_like

_CLASSES = tuple("0123456789")

DATASET = mnist_like(
    DatasetInfo(
        name="mnist",
        summary="handwritten digits",
        image="1 x 28 x 28",
        train=60_000,
        test=10_000,
        classes=_CLASSES,
        download=11_594_722,
        licence="CC BY-SA 3.0",
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    class_name="MNIST",
    sizes=(9_912_422, 28_881, 1_648_877, 4_542),
    classes=_CLASSES,
)
