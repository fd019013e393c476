"""One session of a search: what is asked of the study and told to it. No Ray in here.

Every step is written to the study before it is acted on, so that a session may be killed at any
moment and the next one goes on from the study alone.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from amatune.cluster.checkpoints import Checkpoints
from amatune.cluster.job import (
    CHECKPOINT_SECONDS,
    LARGER_SHARE,
    Failure,
    Job,
    Progress,
    Trained,
)
from amatune.config import DetectorConfig
from amatune.errors import ConfigError
from amatune.results.scores import save_scores
from amatune.runs import RunFolder
from amatune.tuning import study as studies
from amatune.tuning.events import Listener, State, TrialUpdate
from amatune.tuning.request import SearchRequest
from amatune.tuning.seeds import derive_seed
from amatune.tuning.study import Space

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
WARM_UPS_KEPT = 4  # of those shared, each as large as a checkpoint
NOTE_SECONDS = 10.0  # between two notes of what a running trial has cost


def validation_file(run: RunFolder, number: int) -> Path:
    """Where the validation scores of a trial that reached the full budget are kept."""
    return run.trials / f"{number:04d}" / "validation.npz"


@dataclass
class Attempt:
    """A trial that this session runs."""

    trial: optuna.Trial
    settings: dict[str, Any]
    config: DetectorConfig  # resolved
    epoch: int = 0  # epochs completed, as far as this session knows
    auroc: float | None = None
    gpu_bytes: int | None = None
    since: float | None = None  # when the time was noted last; None: it does not run yet

    @property
    def name(self) -> str:
        """Of the trial's folders."""
        return f"{self.trial.number:04d}"


