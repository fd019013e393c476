"""SVHN: photographed house numbers, cropped to a digit."""

from pathlib import Path

from amatune.data.dataset import DatasetInfo
from amatune.data.pictures import Pixels
from amatune.data.published.dataset import PublishedDataset
from amatune.data.published.files import Download
from amatune.data.sources.arrays import ArraySource
from amatune.data.sources.base import PARTS, Part, Source

_INFO = DatasetInfo(
    name="svhn",
    summary="photographed house numbers, cropped to a digit",
    image="3 x 32 x 32",
    train=73_257,
    test=26_032,
    classes=tuple("0123456789"),
    download=246_316_178,
    licence="non-commercial",
    url="http://ufldl.stanford.edu/housenumbers/",
)

_URL = "http://ufldl.stanford.edu/housenumbers/"
_DOWNLOADS = tuple(
    Download(name, size, md5, (_URL + name,))
    for name, size, md5 in (
        ("train_32x32.mat", 182_040_794, "e26dedcc434d2e4c54c9b2d4a06d8373"),
        ("test_32x32.mat", 64_275_384, "eb5a983be6a315427106f1b164d9cef3"),
    )
)


def _read(home: Path, digest: str) -> Source:
    from scipy.io import loadmat

    def member(part: Part, key: str) -> Pixels:
        # Other members are skipped without being decompressed.
        array: Pixels = loadmat(home / f"{part}_32x32.mat", variable_names=[key])[key]
        return array

    def labels(part: Part) -> list[str]:
        return [str(label % 10) for label in member(part, "y").ravel()]  # 10 stands for 0

    return ArraySource(
        _INFO.name,
        home / "train_32x32.mat",
        digest,
        (3, 32, 32),
        {part: labels(part) for part in PARTS},
        lambda part, rows: member(part, "X")[..., rows].transpose(3, 2, 0, 1),
    )


DATASET = PublishedDataset(_INFO, ("svhn", ""), _DOWNLOADS, _read)
