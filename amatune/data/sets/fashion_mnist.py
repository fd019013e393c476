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
    folder="FashionMNIST",
    mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    files={
        "train-images-idx3-ubyte.gz": (26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        "train-labels-idx1-ubyte.gz": (29_515, "25c81989df183df01b3e8a0aad5dffbe"),
        "t10k-images-idx3-ubyte.gz": (4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
        "t10k-labels-idx1-ubyte.gz": (5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
    },
    classes=CLASSES,
)
