"""Omniglot: handwritten characters of fifty alphabets."""

from pathlib import Path

from amatune.data.dataset import DatasetInfo
from amatune.data.published.dataset import PublishedDataset
from amatune.data.published.files import Download, Made
from amatune.data.sources.base import Part, Source
from amatune.data.sources.listed import ListedPictures, ids_below

_INFO = DatasetInfo(
    name="omniglot",
    summary="handwritten characters, black on white; a class is an alphabet; train is the "
    "background set, test the evaluation set, with other alphabets",
    image="1 x 32 x 32",
    train=19_280,
    test=13_180,
    download=15_927_098,
    licence="MIT",
    url="https://github.com/brendenlake/omniglot",
)

_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
_DOWNLOADS = tuple(
    Download(f"{name}.zip", size, md5, (f"{_URL}{name}.zip",), (Made(name, pictures=pictures),))
    for name, size, md5, pictures in (
        ("images_background", 9_464_212, "68d2efa1b9178cc56df9314c21c6e718", 19_280),
        ("images_evaluation", 6_462_886, "6b91aef0f799c5bb55b94e3f2daec811", 13_180),
    )
)


def _read(home: Path, _: str) -> Source:
    """A class is an alphabet. The background set is the training part, evaluation the test part."""
    folders: dict[Part, str] = {"train": "images_background", "test": "images_evaluation"}
    labels = {
        part: {one: one.split("/")[1] for one in ids_below(home, folder)}
        for part, folder in folders.items()
    }
    return ListedPictures(_INFO.name, home, (1, 32, 32), labels)


DATASET = PublishedDataset(_INFO, ("omniglot-py", "omniglot/omniglot-py"), _DOWNLOADS, _read)
