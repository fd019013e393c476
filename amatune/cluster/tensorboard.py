"""What a training shows in TensorBoard.

    loss/<name>                   every epoch
    auroc/<score>                 every epoch, on validation images, one curve per score
    auroc                         the primary one, which the search maximises
    compared                      the one that a search compares unfinished trials by
    images/normal, images/anomaly validation images above their reconstructions
    score/<score>/<set>           histograms: training, normal, anomaly
    HParams                       the settings against the curves' last values
    Custom Scalars                all losses in one chart, the AUROCs of all scores in another

HParams shows every training below the folder that TensorBoard is given, also those of several runs.
It would take the columns of the first description of an experiment that it finds for all of them,
so none is written: TensorBoard then makes the columns itself, of all settings that any training
has, with their types.

Pictures and histograms are written PICTURES times in a training, so that a trial's folder stays at
a few megabytes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from amatune.detector import Detector, to_unit_range

PICTURES = 8  # times in a full training
GRID_SIDE = 512  # pixels: large images are shown fewer at a time
PICTURE_SIDE = 96  # pixels: larger images are shown smaller

# TensorBoard merges the equal layouts of all trainings. Tags are regular expressions.
LAYOUT = {
    "Training": {
        "losses": ["Multiline", ["loss/.+"]],
        "validation AUROC of each score": ["Multiline", ["auroc/.+"]],
    }
}


class TrainingLog:
    """Event files of one training in `folder`, which is RUN/tensorboard/NAME.

    `epoch` is the number of epochs that are done already: what an interrupted training wrote about
    later ones is hidden by TensorBoard.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], epochs: int, epoch: int):
        self._writer = SummaryWriter(str(folder), purge_step=epoch + 1)
        self._every = max(1, round(epochs / PICTURES))
        self._epochs = epochs
        # What is not set is left out: one word among numbers would make the column one of words.
        plain = {name: _plain(value) for name, value in settings.items() if value is not None}
        # In the training's own folder: `SummaryWriter.add_hparams` makes another one below it.
        # The beginning is written now, so that a training that is stopped shows up as well.
        own, run = Path(folder).name, Path(folder).parent.parent.name
        parts: Any = hparams({"run": run, **plain}, {"auroc": 0.0})  # type: ignore[no-untyped-call]
        _experiment, beginning, self._end = parts
        plugin = beginning.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin.content)
        content.session_start_info.group_name = f"{own} {run}"  # the first column of the table
        plugin.content = content.SerializeToString()
        self._add(beginning)
        self._writer.add_custom_scalars(LAYOUT)

    def shows_pictures(self, epoch: int) -> bool:
        """Whether this epoch is one of those that get pictures and histograms."""
        return epoch % self._every == 0 or epoch == 1 or epoch == self._epochs

    def scalars(
        self,
        epoch: int,
        losses: Mapping[str, float],
        aurocs: Mapping[str, float],
        compared: float | None = None,
    ) -> None:
        """The curves, after `epoch` epochs; the AUROC of the score "" is the one that counts,
        `compared` the one that trials are compared by."""
        for name, value in losses.items():
            self._writer.add_scalar(f"loss/{name}", value, epoch)
        for name, value in aurocs.items():
            self._writer.add_scalar(f"auroc/{name}".rstrip("/"), value, epoch)
        if compared is not None:
            self._writer.add_scalar("compared", compared, epoch)

    def reconstructions(self, epoch: int, detector: Detector, images: Mapping[str, Tensor]) -> None:
        """One grid per set of images (N, C, H, W): originals above, reconstructions below."""
        for name, all_images in images.items():
            side = min(PICTURE_SIDE, max(all_images.shape[-2:]))
            originals = all_images[: min(8, GRID_SIDE // side)]
            rebuilt = detector.reconstruct(originals)
            if rebuilt is None:
                return
            rows = [_small(row) for row in (to_unit_range(originals), rebuilt.clamp(-1, 1))]
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

    def _add(self, summary: Any) -> None:
        writer: Any = self._writer.file_writer
        writer.add_summary(summary)


def _small(images: Tensor) -> Tensor:
    """float32 (N, C, H, W) on the CPU, at most PICTURE_SIDE high and wide."""
    images = images.float().cpu()
    factor = PICTURE_SIDE / max(images.shape[-2:])
    if factor >= 1:
        return images
    size = [max(1, round(side * factor)) for side in images.shape[-2:]]
    return functional.interpolate(images, size, mode="area")


def _plain(value: Any) -> int | float | str:
    """A number, or a word that HParams can filter by."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, int | float | str) else str(value)
