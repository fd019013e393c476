"""The interface every anomaly detector implements.

A detector is built from its frozen configuration, the shape of the images and a device. The same
verbs serve a search, a retraining and a plain Python loop:

    detector = AMA(AMAConfig(epochs=30), image_shape=(1, 28, 28), device="cpu", seed=0)
    for _ in range(detector.config.epochs):
        losses = detector.train_epoch(train_images)
    detector.calibrate(train_images)
    scores = detector.score(test_images)          # higher = more anomalous

Images are `(N, C, H, W)` tensors, either uint8 in [0, 255] (how data sets are kept on the device)
or floating point in [-1, 1].
"""

import dataclasses
import math
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from amatune.errors import ConfigError, DivergedError, did_you_mean

ImageShape = tuple[int, int, int]  # (channels, height, width)


def to_unit_range(images: Tensor) -> Tensor:
    """Bring a batch to float32 in [-1, 1]: uint8 is scaled, floating point passes through."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(127.5).sub_(1.0)
    return images.to(torch.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """What every method's configuration has in common; each method subclasses it.

    Subclasses are frozen dataclasses whose fields are plain JSON values and whose defaults are the
    published ones. They override `problems` (and call it on `super()`), and `resolve` when a
    default depends on the images.
    """

    epochs: int = 100  # passes over the training images; schedules scale with it
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
        """Epochs at the beginning in which the method's `inert_in_warmup` settings do nothing:
        with one seed, configurations that differ in those alone train identically that long."""
        return 0

    def grace_epochs(self) -> int:
        """Epochs that must pass before the searched settings can show an effect (warm-ups,
        pretraining). A search prunes no trial before this epoch is over."""
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


class Detector(ABC):
    """An anomaly detector for images.

    Subclasses set the class attributes, build their networks in `__init__` after calling
    `super().__init__`, and implement the abstract methods. All randomness comes from
    `self.generator`, so that two detectors with the same seed train identically whatever else
    happens in the process.
    """

    name: ClassVar[str]  # as on the command line: "ama", "deep-svdd"
    summary: ClassVar[str]  # one line: full name, authors, venue
    Config: ClassVar[type[DetectorConfig]]
    score_names: ClassVar[tuple[str, ...]]  # keys of `scores`, e.g. ("A", "R")
    learns_from_anomalies: ClassVar[bool] = False  # whether `train_epoch` can use labelled ones
    inert_with_anomalies: ClassVar[tuple[str, ...]] = ()  # settings that then do nothing
    inert_in_warmup: ClassVar[tuple[str, ...]] = ()  # settings without effect before it is over
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # name -> settings that differ

    exports_to_onnx: ClassVar[bool] = True
    why_no_onnx: ClassVar[str] = ""  # a clause, such as "each score is an optimisation of its own"
    reconstructs: ClassVar[bool] = False  # whether `reconstruct` gives pictures
    needs_gradient_to_score: ClassVar[bool] = False  # its scorer enables gradients for itself

    def __init__(
        self,
        config: DetectorConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        if not isinstance(config, self.Config):
            raise ConfigError(f"{self.name} needs a {self.Config.__name__}, got {config!r}")
        self.image_shape = image_shape
        self.device = torch.device(device)
        self.seed = seed
        self.epoch = 0  # epochs completed
        self.generator = torch.Generator(self.device).manual_seed(seed)

    config: Any  # the resolved configuration, as used; narrowed by each method

    @abstractmethod
    def train_epoch(self, images: Tensor, anomalies: Tensor | None = None) -> dict[str, float]:
        """One pass over normal `images` (N, C, H, W), resident on the detector's device.

        `anomalies` (M, C, H, W) are labelled ones to learn from; given only to methods that
        declare `learns_from_anomalies`.

        Returns the epoch's mean losses by name. Raises `DivergedError` on NaN or infinity and
        `DataError` when there are too few images.
        """

    @abstractmethod
    def calibrate(self, images: Tensor) -> None:
        """Fit what scoring needs to normal training images (N, C, H, W)."""

    @property
    @abstractmethod
    def primary_score(self) -> str:
        """The name, out of `score_names`, that `score` returns."""

    @abstractmethod
    def scorer(self) -> nn.Module:
        """What scoring needs, and nothing else, as a module that shares the detector's weights.

        It maps float images (B, C, H, W) in [-1, 1] on the device to one (B,) tensor per name in
        `score_names`, in that order; higher = more anomalous, for every name. A score must not
        depend on the other images of the batch, nor scoring change the detector's state. Exports to
        other formats are made of it: plain tensor operations, no branching on values, and a batch
        of any size B (`images.shape[0]`; `len` and `chunk` would fix it).

        Raises `RequestError` before `calibrate`.
        """

    def scores(self, images: Tensor, batch_size: int = 256) -> dict[str, Tensor]:
        """Every score of `images` (N, C, H, W) as float32 CPU tensors, name -> (N,).

        Higher = more anomalous. `batch_size` bounds the memory and does not change the result.
        """
        self._check_images(images)
        parts: dict[str, list[Tensor]] = {name: [] for name in self.score_names}
        scorer = self.scorer()
        with torch.inference_mode():
            for batch in self._batches(images, batch_size):
                for name, values in zip(self.score_names, scorer(batch), strict=True):
                    parts[name].append(values.float().cpu())
        return {n: torch.cat(p) if p else torch.empty(0) for n, p in parts.items()}

    def score(self, images: Tensor, batch_size: int = 256) -> Tensor:
        """The primary anomaly score, (N, C, H, W) -> (N,), higher = more anomalous."""
        return self.scores(images, batch_size)[self.primary_score]

    def reconstruct(self, images: Tensor) -> Tensor | None:  # noqa: ARG002 - subclasses need it
        """(N, C, H, W) -> reconstructions in [-1, 1], or None where the method has none."""
        return None

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs: weights, optimisers, schedule, calibration, RNG, epoch.

        Tensors and plain values only, so that `torch.load(..., weights_only=True)` reads it.
        """

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; training then continues exactly as if never interrupted."""

    @abstractmethod
    def inference_state(self) -> dict[str, Tensor]:
        """The tensors scoring needs (weights and calibration), by flat name, for safetensors."""

    @abstractmethod
    def load_inference_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore `inference_state`. Raises `ConfigError` when names or shapes do not fit."""

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            wanted = ", ".join(map(str, self.image_shape))
            raise ConfigError(f"images must be (N, {wanted}), got {tuple(images.shape)}")

    def _batches(self, images: Tensor, batch_size: int) -> Iterator[Tensor]:
        for start in range(0, len(images), batch_size):
            yield to_unit_range(images[start : start + batch_size].to(self.device))

    def _require_finite(self, losses: Mapping[str, float]) -> None:
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise DivergedError(
                f"{self.name} diverged in epoch {self.epoch + 1}: {', '.join(bad)} not finite; "
                "a lower learning rate or stronger regularisation usually helps"
            )
