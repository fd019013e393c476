"""iSUN of the ODIN paper: 8,925 scenes of SUN."""

from amatune.data.dataset import DatasetInfo
from amatune.data.published.odin import OdinDataset

DATASET = OdinDataset(
    DatasetInfo(
        name="isun",
        summary="8,925 scenes of SUN, scaled to 32 x 32; as anomalies only",
        image="as the normal set",
        licence="see source",
        url="https://www.dropbox.com/s/ssz7qxfqae0cca5/iSUN.tar.gz",
    ),
    folder="iSUN",
    pictures=8_925,
)
