"""Other ways to propose settings, for `efficiency.py` to compare with the one of `amatune search`.

one-ranking   TPE sees a trial that was stopped as one that ended with its early figure, in one
              ranking with those that reached the end; running ones count as the poorest
full-start    TPE begins to learn when ten trials have reached the end, stopped ones not counted
qmc-start     the start-up trials are those of a scrambled Sobol sequence
prior         the start-up trials lie near the defaults: a normal distribution of .15 of each
              range, on the scale of the space, and each choice the default's in 7 of 10 cases
joint-gp      after the start-up trials every proposal is the one of some hundreds, random ones and
              relatives of the best, with the highest expected improvement by a Gaussian process
              over settings and epochs: it knows the figures at the rungs and at the end, of
              trials that were stopped, ended, and are running

`portfolio` gives the settings that did best on other problems, in their order: `efficiency.py`
tries some of them first, after the defaults.
"""

import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from landscape import Encoding, Records
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import norm, rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from amatune.registry import find_method
from amatune.runs.request import Sampler
from amatune.tuning.proposals import STARTUP_TRIALS, make_sampler, quiet_optuna
from amatune.tuning.seeds import derive_seed
from amatune.tuning.stopping import rungs
from amatune.tuning.study import EARLY

NEAR, LIKELY = 0.15, 0.7
RANDOM, RELATIVES, PARENTS, CHANGED = 200, 100, 5, 0.3
MakeSampler = Callable[[Sampler, int, int], optuna.samplers.BaseSampler]


