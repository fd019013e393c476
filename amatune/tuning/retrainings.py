"""The trainings of a shortlist: every configuration with every seed."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from amatune.cluster.checkpoints import Checkpoints
from amatune.cluster.job import Job, Progress, Trained
from amatune.config import DetectorConfig
from amatune.results.leaderboard import model_folder
from amatune.results.localisation import PIXELS, PixelFigures, has_pixels, read_pixels
from amatune.results.scores import TEST, VALIDATION, has_scores, load_scores, save_scores
from amatune.runs import RunFolder
from amatune.runs.record import RunRecord
from amatune.sealed import CONFIG, read_facts
from amatune.tuning.events import Listener, RetrainUpdate, State
from amatune.tuning.search import trials_place
from amatune.tuning.seeds import derive_seed
from amatune.tuning.trainings import Training, Trainings


@dataclass(frozen=True)
class Candidate:
    """A configuration of the shortlist."""

    name: str  # "trial-12" or "default"
    default: bool
    settings: dict[str, Any]
    config: DetectorConfig  # resolved
    search_auroc: float | None


@dataclass(kw_only=True)
class Retraining(Training):
    """One candidate with one seed."""

    candidate: Candidate
    number: int  # of the seed: 1, 2, ...
    folder: Path  # of what it leaves behind
    tries: dict[str, int] = field(default_factory=dict)  # as `Failure.try_again` keeps them

    @classmethod
    def of(cls, run: RunFolder, candidate: Candidate, seed: int, number: int) -> "Retraining":
        """The candidate with the `number`-th seed of a search with this `seed`."""
        return cls(
            # The budget is part of the name: a checkpoint belongs to one budget.
            name=f"{candidate.name}-{candidate.config.epochs}epochs-seed{number}",
            config=candidate.config,
            settings=candidate.settings,
            seed=derive_seed(seed, "retrain", number),
            candidate=candidate,
            number=number,
            folder=model_folder(run, candidate.name, number),
        )

    @property
    def facts(self) -> dict[str, Any] | None:
        """What is kept of the detector that this training makes; None when there is none."""
        facts = read_facts(self.folder)
        mine = {"config": self.config.to_dict(), "seed": self.seed}
        if facts is None or any(facts.get(name) != value for name, value in mine.items()):
            return None
        if not has_scores(self.folder / VALIDATION):
            return None  # cut short: it is trained again
        return facts

    def scores(self, file: str) -> dict[str, dict[str, np.ndarray]]:
        """The kept scores of VALIDATION or TEST images, by name: "normal" (N,), "anomaly" (M,)."""
        return load_scores(self.folder / file)

    def is_tested(self, *, with_maps: bool) -> bool:
        """Whether its scores of the test images are kept, and `with_maps` what its maps are
        worth."""
        maps = not with_maps or has_pixels(self.folder / PIXELS)
        return maps and has_scores(self.folder / TEST)

    def pixels(self) -> PixelFigures | None:
        """What its maps of the test images are worth; None without masks or maps."""
        file = self.folder / PIXELS
        return read_pixels(file) if file.exists() else None


class Retrainings(Trainings[Retraining]):
    """The `Work` of a retraining."""

    def __init__(
        self,
        run: RunFolder,
        record: RunRecord,
        trainings: Sequence[Retraining],
        emit: Listener,
        checkpoint_seconds: float,
    ) -> None:
        request = record.request
        self.place = trials_place(run, request, "best/trials")
        super().__init__(
            Checkpoints(self.place),
            run.event_files(request.storage_path),
            checkpoint_seconds,
            request.objective,
            run_id=record.identity,
        )
        self.emit = emit
        self.left = [training for training in trainings if training.facts is None]
        self.failures: dict[str, list[str]] = {}  # by candidate

    def _next(self) -> Retraining | None:
        return self.left.pop(0) if self.left else None

    def _job(self, training: Retraining) -> Job:
        job = super()._job(training)
        tensorboard = str(self._tensorboard / f"best-{training.name}")
        return dataclasses.replace(job, tensorboard=tensorboard, keep_model=True)

    def report(self, key: str, progress: Progress) -> bool:
        """Tell how far it is; none is stopped early."""
        training = self._running[key]
        training.take_in(progress)
        self._update(training, "running")
        return False

    def keep(self, key: str, trained: Trained) -> None:
        """Keep the detector and its scores of validation images."""
        training = self._running[key]
        # Of an earlier detector; the first says what it was, and nothing is to be taken for it.
        for file in (CONFIG, TEST, PIXELS):
            (training.folder / file).unlink(missing_ok=True)
        save_scores(training.folder / VALIDATION, trained.scores)
        training.doubt = "; ".join(trained.warnings)
        if trained.model is not None:  # every job asks for it
            trained.model.save(training.folder)

    def finish(self, key: str, progress: Progress) -> None:
        """It has trained to its end."""
        training = self._running.pop(key)
        training.take_in(progress)
        self._checkpoints.delete(training.name)
        self._update(training, "done", training.doubt)

    def _tries(self, training: Retraining) -> dict[str, int]:
        return training.tries

    def _again(self, training: Retraining, tries: dict[str, int]) -> None:
        training.tries = tries
        self.left.insert(0, training)

    def _give_up(self, training: Retraining, reason: str) -> None:
        failures = self.failures.setdefault(training.candidate.name, [])
        failures.append(f"seed {training.number}: {reason}")
        self._update(training, "failed", reason)

    def _update(self, training: Retraining, state: State, reason: str = "") -> None:
        self.emit(
            RetrainUpdate(
                configuration=training.candidate.name,
                seed=training.number,
                state=state,
                epoch=training.epoch,
                epochs=training.config.epochs,
                auroc=training.auroc,
                gpu_bytes=training.gpu_bytes,
                reason=reason,
            )
        )
