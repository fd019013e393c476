"""LSUN_resize of the ODIN paper: 10,000 scenes of LSUN."""

from amatune.data.dataset import DatasetInfo
from amatune.data.published.odin import OdinDataset

DATASET = OdinDataset(
    DatasetInfo(
        name="lsun-resize",
        summary="10,000 scenes of LSUN, scaled to 32 x 32; as anomalies only",
        image="as the normal set",
        licence="see source",
        url="https://www.dropbox.com/s/moqh2wh8696c3yl/LSUN_resize.tar.gz",
    ),
    folder="LSUN_resize",
    pictures=10_000,
)
