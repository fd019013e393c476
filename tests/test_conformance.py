"""What every method must do, over the registry: a new method is tested by being there."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from amatune.detectors.ama import AMA
from amatune.errors import ConfigError, RequestError
from amatune.registry import Method, find_method, method_names
from amatune.testing import MethodTests
from amatune.trainables import DetectorTrainable


class TestEveryMethod(MethodTests):
    # An untrained network: a published one is a package, or a download.
    small: ClassVar[Mapping[str, Any]] = {**MethodTests.small, "backbone": "random"}

    @pytest.fixture(params=method_names())
    def method(self, request: pytest.FixtureRequest) -> Method:
        return find_method(request.param)


# --- each rule is held ---------------------------------------------------------------------------


class Sound(AMA):
    """A method that breaks no rule; those below break one each."""

    name: ClassVar[str] = "sound"


class ByBatch(Sound):
    def finish_scorer(self, raw: nn.Module) -> nn.Module:
        class Scorer(nn.Module):
            def forward(self, images: Tensor) -> tuple[Tensor, ...]:
                return tuple(scores - scores.mean() for scores in scorer(images))

        scorer = super().finish_scorer(raw)
        return Scorer()


class Forgetful(Sound):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.manual_seed(self.seed)


class Careless(Sound):
    def begin_epoch(self, images: Tensor) -> None:
        super().begin_epoch(images)
        torch.rand(1)


class Restless(Sound):
    def scores(self, images: Tensor, batch_size: int = 256) -> dict[str, Tensor]:
        torch.rand(1, generator=self.generator)
        return super().scores(images, batch_size)


class Dishonest(Sound):
    reconstructs: ClassVar[bool] = False

    def reconstruct(self, images: Tensor) -> Tensor:
        return images.float()


class Mute(Sound):
    exports_to_onnx: ClassVar[bool] = False


class Partial(Sound):
    def inference_state(self) -> dict[str, Tensor]:
        return {**super().inference_state(), "means": torch.zeros(2)}


@pytest.mark.parametrize(
    ("detector", "rule"),
    [
        (ByBatch, "scores_do_not_depend_on_batch_size_or_order"),
        (Forgetful, "resuming_is_exact"),
        (Careless, "training_leaves_the_global_stream_alone"),
        (Restless, "scoring_changes_nothing"),
        (Dishonest, "reconstructions_look_like_images"),
        (Mute, "it_says_why_it_has_no_onnx_form"),
        (Partial, "stored_and_built_it_scores_the_same"),
    ],
)
def test_breaking_a_rule_is_noticed(detector: type[AMA], rule: str, tmp_path: Path) -> None:
    def hold_to_it(cls: type[AMA]) -> None:
        method = Method("sound", cls, find_method("ama").space, DetectorTrainable)
        test = getattr(MethodTests(), f"test_{rule}")
        others = {"tmp_path": tmp_path}
        wanted = inspect.signature(test).parameters
        test(method, **{name: value for name, value in others.items() if name in wanted})

    hold_to_it(Sound)
    with pytest.raises(AssertionError):
        hold_to_it(detector)


@pytest.mark.parametrize(
    "suggest",
    [
        lambda trial: {"widht": trial.suggest_float("widht", 0.1, 1.0)},
        lambda trial: {"width": trial.suggest_float("width", 0.1, 1.0) - 1},
        lambda trial: {"epochs": trial.suggest_int("epochs", 1, 9)},
        lambda trial: {"k": 2} if trial.suggest_int("k", 2, 6) else {},
        lambda _: {},
    ],
)
def test_a_space_that_is_wrong_is_noticed(suggest: Any) -> None:
    method = Method("sound", Sound, suggest, DetectorTrainable)
    with pytest.raises((AssertionError, ConfigError)):
        MethodTests().test_the_space_suggests_valid_settings(method)


@pytest.mark.parametrize("known", [{"widht": 0.5}, {"lr": 7.0}, {"geometry": "cone"}])
def test_known_settings_that_are_wrong_are_noticed(known: Mapping[str, Any]) -> None:
    ama = find_method("ama")
    method = Method("sound", Sound, ama.space, DetectorTrainable, known=[known])
    with pytest.raises((AssertionError, RequestError)):
        MethodTests().test_its_known_settings_are_of_its_space(method)
