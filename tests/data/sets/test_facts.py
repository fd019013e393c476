"""What is stated of the published sets: sizes, sums and classes fit together, and torchvision."""

import inspect

import pytest
from fake_sets import FAKES, REAL
from torchvision import datasets

from amatune.data.catalogue import list_datasets
from amatune.data.sets import cifar10, cifar100, fashion_mnist, gtsrb
from amatune.data.sources.base import sorted_classes


@pytest.mark.parametrize("name", REAL)
def test_facts_agree_with_each_other(name):
    info, downloads = REAL[name].info, REAL[name].downloads()
    assert sum(d.size for d in downloads) == info.download
    assert len({d.name for d in downloads}) == len(downloads)
    for d in downloads:
        assert len(d.md5) == 32
        assert all(url.startswith("http") for url in d.urls)
    assert list(info.classes) == list(sorted_classes(info.classes))


def test_facts_are_torchvisions():
    source = inspect.getsource(datasets.GTSRB)
    for d in REAL["gtsrb"].downloads():
        assert d.md5 in source
        assert d.name in source
        assert d.urls == (gtsrb.URL + d.name,)
    assert gtsrb.URL in source
    assert list(fashion_mnist.CLASSES) == datasets.FashionMNIST.classes
    assert len(cifar100.DATASET.info.classes) == 100
    made = [m for d in REAL["cifar100"].downloads() for m in d.parts]
    assert [m.path for m in made] == [f for files in cifar100.FILES.values() for f in files]
    made = [m for d in REAL["cifar10"].downloads() for m in d.parts]
    assert [m.path for m in made] == [f for files in cifar10.FILES.values() for f in files]
    assert {m.md5 for m in made} == {s for _, s in datasets.CIFAR10.train_list} | {
        s for _, s in datasets.CIFAR10.test_list
    }


def test_every_set_of_the_paper_is_listed():
    names = {info.name for info in list_datasets()}
    assert names >= {*FAKES, "imagenet-resize", "lsun-resize", "isun", "uniform-noise"}
