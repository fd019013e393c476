"""The interface every anomaly detector implements, and the training loop they share.

A detector is built from its frozen configuration, the shape of the images and a device. The same
verbs serve a search, a retraining and a plain Python loop:

    detector = AMA(AMAConfig(epochs=30), image_shape=(1, 28, 28), device="cpu", seed=0)
    for _ in range(detector.config.epochs):
        losses = detector.train_epoch(train_images)
    detector.calibrate(train_images)
    scores = detector.score(test_images)          # higher = more anomalous

Images are `(N, C, H, W)` tensors, either uint8 in [0, 255] (how data sets are kept on the device)
or floating point in [-1, 1].

A method writes its networks and what is particular about it: `make_optimisation`, `train_step`,
`raw_scorer`, and where it needs them `begin_epoch`, `prepare`, `fit`, `finish_scorer` and
`rebuild`. Epochs, batches, losses, schedules, calibration and state are the same for all and
written here.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from amatune.config import DetectorConfig, ImageShape
from amatune.errors import ConfigError, DivergedError, RequestError
from amatune.loop import LossMeans, load_optimizer, shuffled_batches
from amatune.loop import adam as adam
from amatune.loop import drops as drops
from amatune.loop import evenly_spaced as evenly_spaced
from amatune.maps import ErrorMap

STATE_FORMAT = 2  # of `state_dict`
SCORING_BATCH = 256  # images
COLLAPSED = 1e-6  # of its mean: what float32's rounding leaves a constant score to deviate


def is_constant(deviation: float, mean: float) -> bool:
    """Whether values that deviate so from their mean are all the same, or are no numbers."""
    return not math.isfinite(deviation) or deviation <= max(1e-12, COLLAPSED * abs(mean))


def to_unit_range(images: Tensor) -> Tensor:
    """Bring a batch to float32 in [-1, 1]: uint8 is scaled, floating point passes through."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(127.5).sub_(1.0)
    return images.to(torch.float32)


class Optimisation(NamedTuple):
    """The optimisers of a training by name, and the schedules that step after each epoch."""

    optimizers: Mapping[str, Optimizer]
    schedules: Sequence[LRScheduler] = ()


