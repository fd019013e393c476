"""A detector that trains in no time: what the tests of the search search."""

import json
import os
import signal
import time
import uuid
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
import ray
import torch
from torch import Tensor, nn

from amatune import registry
from amatune.config import DetectorConfig
from amatune.detector import Detector, Optimisation, to_unit_range
from amatune.registry import Method
from amatune.trainables import DetectorTrainable


@dataclass(frozen=True, kw_only=True)
class FakeConfig(DetectorConfig):
    quality: float = 0.5  # how much of the brightness the score sees, 0 to 1
    kind: str = "plain"
    boost: float = 0.0  # of kind "boosted"
    warmup: int = 0  # epochs
    seconds: float = 0.0  # an epoch takes
    diverges_at: float = 2.0  # quality from which training diverges
    push: float = 0.0  # on the weight, in each epoch after the warm-up
    trouble: str = ""  # "memory" or "death", once in the third epoch, with the folder of its traces
    together: int = 0  # trials that wait for one another in their third epoch
    traces: str = ""

    def problems(self) -> list[str]:
        found = super().problems()
        if not 0 <= self.quality <= 1:
            found.append(f"quality must be in [0, 1], got {self.quality}")
        return found

    @property
    def warmup_epochs(self) -> int:
        return self.warmup

    def grace_epochs(self) -> int:
        return self.warmup


class FakeScorer(nn.Module):
    def __init__(self, config: FakeConfig, mean: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.config, self.mean, self.weight = config, mean, weight

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        brightness = batch.flatten(1).mean(1) - self.mean
        # A deterministic function of the image that has nothing to do with its class.
        scramble = (batch.flatten(1)[:, 0] * 1e4 + self.weight.sum() * 10).sin()
        gain = self.config.quality + self.config.boost
        score = gain * brightness + (1 - self.config.quality) * scramble
        return score, -score


class FakeDetector(Detector):
    """Scores an image by its brightness and a noise that shrinks with quality and epochs."""

    name: ClassVar[str] = "fake"
    summary: ClassVar[str] = "for tests"
    usual_steps: ClassVar[int] = 1
    Config: ClassVar[type[DetectorConfig]] = FakeConfig
    score_names: ClassVar[tuple[str, ...]] = ("bright", "dark")
    reconstructs: ClassVar[bool] = True
    fitted: ClassVar[tuple[str, ...]] = ("weight", "mean")
    config: FakeConfig

    def __init__(self, config: Any, image_shape: Any, device: Any = "cpu", seed: int = 0) -> None:
        super().__init__(config, image_shape, device, seed)
        self.weight = torch.rand(4, generator=self.generator)  # noise of the untrained network
        self.mean = torch.zeros(())

    def make_optimisation(self) -> Optimisation:
        return Optimisation({})

    def begin_epoch(self, images: Tensor) -> None:  # noqa: ARG002
        time.sleep(self.config.seconds)
        if self.config.together and self.epoch == 2:
            self._wait_for_the_others()
        if self.config.trouble and self.epoch == 2:
            self._get_into_trouble()
        self.weight = 0.9 * self.weight + 0.1 * torch.rand(4, generator=self.generator)
        if self.epoch >= self.config.warmup:
            self.weight = self.weight + self.config.push

    def train_step(
        self,
        batch: Tensor,  # noqa: ARG002
        anomalies: Tensor | None = None,
    ) -> dict[str, Tensor]:
        assert anomalies is None
        diverges = self.config.quality >= self.config.diverges_at
        loss = float("nan") if diverges else 1 / (1 + self.epoch)
        return {"loss": torch.tensor(loss), "weight": self.weight.sum()}

    def _wait_for_the_others(self) -> None:
        """A trial that never comes fails those that wait for it."""
        traces = Path(self.config.traces)
        (traces / uuid.uuid4().hex).touch()
        limit = time.monotonic() + 240
        while len(list(traces.iterdir())) < self.config.together:
            if time.monotonic() > limit:
                raise RuntimeError("the other trials did not come")
            time.sleep(0.05)

    def _get_into_trouble(self) -> None:
        """The first time; after that only note what this worker was given."""
        traces = Path(self.config.traces)
        if (traces / "first").exists():
            given = ray.get_runtime_context().get_assigned_resources()
            (traces / "given").write_text(json.dumps(given), encoding="utf-8")
            return
        (traces / "first").touch()
        if self.config.trouble == "memory":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        os.kill(os.getpid(), signal.SIGKILL)

    def prepare(self, images: Tensor) -> None:
        self.mean = to_unit_range(images).mean().clone()

    def raw_scorer(self) -> nn.Module:
        return FakeScorer(self.config, self.mean, self.weight)

    def rebuild(self, batch: Tensor) -> Tensor:
        return batch * 0.5


def space(trial: Any) -> dict[str, Any]:
    settings = {
        "quality": trial.suggest_float("quality", 0.0, 1.0),
        "kind": trial.suggest_categorical("kind", ["plain", "boosted"]),
    }
    if settings["kind"] == "boosted":
        settings["boost"] = trial.suggest_float("boost", 0.0, 0.5)
    return settings


class FakeTrainable(DetectorTrainable):
    detector_class: ClassVar[type[Detector]] = FakeDetector
    gpu_share: ClassVar[float] = 0.25


METHOD = Method("fake", FakeDetector, space, FakeTrainable)


@dataclass(frozen=True, kw_only=True)
class OtherConfig(FakeConfig):
    glow: float = 0.3


class OtherScorer(FakeScorer):
    def forward(self, batch: Tensor) -> tuple[Tensor]:
        bright, _ = super().forward(batch)
        return (bright * self.config.glow,)


class OtherDetector(FakeDetector):
    """Another one, with settings and scores of its own."""

    name: ClassVar[str] = "other"
    usual_steps: ClassVar[int] = 36
    Config: ClassVar[type[DetectorConfig]] = OtherConfig
    score_names: ClassVar[tuple[str, ...]] = ("shine",)

    def raw_scorer(self) -> nn.Module:
        return OtherScorer(self.config, self.mean, self.weight)


def other_space(trial: Any) -> dict[str, Any]:
    return {
        "quality": trial.suggest_float("quality", 0.2, 0.9),
        "glow": trial.suggest_float("glow", 0.1, 0.4),
    }


class OtherTrainable(FakeTrainable):
    detector_class: ClassVar[type[Detector]] = OtherDetector


OTHER = Method("other", OtherDetector, other_space, OtherTrainable)
POINTS = {"fake": "fake_method:METHOD", "other": "fake_method:OTHER"}


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make them methods of this process, as an installed package would."""
    points = [EntryPoint(name, place, registry.GROUP) for name, place in POINTS.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group else [])
