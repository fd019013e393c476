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


def _downloads() -> list[Download]:
    from torchvision.datasets import CelebA

    known = {name: (file_id, md5) for file_id, md5, name in CelebA.file_list}

    def download(name: str, size: int, *makes: Made) -> Download:
        file_id, md5 = known[name]
        url = f"https://drive.google.com/uc?id={file_id}"
        return Download(name, size, md5, (url,), makes)

    return [
        download("img_align_celeba.zip", 1_443_490_838, Made("img_align_celeba", pictures=202_599)),
        download(_PARTITION, 2_836_386),
    ]


def _read(home: Path, _: str) -> Source:
    """The validation part of CelebA is not used."""
    partition: dict[str, dict[str, str]] = {"0": {}, "1": {}, "2": {}}
    for line in (home / _PARTITION).read_text(encoding="utf-8").splitlines():
        name, part = line.split()
        partition[part][f"img_align_celeba/{name}"] = ""
    labels: dict[Part, dict[str, str]] = {"train": partition["0"], "test": partition["2"]}
    return ListedPictures(_INFO.name, home, (3, 32, 32), labels)


DATASET = PublishedDataset(_INFO, ("celeba", "celeba/celeba"), _downloads, _read)
