"""The settings of a detector: what every method's configuration has in common."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any, Self

from amatune.errors import ConfigError, did_you_mean
from amatune.fields import describe, wrong_types

ImageShape = tuple[int, int, int]  # (channels, height, width)

# What a number may have to be, in words, for `DetectorConfig.outside`.
_RANGES: Mapping[str, Callable[[float], bool]] = {
    "positive": lambda value: value > 0,
    "0 or more": lambda value: value >= 0,
    "at least 1": lambda value: value >= 1,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in (0, 1)": lambda value: 0 < value < 1,
    "in (0, 1]": lambda value: 0 < value <= 1,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """What every method's configuration has in common; each method subclasses it.

    Subclasses are frozen dataclasses whose fields are plain JSON values and whose defaults are the
    published ones, where nothing better is known. They override `problems` (and call it on
    `super()`), and `resolve` when a default depends on the images.
    """

    epochs: int = 100  # schedules scale with it
    steps_per_epoch: int | None = None  # batches; None: one pass over the training images
    batch_size: int = 256  # images per step

    def __post_init__(self) -> None:
        mine = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        found = wrong_types(type(self), mine) or self.problems()
        if found:
            raise ConfigError(f"{type(self).__name__}: " + "; ".join(found))

    def problems(self) -> list[str]:
        """All impossible values, one sentence each that quotes the value; empty when valid."""
        found = []
        if self.epochs < 1:
            found.append(f"epochs must be at least 1, got {self.epochs}")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            found.append(f"steps_per_epoch must be at least 1, got {self.steps_per_epoch}")
        if self.batch_size < 2:
            found.append(f"batch_size must be at least 2, got {self.batch_size}")
        return found

    def problems_with_anomalies(self) -> list[str]:
        """What keeps a method that learns from labelled anomalies from doing so, one sentence each
        that quotes the value; empty when it does."""
        return []

    def outside(self, rule: str, *names: str) -> list[str]:
        """A sentence for each of the named settings that is not what the rule, one of `_RANGES`,
        says it must be: for `problems`."""
        values = {name: getattr(self, name) for name in names}
        holds = _RANGES[rule]
        return [
            f"{name} must be {rule}, got {value}"
            for name, value in values.items()
            if not holds(value)
        ]

    def resolve(self, image_shape: ImageShape) -> Self:  # noqa: ARG002 - subclasses need it
        """The configuration with every "decided by the images" value filled in.

        `image_shape` is (C, H, W). Raises `ConfigError` when these images cannot be handled.
        """
        return self

    def steps_in(self, images: int) -> int:
        """Steps of an epoch over so many training images: the incomplete last batch is dropped, and
        fewer images than one batch make one."""
        return self.steps_per_epoch or images // min(self.batch_size, images)

    @property
    def warmup_epochs(self) -> int:
        """Epochs at the beginning that train something else first, such as a pretraining."""
        return 0

    def grace_epochs(self) -> int:
        """Epochs that must pass before the searched settings can show an effect (warm-ups,
        pretraining). A search prunes no trial before this epoch is over."""
        return 1

    def score_every(self) -> int:
        """Epochs from one scoring of the validation images to the next, for a method whose scores
        cost more than its training. Where trials are compared and at the end they are scored
        anyway."""
        return 1

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values (tuples become lists)."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from JSON values. Raises `ConfigError` that names every unknown key."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = [name for name in values if name not in known]
        if unknown:
            listed = "; ".join(f"unknown setting {n!r}, {did_you_mean(n, known)}" for n in unknown)
            raise ConfigError(f"{cls.__name__}: {listed}")
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**fields)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated like any other."""
        return self.from_dict({**self.to_dict(), **changes})

    @classmethod
    def kinds(cls) -> dict[str, str]:
        """What each field may be, in words."""
        hints = typing.get_type_hints(cls)
        return {field.name: describe(hints[field.name]) for field in dataclasses.fields(cls)}
