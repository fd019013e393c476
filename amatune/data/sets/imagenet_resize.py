"""Imagenet_resize of the ODIN paper: 10,000 images of Tiny ImageNet."""

from amatune.data.dataset import DatasetInfo
from amatune.data.published.odin import OdinDataset

DATASET = OdinDataset(
    DatasetInfo(
        name="imagenet-resize",
        summary="10,000 images of Tiny ImageNet, scaled to 32 x 32; as anomalies only",
        image="as the normal set",
        licence="see source",
        url="https://www.dropbox.com/s/kp3my3412u5k9rl/Imagenet_resize.tar.gz",
    ),
    folder="Imagenet_resize",
    pictures=10_000,
)
