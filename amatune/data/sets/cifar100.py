"""CIFAR-100: photographs of a hundred kinds of things."""

from collections.abc import Mapping

from amatune.data.dataset import DatasetInfo
from amatune.data.published.cifar_family import cifar_like
from amatune.data.sources.base import Part

FILES: Mapping[Part, Mapping[str, str]] = {
    "train": {"cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d"},
    "test": {"cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
}
_CLASSES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
    crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()  # noqa: SIM905
)

DATASET = cifar_like(
    DatasetInfo(
        name="cifar100",
        summary="photographs of a hundred kinds of things",
        image="3 x 32 x 32",
        train=50_000,
        test=10_000,
        classes=_CLASSES,
        download=169_001_437,
        licence="see source",
        url="https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    size=169_001_437,
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    files=FILES,
    labels="fine_labels",
)
