"""CelebA: aligned faces of celebrities."""

from pathlib import Path

from amatune.data.dataset import DatasetInfo
from amatune.data.published.dataset import PublishedDataset
from amatune.data.published.files import Download, Made
from amatune.data.sources.base import Part, Source
from amatune.data.sources.listed import ListedPictures

_INFO = DatasetInfo(
    name="celeba",
    summary="aligned faces of celebrities, without classes; the download needs `pip install gdown`",
    image="3 x 32 x 32",
    train=162_770,
    test=19_962,
    download=1_446_327_224,
    licence="non-commercial",
    url="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
)

_PARTITION = "list_eval_partition.txt"

_DRIVE = "https://drive.google.com/uc?id="
_DOWNLOADS = (
    Download(
        "img_align_celeba.zip",
        1_443_490_838,
        "00d2c5bc6d35e252742224ab0c1e8fcb",
        (_DRIVE + "0B7EVK8r0v71pZjFTYXZWM3FlRnM",),
        (Made("img_align_celeba", pictures=202_599),),
    ),
    Download(
        _PARTITION,
        2_836_386,
        "d32c9cbf5e040fd4025c592c306e6668",
        (_DRIVE + "0B7EVK8r0v71pY0NSMzRuSXJEVkk",),
    ),
)


def _read(home: Path, _: str) -> Source:
    """The validation part of CelebA is not used."""
    partition: dict[str, dict[str, str]] = {"0": {}, "1": {}, "2": {}}
    for line in (home / _PARTITION).read_text(encoding="utf-8").splitlines():
        name, part = line.split()
        partition[part][f"img_align_celeba/{name}"] = ""
    labels: dict[Part, dict[str, str]] = {"train": partition["0"], "test": partition["2"]}
    return ListedPictures(_INFO.name, home, (3, 32, 32), labels)


DATASET = PublishedDataset(_INFO, ("celeba", "celeba/celeba"), _DOWNLOADS, _read)
