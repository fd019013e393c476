"""Every data set there is, by the name that --dataset and --ood accept.

Named sets are the modules of `amatune.data.sets`; beside them a user's own pictures and arrays have
the names `folder:PATH`, `csv:FILE` and `npz:PATH`, and published factory pictures in their own
layouts `mvtec:PATH` and `visa:PATH`.
"""

import contextlib
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import amatune.data.sets
from amatune.data.dataset import Dataset, DatasetInfo, Presence
from amatune.data.places import DataDir
from amatune.data.sources.base import Source
from amatune.data.sources.folder import FolderSource
from amatune.data.sources.manifest import ManifestSource
from amatune.data.sources.mvtec import MvtecSource
from amatune.data.sources.npz import NpzSource
from amatune.data.sources.visa import open_visa
from amatune.errors import DataError, RequestError, did_you_mean
from amatune.files import usable_path


class _Kind(NamedTuple):
    """Sources that are named by their path."""

    info: DatasetInfo
    open: Callable[[str], Source]


_BY_PATH: Mapping[str, _Kind] = {
    "folder": _Kind(
        DatasetInfo(
            name="folder:PATH",
            summary="your pictures, any sizes and modes; class folders, train/ and test/ optional",
            image="theirs, at most 64 x 64",
        ),
        FolderSource,
    ),
    "csv": _Kind(
        DatasetInfo(
            name="csv:FILE",
            summary="your pictures, listed in a file: path, and label, split, group if you like",
            image="theirs, at most 64 x 64",
        ),
        ManifestSource,
    ),
    "npz": _Kind(
        DatasetInfo(
            name="npz:PATH",
            summary="train_images and test_images, uint8, NHW or NHWC; *_labels optional",
            image="the arrays' own",
        ),
        NpzSource,
    ),
    "mvtec": _Kind(
        DatasetInfo(
            name="mvtec:PATH",
            summary="one object in MVTec AD's layout: train/good, test/good, test/KIND, masks in "
            "ground_truth/KIND optional; good is normal",
            image="theirs, at most 64 x 64",
            url="https://www.mvtec.com/company/research/datasets/mvtec-ad",
        ),
        MvtecSource,
    ),
    "visa": _Kind(
        DatasetInfo(
            name="visa:PATH",
            summary="one object of VisA, with split_csv/1cls.csv beside it, or converted to "
            "MVTec's layout; good is normal",
            image="theirs, at most 64 x 64",
            url="https://github.com/amazon-science/spot-diff",
        ),
        open_visa,
    ),
}


def list_datasets() -> list[DatasetInfo]:
    """Everything `open_source` accepts: what needs no files, what is downloaded, what is put there
    by hand, then what is named by its path."""
    named = sorted(map(_load, _set_names()), key=lambda one: (one.effort, one.info.name))
    return [one.info for one in named] + [kind.info for kind in _BY_PATH.values()]


def dataset_info(name: str) -> DatasetInfo:
    """The line of one data set, as `list_datasets` names it; raises `DataError` for another."""
    infos = {info.name: info for info in list_datasets()}
    if name not in infos:
        raise _unknown(name)
    return infos[name]


def find_dataset(name: str, data_dir: DataDir = None) -> Presence:
    """Where the files of a data set lie, for a name of `list_datasets`.

    Named sets are looked for in `data_dir`; see `data_folder` for None.
    """
    return _load(name).find(data_dir) if name in _set_names() else Presence(state="at its path")


def is_path(text: str) -> bool:
    """Whether a name is a kind, such as `folder:` or `csv:`, with a path of the user's own."""
    kind, colon, path = text.partition(":")
    return bool(colon) and kind in _BY_PATH and path not in ("", "PATH", "FILE")


def open_source(text: str, data_dir: DataDir = None) -> Source:
    """The source that `text` names: a known name, or a kind with its path, such as `folder:PATH`.

    A named set that is not in `data_dir` yet (see `data_folder` for None) is downloaded. Raises
    `DataError` when there is none, it cannot be had or its files are unusable. No image is decoded
    yet.
    """
    if text in _set_names():
        return _load(text).open(data_dir)
    kind, colon, path = text.partition(":")
    if colon and kind in _BY_PATH:
        if not path:
            raise DataError(f"{text!r} lacks its path: write {_BY_PATH[kind].info.name}")
        return _BY_PATH[kind].open(path)
    raise _unknown(text)


def _unknown(text: str) -> DataError:
    """The error about a name that there is not, or a path without its kind."""
    with contextlib.suppress(RequestError):
        here = usable_path(text)
        if here.is_dir():
            return DataError(f"unknown data set {text!r}; for the folder, write folder:{text}")
        if here.suffix in (".npz", ".csv") and here.is_file():
            kind = here.suffix[1:]
            return DataError(f"unknown data set {text!r}; for the file, write {kind}:{text}")
    known = [info.name for info in list_datasets()]
    return DataError(f"unknown data set {text!r:.200}; {did_you_mean(text, known)}")


def _set_names() -> list[str]:
    modules = pkgutil.iter_modules(amatune.data.sets.__path__)
    return [module.name.replace("_", "-") for module in modules]


def _load(name: str) -> Dataset:
    module = importlib.import_module(f"{amatune.data.sets.__name__}.{name.replace('-', '_')}")
    return cast(Dataset, module.DATASET)
