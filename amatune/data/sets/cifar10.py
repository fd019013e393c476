"""CIFAR-10: photographs of ten kinds of animals and vehicles."""

from collections.abc import Mapping

from amatune.data.dataset import DatasetInfo
from amatune.data.published.cifar_family import cifar_like
from amatune.data.sources.base import Part

FILES: Mapping[Part, Mapping[str, str]] = {
    "train": {
        "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
        "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
        "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    "test": {"cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e"},
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
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    size=170_498_071,
    md5="c58f30108f718f92721af3b95e74349a",
    files=FILES,
    labels="labels",
)
