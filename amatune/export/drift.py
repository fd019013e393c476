"""Whether pictures still come as those did that an export was calibrated on: a test that runs on.

Each new score gets a conformal p-value among the calibration's scores and all that came since. As
long as old and new scores are exchangeable, in whatever order they could as well have come, these
p-values are independent and uniform: p = (g + u e) / n, with n scores so far, this one included, g
of them higher, e equal, itself among these, and u drawn anew (Vovk, Gammerman and Shafer,
Algorithmic Learning in a Random World, 2005). Against that a player bets, who wins when small or
large p-values come too often. The stake is the simple jumper's (Vovk et al., "Retrain or not
retrain: conformal test martingales for change-point detection", COPA 2021, Algorithm 1): a third
each on f(p) = 1 + e (p - 1/2) with e = -1, 0 and 1, and `JUMP` of it put back in equal parts before
each bet.

What the player has, beginning with 1, is the evidence. By Ville's inequality it ever reaches 1 / a
with probability a at most, however long the test runs and whenever one looks.
"""

import bisect
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from amatune.errors import RequestError
from amatune.export.calibration import Calibration
from amatune.fields import fits
from amatune.files import read_json, read_text, write_json

JUMP = 0.01  # of the stake that is put back before each bet; the paper's
DEFAULT_ALARM_RATE = 0.01

_SLOPES = (-1.0, 0.0, 1.0)
_KIND = "amatune-watch"
_SCHEMA_VERSION = 1
_MOST_BYTES = 2**30  # of a file; about 50 million scores


def simple_jumper(shares: list[float], p_value: float) -> tuple[list[float], float]:
    """One bet: how the stake is spread over the slopes, and a p-value, to how it is spread then and
    the factor that the stake grows by."""
    stakes = [(1 - JUMP) * share + JUMP / 3 for share in shares]
    won = [
        stake * (1 + slope * (p_value - 0.5)) for stake, slope in zip(stakes, _SLOPES, strict=True)
    ]
    factor = sum(won)
    return [one / factor for one in won], factor


@dataclass
class Watch:
    """A test that is under way."""

    calibration: str  # SHA-256 of its scores
    rate: float  # of watches that may raise a false alarm
    seed: int
    bag: list[float]  # the calibration's scores and those that came since, ascending
    scores: list[float] = field(default_factory=list)  # those that came, in order
    shares: list[float] = field(default_factory=lambda: [1 / 3] * 3)  # of the stake, by slope
    log_evidence: float = 0.0  # nats
    highest: float = 0.0  # that it ever was
    alarm: str | None = None  # the picture at which it reached 1 / rate

    @classmethod
    def begin(cls, calibration: Calibration, rate: float, seed: int) -> Self:
        """A test against a calibration. Raises `RequestError` for a rate that is none."""
        if not 0 < rate < 1:
            raise RequestError(f"--alarm-rate must be between 0 and 1, got {rate:g}")
        return cls(_digest(calibration), rate, seed, sorted(calibration.scores.tolist()))

    @property
    def evidence(self) -> float:
        """What a stake of 1 has become; as much as a float holds."""
        return math.exp(min(self.log_evidence, 700.0))

    def take(self, score: float, picture: str) -> float:
        """Take in the score of the next picture; returns its p-value. Higher scores have lower
        ones."""
        higher = len(self.bag) - bisect.bisect_right(self.bag, score)
        equal = len(self.bag) - higher - bisect.bisect_left(self.bag, score) + 1
        # The draw depends on how many came before alone, so that a test can be continued.
        draw = np.random.default_rng([self.seed, len(self.scores)]).random()
        p_value = (higher + draw * equal) / (len(self.bag) + 1)
        bisect.insort(self.bag, score)
        self.scores.append(score)
        self.shares, factor = simple_jumper(self.shares, p_value)
        self.log_evidence += math.log(factor)
        self.highest = max(self.highest, self.log_evidence)
        if self.alarm is None and self.log_evidence >= -math.log(self.rate):
            self.alarm = picture
        return p_value

    def save(self, path: Path) -> None:
        """Keep it in a file, from which `resume` goes on."""
        write_json(
            path,
            {
                "kind": _KIND,
                "schema_version": _SCHEMA_VERSION,
                "calibration": self.calibration,
                "alarm_rate": self.rate,
                "seed": self.seed,
                "pictures": len(self.scores),
                "log_evidence": self.log_evidence,
                "highest_log_evidence": self.highest,
                "alarm": self.alarm,
                "shares": self.shares,
                "scores": self.scores,
            },
        )

    @classmethod
    def resume(cls, path: Path, calibration: Calibration) -> Self:
        """Go on with a test in a file. Raises `RequestError` for a file that is none, or belongs to
        another calibration."""
        told = read_json(read_text(path, "the watch", _MOST_BYTES), f"the watch {path}")
        if not isinstance(told, dict) or told.get("kind") != _KIND:
            raise RequestError(f"{path} is no watch that `amatune score --watch` wrote")
        if told.get("schema_version") != _SCHEMA_VERSION:
            raise RequestError(
                f"{path} has schema version {told.get('schema_version')!r}, this amatune reads "
                f"{_SCHEMA_VERSION}; name a new file"
            )
        if told.get("calibration") != _digest(calibration):
            raise RequestError(
                f"the watch {path} was begun with another export, or before it was recalibrated; "
                "name a new file"
            )
        if not _is_sound(told):
            raise RequestError(f"{path} was edited: it holds values that no watch has")
        scores = [float(score) for score in told["scores"]]
        return cls(
            calibration=told["calibration"],
            rate=told["alarm_rate"],
            seed=told["seed"],
            bag=sorted([*calibration.scores.tolist(), *scores]),
            scores=scores,
            shares=[float(share) for share in told["shares"]],
            log_evidence=float(told["log_evidence"]),
            highest=float(told["highest_log_evidence"]),
            alarm=told["alarm"],
        )


def _is_sound(told: Mapping[str, Any]) -> bool:
    shares, scores = told.get("shares"), told.get("scores")
    evidence = (told.get("log_evidence"), told.get("highest_log_evidence"))
    rate, seed = told.get("alarm_rate"), told.get("seed")
    return (
        isinstance(scores, list)
        and isinstance(shares, list)
        and len(shares) == 3
        and all(fits(value, float) for value in (*shares, *scores, *evidence, rate))
        and all(0 <= share <= 1 for share in shares)
        and math.isclose(sum(shares), 1, rel_tol=1e-6)
        and type(seed) is int
        and seed >= 0
        and rate is not None
        and 0 < rate < 1
        and (told.get("alarm") is None or isinstance(told["alarm"], str))
    )


def _digest(calibration: Calibration) -> str:
    return hashlib.sha256(calibration.scores.tobytes()).hexdigest()
