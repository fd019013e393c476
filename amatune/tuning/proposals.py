"""What is tried next, and what of it is stopped early: Optuna's samplers and pruners.

Every choice depends on the seed, the trial's number and the study alone.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator

import optuna

from amatune.runs.request import Sampler, Scheduler
from amatune.tuning.seeds import derive_seed

REDUCTION = 3  # of the trials that reach a rung, about one in REDUCTION goes on
STARTUP_TRIALS = 10  # proposed at random before TPE has something to learn from
# With TPE every so many-th trial is random all the same, as in BOHB (Falkner et al. 2018, there
# every third): what is learnt from few and noisy trainings may be wrong, and where poor trials are
# stopped early a random one costs little. benchmarks/efficiency.py compares.
EXPLORE_EVERY = 2


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Without Optuna's messages about studies made and trials begun."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def random_trials(count: int) -> Iterator[optuna.Trial]:
    """Trials of no run, to try a space out: the same random ones each time."""
    with quiet_optuna():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(count):
            yield study.ask()


def make_sampler(kind: Sampler, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler that proposes trial `number`.

    Each trial gets its own, seeded by its number, so that a proposal depends on the seed, the
    number and the study's trials alone: a continued search goes on as if it had never stopped.
    """
    own_seed = derive_seed(seed, "proposal", number)
    at_random = optuna.samplers.RandomSampler(seed=own_seed)
    explores = kind == "tpe" and number % EXPLORE_EVERY == EXPLORE_EVERY - 1
    if kind == "random" or explores:
        return at_random
    with warnings.catch_warnings():
        # Experimental is also TPE's group, which keeps it multivariate in a space with an `if`.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if kind == "gp":
            return optuna.samplers.GPSampler(
                seed=own_seed,
                n_startup_trials=STARTUP_TRIALS,
                independent_sampler=at_random,
                warn_independent_sampling=False,
            )
        if kind == "qmc":
            # One sequence for the whole search; the study counts how far it has come.
            return optuna.samplers.QMCSampler(
                scramble=True,
                seed=derive_seed(seed, "sequence", 0) % 2**32,
                independent_sampler=at_random,
                warn_asynchronous_seeding=False,
                warn_independent_sampling=False,
            )
        return optuna.samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS,
            multivariate=True,
            group=True,
            constant_liar=True,
            seed=own_seed,
        )


def rungs(epochs: int, grace: int) -> list[int]:
    """Epochs at which poor trials are stopped, rising; empty when the budget is too short.

    At a ninth and a third of the budget, or at a third alone, or at `grace` alone where a quarter
    of the budget can be saved; never before `grace` epochs. A ninth must be as far behind the
    warm-up as that is long: in replays, rungs just behind it stopped what would have been best in
    nine of ten searches (benchmarks/efficiency.py --rungs).
    """
    early, late = math.ceil(epochs / REDUCTION**2), math.ceil(epochs / REDUCTION)
    if early >= 2 * grace - 1:
        return [rung for rung in (early, early * REDUCTION) if rung < epochs]
    if late >= grace:
        return [late]
    return [grace] if 4 * grace <= 3 * epochs else []


def make_pruner(kind: Scheduler, epochs: int, grace: int) -> optuna.pruners.BasePruner:
    """What stops poor trials, comparing at equal epochs, never before `grace` epochs.

    asha: asynchronous successive halving with these `rungs`. hyperband: the same with several
    first rungs, each for its share of the trials. median: below the median of the trials before,
    at any epoch.
    """
    levels = rungs(epochs, grace)
    if not levels or kind == "none":
        return optuna.pruners.NopPruner()
    if kind == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=grace)
    if kind == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=levels[0], max_resource=epochs, reduction_factor=REDUCTION
        )
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=levels[0], reduction_factor=REDUCTION
    )
