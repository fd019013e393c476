"""What one training may cost, and how many there are: the same time for every method.

`small` and `medium` give every training the same seconds of one core; `SMALL_STEPS` are what each
method gets done in them, as measured by `python benchmarks/reproduce_steps.py`. On another machine
trainings take longer or shorter, all of them alike. `paper` has the published sizes and budgets,
for a cluster of GPUs; whatever else a method has, such as its learning rates, is searched there
too, and begins with the method's own defaults.

Frozen features take one pass over the images at every scale.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["grey", "colour"]

SMALL_SECONDS = 30  # of a core, for a training
MEDIUM_TIMES = 4  # as many steps

# Networks that a CPU can train, at batch sizes at which steps are many.
SMALL_SIZES: Mapping[str, Mapping[str, Any]] = {
    "ama": {"width": 0.25},
    "deep-svdd": {"width": 0.5, "batch_size": 64},
    "alad": {"width": 0.125},
    "likelihood-ratio": {},
    "s-score": {},
    "typicality": {},
    "anogan": {"width": 0.25},
    "fence-gan": {"width": 0.25, "batch_size": 64},
    "ganomaly": {"width": 0.25},
    "skip-ganomaly": {"width": 0.25},
    "waic": {"width": 0.125, "members": 3, "critic_steps": 1, "batch_size": 32},
}
# AMA's residual networks for colour would get some hundred steps done.
SMALL_COLOUR_SIZES: Mapping[str, Mapping[str, Any]] = {
    "ama": {"network": "small", "spectral_norm": False}
}
SMALL_STEPS: Mapping[str, Mapping[Kind, int]] = {
    "ama": {"grey": 780, "colour": 540},
    "deep-svdd": {"grey": 2400, "colour": 400},
    "alad": {"grey": 620, "colour": 390},
    "likelihood-ratio": {"grey": 190, "colour": 120},
    "s-score": {"grey": 210, "colour": 130},
    "typicality": {"grey": 210, "colour": 110},
    "anogan": {"grey": 900, "colour": 300},
    "fence-gan": {"grey": 950, "colour": 640},
    "ganomaly": {"grey": 820, "colour": 440},
    "skip-ganomaly": {"grey": 620, "colour": 380},
    "waic": {"grey": 180, "colour": 140},
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Of one training: steps, or passes over the images; neither is what is usual."""

    steps: int | None = None
    epochs: int | None = None


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Trials, seeds, and what a training of each method is."""

    name: str
    summary: str
    trials: int
    top: int  # best trials that are retrained, beside the defaults
    seeds: int
    seconds: float | None  # of a core, for a training; None: whatever the budget takes
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by method, held fixed
    colour_sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # in their place
    budgets: Mapping[tuple[str, Kind], Budget] = field(default_factory=dict)

    def fixed(self, method: str, kind: Kind) -> Mapping[str, Any]:
        """Sizes that are held fixed."""
        grey = self.sizes.get(method, {})
        return {**grey, **(self.colour_sizes.get(method, {}) if kind == "colour" else {})}

    def budget(self, method: str, kind: Kind) -> Budget:
        """Of a training."""
        return self.budgets.get((method, kind), Budget())


def _times(factor: int) -> Mapping[tuple[str, Kind], Budget]:
    return {
        (method, kind): Budget(steps=factor * steps)
        for method, kinds in SMALL_STEPS.items()
        for kind, steps in kinds.items()
    }


# Passes over the images, or steps, of all phases together, as published; of ALAD and typicality as
# in public code that repeats them, of the S score those of the ratio.
_PUBLISHED: Mapping[str, Budget] = {
    "ama": Budget(epochs=100),
    "deep-svdd": Budget(epochs=300),  # 150 of them of the autoencoder
    "alad": Budget(epochs=100),
    "likelihood-ratio": Budget(steps=100_000),
    "s-score": Budget(steps=50_000),
    "typicality": Budget(epochs=150),
    "anogan": Budget(epochs=20),
    "fence-gan": Budget(epochs=150),
    "ganomaly": Budget(epochs=15),
    "skip-ganomaly": Budget(epochs=15),
    "waic": Budget(steps=24_000),
}
_PUBLISHED_COLOUR: Mapping[str, Budget] = {
    "deep-svdd": Budget(epochs=500),  # 350 of them of the autoencoder
}

_KINDS: tuple[Kind, ...] = ("grey", "colour")

SCALES = {
    scale.name: scale
    for scale in (
        Scale(
            name="small",
            summary=f"{SMALL_SECONDS} s of a core a training, 8 trials, 3 seeds",
            trials=8,
            top=1,
            seeds=3,
            seconds=SMALL_SECONDS,
            sizes=SMALL_SIZES,
            colour_sizes=SMALL_COLOUR_SIZES,
            budgets=_times(1),
        ),
        Scale(
            name="medium",
            summary=f"{MEDIUM_TIMES * SMALL_SECONDS} s of a core a training, 30 trials, 5 seeds",
            trials=30,
            top=2,
            seeds=5,
            seconds=MEDIUM_TIMES * SMALL_SECONDS,
            sizes=SMALL_SIZES,
            colour_sizes=SMALL_COLOUR_SIZES,
            budgets=_times(MEDIUM_TIMES),
        ),
        Scale(
            name="paper",
            summary="published sizes and budgets, 50 trials, 5 seeds; for GPUs",
            trials=50,
            top=3,
            seeds=5,
            seconds=None,
            sizes={
                "ama": {"batch_size": 256, "critic_steps": 5, "milestones": (0.3, 0.6, 0.9)},
                "likelihood-ratio": {"filters": 32, "blocks": 5, "mixtures": 1},
                "s-score": {"filters": 160, "blocks": 5, "resolutions": 3, "mixtures": 10},
                "typicality": {"steps": 16, "hidden": 200, "levels": 2},
            },
            colour_sizes={"typicality": {"steps": 8, "hidden": 400, "levels": 3}},
            budgets={
                **{(name, kind): one for name, one in _PUBLISHED.items() for kind in _KINDS},
                **{(name, "colour"): one for name, one in _PUBLISHED_COLOUR.items()},
            },
        ),
    )
}
