"""One session of a search: what is asked of the study and told to it. No Ray in here.

Every step is written to the study before it is acted on, so that a session may be killed at any
moment and the next one goes on from the study alone.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from amatune.cluster.checkpoints import Checkpoints
from amatune.cluster.job import CHECKPOINT_SECONDS, Failure, Progress, Trained
from amatune.config import DetectorConfig
from amatune.errors import AmatuneError, RequestError
from amatune.registry import SearchSpace
from amatune.results.scores import save_scores, validation_file
from amatune.runs import RunFolder
from amatune.runs.request import SearchRequest
from amatune.several import METHOD, named, of_its_method
from amatune.tuning import study as studies
from amatune.tuning.allocation import Allocation
from amatune.tuning.events import Listener, State, TrialUpdate
from amatune.tuning.proposals import make_sampler, quiet_optuna
from amatune.tuning.seeds import derive_seed
from amatune.tuning.spaces import HeldFixed
from amatune.tuning.trainings import Training, Trainings

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
NOTE_SECONDS = 10.0  # between two notes of what a running trial has cost


@dataclass(kw_only=True)
class Attempt(Training):
    """A trial that this session runs."""

    trial: optuna.Trial
    since: float | None = None  # when the time was noted last; None: it does not run yet


class Session(Trainings[Attempt]):
    """The `Work` of a search: hands out trials, notes their results, decides which to stop.

    Trials that an earlier session left unfinished are handed out first, with their numbers,
    settings and results. `complete_config` turns settings into a resolved configuration and raises
    `ConfigError` when they do not go together. Event files go below `tensorboard`, by default
    the run's own folder. `decides_at` are the epochs at which trials may be stopped, for methods
    that are not scored after every epoch. `early_score` names what they are compared by.
    `allocation`, in a search of several methods, says which of them has the next proposal, and
    `held` what is held fixed by their names; None: as the request says. `run_id` is the identity of
    the run, whose checkpoints alone are taken up.
    """

    def __init__(
        self,
        study: optuna.Study,
        request: SearchRequest,
        run: RunFolder,
        checkpoints: Checkpoints,
        space: SearchSpace,
        complete_config: Callable[[Mapping[str, Any]], DetectorConfig],
        listener: Listener,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        tensorboard: Path | None = None,
        decides_at: Sequence[int] = (),
        early_score: str | None = None,
        allocation: Allocation | None = None,
        held: Mapping[str, Any] | None = None,
        run_id: str = "",
    ) -> None:
        folder, objective = tensorboard or run.tensorboard, request.objective
        super().__init__(checkpoints, folder, checkpoint_seconds, objective, decides_at, run_id)
        self._study = study
        self._request = request
        self._run = run
        self._space = space
        self._complete_config = complete_config
        self._listener = listener
        self._early_score = early_score
        self._allocation = allocation
        self._held = request.fixed if held is None else held
        self.gpus_per_trial = 0.0  # to be told before the first trial starts
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

    def _next(self) -> Attempt | None:
        while self.left > 0 and not self.is_satisfied:
            trial = self._next_trial()
            try:
                suggested = self._space(HeldFixed(trial, self._held))
                settings = of_its_method({**suggested, **self._held})
                config = self._complete_config(settings)
            except AmatuneError as error:
                self._fail(trial, str(error), trial.params, epoch=0, auroc=None)
                continue
            except (OSError, optuna.exceptions.OptunaError):
                raise  # of the study, and not of these settings
            except (Exception, SystemExit) as error:
                if "dynamic value space" in str(error):  # in Optuna's words
                    raise self._other_space(error) from error
                # A space of the user's is a program that may break for what it seldom draws.
                told = f"no settings: {type(error).__name__}: {error}"
                self._fail(trial, told, trial.params, epoch=0, auroc=None)
                continue
            trial.set_user_attr(studies.SETTINGS, settings)
            trial.set_user_attr(studies.CONFIG, named(config, settings))
            trial.set_user_attr(studies.GRACE, config.grace_epochs())
            attempt = Attempt(
                name=f"{trial.number:04d}",
                config=config,
                settings=settings,
                seed=derive_seed(self._request.seed, "trial", trial.number),
                trial=trial,
            )
            reported = self._reported(attempt)
            if reported:
                attempt.epoch = max(reported)
                attempt.auroc = reported[attempt.epoch]
                attempt.early = studies.early_figure(trial, attempt.epoch)
                if self._is_to_stop(attempt):
                    # The session before was killed between the decision and its record, or
                    # between the figures and the decision.
                    self._prune(attempt)
                    continue
            return attempt
        return None

    def _other_space(self, error: BaseException) -> RequestError:
        name = self._request.name
        return RequestError(
            f"the run {name!r} began with other choices for a setting than its method has now "
            f"({error}); search anew, with --warm-start {name} for its best settings"
        )

    def started(self, key: str) -> None:
        """The trial runs now."""
        self._running[key].since = time.monotonic()
        super().started(key)

    def report(self, key: str, progress: Progress) -> bool:
        """Note a trial's AUROCs after an epoch; whether it is to be stopped there.

        What trials are compared by is noted first: with the other figure the epoch counts as
        reported. A trial continued from a checkpoint repeats epochs; what the study knows stands.
        """
        attempt = self._running[key]
        attempt.take_in(progress)
        if attempt.since is not None and time.monotonic() - attempt.since > NOTE_SECONDS:
            self._note_cost(attempt)
        last_reported = self._last_reported(attempt)
        if progress.auroc is None:
            self._update(attempt, "running")
            return False  # nothing to decide by
        if progress.epoch > last_reported:
            self._note_figures(attempt, progress.epoch, progress.auroc, progress.early)
        self._update(attempt, "running")
        return progress.epoch >= last_reported and self._is_to_stop(attempt)

    def _is_to_stop(self, attempt: Attempt) -> bool:
        """Whether the trial ends at its newest epoch. It is decided once, and noted at once: later
        there may be more trials to compare with."""
        if attempt.epoch <= attempt.config.grace_epochs() or attempt.epoch >= attempt.config.epochs:
            return False
        if self._allocation and attempt.trial.number < len(self._allocation.names):
            return False  # each method's default, the control, is evaluated in full
        for decision in (studies.STOPPED, studies.GOES_ON):
            if attempt.trial.user_attrs.get(decision) == attempt.epoch:
                return decision == studies.STOPPED
        stops = attempt.trial.should_prune()
        attempt.trial.set_user_attr(studies.STOPPED if stops else studies.GOES_ON, attempt.epoch)
        return stops

    def _note_figures(
        self, attempt: Attempt, epoch: int, auroc: float, early: float | None
    ) -> None:
        known = attempt.trial.user_attrs.get(studies.EARLY, {})
        if early is not None and str(epoch) not in known:
            attempt.trial.set_user_attr(studies.EARLY, {**known, str(epoch): early})
        attempt.trial.report(auroc, epoch)

    def keep(self, key: str, trained: Trained) -> None:
        """Keep the validation scores, image by image, beside the trial's results."""
        attempt = self._running[key]
        attempt.trial.set_user_attr(studies.PRIMARY, trained.primary)
        attempt.doubt = "; ".join(trained.warnings)
        if attempt.doubt:
            attempt.trial.set_user_attr(studies.REASON, attempt.doubt)
        save_scores(validation_file(self._run, attempt.trial.number), trained.scores)

    def finish(self, key: str, progress: Progress) -> None:
        """A trial ended: complete at the full budget, pruned before it."""
        attempt = self._running.pop(key)
        attempt.take_in(progress)
        self._note_cost(attempt)
        if progress.epoch < attempt.config.epochs:
            self._prune(attempt)
            return
        if attempt.auroc is None:
            raise ValueError(f"trial {attempt.trial.number} ended without a score")
        if progress.epoch not in self._reported(attempt):
            self._note_figures(attempt, progress.epoch, attempt.auroc, attempt.early)
        self._study.tell(attempt.trial, attempt.auroc)
        self._update(attempt, "done", attempt.doubt)
        # Nothing starts from them any more: a retraining begins at the beginning.
        self._checkpoints.delete(attempt.name)

    def _prune(self, attempt: Attempt) -> None:
        figure, score = attempt.auroc, ""
        if attempt.early is not None:
            figure, named = attempt.early, self._early_score not in (None, "auto")
            score = f" of {self._early_score}" if named else ""
        reason = f"AUROC {figure:.3f}{score} was not among the best at epoch {attempt.epoch}"
        attempt.trial.set_user_attr(studies.REASON, reason)
        self._study.tell(attempt.trial, state=TrialState.PRUNED)
        self._update(attempt, "pruned", reason)
        self._checkpoints.delete(attempt.name)

    def fail(self, key: str, failure: Failure) -> None:
        """A trial broke; the search goes on, and with it the trial when that may help."""
        self._note_cost(self._running[key])
        super().fail(key, failure)

    def close(self) -> None:
        """The session is over; what still runs can be continued."""
        for attempt in self._running.values():
            self._note_cost(attempt)

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

    def _next_trial(self) -> optuna.Trial:
        trials = self._study.get_trials(deepcopy=False)
        waiting = [t.number for t in trials if t.state == TrialState.WAITING]
        orphan = self._unfinished.pop(0) if self._unfinished else None
        number = orphan.number if orphan else min(waiting, default=len(trials))
        request = self._request
        self._study.sampler = make_sampler(request.sampler, request.seed, number)
        if orphan:
            # Optuna has no `ask` for a trial that exists. The trial's constructor is public, and
            # answers with the stored value for a parameter it has: the space runs as it did before.
            return optuna.Trial(self._study, orphan._trial_id)
        if self._allocation and not waiting:
            # Kept by the study as a trial that waits, so that a kill changes no choice.
            name = self._allocation.next_method(trials)
            own = [trial for trial in trials if trial.params.get(METHOD) == name]
            tried = [trial.params for trial in own]
            known = (one for one in self._allocation.known.get(name, ()) if one not in tried)
            proposed = next(known, None) if own else None  # after its default
            self._study.enqueue_trial(dict(proposed or self._proposed(name, own)))
        return self._study.ask()

    def _proposed(self, name: str, own: Sequence[FrozenTrial]) -> dict[str, Any]:
        """Settings of one out of several methods, proposed by its own trials alone: beside better
        ones of another method all of them would be poor, and none worth coming near to."""
        seed = derive_seed(self._request.seed, name, 0)
        with quiet_optuna():
            alone = optuna.create_study(
                direction="maximize",
                sampler=make_sampler(self._request.sampler, seed, len(own)),
            )
        alone.add_trials(own)
        trial = alone.ask()
        self._space(HeldFixed(trial, {**self._held, METHOD: name}))
        return {**trial.params, METHOD: name}

    def _reported(self, attempt: Attempt) -> dict[int, float]:
        number = attempt.trial.number
        trials = self._study.get_trials(deepcopy=False)
        return next(t.intermediate_values for t in trials if t.number == number)

    def _last_reported(self, attempt: Attempt) -> int:
        return max(self._reported(attempt), default=0)

    def _furthest(self, attempt: Attempt) -> int:
        # What is seldom scored may have come further than any figure tells.
        return max(attempt.epoch, self._last_reported(attempt))

    def _tries(self, attempt: Attempt) -> dict[str, int]:
        tries: dict[str, int] = attempt.trial.user_attrs.get(studies.TRIES, {})
        return tries

    def _again(self, attempt: Attempt, tries: dict[str, int]) -> None:
        attempt.trial.set_user_attr(studies.TRIES, tries)
        self._unfinished.insert(0, attempt.trial)

    def _give_up(self, attempt: Attempt, reason: str) -> None:
        self._fail(attempt.trial, reason, attempt.settings, attempt.epoch, attempt.auroc)

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

    def _update(self, attempt: Attempt, state: State, reason: str = "") -> None:
        self._listener(
            TrialUpdate(
                number=attempt.trial.number,
                state=state,
                epoch=attempt.epoch,
                epochs=attempt.config.epochs,
                auroc=attempt.auroc,
                early=attempt.early,
                settings=dict(attempt.settings),
                gpu_bytes=attempt.gpu_bytes,
                reason=reason,
            )
        )
