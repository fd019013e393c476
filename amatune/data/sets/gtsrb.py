"""GTSRB: photographed German traffic signs."""

import csv
from pathlib import Path

from amatune.data.dataset import DatasetInfo
from amatune.data.published.dataset import PublishedDataset
from amatune.data.published.files import Download, Made
from amatune.data.sources.base import Source
from amatune.data.sources.listed import ListedPictures, ids_below
from amatune.errors import DataError

_INFO = DatasetInfo(
    name="gtsrb",
    summary="photographed German traffic signs of many sizes",
    image="3 x 32 x 32",
    train=26_640,
    test=12_630,
    classes=tuple(map(str, range(43))),
    download=276_568_468,
    licence="see source",
    url="https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/published-archive.html",
)

_TRAIN = "GTSRB/Training"
_TEST = "GTSRB/Final_Test/Images"
_LABELS = "GT-final_test.csv"
_URL = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"

_DOWNLOADS = tuple(
    Download(name, size, md5, (_URL + name,), (made,))
    for name, size, md5, made in (
        (
            "GTSRB-Training_fixed.zip",
            187_490_228,
            "513f3c79a4c5141765e10e952eaa2478",
            Made(_TRAIN, pictures=26_640),
        ),
        (
            "GTSRB_Final_Test_Images.zip",
            88_978_620,
            "c7e4e6327067d32654124b0fe9e82185",
            Made(_TEST, pictures=12_630),
        ),
        (
            "GTSRB_Final_Test_GT.zip",
            99_620,
            "fe31e9c9270bbcd7b84b7f21a9d9d9e5",
            Made(_LABELS),
        ),
    )
)


def _read(home: Path, _: str) -> Source:
    with (home / _LABELS).open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter=";", skipinitialspace=True)
        classes = {row["Filename"]: row["ClassId"] for row in rows}
    test = {one: classes.get(one.rsplit("/")[-1], "") for one in ids_below(home, _TEST)}
    if unknown := [one for one, label in test.items() if not label]:
        raise DataError(f"{home / _LABELS} does not tell the class of {unknown[0]}")
    train = {one: str(int(one.split("/")[2])) for one in ids_below(home, _TRAIN)}
    return ListedPictures(_INFO.name, home, (3, 32, 32), {"train": train, "test": test})


DATASET = PublishedDataset(_INFO, ("gtsrb", "gtsrb/gtsrb"), _DOWNLOADS, _read)
