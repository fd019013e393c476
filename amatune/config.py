"""The settings of a detector: what every method's configuration has in common."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Self

from amatune.errors import ConfigError, did_you_mean

ImageShape = tuple[int, int, int]  # (channels, height, width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """What every method's configuration has in common; each method subclasses it.

    Subclasses are frozen dataclasses whose fields are plain JSON values and whose defaults are the
    published ones. They override `problems` (and call it on `super()`), and `resolve` when a
    default depends on the images.
    """

    epochs: int = 100  # schedules scale with it
    steps_per_epoch: int | None = None  # batches; None: one pass over the training images
    batch_size: int = 256  # images per step

    def __post_init__(self) -> None:
        wrong_types = self._type_problems()
        found = wrong_types or self.problems()
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

    def resolve(self, image_shape: ImageShape) -> Self:  # noqa: ARG002 - subclasses need it
        """The configuration with every "decided by the images" value filled in.

        `image_shape` is (C, H, W). Raises `ConfigError` when these images cannot be handled.
        """
        return self

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
        return {field.name: _describe(hints[field.name]) for field in dataclasses.fields(cls)}

    def _type_problems(self) -> list[str]:
        hints = typing.get_type_hints(type(self))
        found = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _is_a(value, hints[field.name]):
                wanted = _describe(hints[field.name])
                found.append(f"{field.name} must be {wanted}, got {value!r}")
        return found


def _is_a(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is_a(value, option) for option in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint) and not isinstance(value, bool)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        return isinstance(value, tuple) and all(_is_a(v, item) for v in value)
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    if origin is typing.Literal:
        return " or ".join(repr(option) for option in typing.get_args(hint))
    if origin is tuple:
        return f"a list of {_describe(typing.get_args(hint)[0])}"
    names = {int: "a whole number", float: "a finite number", bool: "true or false"}
    return names.get(hint, "None" if hint is type(None) else getattr(hint, "__name__", str(hint)))
