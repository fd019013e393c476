"""Every value uniform between black and white."""

from amatune.data.dataset import BuiltIn, DatasetInfo
from amatune.data.sources.noise import NoiseSource

DATASET = BuiltIn(
    DatasetInfo(
        name="uniform-noise",
        summary="every value uniform between black and white; as anomalies only",
        image="as the normal set",
        train=NoiseSource.COUNT,
        test=NoiseSource.COUNT,
    ),
    lambda: NoiseSource("uniform-noise", lambda rng, shape: rng.random(shape)),
)
