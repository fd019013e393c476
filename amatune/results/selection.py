"""What choosing by a validation figure does to it.

The best of many validation AUROCs is picked for its luck too. How much, is estimated by repeating
the choice: Tsamardinos, Greasidou and Borboudakis, Machine Learning 107, 2018 (BBC-CV). Images are
drawn with replacement, the trial that is best on those is chosen, and measured on the images that
were not drawn; the mean over many draws is what to expect of such a choice on other images of the
same kind.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amatune.metrics import Groups
from amatune.results.objective import Objective

DRAWS = 500
# What the correction does not contain: each trial was trained once.
SEED_LUCK = "the luck of its seed is still in it, another seed may lose more than that"

Floats = NDArray[np.float64]
SeedScores = Mapping[str, np.ndarray]  # "normal" (N,), "anomaly" (M,), higher = more anomalous


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The best of several validation AUROCs, as it stands and as it can be expected to hold."""

    apparent: float
    corrected: float  # at most `apparent`
    of: int  # trials with the full budget that it was chosen from
    scores: int = 1  # of each trial, of which the best was taken

    def __str__(self) -> str:
        if self.of == self.scores == 1:
            return f"{self.apparent:.3f}, of the only trial with the full budget"
        picked = f"corrected for being picked from {self.of}"
        if self.scores > 1:
            picked += f" and by the best of {self.scores} scores"
        return f"{self.apparent:.3f}, {picked}: {self.corrected:.3f}; {SEED_LUCK}"


def correct_for_selection(
    trials: Sequence[Sequence[SeedScores]],
    bounds: np.ndarray,
    kind: Objective,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    groups: Groups | None = None,
) -> Selection:
    """What the best of `trials` is worth, by bootstrapping the choice.

    Each trial has one or several scores, of which the best counts: all are candidates of the
    choice. A score is of the same validation images in the same order, "normal" (N,) and
    "anomaly" (M,); `bounds` and `kind` are those of `validation_auroc`. Normal images and each set
    of anomalies are drawn apart, so that their numbers stay; of images in groups, whole groups are
    drawn. One trial alone was not chosen: its corrected figure differs from the apparent one by
    chance only. The luck of the seeds that the trials were trained with is not corrected for.

    Raises `ValueError` without trials.
    """
    if not trials:
        raise ValueError("there is no trial to choose from")
    generator = np.random.default_rng(seed)
    normals, anomalies = (len(trials[0][0][side]) for side in ("normal", "anomaly"))
    sets = list(itertools.pairwise(bounds)) if kind != "pooled" else []
    sets = sets or [(0, anomalies)]
    if groups is None:
        drawn_normals = draw_images(generator, normals, draws)
        drawn_anomalies = np.vstack(
            [draw_images(generator, end - start, draws) for start, end in sets]
        )
    else:
        drawn_normals, drawn_anomalies = draw_groups(generator, groups, draws)

    chosen_by, held_out, apparent = [], [], []
    for scores in itertools.chain(*trials):
        above = _above(scores)
        whole = np.ones((normals, 1)), np.ones((anomalies, 1))
        apparent.append(float(_aurocs(above, *whole, sets, kind)[0]))
        chosen_by.append(_aurocs(above, drawn_normals, drawn_anomalies, sets, kind))
        left = (drawn_normals == 0).astype(float), (drawn_anomalies == 0).astype(float)
        held_out.append(_aurocs(above, *left, sets, kind))
    # Of groups, a draw may have none with anomalies, which leaves nothing to choose by either.
    best = np.argmax(np.nan_to_num(np.array(chosen_by), nan=-1.0), axis=0)
    measured = np.array(held_out)[best, np.arange(draws)]
    # A small set may be drawn as a whole, which leaves nothing to measure on.
    known = measured[np.isfinite(measured)]
    # By chance the bootstrap may come out above; nobody should expect more than was seen.
    corrected = min(float(known.mean()), max(apparent)) if len(known) else max(apparent)
    return Selection(
        apparent=max(apparent),
        corrected=corrected,
        of=len(trials),
        scores=max(len(scores) for scores in trials),
    )


def draw_images(generator: np.random.Generator, size: int, draws: int) -> Floats:
    """How often each of `size` images is in each draw of as many: (size, draws)."""
    return generator.multinomial(size, np.full(size, 1 / size), size=draws).T.astype(float)


def draw_by_group(generator: np.random.Generator, groups: NDArray[np.int64], draws: int) -> Floats:
    """How often each image of a list, of which `groups` (N,) are the groups, is in each draw of
    whole groups: (N, draws)."""
    names, place = np.unique(groups, return_inverse=True)
    return draw_images(generator, len(names), draws)[place]


def draw_groups(
    generator: np.random.Generator, groups: Groups, draws: int
) -> tuple[Floats, Floats]:
    """Likewise by groups: of normal images (N, draws) and anomalies (M, draws). Both kinds are
    drawn apart, unless some group has both: then it comes as a whole."""
    if not np.intersect1d(*groups).size:
        normals, anomalies = (draw_by_group(generator, own, draws) for own in groups)
        return normals, anomalies
    drawn_all = draw_by_group(generator, np.concatenate(groups), draws)
    return drawn_all[: len(groups[0])], drawn_all[len(groups[0]) :]


def _above(scores: SeedScores) -> NDArray[np.float32]:
    """1 where an anomaly scores above a normal image, a half where they tie, (M, N)."""
    anomaly, normal = scores["anomaly"][:, None], scores["normal"][None, :]
    above: NDArray[np.float32] = (anomaly > normal) + np.float32(0.5) * (anomaly == normal)
    return above


def _aurocs(
    above: NDArray[np.float32],
    normals: Floats,
    anomalies: Floats,
    sets: Sequence[tuple[int, int]],
    kind: Objective,
) -> Floats:
    """AUROC of each draw, (B,), of images weighted by `normals` (N, B) and `anomalies` (M, B)."""
    per_anomaly = (above @ normals) * anomalies  # (M, B)
    found = []
    for start, end in sets:
        weight = normals.sum(axis=0) * anomalies[start:end].sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(per_anomaly[start:end].sum(axis=0) / weight)
    by_set = np.array(found)
    over_sets: Floats = by_set.min(axis=0) if kind == "worst" else by_set.mean(axis=0)
    return over_sets
