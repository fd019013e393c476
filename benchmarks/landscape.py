"""What a training with any settings would have looked like, made of recorded ones.

A landscape is fitted to the trainings of one method on one problem that `record_curves.py` keeps.
All validation AUROCs of all scores after every look, and the AUROCs on the development images at
the end, are one long vector per training, on a logit scale. A Gaussian process with a length scale
of its own for each setting predicts the vector's principal components from the settings. What a
training was above or below its prediction, at every look, is its residual: a proposal gets the
prediction and, `scale` times, the residual of one of the recorded trainings whose prediction is
most like its own.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from amatune.registry import find_method
from amatune.tuning.proposals import random_trials

EXPLAINED = 0.97  # of the variance, by the principal components that are predicted
MOST_COMPONENTS = 6
LEAST = 0.002  # AUROC, and 1 less it, beyond which no differences are made
DONORS = 5  # trainings whose residual a proposal may get


@dataclass(frozen=True)
class Records:
    """The trainings of one method on one problem that reached their end, (T,) of each."""

    method: str
    settings: list[dict[str, Any]]
    numbers: np.ndarray  # trainings with one number have the same settings
    scores: tuple[str, ...]  # names, in the detector's order
    validation: np.ndarray  # AUROC (T, scores, looks)
    development: np.ndarray  # AUROC at the end (T, scores), mean of the looks that have it
    losses: dict[str, np.ndarray]  # name -> (T, looks)
    broken: int  # trainings that diverged, and are left out

    @property
    def looks(self) -> int:
        """How often a training was looked at."""
        return int(self.validation.shape[2])

    @property
    def ends(self) -> np.ndarray:
        """The development AUROC (T,) at the end of the score that validation prefers there."""
        preferred = self.validation[:, :, -1].argmax(axis=1)
        found: np.ndarray = self.development[np.arange(len(preferred)), preferred]
        return found


def is_recorded(file: Path, problem: str, method: str) -> bool:
    """Whether there are trainings of a method on a problem."""
    with np.load(file) as arrays:
        return f"{problem}_{method}_curves" in arrays


def read_records(file: Path, problem: str, method: str) -> Records:
    """The trainings that `record_curves.py --pack` has written."""
    with np.load(file) as arrays:
        about = json.loads(arrays[f"{problem}_{method}_about"].tobytes())
        curves = arrays[f"{problem}_{method}_curves"].astype(np.float64)
    names: list[str] = about["figures"]
    scores = find_method(method).detector.score_names
    validation = curves[:, [names.index(f"validation/{score}") for score in scores]]
    whole = np.isfinite(validation).all(axis=(1, 2))
    told = [one for one, is_whole in zip(about["trainings"], whole, strict=True) if is_whole]
    development = curves[whole][:, [names.index(f"development/{score}") for score in scores]]
    losses = {n.partition("/")[2]: curves[whole, i] for i, n in enumerate(names) if "loss/" in n}
    return Records(
        method=method,
        settings=[one["settings"] for one in told],
        numbers=np.array([one["number"] for one in told]),
        scores=scores,
        validation=validation[whole],
        development=np.nanmean(development, axis=2),
        losses=losses,
        broken=int((~whole).sum()),
    )


class Encoding:
    """Settings as numbers in [0, 1]: on a log scale where the space has one, choices as one
    indicator each; what a branch does not have is in the middle."""

    def __init__(self, method: str) -> None:
        self._ranges: dict[str, tuple[float, float, bool]] = {}
        self._choices: dict[str, list[Any]] = {}
        space = find_method(method).space
        for trial in random_trials(200):
            space(trial)
            for name, rule in trial.distributions.items():
                if hasattr(rule, "choices"):
                    self._choices[name] = list(rule.choices)
                    continue
                low, high, _ = self._ranges.get(name, (math.inf, -math.inf, False))
                self._ranges[name] = min(low, rule.low), max(high, rule.high), rule.log

    def __call__(self, settings: Mapping[str, Any]) -> np.ndarray:
        """Of one configuration."""
        found = []
        for name, (low, high, log) in self._ranges.items():
            value = settings.get(name)
            if value is None:
                found.append(0.5)
            elif log:
                found.append(math.log(value / low) / math.log(high / low))
            else:
                found.append((value - low) / (high - low))
        for name, choices in self._choices.items():
            # With two choices one indicator says it all.
            for choice in choices[1:] if len(choices) == 2 else choices:
                found.append(float(settings[name] == choice) if name in settings else 0.5)
        return np.array(found)


class _Process:
    """A Gaussian process over encoded settings, fitted once and fast to ask."""

    def __init__(self, points: np.ndarray, values: np.ndarray) -> None:
        self.spread = float(values.std()) or 1.0
        count = points.shape[1]
        kernel = ConstantKernel(1.0, (0.05, 20)) * RBF(np.ones(count), (0.2, 20)) + WhiteKernel(
            0.3, (0.01, 2)
        )
        process = GaussianProcessRegressor(kernel, n_restarts_optimizer=1, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound
            process.fit(points, values / self.spread)
        fitted = process.kernel_
        self._scale = fitted.k1.k2.length_scale
        self._height = fitted.k1.k1.constant_value
        self._points = points / self._scale
        inverse = np.linalg.inv(fitted(points))
        self._weights = inverse @ values
        # Of each value predicted from all the others (Rasmussen and Williams, Eq. 5.12).
        self.left_out = values - self._weights / np.diag(inverse)

    def __call__(self, point: np.ndarray) -> float:
        apart = ((self._points - point / self._scale) ** 2).sum(axis=1)
        return float(self._height * np.exp(-0.5 * apart) @ self._weights)


@dataclass(frozen=True)
class Curve:
    """What a training would have shown."""

    validation: np.ndarray  # AUROC (scores, looks)
    truth: np.ndarray  # AUROC at the end without noise, (scores,)

    def auroc(self, look: int) -> float:
        """Validation AUROC of the score that does best, as `score=auto` ranks a trial."""
        return float(self.validation[:, look - 1].max())

    @property
    def true_auroc(self) -> float:
        """Of the score that validation prefers at the end."""
        return float(self.truth[self.validation[:, -1].argmax()])


class Landscape:
    """Curves for any settings; see the module's docstring."""

    def __init__(self, records: Records, scale: float) -> None:
        self.records = records
        self.scale = scale
        self.encode = Encoding(records.method)
        count = len(records.settings)
        figures = np.hstack([records.validation.reshape(count, -1), records.development])
        vectors = _stretched(figures)
        points = np.array([self.encode(settings) for settings in records.settings])
        self._mean = vectors.mean(axis=0)
        left, sizes, self._directions = np.linalg.svd(vectors - self._mean, full_matrices=False)
        explained = np.cumsum(sizes**2) / (sizes**2).sum()
        kept = min(int(np.searchsorted(explained, EXPLAINED)) + 1, MOST_COMPONENTS)
        self._directions = self._directions[:kept]
        coordinates = left[:, :kept] * sizes[:kept]
        self._processes = [_Process(points, values) for values in coordinates.T]
        predicted = np.array([self._predict(point) for point in points])
        self._residuals = vectors - predicted
        self._known = np.array([self._rank(one) for one in predicted])
        left_out = (
            self._mean
            + np.column_stack([process.left_out for process in self._processes]) @ self._directions
        )
        own = np.array([self._rank(one) for one in vectors])
        apart = own - np.array([self._rank(one) for one in left_out])
        self.r_squared = 1 - float((apart**2).sum() / ((own - own.mean()) ** 2).sum())
        self.residual = float((own - self._known).std())
        pairs = [own[records.numbers == n] for n in np.unique(records.numbers)]
        twice = [(pair[0] - pair[1]) ** 2 / 2 for pair in pairs if len(pair) == 2]
        self.noise = math.sqrt(float(np.mean(twice))) if twice else math.nan

    def __call__(self, settings: Mapping[str, Any], random: np.random.Generator) -> Curve:
        """A training with these settings; `random` chooses its residual."""
        vector = self._predict(self.encode(settings))
        nearest = np.argsort(abs(self._known - self._rank(vector)))[:DONORS]
        noisy = vector + self.scale * self._residuals[random.choice(nearest)]
        return Curve(_bounded(self._split(noisy)[0]), _bounded(self._split(vector)[1]))

    def _predict(self, point: np.ndarray) -> np.ndarray:
        found = np.array([process(point) for process in self._processes])
        predicted: np.ndarray = self._mean + found @ self._directions
        return predicted

    def _split(self, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores = len(self.records.scores)
        return vector[:-scores].reshape(scores, -1), vector[-scores:]

    def _rank(self, vector: np.ndarray) -> float:
        """The validation AUROC that a training ends with."""
        return float(_bounded(self._split(vector)[0][:, -1]).max())


def _stretched(aurocs: np.ndarray) -> np.ndarray:
    """On a logit scale, on which predictions and residuals stay possible."""
    inside = aurocs.clip(LEAST, 1 - LEAST)
    stretched: np.ndarray = np.log(inside / (1 - inside))
    return stretched


def _bounded(stretched: np.ndarray) -> np.ndarray:
    bounded: np.ndarray = 1 / (1 + np.exp(-stretched))
    return bounded


def early_scores(records: Records, looks: Sequence[int]) -> dict[str, list[float]]:
    """By score, and by "best" of them at the look: Spearman's correlation of its validation AUROC
    at these looks with the development AUROC at the end of the score that validation prefers there.

    The end is that of another training with the same settings where there is one, else its own: the
    development images are others than those of the look.
    """
    from scipy.stats import spearmanr

    ends = []
    for place, number in enumerate(records.numbers):
        same = [i for i in np.flatnonzero(records.numbers == number) if i != place]
        other = same[0] if same else place
        ends.append(records.ends[other])
    curves = {name: records.validation[:, i] for i, name in enumerate(records.scores)}
    curves["best"] = records.validation.max(axis=1)
    for name, values in records.losses.items():
        if np.isfinite(values).all():  # not that of one phase, or of one branch
            curves[f"-{name}"] = -values
    if len(ends) < 10:
        return {}
    return {
        name: [float(spearmanr(values[:, look - 1], ends).statistic) for look in looks]
        for name, values in curves.items()
    }
