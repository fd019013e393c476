"""Every value normal."""

from amatune.data.dataset import BuiltIn, DatasetInfo
from amatune.data.sources.noise import NoiseSource

DATASET = BuiltIn(
    DatasetInfo(
        name="gaussian-noise",
        summary="every value normal, mean 0.5, deviation 1, cut to [0, 1]; as anomalies only",
        image="as the normal set",
        train=NoiseSource.COUNT,
        test=NoiseSource.COUNT,
    ),
    lambda: NoiseSource("gaussian-noise", lambda rng, shape: rng.normal(0.5, 1.0, shape)),
)