class OneRanking(optuna.samplers.BaseSampler):
    """TPE over a copy of the study in which every trial has ended, with the best known figure."""

    def __init__(self, seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._tpe = optuna.samplers.TPESampler(
                n_startup_trials=STARTUP_TRIALS,
                multivariate=True,
                group=True,
                constant_liar=False,  # running trials are among the poorest anyway
                seed=seed,
            )
        self._seen: optuna.Study | None = None

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Of the trials before this one."""
        return self._tpe.infer_relative_search_space(self._ended(study, trial), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Settings that are proposed together."""
        return self._tpe.sample_relative(self._ended(study, trial), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """A setting by itself."""
        ended = self._ended(study, trial)
        return self._tpe.sample_independent(ended, trial, param_name, param_distribution)

    def _ended(self, study: optuna.Study, trial: FrozenTrial) -> optuna.Study:
        if self._seen is None:
            with quiet_optuna():
                self._seen = optuna.create_study(direction="maximize")
            for one in study.get_trials(deepcopy=False):
                if one.number == trial.number or one.state in (
                    TrialState.FAIL,
                    TrialState.WAITING,
                ):
                    continue
                self._seen.add_trial(
                    optuna.trial.create_trial(
                        params=one.params, distributions=one.distributions, value=_figure(one)
                    )
                )
        return self._seen


def _figure(trial: FrozenTrial) -> float:
    if trial.state == TrialState.COMPLETE:
        return trial.value or 0.0
    early = trial.user_attrs.get(EARLY, {})
    return float(early[str(trial.last_step)]) if trial.state == TrialState.PRUNED else 0.0


class NearDefaults(optuna.samplers.RandomSampler):
    """Draws around the default settings of a method."""

    def __init__(self, method: str, settings: Mapping[str, Any], seed: int) -> None:
        super().__init__(seed=seed)
        self._random = random.Random(seed)
        self._default = find_method(method).detector.Config.from_dict(dict(settings))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """A setting near its default, or a random one where that is not in its range."""
        middle = getattr(self._default, param_name)
        rule = param_distribution
        if isinstance(rule, CategoricalDistribution):
            if middle in rule.choices and self._random.random() < LIKELY:
                return middle
        elif middle is not None and rule.low <= middle <= rule.high:
            scale, back = (math.log, math.exp) if rule.log else (float, float)
            low, high = scale(rule.low), scale(rule.high)
            drawn = self._random.gauss(scale(middle), NEAR * (high - low))
            value = back(min(max(drawn, low), high))
            whole = isinstance(rule, optuna.distributions.IntDistribution)
            found = round(value) if whole else value
            return min(max(found, rule.low), rule.high)
        return super().sample_independent(study, trial, param_name, rule)


def _full(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


class FullStart(optuna.samplers.RandomSampler):
    """Random until enough trials have reached the end, then the usual sampler."""

    def __init__(self, usual: optuna.samplers.BaseSampler, seed: int) -> None:
        super().__init__(seed=seed)
        self._usual = usual

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Of the usual sampler, when it is its turn."""
        learns = _full(study) >= STARTUP_TRIALS
        return self._usual.infer_relative_search_space(study, trial) if learns else {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Likewise."""
        return self._usual.sample_relative(study, trial, search_space) if search_space else {}


class JointProcess(optuna.samplers.RandomSampler):
    """Proposes by a Gaussian process over settings and epochs; see the module's docstring."""

    def __init__(self, method: str, epochs: int, seed: int) -> None:
        super().__init__(seed=seed)
        self._seed = seed
        self._random = random.Random(seed)
        self._space = find_method(method).space
        self._encode = encoding(method)
        self._epochs = epochs
        self._chosen: dict[str, Any] = {}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """None: the proposal is made here, and handed out setting by setting."""
        if _full(study) >= STARTUP_TRIALS // 2 and trial.number >= STARTUP_TRIALS:
            self._chosen = self._propose(study, trial)
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """That of the proposal."""
        if param_name in self._chosen:
            return self._chosen[param_name]
        return super().sample_independent(study, trial, param_name, param_distribution)

    def _propose(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        known = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        looks = {*rungs(self._epochs, 1), self._epochs}
        rows, figures = [], []
        for one in known:
            point = self._encode(one.params)
            for epoch, auroc in one.intermediate_values.items():
                if epoch in looks:
                    rows.append([*point, math.log(epoch) / math.log(self._epochs)])
                    inside = min(max(auroc, 0.02), 0.998)
                    figures.append(math.log(inside / (1 - inside)))
        points, values = np.array(rows), np.array(figures)
        middle, spread = values.mean(), values.std() or 1.0
        kernel = ConstantKernel(1.0, (0.05, 20)) * RBF(
            np.ones(points.shape[1]), (0.2, 20)
        ) + WhiteKernel(0.3, (0.01, 2))
        process = GaussianProcessRegressor(kernel, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            process.fit(points, (values - middle) / spread)
        ended = [t for t in known if t.state == TrialState.COMPLETE]
        best = sorted(ended, key=lambda t: t.value or 0.0)[-PARENTS:]
        tried = self._candidates([t.params for t in best])
        asked = np.array([[*self._encode(one), 1.0] for one in tried])
        mean, deviation = process.predict(asked, return_std=True)
        noise = process.kernel_.k2.noise_level
        deviation = np.sqrt(np.maximum(deviation**2 - noise, 1e-9))
        # Of what the process expects where trials have ended: their own figures are noisy.
        ends = np.array([[*self._encode(t.params), 1.0] for t in ended])
        apart = mean - process.predict(ends).max()
        gain = apart * norm.cdf(apart / deviation) + deviation * norm.pdf(apart / deviation)
        return tried[int(gain.argmax())]

    def _candidates(self, best: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        with quiet_optuna():
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=self._seed))
            drawn = []
            for _ in range(RANDOM + RELATIVES):
                trial = study.ask()
                self._space(trial)
                drawn.append(dict(trial.params))
        found = drawn[:RANDOM]
        for other in drawn[RANDOM:]:
            child = dict(self._random.choice(best))
            for name, value in other.items():
                if name in child and self._random.random() < CHANGED:
                    child[name] = value
            found.append(child)
        return found


_encodings: dict[str, Encoding] = {}


def encoding(method: str) -> Encoding:
    """Made once: it tries the space out."""
    if method not in _encodings:
        _encodings[method] = Encoding(method)
    return _encodings[method]


def portfolio(others: Sequence[Records], count: int) -> list[dict[str, Any]]:
    """Settings that end best on other problems, by the mean of their ranks: the true AUROC of the
    score that validation prefers. The defaults, number 0, are not among them."""
    ranks: dict[int, list[float]] = {}
    settings = {}
    for records in others:
        ends = rankdata(records.ends) / len(records.numbers)
        for number, rank in zip(records.numbers, ends, strict=True):
            ranks.setdefault(int(number), []).append(float(rank))
        settings |= dict(zip(map(int, records.numbers), records.settings, strict=True))
    best = sorted(ranks, key=lambda number: -float(np.mean(ranks[number])))
    return [settings[number] for number in best if number != 0][:count]


def candidates(method: str, settings: Mapping[str, Any], epochs: int) -> dict[str, MakeSampler]:
    """By name, what stands in for `proposals.make_sampler`; `settings` are the defaults."""

    def explores(number: int) -> bool:
        return number % 2 == 1

    def one_ranking(kind: Sampler, seed: int, number: int) -> optuna.samplers.BaseSampler:
        if explores(number):
            return make_sampler(kind, seed, number)
        return OneRanking(derive_seed(seed, "proposal", number))

    def full_start(kind: Sampler, seed: int, number: int) -> optuna.samplers.BaseSampler:
        usual = make_sampler(kind, seed, number)
        return usual if explores(number) else FullStart(usual, derive_seed(seed, "own", number))

    def qmc_start(kind: Sampler, seed: int, number: int) -> optuna.samplers.BaseSampler:
        return make_sampler("qmc" if number < STARTUP_TRIALS else kind, seed, number)

    def prior(kind: Sampler, seed: int, number: int) -> optuna.samplers.BaseSampler:
        if number < STARTUP_TRIALS:
            return NearDefaults(method, settings, derive_seed(seed, "proposal", number))
        return make_sampler(kind, seed, number)

    def joint_gp(_kind: Sampler, seed: int, number: int) -> optuna.samplers.BaseSampler:
        return JointProcess(method, epochs, derive_seed(seed, "proposal", number) % 2**32)

    return {
        "joint-gp": joint_gp,
        "one-ranking": one_ranking,
        "full-start": full_start,
        "qmc-start": qmc_start,
        "prior": prior,
    }


NAMES = ("joint-gp", "one-ranking", "full-start", "qmc-start", "prior")
