"""What is tried next: Optuna's samplers.

Every choice depends on the seed, the trial's number and the study alone.
"""

import contextlib
import warnings
from collections.abc import Iterator

import optuna

from amatune.runs.request import Sampler
from amatune.tuning.seeds import derive_seed

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
