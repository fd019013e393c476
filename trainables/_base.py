"""The one `tune.Trainable`: trains any detector, one epoch per step.

A worker process serves many trials one after the other (`reuse_actors`). Whatever belongs to one
trial is made in `_begin` and nowhere else, so that a reused worker trains exactly as a fresh one.
The networks are built at the first step: what one trial's settings break is then that trial's
failure, and not the worker's.
"""

import dataclasses
import gc
import pickle
import shutil
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from ray import tune
from ray.tune.result import DONE, SHOULD_CHECKPOINT

from amatune import metrics
from amatune.cluster.checkpoints import CHECKPOINT_FILE
from amatune.cluster.device import claim_device, naming_out_of_memory
from amatune.cluster.job import CALIBRATION_IMAGES, Job, Trained
from amatune.cluster.tensorboard import TrainingLog
from amatune.detector import Detector, evenly_spaced
from amatune.errors import (
    ConfigError,
    DiskFullError,
    DivergedError,
    TrainingWarning,
    is_out_of_space,
)
from amatune.results.objective import best_score, validation_auroc
from amatune.stored import StoredDetector

OWNER = "training"  # key in a checkpoint: which training it belongs to
NO_SPACE = 2**24  # bytes: with less left on a disk, a file that cannot be written is put down to it