class Detector(ABC):
    """An anomaly detector for images.

    Subclasses set the class attributes, build their networks in `__init__` after calling
    `super().__init__`, hand them to `hold`, and implement the abstract methods. All randomness
    comes from `self.generator`, so that two detectors with the same seed train identically whatever
    else happens in the process.
    """

    name: ClassVar[str]  # as on the command line: "ama", "deep-svdd"
    summary: ClassVar[str]  # one line: full name, authors, venue
    Config: ClassVar[type[DetectorConfig]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # name -> settings that differ

    score_names: ClassVar[tuple[str, ...]]  # keys of `scores`, e.g. ("A", "R")
    raw_score_names: ClassVar[tuple[str, ...]] = ()  # what `raw_scorer` gives; (): `score_names`
    # Which score says earliest how a training will end: a search compares unfinished trials by it.
    # "auto": whichever finds the validation anomalies best by then. None: what ranks the images.
    early_score: ClassVar[str | None] = None
    group_score: ClassVar[str | None] = None  # its mean over several images says more than of one

    usual_steps: ClassVar[int | None] = 3000  # where nobody says how many; None: one pass is all
    largest_side: ClassVar[int | None] = None  # pixels that serve it; None: those of small networks

    learns_from_anomalies: ClassVar[bool] = False  # whether `train_step` can use labelled ones
    # Settings that are then held at these values: needed for it, or without effect.
    held_with_anomalies: ClassVar[Mapping[str, Any]] = {}

    # Whether its convolutions are faster on a CPU with the channels of a pixel side by side.
    channels_last: ClassVar[bool] = False
    exports_to_onnx: ClassVar[bool] = True
    why_no_onnx: ClassVar[str] = ""  # a clause, such as "each score is an optimisation of its own"
    reconstructs: ClassVar[bool] = False  # whether `reconstruct` gives pictures
    needs_gradient_to_score: ClassVar[bool] = False  # its scorer enables gradients for itself

    most_to_calibrate: ClassVar[int | None] = None  # images, where a score is expensive

    # Attributes, besides networks and optimisers, without which a training cannot go on: tensors,
    # numbers, bools. Those in `fitted` are tensors that scoring needs too.
    kept: ClassVar[tuple[str, ...]] = ()
    fitted: ClassVar[tuple[str, ...]] = ()

    config: Any  # the resolved configuration, as used; narrowed by each method

    def __init__(
        self,
        config: DetectorConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        if not isinstance(config, self.Config):
            raise ConfigError(f"{self.name} needs a {self.Config.__name__}, got {config!r}")
        self.config = config.resolve(image_shape)
        self.image_shape = image_shape
        self.device = torch.device(device)
        self.seed = seed
        self.epoch = 0  # epochs completed
        self.is_calibrated = False
        # On the meta device, which has shapes alone, nothing can be drawn.
        drawing = "cpu" if self.device.type == "meta" else self.device
        self.generator = Generator(drawing).manual_seed(seed)
        self.networks: dict[str, nn.Module] = {}  # trained
        self.averages: dict[str, nn.Module] = {}  # follow trained ones, without gradients
        self._optimisation: Optimisation | None = None

    def hold(
        self, networks: Mapping[str, nn.Module], averages: Mapping[str, nn.Module] | None = None
    ) -> None:
        """Take the networks to the device, in eval mode: those that are trained, and averages of
        such, which get no gradients. Their names are part of checkpoints and exports."""
        self.networks = {n: self._placed(m) for n, m in networks.items()}
        averages = averages or {}
        self.averages = {n: self._placed(m).requires_grad_(False) for n, m in averages.items()}

    def _placed(self, network: nn.Module) -> nn.Module:
        if self.channels_last and self.device.type == "cpu":
            network = network.to(memory_format=torch.channels_last)
        return network.to(self.device).eval()

    @classmethod  # noqa: B027
    def require_available(cls, config: Any) -> None:
        """Raise `RequestError` when this machine lacks what a training with `config` needs beside
        the images; a search asks before it starts."""

    def credits(self) -> tuple[str, ...]:
        """Whose work is in its weights beside the training, a clause each with the licence."""
        return ()

    @classmethod
    def limits(cls) -> tuple[str, ...]:
        """What the method cannot do, a sentence each: to be said before hours of training."""
        if cls.exports_to_onnx:
            return ()
        return (f"{cls.name} cannot be exported to ONNX: {cls.why_no_onnx}",)

    # --- what a method writes -----------------------------------------------------------------

    @abstractmethod
    def make_optimisation(self) -> Optimisation:
        """New optimisers and schedules, for the phase of the training that has been reached."""

    @abstractmethod
    def train_step(self, batch: Tensor, anomalies: Tensor | None = None) -> Mapping[str, Tensor]:
        """One step on float images `batch` (B, C, H, W) in [-1, 1], networks in train mode.

        `anomalies` (M, C, H, W), on the device, as they came, are for methods that declare
        `learns_from_anomalies`. Returns scalar losses by name, without a graph; nothing in it waits
        for the device.
        """

    @abstractmethod
    def raw_scorer(self) -> nn.Module:
        """What scoring needs, before `fit`, as a module that shares the detector's weights.

        It maps float images (B, C, H, W) in [-1, 1] on the device to one (B,) tensor per name in
        `raw_score_names`, in that order. A score must not depend on the other images of the batch,
        nor scoring change the detector's state. Exports to other formats are made of it: plain
        tensor operations, no branching on values, and a batch of any size B (`images.shape[0]`;
        `len` and `chunk` would fix it).
        """

    def begin_epoch(self, images: Tensor) -> None:  # noqa: B027 - nothing, unless overridden
        """Called before the first step of an epoch over `images` (N, C, H, W): a new phase."""

    def prepare(self, images: Tensor) -> None:  # noqa: B027
        """Called by `calibrate` with normal images (N, C, H, W) before they are scored."""

    def fit(self, raw: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Take from the raw scores of normal images, float64 (N,) by name, what scores need."""

    def finish_scorer(self, raw: nn.Module) -> nn.Module:
        """From `raw_scorer()` to a module that gives the scores of `score_names`, in that order;
        by default these are the same."""
        return raw

    def scored_with(self) -> Mapping[str, str]:
        """Programs outside amatune that scores depend on, such as a compressor: name -> version. An
        export keeps them, and tells where it is read with others."""
        return {}

    def rebuild(self, batch: Tensor) -> Tensor:
        """Reconstructions of float images (B, C, H, W): the same in [-1, 1]. Only called where
        `reconstructs`."""
        raise NotImplementedError(f"{self.name} makes no reconstructions")

    @property
    def primary_score(self) -> str:
        """The name, out of `score_names`, that `score` returns: `config.score` where there is such
        a setting, else the first. With `score="auto"` a search chooses by validation anomalies;
        until then, and without any, it is the first."""
        chosen = getattr(self.config, "score", "auto")
        return self.score_names[0] if chosen == "auto" else str(chosen)

    @property
    def chooses_score(self) -> bool:
        """Whether validation anomalies are to say which score ranks the images."""
        return getattr(self.config, "score", None) == "auto"

    # --- training -------------------------------------------------------------------------------

    @property
    def optimisation(self) -> Optimisation:
        """Optimisers and schedules, made when training first needs them.

        Scoring does not, and making an optimiser imports the whole of torch's compiler, which takes
        longer than scoring a thousand pictures.
        """
        if self._optimisation is None:
            self._optimisation = self.make_optimisation()
        return self._optimisation

    def restart_optimisation(self) -> None:
        """Begin a phase with new optimisers."""
        self._optimisation = None

    def train_epoch(self, images: Tensor, anomalies: Tensor | None = None) -> dict[str, float]:
        """One pass over normal `images` (N, C, H, W), resident on the detector's device; with
        `steps_per_epoch`, that many steps, however many passes these are.

        `anomalies` (M, C, H, W) are labelled ones to learn from; given only to methods that
        declare `learns_from_anomalies`.

        Returns the epoch's mean losses by name. Raises `DivergedError` on NaN or infinity and
        `DataError` when there are too few images.
        """
        self._check_images(images)
        self.begin_epoch(images)
        means = LossMeans()
        for network in self.networks.values():
            network.train()
        try:
            for indices in self._epoch(len(images)):
                batch = to_unit_range(images[indices.to(images.device)].to(self.device))
                means.add(self.train_step(batch, anomalies))
        finally:
            for network in self.networks.values():
                network.eval()
        losses = means.read()
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise DivergedError(
                f"{self.name} diverged in epoch {self.epoch + 1}: {', '.join(bad)} not finite; "
                "a lower learning rate or stronger regularisation usually helps"
            )
        for schedule in self.optimisation.schedules:
            schedule.step()
        self.epoch += 1
        return losses

    def _epoch(self, count: int) -> Iterator[Tensor]:
        """Index tensors of the batches of an epoch over `count` images."""

        def passes() -> Iterator[Tensor]:
            while True:
                yield from shuffled_batches(count, self.config.batch_size, self.generator)

        steps = self.config.steps_per_epoch
        if steps is None:
            return shuffled_batches(count, self.config.batch_size, self.generator)
        return itertools.islice(passes(), steps)

    def descend(self, loss: Tensor, *optimizers: str) -> None:
        """One step of the named optimisers, down the gradient of a scalar."""
        for name in optimizers:
            self.optimisation.optimizers[name].zero_grad()
        torch.autograd.backward(loss)
        for name in optimizers:
            self.optimisation.optimizers[name].step()

    # --- scoring --------------------------------------------------------------------------------

    def calibrate(self, images: Tensor) -> None:
        """Fit what scoring needs to normal training images (N, C, H, W).

        Raises `DivergedError` when the score that ranks the images is constant over them or not
        finite: the networks have collapsed.
        """
        self._check_images(images)
        if self.most_to_calibrate is not None:
            images = evenly_spaced(images, self.most_to_calibrate)
        self.prepare(images)
        names = self.raw_score_names or self.score_names
        raw = {
            name: values.double()
            for name, values in self._evaluate(self.raw_scorer(), names, images).items()
        }
        ranking = self.primary_score if self.primary_score in raw else names[0]
        mean, std = float(raw[ranking].mean()), float(raw[ranking].std(correction=0))
        if is_constant(std, mean):
            raise DivergedError(
                f"{self.name} collapsed in epoch {self.epoch}: over {len(images)} training images, "
                f"the score {ranking!r} is {mean:.3g} with standard deviation {std:.3g}"
            )
        self.fit(raw)
        self.is_calibrated = True

    def scorer(self) -> nn.Module:
        """What scoring needs, and nothing else: a module that maps float images (B, C, H, W) in
        [-1, 1] on the device to one (B,) tensor per name in `score_names`, in that order; higher =
        more anomalous, for every name.

        Raises `RequestError` before `calibrate`.
        """
        self._require_calibration()
        return self.finish_scorer(self.raw_scorer())

    def scores(self, images: Tensor, batch_size: int = SCORING_BATCH) -> dict[str, Tensor]:
        """Every score of `images` (N, C, H, W) as float32 CPU tensors, name -> (N,).

        Higher = more anomalous. `batch_size` bounds the memory and does not change the result.
        """
        self._check_images(images)
        found = self._evaluate(self.scorer(), self.score_names, images, batch_size)
        return {name: values.float().cpu() for name, values in found.items()}

    def score(self, images: Tensor, batch_size: int = SCORING_BATCH) -> Tensor:
        """The primary anomaly score, (N, C, H, W) -> (N,), higher = more anomalous."""
        return self.scores(images, batch_size)[self.primary_score]

    def reconstruct(self, images: Tensor) -> Tensor | None:
        """(N, C, H, W) -> reconstructions in [-1, 1] on the CPU; None where there are none."""
        return self._each(self.rebuild, images, self.image_shape) if self.reconstructs else None

    def mapper(self) -> nn.Module | None:
        """A module from float images to where they look anomalous, (B, H, W), higher = more so. By
        default the mean absolute error of reconstructions; None where that cannot be told."""
        return ErrorMap(self._all_networks(), self.rebuild) if self.reconstructs else None

    def pixel_map(self, images: Tensor) -> Tensor | None:
        """Where images (N, C, H, W) look anomalous: (N, H, W) on the CPU; see `mapper`."""
        mapper = self.mapper()
        return None if mapper is None else self._each(mapper, images, self.image_shape[1:])

    def _each(self, make: Any, images: Tensor, shape: Sequence[int]) -> Tensor:
        """What `make` gives for batches of images, (N, *shape) on the CPU."""
        self._check_images(images)
        parts = [torch.empty(0, *shape)]
        with self._without_training():
            parts += [make(batch).cpu() for batch in self._batches(images, SCORING_BATCH)]
        return torch.cat(parts)

    def _evaluate(
        self,
        scorer: nn.Module,
        names: Sequence[str],
        images: Tensor,
        batch_size: int = SCORING_BATCH,
    ) -> dict[str, Tensor]:
        """What a scorer gives for all images: name -> (N,), on the device."""
        parts: dict[str, list[Tensor]] = {name: [] for name in names}
        with self._without_training():
            for batch in self._batches(images, batch_size):
                for name, values in zip(names, scorer(batch), strict=True):
                    parts[name].append(values)
        # clone: tensors born in inference mode cannot take part in training later.
        return {n: torch.cat(p).clone() if p else torch.empty(0) for n, p in parts.items()}

    def _without_training(self) -> Any:
        """No gradients, unless the scorer asks for them itself."""
        return torch.no_grad() if self.needs_gradient_to_score else torch.inference_mode()

    def _require_calibration(self) -> None:
        if not self.is_calibrated:
            raise RequestError("the detector has no calibration yet: call calibrate(images) first")

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            wanted = ", ".join(map(str, self.image_shape))
            raise ConfigError(f"images must be (N, {wanted}), got {tuple(images.shape)}")

    def at_most(self, batch_size: int) -> int:
        """How many images of a batch to score at a time: fewer, where they take much memory."""
        return batch_size

    def _batches(self, images: Tensor, batch_size: int) -> Iterator[Tensor]:
        batch_size = self.at_most(batch_size)
        for start in range(0, len(images), batch_size):
            yield to_unit_range(images[start : start + batch_size].to(self.device))

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs: weights, optimisers, schedules, fitted values, RNG, epoch.

        Tensors and plain values only, so that `torch.load(..., weights_only=True)` reads it.
        """
        optimisation = self.optimisation
        return {
            "format": STATE_FORMAT,
            "networks": {n: m.state_dict() for n, m in self._all_networks().items()},
            "optimizers": {n: o.state_dict() for n, o in optimisation.optimizers.items()},
            "schedules": [schedule.state_dict() for schedule in optimisation.schedules],
            "kept": {name: getattr(self, name) for name in self._kept_names()},
            "is_calibrated": self.is_calibrated,
            "epoch": self.epoch,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; training then continues exactly as if never interrupted, on the
        kind of device that it began on: a CPU's stream of random numbers cannot go on on a GPU, nor
        the other way round, where one drawn from the seed and the epoch takes its place.

        Raises `ConfigError` for the state of another version.
        """
        if state.get("format") != STATE_FORMAT:
            raise ConfigError(
                f"the state of a {self.name} training has format {state.get('format')!r}; this "
                f"version reads {STATE_FORMAT}"
            )
        for name, network in self._all_networks().items():
            network.load_state_dict(state["networks"][name])
        for name in self._kept_names():
            self._take(name, state["kept"][name])
        self.is_calibrated = state["is_calibrated"]
        self.epoch = state["epoch"]
        self.restart_optimisation()  # which may depend on the phase
        for name, optimizer in self.optimisation.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][name])
        for schedule, saved in zip(self.optimisation.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        stream = state["generator"].cpu()
        if stream.shape == self.generator.get_state().shape:
            self.generator.set_state(stream)
        else:  # of another kind of device
            self.generator.manual_seed(self.seed + 2**31 * self.epoch)

    def scoring_networks(self) -> dict[str, nn.Module]:
        """The networks that scoring needs, by name; by default all."""
        return self._all_networks()

    def inference_state(self) -> dict[str, Tensor]:
        """The tensors scoring needs, contiguous, on the CPU, by flat name, for safetensors:
        `<network>.<key>` and the names in `fitted`. Raises `RequestError` before `calibrate`."""
        self._require_calibration()
        tensors = self._scoring_tensors()
        return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def load_inference_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore `inference_state`. Raises `ConfigError`, and loads nothing, when names or shapes
        do not fit."""
        self.require_fitting(state)
        for name, network in self.scoring_networks().items():
            network.load_state_dict({key: state[f"{name}.{key}"] for key in network.state_dict()})
        for name in self.fitted:
            self._take(name, state[name])
        self.is_calibrated = True

    def require_fitting(self, state: Mapping[str, Tensor]) -> None:
        """Raise `ConfigError` unless `state` has the names and shapes of `inference_state`."""
        own = self._scoring_tensors()
        expected = {name: tuple(value.shape) for name, value in own.items()}
        wrong = sorted(
            name
            for name in expected.keys() | state.keys()
            if name not in state or tuple(state[name].shape) != expected.get(name)
        )
        if wrong:
            raise ConfigError(
                f"the weights do not belong to this configuration: {len(wrong)} tensors are "
                f"missing, unknown or of another shape, among them {wrong[0]}"
            )

    def _all_networks(self) -> dict[str, nn.Module]:
        return {**self.networks, **self.averages}

    def _kept_names(self) -> tuple[str, ...]:
        return (*self.kept, *self.fitted)

    def _scoring_tensors(self) -> dict[str, Tensor]:
        networks = self.scoring_networks().items()
        own = {f"{n}.{key}": value for n, m in networks for key, value in m.state_dict().items()}
        return {**own, **{name: getattr(self, name) for name in self.fitted}}

    def _take(self, name: str, value: Any) -> None:
        setattr(self, name, value.to(self.device).clone() if isinstance(value, Tensor) else value)
