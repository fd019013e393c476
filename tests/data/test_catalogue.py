"""The list of data sets: the folder is the registry, and names are checked."""

import pkgutil
import subprocess
import sys

import numpy as np
import pytest
from pictures_on_disk import write_npz

import amatune.data.sets
from amatune.data.catalogue import dataset_info, find_dataset, list_datasets, open_source
from amatune.errors import DataError

SET = '''
"""A set of somebody's."""

from amatune.data.dataset import BuiltIn, DatasetInfo
from amatune.data.sources.noise import NoiseSource

DATASET = BuiltIn(
    DatasetInfo(name="dark-noise", summary="nearly black", image="as the normal set"),
    lambda: NoiseSource("dark-noise", lambda rng, shape: rng.random(shape) / 10),
)
'''


def test_a_new_set_is_one_new_file(tmp_path, monkeypatch):
    (tmp_path / "dark_noise.py").write_text(SET)
    path = [*amatune.data.sets.__path__, str(tmp_path)]
    monkeypatch.setattr(amatune.data.sets, "__path__", path)
    try:
        assert dataset_info("dark-noise").summary == "nearly black"
        assert find_dataset("dark-noise").state == "built in"
        images, _ = open_source("dark-noise").read("train", range(9), (1, 8, 8))
        assert 0 < images.max() < 30
        with pytest.raises(DataError, match=r"did you mean 'dark-noise'\?"):
            open_source("dark-nois")
    finally:
        monkeypatch.delitem(sys.modules, "amatune.data.sets.dark_noise", raising=False)
        monkeypatch.delattr(amatune.data.sets, "dark_noise", raising=False)


def test_a_set_is_named_as_its_file():
    files = {module.name for module in pkgutil.iter_modules(amatune.data.sets.__path__)}
    names = [info.name for info in list_datasets()]
    assert {name.replace("-", "_") for name in names if ":" not in name} == files
    assert len(set(names)) == len(names)


def test_what_is_at_hand_comes_first():
    names = [info.name for info in list_datasets()]
    assert names[:4] == ["digits", "gaussian-noise", "photos", "uniform-noise"]
    assert names[4] == "celeba"
    assert names[-8:-5] == ["imagenet-resize", "isun", "lsun-resize"]
    assert names[-5:] == ["folder:PATH", "csv:FILE", "npz:PATH", "mvtec:PATH", "visa:PATH"]


def test_listing_imports_nothing_slow():
    script = """
import sys
from amatune.data.catalogue import list_datasets
list_datasets()
print([name for name in ("torchvision", "sklearn", "scipy") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout == "[]\n"


# Names


@pytest.mark.parametrize(
    "info", [i for i in list_datasets() if find_dataset(i.name).state == "built in"]
)
def test_named_sets_are_as_listed(info):
    source = open_source(info.name)
    assert source.name == info.name
    assert len(source.ids("train")) == info.train
    assert len(source.ids("test")) == info.test
    assert source.class_names == info.classes
    shape = source.image_shape
    assert info.image == ("as the normal set" if shape is None else "{} x {} x {}".format(*shape))
    shape = shape or (1, 9, 8)
    images, ids = source.read("train", source.ids("train")[:3], shape)
    assert images.shape == (3, *shape)
    assert images.dtype == np.uint8
    assert ids == list(source.ids("train")[:3])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", r"unknown data set 'digit'; did you mean 'digits'\?"),
        ("zzz", r"known: celeba, cifar10, .*, digits, .*, folder:PATH, .*, npz:PATH, "),
        ("", "unknown data set ''"),
        ("folder:", "lacks its path: write folder:PATH"),
        ("npz:", "lacks its path"),
        ("s3:bucket", "unknown data set"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(DataError, match=message):
        open_source(name)


def test_a_bare_path_is_told_its_prefix(tmp_path):
    path = write_npz(tmp_path / "x.npz")
    with pytest.raises(DataError, match=f"write npz:{path}"):
        open_source(str(path))
    with pytest.raises(DataError, match=f"write folder:{tmp_path}"):
        open_source(str(tmp_path))


def test_home_and_relative_paths_are_made_absolute(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "x.npz")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert open_source("npz:~/x.npz").name == open_source("npz:x.npz").name == f"npz:{path}"