class DetectorTrainable(tune.Trainable):
    """Trains `detector_class` on images from the object store; a method's adapter subclasses it.

    Every step reports `epoch`, `losses` by name and `gpu_bytes`, the most it held on its GPU; when
    it was scored also `auroc` (validation AUROC of the score that ranks the images, by the job's
    objective: that of the settings, or the one that does best; else None), `early` (that of the
    detector's `early_score`, likewise) and `aurocs` by score name. The last one also has `trained`,
    the fields of `Trained`.
    """

    detector_class: ClassVar[type[Detector]]
    gpu_share: ClassVar[float] = 0.25  # of a GPU per trial, when the user does not say

    def setup(  # type: ignore[override]
        self,
        config: dict[str, Any],
        train: np.ndarray,
        normal: np.ndarray,
        anomaly: np.ndarray,
        labelled: np.ndarray,
        bounds: np.ndarray,
        gpu_memory: float = 1.0,
    ) -> None:
        """Take the images: uint8 (N, C, H, W) each, `normal` and `anomaly` for validation,
        `labelled` anomalies to learn from; `bounds` between the sets of anomalies. All trials on a
        card together may use the share `gpu_memory` of its memory."""
        resources = self.trial_resources.required_resources if self.trial_resources else {}
        self._device = claim_device(resources.get("CPU", 1), resources.get("GPU", 0), gpu_memory)
        self._images: tuple[np.ndarray, ...] | None = (train, normal, anomaly, labelled)
        self._bounds = bounds
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Forget the trial before; called instead of `setup` when the worker is reused."""
        self._end()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._job = Job(**config["job"])
        self._detector: Detector | None = None
        self._log: TrainingLog | None = None
        self._saved_at = time.monotonic()
        if self._device.startswith("cuda"):
            gc.collect()  # a detector and the steps it has captured hold each other
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _end(self) -> None:
        if self._log is not None:
            self._log.close()
        self._log = None

    def cleanup(self) -> None:
        """Close the event files."""
        self._end()

    def step(self) -> dict[str, Any]:
        """Train an epoch and, when it is due, score the validation images."""
        with naming_out_of_memory():
            return self._step()

    def _step(self) -> dict[str, Any]:
        detector = self._detector or self._build()
        losses = detector.train_epoch(self._train, self._labelled if len(self._labelled) else None)
        epoch = detector.epoch
        done = epoch >= detector.config.epochs
        every = detector.config.score_every()
        result: dict[str, Any] = {"epoch": epoch, "auroc": None, "losses": losses, DONE: done}
        if done or epoch % every == 0 or epoch in self._job.score_at:
            result |= self._score(detector, losses, done)
        else:
            self._write_log(detector, losses)

        due = time.monotonic() - self._saved_at >= self._job.checkpoint_seconds
        return result | {"gpu_bytes": self._gpu_bytes(), SHOULD_CHECKPOINT: due and not done}

    def _score(self, detector: Detector, losses: dict[str, float], done: bool) -> dict[str, Any]:
        """Calibrate, score the validation images, and write it to the event files."""
        told = _calibrate(detector, self._train if done else self._sample)
        scores = self._scores(detector)
        ranking = {
            name: validation_auroc(**s, bounds=self._bounds, kind=self._job.objective)
            for name, s in scores.items()
        }
        primary = best_score(ranking) if detector.chooses_score else detector.primary_score
        aurocs = {name: metrics.auroc(s["normal"], s["anomaly"]) for name, s in scores.items()}
        compared = best_score(ranking) if detector.early_score == "auto" else detector.early_score
        early = ranking[compared or primary]
        self._write_log(detector, losses, {**aurocs, "": ranking[primary]}, early, scores)
        result: dict[str, Any] = {"auroc": ranking[primary], "early": early, "aurocs": aurocs}
        if done:
            model = StoredDetector.of(detector) if self._job.keep_model else None
            trained = Trained(scores=scores, primary=primary, model=model, warnings=told)
            result["trained"] = {
                f.name: getattr(trained, f.name) for f in dataclasses.fields(trained)
            }
        return result

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write all that resuming needs."""
        detector = self._detector or self._build()
        try:
            state = {**detector.state_dict(), OWNER: self._job.training}
            torch.save(state, Path(checkpoint_dir) / CHECKPOINT_FILE)
        except RuntimeError as error:
            # torch does not say why a file cannot be written.
            if shutil.disk_usage(checkpoint_dir).free < NO_SPACE:
                raise DiskFullError(f"no space is left in {checkpoint_dir}") from error
            raise
        self._saved_at = time.monotonic()

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Continue from a checkpoint folder."""
        self._take_images_to_device()
        self._detector = self._new_detector()
        state = _read_checkpoint(checkpoint)
        del state[OWNER]
        self._detector.load_state_dict(state)

    def _build(self) -> Detector:
        """The job's detector, at the newest epoch that was saved and can be read, else at 0."""
        self._take_images_to_device()
        detector = self._new_detector()
        for place in self._job.checkpoints:
            try:
                with tune.Checkpoint(place).as_directory() as folder:
                    state = _read_checkpoint(folder)
            except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
                continue  # cut short by a kill; the one before it is whole
            if state.pop(OWNER, None) != self._job.training:
                continue  # of another training that had this number: a study was put back
            try:
                detector.load_state_dict(state)
            except (ConfigError, KeyError, ValueError, RuntimeError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                # Another version of amatune wrote it. A part of it may have been taken.
                detector = self._new_detector()
                continue
            break
        self._detector = detector
        return detector

    def _new_detector(self) -> Detector:
        config = self.detector_class.Config.from_dict(self._job.config)
        channels, height, width = self._train.shape[1:]
        return self.detector_class(config, (channels, height, width), self._device, self._job.seed)

    def _take_images_to_device(self) -> None:
        """Once for all trials; within a step, like the networks: what does not fit is the trial's
        failure."""
        if self._images is None:
            return
        # Copies: arrays in the object store are read-only and shared.
        self._train, self._normal, self._anomaly, self._labelled = (
            torch.tensor(images, device=self._device) for images in self._images
        )
        self._sample = evenly_spaced(self._train, CALIBRATION_IMAGES)
        self._images = None

    def _gpu_bytes(self) -> int | None:
        on_gpu = self._device.startswith("cuda")
        return torch.cuda.max_memory_reserved() if on_gpu else None

    def _scores(self, detector: Detector) -> dict[str, dict[str, np.ndarray]]:
        sets = {"normal": self._normal, "anomaly": self._anomaly}
        by_set = {name: detector.scores(images) for name, images in sets.items()}
        scores = {
            score: {name: by_set[name][score].numpy() for name in sets}
            for score in detector.score_names
        }
        bad = [n for n, s in scores.items() if not all(np.isfinite(v).all() for v in s.values())]
        if bad:
            raise DivergedError(
                f"{detector.name} diverged in epoch {detector.epoch}: scores "
                f"{', '.join(bad)} of validation images are not finite"
            )
        return scores

    def _write_log(
        self,
        detector: Detector,
        losses: dict[str, float],
        aurocs: Mapping[str, float] = MappingProxyType({}),
        early: float | None = None,
        scores: Mapping[str, dict[str, np.ndarray]] = MappingProxyType({}),
    ) -> None:
        """Of the newest epoch: `aurocs` by score name, "" being the one that counts, and `early`,
        the one that trials are compared by."""
        job, epoch = self._job, detector.epoch
        if self._log is None:
            epochs = detector.config.epochs
            try:
                self._log = TrainingLog(job.tensorboard, job.settings, epochs, epoch - 1)
            except OSError as error:
                if is_out_of_space(error):
                    raise
                return  # on another machine than the run's; no reason for a trial to fail
        self._log.scalars(epoch, losses, aurocs, early)
        if scores and self._log.shows_pictures(epoch):
            images = {"normal": self._normal, "anomaly": self._anomaly}
            self._log.reconstructions(epoch, detector, images)
            train = detector.scores(self._sample[: detector.most_to_calibrate])
            self._log.histograms(
                epoch, {n: {"training": train[n].numpy(), **s} for n, s in scores.items()}
            )


def _calibrate(detector: Detector, images: torch.Tensor) -> tuple[str, ...]:
    """What the method says against this training, which nobody would read of a worker."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TrainingWarning)
        detector.calibrate(images)
    for one in caught:
        if not issubclass(one.category, TrainingWarning):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return tuple(str(one.message) for one in caught if issubclass(one.category, TrainingWarning))


def _read_checkpoint(folder: str) -> dict[str, Any]:
    # To the CPU: a detector copies what it takes, and counters of optimisers that were there stay.
    file = Path(folder) / CHECKPOINT_FILE
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state