class Session:
    """The `Work` of a search: hands out trials, notes their results, decides which to stop.

    Trials that an earlier session left unfinished are handed out first, with their numbers,
    settings and results. `complete_config` turns settings into a resolved configuration and raises
    `ConfigError` when they do not go together. `warm_up` names the warm-up that a configuration
    begins with; trials with the same one train it with the same seed, and when `share_warm_ups`,
    the first to finish it leaves it to the others. Event files go below `tensorboard`, by default
    the run's own folder.
    """

    def __init__(
        self,
        study: optuna.Study,
        request: SearchRequest,
        run: RunFolder,
        checkpoints: Checkpoints,
        space: Space,
        complete_config: Callable[[Mapping[str, Any]], DetectorConfig],
        listener: Listener,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        warm_up: Callable[[DetectorConfig], str | None] = lambda _config: None,
        share_warm_ups: bool = False,
        tensorboard: Path | None = None,
    ) -> None:
        self._study = study
        self._request = request
        self._run = run
        self._checkpoints = checkpoints
        self._checkpoint_seconds = checkpoint_seconds
        self._space = space
        self._complete_config = complete_config
        self._listener = listener
        self._warm_up = warm_up
        self._share_warm_ups = share_warm_ups
        self._tensorboard = tensorboard or run.tensorboard
        self._shared: dict[str, None] = {}  # names of warm-ups, the one used last at the end
        self.gpus_per_trial = 0.0  # to be told before the first trial starts
        self._attempts: dict[str, Attempt] = {}
        self._unfinished: list[FrozenTrial | optuna.Trial] = list(
            study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        )

    def count(self, *states: TrialState) -> int:
        """How many trials of the study are in one of these states."""
        return len(self._study.get_trials(deepcopy=False, states=states))

    @property
    def left(self) -> int:
        """How many trials are still to be handed out."""
        handed_out = self.count(TrialState.RUNNING, *FINISHED) - len(self._unfinished)
        return max(self._request.trials - handed_out, 0)

    @property
    def is_satisfied(self) -> bool:
        """Whether a trial with the full budget has reached the AUROC that is enough."""
        enough = self._request.stop_at
        if enough is None:
            return False
        return any((t.value or 0.0) >= enough for t in studies.full_trials(self._study))

    def start(self, key: str) -> Job | None:
        """The next trial, known as `key` from now on; None when there are no more."""
        while self.left > 0 and not self.is_satisfied:
            trial = self._next_trial()
            try:
                suggested = self._space(studies.HeldFixed(trial, self._request.fixed))
                settings = {**suggested, **self._request.fixed}
                config = self._complete_config(settings)
            except ConfigError as error:
                self._fail(trial, str(error), trial.params, epoch=0, auroc=None)
                continue
            trial.set_user_attr(studies.SETTINGS, settings)
            trial.set_user_attr(studies.CONFIG, config.to_dict())
            trial.set_user_attr(studies.WARM_UP, self._warm_up(config))
            attempt = self._attempts[key] = Attempt(trial, settings, config)
            reported = self._reported(attempt)
            if reported:
                attempt.epoch = max(reported)
                attempt.auroc = reported[attempt.epoch]
                stopped = trial.user_attrs.get(studies.STOPPED) == attempt.epoch
                if stopped or self._is_to_stop(attempt):
                    # The session before was killed between the decision and its record.
                    del self._attempts[key]
                    self._prune(attempt)
                    continue
            self._emit(attempt, "waiting")
            return self._job(attempt)
        return None

    def started(self, key: str) -> None:
        """The trial runs now."""
        self._attempts[key].since = time.monotonic()
        self._emit(self._attempts[key], "running")

    def report(self, key: str, progress: Progress) -> bool:
        """Note a trial's AUROC after an epoch; whether it is to be stopped there.

        A trial continued from a checkpoint repeats epochs; what the study knows stands.
        """
        attempt = self._attempts[key]
        self._take_in(attempt, progress)
        if attempt.since is not None and time.monotonic() - attempt.since > NOTE_SECONDS:
            self._note_cost(attempt)
        epoch = progress.epoch
        last_reported = max(self._reported(attempt), default=0)
        if epoch > last_reported:
            self._fill_in(attempt, last_reported + 1, epoch)
            attempt.trial.report(progress.auroc, epoch)
        self._emit(attempt, "running")
        return epoch >= last_reported and self._is_to_stop(attempt)

    def _is_to_stop(self, attempt: Attempt) -> bool:
        """Whether the trial ends at its newest epoch. That it does is noted at once: a pruner that
        has compared a trial at a rung does not do so again."""
        if attempt.epoch <= attempt.config.grace_epochs() or not attempt.trial.should_prune():
            return False
        attempt.trial.set_user_attr(studies.STOPPED, attempt.epoch)
        return True

    def keep(self, key: str, trained: Trained) -> None:
        """Keep the validation scores, image by image, beside the trial's results."""
        attempt = self._attempts[key]
        attempt.trial.set_user_attr(studies.PRIMARY, trained.primary)
        save_scores(validation_file(self._run, attempt.trial.number), trained.scores)

    def finish(self, key: str, progress: Progress) -> None:
        """A trial ended: complete at the full budget, pruned before it."""
        attempt = self._attempts.pop(key)
        self._take_in(attempt, progress)
        self._note_cost(attempt)
        epoch, auroc = progress.epoch, progress.auroc
        if epoch >= self._request.epochs:
            reported = self._reported(attempt)
            if epoch not in reported:
                self._fill_in(attempt, max(reported, default=0) + 1, epoch)
                attempt.trial.report(auroc, epoch)
            self._study.tell(attempt.trial, auroc)
            self._emit(attempt, "done")
            # Nothing starts from them any more: a retraining begins at the beginning.
            self._checkpoints.delete(attempt.name)
        else:
            self._prune(attempt)

    def _prune(self, attempt: Attempt) -> None:
        reason = f"AUROC {attempt.auroc:.3f} was not among the best at epoch {attempt.epoch}"
        attempt.trial.set_user_attr(studies.REASON, reason)
        self._study.tell(attempt.trial, state=TrialState.PRUNED)
        self._emit(attempt, "pruned", reason)
        self._checkpoints.delete(attempt.name)

    def fail(self, key: str, failure: Failure) -> None:
        """A trial broke; the search goes on, and with it the trial when that may help."""
        attempt = self._attempts.pop(key)
        self._note_cost(attempt)
        if failure.kind == "disk":
            return  # it stays unfinished, for a session that has more room
        furthest = max(self._reported(attempt), default=0)
        tries = failure.try_again(attempt.trial.user_attrs.get(studies.TRIES, {}), furthest)
        if tries is not None:
            attempt.trial.set_user_attr(studies.TRIES, tries)
            self._unfinished.insert(0, attempt.trial)
            self._emit(attempt, "waiting", f"{failure.reason}; it is tried again")
            return
        self._fail(attempt.trial, failure.reason, attempt.settings, attempt.epoch, attempt.auroc)
        self._checkpoints.delete(attempt.name)

    def close(self) -> None:
        """No more trials are started in this session."""
        for attempt in self._attempts.values():
            self._note_cost(attempt)
        if self.left == 0 or self.is_satisfied:
            self._checkpoints.delete_warm_ups()

    def _take_in(self, attempt: Attempt, progress: Progress) -> None:
        attempt.epoch, attempt.auroc = progress.epoch, progress.auroc
        attempt.gpu_bytes = progress.gpu_bytes

    def _note_cost(self, attempt: Attempt) -> None:
        """Add the time since the last note to what the trial has cost."""
        if attempt.since is None:
            return
        now = time.monotonic()
        seconds, attempt.since = now - attempt.since, now
        cost = attempt.trial.user_attrs.get(studies.COST, {"seconds": 0.0, "gpu_seconds": 0.0})
        added = {"seconds": seconds, "gpu_seconds": seconds * self.gpus_per_trial}
        total = {name: round(cost[name] + added[name], 3) for name in added}
        attempt.trial.set_user_attr(studies.COST, total)

    def _fill_in(self, attempt: Attempt, start: int, end: int) -> None:
        """Epochs `start` to `end` - 1 were another trial's warm-up: take its results over."""
        if start >= end:
            return
        name = attempt.trial.user_attrs[studies.WARM_UP]
        known: dict[int, float] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if trial.user_attrs.get(studies.WARM_UP) == name:
                known = {**trial.intermediate_values, **known}
        for epoch in range(start, end):
            if epoch in known:
                attempt.trial.report(known[epoch], epoch)
        attempt.trial.set_user_attr(studies.SHARED, end - start)

    def _job(self, attempt: Attempt) -> Job:
        warm_up = attempt.trial.user_attrs[studies.WARM_UP]
        purpose = ("warm-up", warm_up) if warm_up else ("trial", attempt.trial.number)
        short_of_memory = attempt.trial.user_attrs.get(studies.TRIES, {}).get("memory", 0)
        return Job(
            folder=self._checkpoints.next_folder(attempt.name),
            config=attempt.config.to_dict(),
            settings=attempt.settings,
            seed=derive_seed(self._request.seed, *purpose),
            tensorboard=str(self._tensorboard / attempt.name),
            checkpoints=tuple(self._checkpoints.newest_first(attempt.name)),
            checkpoint_seconds=self._checkpoint_seconds,
            warm_up=self._shared_warm_up(warm_up),
            share=LARGER_SHARE if short_of_memory else 1.0,
            objective=self._request.objective,
        )

    def _shared_warm_up(self, name: str | None) -> str | None:
        """Its place; that of the warm-up not used for longest is given up for it."""
        if name is None or not self._share_warm_ups:
            return None
        self._shared.pop(name, None)
        self._shared[name] = None
        if len(self._shared) > WARM_UPS_KEPT:
            oldest = next(iter(self._shared))
            del self._shared[oldest]
            self._checkpoints.delete_warm_up(oldest)
        return self._checkpoints.warm_up(name)

    def _next_trial(self) -> optuna.Trial:
        trials = self._study.get_trials(deepcopy=False)
        waiting = [t.number for t in trials if t.state == TrialState.WAITING]
        orphan = self._unfinished.pop(0) if self._unfinished else None
        number = orphan.number if orphan else min(waiting, default=len(trials))
        request = self._request
        self._study.sampler = studies.make_sampler(request.sampler, request.seed, number)
        if orphan:
            # Optuna has no `ask` for a trial that exists. The trial's constructor is public, and
            # answers with the stored value for a parameter it has: the space runs as it did before.
            return optuna.Trial(self._study, orphan._trial_id)
        return self._study.ask()

    def _reported(self, attempt: Attempt) -> dict[int, float]:
        storage = self._study._storage
        return storage.get_trial(attempt.trial._trial_id).intermediate_values

    def _fail(
        self,
        trial: optuna.Trial,
        reason: str,
        settings: Mapping[str, Any],
        epoch: int,
        auroc: float | None,
    ) -> None:
        trial.set_user_attr(studies.REASON, reason)
        self._study.tell(trial, state=TrialState.FAIL)
        self._listener(
            TrialUpdate(
                number=trial.number,
                state="failed",
                epoch=epoch,
                epochs=self._request.epochs,
                auroc=auroc,
                settings=dict(settings),
                reason=reason,
            )
        )

    def _emit(self, attempt: Attempt, state: State, reason: str = "") -> None:
        self._listener(
            TrialUpdate(
                number=attempt.trial.number,
                state=state,
                epoch=attempt.epoch,
                epochs=self._request.epochs,
                auroc=attempt.auroc,
                settings=dict(attempt.settings),
                gpu_bytes=attempt.gpu_bytes,
                reason=reason,
            )
        )
