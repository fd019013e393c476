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
    folder="MNIST",
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
    files={
        "train-images-idx3-ubyte.gz": (9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        "train-labels-idx1-ubyte.gz": (28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
        "t10k-images-idx3-ubyte.gz": (1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
        "t10k-labels-idx1-ubyte.gz": (4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
    },
    classes=_CLASSES,
)
