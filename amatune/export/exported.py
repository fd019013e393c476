"""An export that torch scores: the usual engine."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from amatune.config import ImageShape
from amatune.data.pictures import Pixels
from amatune.detector import Detector
from amatune.export.scoring import AnyExport


@dataclass(frozen=True, kw_only=True)
class Exported(AnyExport):
    """A detector read back from its folder, ready to score."""

    detector: Detector

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W) every picture is brought to."""
        return self.detector.image_shape

    @property
    def score_names(self) -> tuple[str, ...]:
        """The names of all scores."""
        return self.detector.score_names

    @property
    def primary_score(self) -> str:
        """The name of the one in use."""
        return self.detector.primary_score

    def scores(self, images: Pixels) -> dict[str, NDArray[np.float32]]:
        """See `AnyExport`."""
        found = self.detector.scores(torch.from_numpy(images))
        return {name: values.numpy() for name, values in found.items()}

    def pixel_map(self, images: Pixels) -> NDArray[np.float32] | None:
        """See `AnyExport`."""
        found = self.detector.pixel_map(torch.from_numpy(images))
        return None if found is None else found.float().numpy()

    def reconstruct(self, images: Pixels) -> NDArray[np.float32] | None:
        """See `AnyExport`."""
        found = self.detector.reconstruct(torch.from_numpy(images))
        return None if found is None else found.numpy()
