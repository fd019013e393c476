"""What a training shows in TensorBoard.

    loss/<name>                   every epoch
    auroc/<score>                 every epoch, on validation images, one curve per score
    auroc                         the primary one, which the search maximises
    images/normal, images/anomaly validation images above their reconstructions
    score/<score>/<set>           histograms: training, normal, anomaly
    HParams                       the settings against `auroc`

Pictures and histograms are written PICTURES times in a training, so that a trial's folder stays at
a few megabytes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from amatune.detector import Detector, to_unit_range

PICTURES = 8  # times in a full training
GRID_SIDE = 512  # pixels: large images are shown fewer at a time


class TrainingLog:
    """Event files of one training in `folder`.

    `epoch` is the number of epochs that are done already: what an interrupted training wrote about
    later ones is hidden by TensorBoard.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], epochs: int, epoch: int):
        self._writer = SummaryWriter(str(folder), purge_step=epoch + 1 if epoch else None)
        self._every = max(1, round(epochs / PICTURES))
        self._epochs = epochs
        plain = {name: _plain(value) for name, value in settings.items()}
        # In the training's own folder: `SummaryWriter.add_hparams` makes another one below it. The
        # first two parts are written now, so that a training that is stopped shows up as well.
        parts: Any = hparams(plain, {"auroc": 0.0})  # type: ignore[no-untyped-call]
        *beginning, self._end = parts
        self._add(*beginning)

    def shows_pictures(self, epoch: int) -> bool:
        """Whether this epoch is one of those that get pictures and histograms."""
        return epoch % self._every == 0 or epoch == 1 or epoch == self._epochs

    def scalars(
        self, epoch: int, losses: Mapping[str, float], aurocs: Mapping[str, float], primary: float
    ) -> None:
        """The curves, after `epoch` epochs."""
        for name, value in losses.items():
            self._writer.add_scalar(f"loss/{name}", value, epoch)
        for name, value in aurocs.items():
            self._writer.add_scalar(f"auroc/{name}", value, epoch)
        self._writer.add_scalar("auroc", primary, epoch)

    def reconstructions(self, epoch: int, detector: Detector, images: Mapping[str, Tensor]) -> None:
        """One grid per set of images (N, C, H, W): originals above, reconstructions below."""
        for name, all_images in images.items():
            count = max(2, min(8, GRID_SIDE // max(all_images.shape[-2:])))
            originals = all_images[:count]
            rebuilt = detector.reconstruct(originals)
            if rebuilt is None:
                return
            rows = [to_unit_range(originals).cpu(), rebuilt.float().cpu().clamp(-1, 1)]
            strips = [torch.cat(list(row), dim=-1) for row in rows]  # each (C, H, count * W)
            grid = torch.cat(strips, dim=-2).add(1).div(2)
            self._writer.add_image(f"images/{name}", grid, epoch)

    def histograms(self, epoch: int, scores: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """`scores[score][set]` (N,), higher = more anomalous."""
        for score, sets in scores.items():
            for name, values in sets.items():
                self._writer.add_histogram(f"score/{score}/{name}", values, epoch)

    def close(self) -> None:
        """Say that the training has ended, and write everything out."""
        self._add(self._end)
        self._writer.close()

    def _add(self, *summaries: Any) -> None:
        writer: Any = self._writer.file_writer
        for summary in summaries:
            writer.add_summary(summary)


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)
