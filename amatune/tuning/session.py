"""One session of a search: what is asked of the study and told to it. No Ray in here.

Every step is written to the study before it is acted on, so that a session may be killed at any
moment and the next one goes on from the study alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from amatune.detector import DetectorConfig
from amatune.errors import ConfigError
from amatune.runs import RunFolder
from amatune.tuning import study as studies
from amatune.tuning.checkpoints import Checkpoints
from amatune.tuning.events import Listener, State, TrialUpdate
from amatune.tuning.job import CHECKPOINT_SECONDS, Job, Trained
from amatune.tuning.request import SearchRequest
from amatune.tuning.scores import save_scores
from amatune.tuning.seeds import derive_seed
from amatune.tuning.study import Space

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass
class Attempt:
    """A trial that this session runs."""

    trial: optuna.Trial
    settings: dict[str, Any]
    config: DetectorConfig  # resolved
    epoch: int = 0  # epochs completed, as far as this session knows
    auroc: float | None = None

    @property
    def name(self) -> str:
        """Of the trial's folders."""
        return f"{self.trial.number:04d}"


class Session:
    """The `Work` of a search: hands out trials, notes their results, decides which to stop.

    Trials that an earlier session left unfinished are handed out first, with their numbers,
    settings and results. Trial `number` trains with `derive_seed(request.seed, "trial", number)`.
    `complete_config` turns settings into a resolved configuration and raises `ConfigError` when
    they do not go together.
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
    ) -> None:
        self._study = study
        self._request = request
        self._run = run
        self._checkpoints = checkpoints
        self._checkpoint_seconds = checkpoint_seconds
        self._space = space
        self._complete_config = complete_config
        self._listener = listener
        self._attempts: dict[str, Attempt] = {}
        self._unfinished = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

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
            attempt = self._attempts[key] = Attempt(trial, settings, config)
            reported = self._reported(attempt)
            if reported:
                attempt.epoch = max(reported)
                attempt.auroc = reported[attempt.epoch]
            self._emit(attempt, "waiting")
            return self._job(attempt)
        return None

    def started(self, key: str) -> None:
        """The trial runs now."""
        self._emit(self._attempts[key], "running")

    def report(self, key: str, epoch: int, auroc: float) -> bool:
        """Note a trial's AUROC after an epoch; whether it is to be stopped there.

        A trial continued from a checkpoint repeats epochs; what the study knows stands.
        """
        attempt = self._attempts[key]
        attempt.epoch, attempt.auroc = epoch, auroc
        last_reported = max(self._reported(attempt), default=0)
        if epoch > last_reported:
            attempt.trial.report(auroc, epoch)
        self._emit(attempt, "running")
        # At a repeated epoch the decision may have been lost with the session that asked for it.
        return (
            epoch >= last_reported
            and epoch > attempt.config.grace_epochs()
            and attempt.trial.should_prune()
        )

    def keep(self, key: str, trained: Trained) -> None:
        """Keep the validation scores, image by image, beside the trial's results."""
        folder = self._run.trials / self._attempts[key].name
        save_scores(folder / "validation.npz", trained.scores)

    def finish(self, key: str, epoch: int, auroc: float) -> None:
        """A trial ended after `epoch`: complete at the full budget, pruned before it."""
        attempt = self._attempts.pop(key)
        attempt.epoch, attempt.auroc = epoch, auroc
        if epoch >= self._request.epochs:
            if epoch not in self._reported(attempt):
                attempt.trial.report(auroc, epoch)
            self._study.tell(attempt.trial, auroc)
            self._emit(attempt, "done")
        else:
            reason = f"AUROC {auroc:.3f} was not among the best at epoch {epoch}"
            attempt.trial.set_user_attr(studies.REASON, reason)
            self._study.tell(attempt.trial, state=TrialState.PRUNED)
            self._emit(attempt, "pruned", reason)
        # Nothing starts from them any more: a retraining begins at the beginning.
        self._checkpoints.delete(attempt.name)

    def fail(self, key: str, reason: str) -> None:
        """A trial broke; the search goes on."""
        attempt = self._attempts.pop(key)
        self._fail(attempt.trial, reason, attempt.settings, attempt.epoch, attempt.auroc)
        self._checkpoints.delete(attempt.name)

    def _job(self, attempt: Attempt) -> Job:
        return Job(
            folder=self._checkpoints.next_folder(attempt.name),
            config=attempt.config.to_dict(),
            settings=attempt.settings,
            seed=derive_seed(self._request.seed, "trial", attempt.trial.number),
            tensorboard=str(self._run.tensorboard / attempt.name),
            checkpoints=tuple(self._checkpoints.newest_first(attempt.name)),
            checkpoint_seconds=self._checkpoint_seconds,
            objective=self._request.objective,
        )

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
                reason=reason,
            )
        )
