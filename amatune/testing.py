"""What every method must do: tests that a package with a method of its own runs on it, with pytest.

    import pytest
    from amatune.testing import MethodTests
    from my_package import METHOD

    class TestMyMethod(MethodTests):
        @pytest.fixture
        def method(self):
            return METHOD

Each is named by the rule it holds the method to. amatune's own methods are held to them too.
"""

import copy
import io
import pickle
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from amatune.config import DetectorConfig, ImageShape
from amatune.data.pictures import fit
from amatune.detector import Detector
from amatune.errors import ConfigError, DataError, RequestError
from amatune.export.onnx import TOLERANCE, onnx_bytes
from amatune.registry import Method
from amatune.stored import StoredDetector

DRAWS = 100  # from a search space


class MethodTests:
    """Subclass it, and give a fixture `method`; `shape` and `small` may be others."""

    shape: ClassVar[ImageShape] = (1, 16, 16)  # (C, H, W) of the images
    # Settings that make a training quick; those that a method does not have are left out.
    small: ClassVar[Mapping[str, Any]] = {
        "batch_size": 8,
        "width": 0.1,
        "resolutions": 1,
        "steps": 1,
        "levels": 2,
        "members": 2,
        "inversion_steps": 3,
    }

    @pytest.fixture
    def method(self) -> Method:
        """The method that is tested."""
        raise NotImplementedError("a subclass of MethodTests needs a fixture `method`")

    # --- what the tests work with ---------------------------------------------------------------

    def config(self, method: Method, **settings: Any) -> DetectorConfig:
        """A configuration of four epochs, with these settings."""
        fields = method.detector.Config.__dataclass_fields__
        small = {name: value for name, value in self.small.items() if name in fields}
        return method.detector.Config.from_dict({**small, "epochs": 4, **settings})

    def make(self, method: Method, seed: int = 0, **settings: Any) -> Detector:
        """A new detector on the CPU, with these settings."""
        return method.detector(self.config(method, **settings), self.shape, seed=seed)

    def images(self, count: int, seed: int = 0) -> Tensor:
        """Noise, uint8 (count, C, H, W)."""
        return noise((count, *self.shape), seed)

    def trained(self, method: Method) -> Detector:
        """A detector after two epochs, calibrated."""
        detector = self.make(method)
        for _ in range(2):
            detector.train_epoch(self.images(20))
        detector.calibrate(self.images(20))
        return detector

    # --- what a method says of itself -----------------------------------------------------------

    def test_names_and_summary_are_filled_in(self, method: Method) -> None:
        cls = method.detector
        assert cls.name == method.name
        assert cls.summary
        assert "\n" not in cls.summary
        assert cls.score_names
        assert len(set(cls.score_names)) == len(cls.score_names)
        assert self.make(method).primary_score in cls.score_names
        assert cls.early_score in (None, "auto", *cls.score_names)

    def test_it_says_why_it_has_no_onnx_form(self, method: Method) -> None:
        assert method.detector.exports_to_onnx == (not method.detector.why_no_onnx)

    def test_the_method_survives_pickle(self, method: Method) -> None:
        assert pickle.loads(pickle.dumps(method)) == method

    def test_its_trainable_trains_it(self, method: Method) -> None:
        pytest.importorskip("ray", reason="searching needs amatune[search]")
        trainable: Any = method.trainable_class()
        assert trainable.detector_class is method.detector
        assert 0 < trainable.gpu_share <= 1

    # --- configuration and search space ---------------------------------------------------------

    def test_config_survives_json_and_pickle(self, method: Method) -> None:
        config = self.make(method).config
        assert type(config).from_dict(config.to_dict()) == config
        assert pickle.loads(pickle.dumps(config)) == config
        assert config.resolve(self.shape) == config

    def test_config_is_refused_with_all_its_problems(self, method: Method) -> None:
        cls = method.detector.Config
        for wrong, told in (
            ({"epochs": 0, "batch_size": 1}, r"epochs.*0.*batch_size.*1"),
            ({"epoch": 3}, "'epoch', did you mean 'epochs'"),
            ({"epochs": "many"}, "epochs must be a whole number, got 'many'"),
        ):
            with pytest.raises(ConfigError, match=told) as caught:
                cls.from_dict(wrong)
            again = pickle.loads(pickle.dumps(caught.value))
            assert (type(again), str(again)) == (ConfigError, str(caught.value))

    def test_grace_ends_before_the_default_budget(self, method: Method) -> None:
        config = method.detector.Config()
        last = max(1, config.epochs - 1)  # one epoch alone cannot be cut short
        assert 1 <= config.grace_epochs() <= last

    def test_presets_are_valid(self, method: Method) -> None:
        for settings in method.detector.presets.values():
            method.detector.Config.from_dict(settings)

    def test_the_space_suggests_valid_settings(self, method: Method) -> None:
        fields = method.detector.Config.__dataclass_fields__
        for seed in range(DRAWS):
            trial = RandomTrial(seed)
            settings = method.space(trial)
            assert settings, "a space suggests at least one setting"
            assert settings.keys() <= fields.keys()
            assert "epochs" not in settings, "the budget is the search's"
            assert trial.suggested.items() <= settings.items(), "what is suggested is used"
            config = method.detector.Config.from_dict(settings).resolve(self.shape)
            assert settings.items() <= config.to_dict().items(), "settings are in their own units"

    def test_its_known_settings_are_of_its_space(self, method: Method) -> None:
        """A search passes those over that do not fit: told here, or never."""
        pytest.importorskip("optuna", reason="searching needs amatune[search]")
        from amatune.tuning.spaces import settings_to_try

        default = method.detector.Config()
        for own in method.known:
            settings = settings_to_try(method.space, own, default, {})
            assert settings.items() >= own.items()
            method.detector.Config.from_dict(settings)

    # --- training -------------------------------------------------------------------------------

    def test_the_seed_decides_everything(self, method: Method) -> None:
        def losses(seed: int) -> list[dict[str, float]]:
            detector = self.make(method, seed)
            torch.manual_seed(torch.seed())
            return [detector.train_epoch(self.images(20)) for _ in range(2)]

        assert losses(1) == losses(1)
        assert losses(1) != losses(2)

    def test_losses_keep_no_graph(self, method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that is kept over an epoch costs memory, and on a GPU breaks captures."""
        detector, kept = self.make(method), list[str]()
        step = detector.train_step

        def watched(batch: Tensor, anomalies: Tensor | None = None) -> Mapping[str, Tensor]:
            losses = step(batch, anomalies)
            kept.extend(name for name, loss in losses.items() if loss.requires_grad)
            return losses

        monkeypatch.setattr(detector, "train_step", watched)
        for _ in range(4):  # through later phases, too
            detector.train_epoch(self.images(20))
        assert not kept

    def test_training_leaves_the_global_stream_alone(self, method: Method) -> None:
        before = torch.get_rng_state()
        self.trained(method)
        assert torch.equal(torch.get_rng_state(), before)

    def test_resuming_is_exact(self, method: Method) -> None:
        """After any epoch, and storing it changes nothing."""
        straight, saved = self.make(method), self.make(method)
        losses = [straight.train_epoch(self.images(20)) for _ in range(4)]
        files = []
        for epoch in range(3):
            assert saved.train_epoch(self.images(20)) == losses[epoch]
            files.append(io.BytesIO())
            torch.save(saved.state_dict(), files[-1])
        for interrupted_after, file in enumerate(files, start=1):
            file.seek(0)
            second = self.make(method, seed=99)
            second.load_state_dict(torch.load(file, weights_only=True))
            for epoch in range(interrupted_after, 4):
                torch.rand(7)  # what else the process draws must not matter
                assert second.train_epoch(self.images(20)) == losses[epoch]
            assert second.epoch == 4
            assert_same_state(straight.state_dict(), second.state_dict())

    def test_calibration_changes_neither_weights_nor_training(self, method: Method) -> None:
        plain, calibrated = self.make(method), self.make(method)
        for detector in (plain, calibrated):
            detector.train_epoch(self.images(20))
        calibrated.calibrate(self.images(20))
        assert plain.train_epoch(self.images(20)) == calibrated.train_epoch(self.images(20))

    def test_fewer_images_than_a_batch_still_train(self, method: Method) -> None:
        assert self.make(method).train_epoch(self.images(3))

    def test_labelled_anomalies_are_learnt_from_or_not_taken(self, method: Method) -> None:
        cls = method.detector
        assert set(cls.held_with_anomalies) <= set(cls.Config.__dataclass_fields__)
        if not cls.learns_from_anomalies:
            assert not cls.held_with_anomalies
            return
        plain, taught = (self.make(method, **cls.held_with_anomalies) for _ in range(2))
        plain.train_epoch(self.images(20))
        taught.train_epoch(self.images(20), self.images(6, seed=3))
        for detector in (plain, taught):
            detector.calibrate(self.images(20))
        first, second = plain.inference_state(), taught.inference_state()
        assert any(not torch.equal(first[name], second[name]) for name in first)

    def test_rectangles_are_learnt_or_refused_before_any_training(self, method: Method) -> None:
        """What cannot handle them says so when settings are resolved, which a search does first."""
        channels, height, width = self.shape
        shape = channels, height, width + width // 2
        try:
            config = self.config(method).resolve(shape)
        except ConfigError:
            return
        detector, images = method.detector(config, shape, seed=0), noise((20, *shape))
        detector.train_epoch(images)
        detector.calibrate(images)
        assert bool(torch.isfinite(detector.score(images[:3])).all())
        rebuilt, found = detector.reconstruct(images[:3]), detector.pixel_map(images[:3])
        assert rebuilt is None or rebuilt.shape == (3, *shape)
        assert found is None or found.shape == (3, *shape[1:])

    def test_wrong_images_are_refused(self, method: Method) -> None:
        detector = self.trained(method)
        channels, height, width = self.shape
        for wrong in (
            self.images(4)[:, 0],
            noise((4, 4 - channels, height, width)),
            noise((4, channels, height, width // 2)),
        ):
            for verb in (detector.train_epoch, detector.calibrate, detector.score):
                with pytest.raises(ConfigError, match="images must be"):
                    verb(wrong)
        with pytest.raises(DataError, match="at least 2 images"):
            detector.train_epoch(self.images(1))

    # --- scoring --------------------------------------------------------------------------------

    def test_scoring_needs_a_calibration(self, method: Method) -> None:
        with pytest.raises(RequestError, match="calibrate"):
            self.make(method).score(self.images(3))

    def test_scores_are_finite_and_one_per_image(self, method: Method) -> None:
        scores = self.trained(method).scores(self.images(11, seed=1))
        assert list(scores) == list(method.detector.score_names)
        for values in scores.values():
            assert values.shape == (11,)
            assert values.dtype == torch.float32
            assert values.device.type == "cpu"
            assert bool(torch.isfinite(values).all())
            assert len(set(values.tolist())) > 1, "different images score differently"

    def test_scores_do_not_depend_on_batch_size_or_order(self, method: Method) -> None:
        detector = self.trained(method)
        images = self.images(23, seed=1)
        expected = detector.scores(images)
        order = torch.randperm(23, generator=torch.Generator().manual_seed(0))
        for name, values in expected.items():
            for size in (1, 5, 23, 1000):
                assert_close(detector.scores(images, batch_size=size)[name], values)
            assert_close(detector.scores(images[order])[name], values[order])

    def test_scores_of_bytes_and_of_floats_agree(self, method: Method) -> None:
        detector = self.trained(method)
        images = self.images(5, seed=1)
        assert torch.equal(detector.score(images), detector.score(images.float() / 127.5 - 1))

    def test_no_images_give_no_scores(self, method: Method) -> None:
        assert self.trained(method).score(self.images(0)).shape == (0,)

    def test_scoring_changes_nothing(self, method: Method) -> None:
        detector = self.trained(method)
        images = self.images(9, seed=1)
        before, given = copy.deepcopy(detector.state_dict()), images.clone()
        detector.score(images)
        detector.reconstruct(images)
        assert_same_state(before, detector.state_dict())
        assert torch.equal(images, given)

    def test_reconstructions_look_like_images(self, method: Method) -> None:
        rebuilt = self.trained(method).reconstruct(self.images(5))
        assert (rebuilt is not None) == method.detector.reconstructs
        if rebuilt is not None:
            assert rebuilt.shape == (5, *self.shape)
            assert rebuilt.device.type == "cpu"
            assert float(rebuilt.abs().max()) <= 1

    # --- at rest --------------------------------------------------------------------------------

    def test_stored_and_built_it_scores_the_same(self, method: Method, tmp_path: Path) -> None:
        detector = self.trained(method)
        stored = StoredDetector.of(detector)
        stored.save(tmp_path)
        images = self.images(9, seed=1)
        expected = detector.scores(images)
        for one in (StoredDetector.load(tmp_path), pickle.loads(pickle.dumps(stored))):
            built = one.build("cpu", method.detector)
            assert built.config == detector.config
            for name, scores in built.scores(images).items():
                assert torch.equal(scores, expected[name])

    def test_foreign_tensors_are_refused(self, method: Method) -> None:
        state = self.trained(method).inference_state()
        name = next(iter(state))
        for foreign in (
            {key: value for key, value in state.items() if key != name},
            {**state, name: torch.zeros(3, 3, 3)},
            {**state, "surplus": torch.zeros(1)},
        ):
            with pytest.raises(ConfigError, match="do not belong"):
                self.make(method).load_inference_state(foreign)

    def test_both_forms_agree(self, method: Method) -> None:
        """The ONNX form gives the same scores and map, for any batch and pictures of any size."""
        detector = self.trained(method)
        if not detector.exports_to_onnx:
            with pytest.raises(RequestError, match="cannot be exported to ONNX: "):
                onnx_bytes(detector)
            return
        pytest.importorskip("onnx", reason="the ONNX form needs amatune[onnx]")
        runtime: Any = pytest.importorskip("onnxruntime")
        session = runtime.InferenceSession(onnx_bytes(detector), providers=["CPUExecutionProvider"])
        before = detector.scores(self.images(9))
        channels, height, width = self.shape
        for count, *size in ((1, height, width), (2, 2 * height + 1, width + 3), (9, 5, 7)):
            pictures = noise((count, channels, *size), seed=1).numpy()
            images = torch.from_numpy(fit(pictures, self.shape))
            expected = detector.scores(images)
            mapped = detector.pixel_map(images)
            if mapped is not None:
                expected["map"] = mapped
            given = {"pictures": pictures.transpose(0, 2, 3, 1)}
            assert [output.name for output in session.get_outputs()] == list(expected)
            for (name, wanted), found in zip(
                expected.items(), session.run(None, given), strict=True
            ):
                gap = (torch.from_numpy(found) - wanted).abs()
                assert bool((gap <= TOLERANCE * wanted.abs().clamp(min=1)).all()), name
        # Converting leaves the detector as it was.
        for name, scores in detector.scores(self.images(9)).items():
            assert torch.equal(scores, before[name])


def noise(shape: Sequence[int], seed: int = 0) -> Tensor:
    """uint8 noise of a shape."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, tuple(shape), dtype=torch.uint8, generator=generator)


class RandomTrial:
    """Draws like an Optuna trial, without Optuna. Ends of a range come up often."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.suggested: dict[str, Any] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number from `low` to `high`."""
        assert low < high
        assert not log or low > 0
        value = self._random.choice([low, high, self._random.uniform(low, high)])
        if step is not None:
            value = low + step * int((value - low) / step)
        return float(self._note(name, float(value)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number from `low` to `high`."""
        assert low < high
        assert not log or low > 0
        return int(self._note(name, self._random.randrange(low, high + 1, step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        return self._note(name, self._random.choice(list(choices)))

    def _note(self, name: str, value: Any) -> Any:
        return self.suggested.setdefault(name, value)  # asked again, a trial answers the same


def assert_close(scores: Tensor, expected: Tensor) -> None:
    """Within what float32 leaves of equal scores."""
    assert torch.allclose(scores, expected, rtol=1e-4, atol=1e-5)


def assert_same_state(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Two `state_dict`s are equal, bit by bit."""
    first, second = dict(_flat(a)), dict(_flat(b))
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, second[name]), name
        else:
            assert value == second[name], name


def _flat(state: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items = state.items() if isinstance(state, Mapping) else enumerate(state)
    for key, value in items:
        if isinstance(value, Mapping | list | tuple):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
