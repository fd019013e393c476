"""CIFAR-10: photographs of ten kinds of animals and vehicles."""

from collections.abc import Mapping, Sequence

from amatune.data.dataset import DatasetInfo
from amatune.data.published.cifar_family import cifar_like
from amatune.data.sources.base import Part

FILES: Mapping[Part, Sequence[str]] = {
    "train": [f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)],
    "test": ["cifar-10-batches-py/test_batch"],
}
_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)

DATASET = cifar_like(
    DatasetInfo(
        name="cifar10",
        summary="photographs of ten kinds of animals and vehicles",
        image="3 x 32 x 32",
        train=50_000,
        test=10_000,
        classes=_CLASSES,
        download=170_498_071,
        licence="see source",
        url="https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    class_name="CIFAR10",
    size=170_498_071,
    files=FILES,
    labels="labels",
)
