"""What is stated of the published sets: sizes, sums and classes fit together, and torchvision."""

import importlib
import inspect
from types import ModuleType

import pytest
from fake_sets import FAKES, REAL

from amatune.data.catalogue import list_datasets
from amatune.data.sets import cifar10, cifar100, fashion_mnist
from amatune.data.sources.base import sorted_classes


@pytest.fixture(scope="module")
def datasets() -> ModuleType:
    """torchvision's: importing it takes seconds, which not every process has to spend."""
    return importlib.import_module("torchvision.datasets")


@pytest.mark.parametrize("name", REAL)
def test_facts_agree_with_each_other(name):
    info, downloads = REAL[name].info, REAL[name].downloads
    assert sum(d.size for d in downloads) == info.download
    assert len({d.name for d in downloads}) == len(downloads)
    for d in downloads:
        assert len(d.md5) == 32
        assert all(url.startswith("http") for url in d.urls)
    assert list(info.classes) == list(sorted_classes(info.classes))


def facts(name):
    """Name, MD5 sum and addresses of every file to download."""
    return [(d.name, d.md5, list(d.urls)) for d in REAL[name].downloads]


@pytest.mark.parametrize(("name", "cls"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_mnists_files_are_torchvisions(name, cls, datasets):
    cls = getattr(datasets, cls)
    assert facts(name) == [(f, md5, [m + f for m in cls.mirrors]) for f, md5 in cls.resources]
    assert REAL[name].homes[0] == f"{cls.__name__}/raw"


@pytest.mark.parametrize(("module", "cls"), [(cifar10, "CIFAR10"), (cifar100, "CIFAR100")])
def test_cifars_files_are_torchvisions(module, cls, datasets):
    cls = getattr(datasets, cls)
    assert facts(module.DATASET.name) == [(cls.filename, cls.tgz_md5, [cls.url])]
    for part, files in (("train", cls.train_list), ("test", cls.test_list)):
        assert module.FILES[part] == {f"{cls.base_folder}/{file}": md5 for file, md5 in files}


def test_other_files_are_torchvisions(datasets):
    split = datasets.SVHN.split_list
    assert facts("svhn") == [(n, md5, [url]) for url, n, md5 in (split["train"], split["test"])]
    omniglot, prefix = datasets.Omniglot.zips_md5, datasets.Omniglot.download_url_prefix
    assert facts("omniglot") == [
        (f"{name}.zip", md5, [f"{prefix}/{name}.zip"]) for name, md5 in omniglot.items()
    ]
    drive = {name: (file_id, md5) for file_id, md5, name in datasets.CelebA.file_list}
    for name, md5, (url,) in facts("celeba"):
        assert (url.partition("?id=")[2], md5) == drive[name]
    source = inspect.getsource(datasets.GTSRB)
    for name, md5, (url,) in facts("gtsrb"):
        assert md5 in source
        assert name in source
        assert url.removesuffix(name) in source


def test_classes_are_as_many_as_there_should_be(datasets):
    assert list(fashion_mnist.CLASSES) == datasets.FashionMNIST.classes
    assert len(cifar100.DATASET.info.classes) == 100


def test_every_set_of_the_paper_is_listed():
    names = {info.name for info in list_datasets()}
    assert names >= {*FAKES, "imagenet-resize", "lsun-resize", "isun", "uniform-noise"}
