"""Fashion-MNIST: articles of clothing."""

from amatune.data.dataset import DatasetInfo
from amatune.data.published.mnist_family import mnist_like
from amatune.data.sources.base import sorted_classes

CLASSES = (  # of the labels 0, 1, ...
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

DATASET = mnist_like(
    DatasetInfo(
        name="fashion-mnist",
        summary="articles of clothing",
        image="1 x 28 x 28",
        train=60_000,
        test=10_000,
        classes=sorted_classes(CLASSES),
        download=30_878_645,
        licence="MIT",
        url="https://github.com/zalandoresearch/fashion-mnist",
    ),
    class_name="FashionMNIST",
    sizes=(26_421_880, 29_515, 4_422_102, 5_148),
    classes=CLASSES,
)
