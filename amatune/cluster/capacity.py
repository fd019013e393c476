"""What a cluster has room for: how many trials at a time, and what share of a GPU for each.

Ray counts shares and enforces nothing. How many trials a card serves best is found out by running
them: one, two, four, ... trainings at a time with the default settings, as long as the memory
allows and the card trains more images per second than before.
"""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import ray
import ray.exceptions
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from amatune.cluster import connection
from amatune.cluster.device import CUDA_CONTEXT, claim_device, mps_is_running
from amatune.cluster.job import CALIBRATION_IMAGES, Images
from amatune.config import DetectorConfig
from amatune.detector import Detector, evenly_spaced
from amatune.errors import AmatuneError, RequestError
from amatune.runs.record import GpuShare
from amatune.wording import memory_size

TRIALS_ON_A_CARD = (1, 2, 4, 8, 16)  # tried in this order
WORTHWHILE = 1.05  # times the images per second, for which more trials share a card
SPARE = 1.25  # times the measured memory: settings differ, and so does what they need
PROBE_SECONDS = 4.0  # of training per measurement
PROBE_BATCHES = 4  # of training images, trained on again and again
ANSWER_SECONDS = 180.0  # until a measurement counts as failed
REHEARSED = 4  # trainings at a time, to see what they take from each other
REHEARSED_STEPS = 4, 32  # of each, on a processor and on a GPU
LOOK_SECONDS = 60.0  # until nobody knows what is free on the cards
NOTEWORTHY = 0.05  # of a card's memory, held by others

NO_MPS = (
    "several trials share a GPU without CUDA MPS, which lets their kernels run side by side; where "
    "it is available, `nvidia-cuda-mps-control -d` starts it"
)
NOT_SEEN = (
    "how much of the GPUs' memory is free could not be seen, as others use them; trials may take "
    "their share of all of it"
)


@dataclass(frozen=True)
class Room:
    """What the cluster has room for."""

    concurrent: int  # trials at a time
    gpus_per_trial: float
    most_cpus: float  # of any machine
    notes: tuple[str, ...] = ()  # what the user may want to know
    gpu_memory: float = 1.0  # share of a card's memory that all trials on it may use together

    @property
    def for_execution(self) -> dict[str, Any]:
        """What `execution.execute` wants to know of it."""
        values = asdict(self)
        del values["notes"]
        return values


@dataclass(frozen=True)
class FreeMemory:
    """What other processes leave of the cards' memory: that of the fullest card."""

    share: float  # of all its memory
    bytes: float
    notes: tuple[str, ...] = ()  # what the user may want to know


ALL_FREE = FreeMemory(1.0, math.inf)


@dataclass(frozen=True)
class Measured:
    """What some trainings on one card did."""

    images_per_second: float  # all together
    bytes_per_trial: int  # the most that any held
    free_bytes: int  # of the card before they began: what other processes hold is theirs
    mps: bool


def seconds_per_step(method: type[Detector], config: DetectorConfig, images: np.ndarray) -> float:
    """What a training step takes on this machine's CPU, from a few of them.

    `images` are uint8 (N, C, H, W), of which a batch is enough.
    """
    few = torch.tensor(images[: 2 * config.batch_size])
    return _trained_briefly(method, config, few, 2)[1]


def _trained_briefly(
    method: type[Detector], config: DetectorConfig, images: torch.Tensor, steps: int
) -> tuple[Detector, float]:
    """A detector after two epochs of so many steps, and what a step of the second took, in seconds:
    memory, kernels and optimisers are made in the first."""
    short = config.replace(epochs=2, steps_per_epoch=steps)
    channels, height, width = images.shape[1:]
    detector = method(short, (channels, height, width), images.device)
    detector.train_epoch(images)
    began = time.perf_counter()
    detector.train_epoch(images)
    return detector, (time.perf_counter() - began) / steps


def seconds_per_epoch(
    method: type[Detector], config: DetectorConfig, images: Images, cpus: float, room: Room
) -> float:
    """What an epoch takes, scoring included, from a few steps of as many trainings at a time as
    there is room for, up to REHEARSED of them.

    Raises `AmatuneError` where the settings cannot be trained there.
    """
    batches = images.train[: max(REHEARSED_STEPS[1] * config.batch_size, CALIBRATION_IMAGES)]
    parts = [ray.put(one) for one in (batches, images.normal, images.anomaly)]
    worker: Any = ray.remote(num_cpus=cpus, num_gpus=room.gpus_per_trial)(_pace)
    shares = cpus, room.gpus_per_trial, room.gpu_memory
    count = min(REHEARSED, room.concurrent)
    answers = [worker.remote(method, config, *parts, shares) for _ in range(count)]
    try:
        found = ray.get(answers, timeout=ANSWER_SECONDS)
    except ray.exceptions.RayTaskError as error:
        raise AmatuneError(f"the default settings cannot be trained here: {error.cause}") from error
    except ray.exceptions.GetTimeoutError:
        raise AmatuneError(
            f"a few steps were not trained within {ANSWER_SECONDS:g} s: no machine was free, or "
            "they are too slow; ask for less per trial, a smaller --width or --image-size"
        ) from None
    step, scoring = (sum(values) / count for values in zip(*found, strict=True))
    return float(config.steps_in(len(images.train)) * step + scoring / config.score_every())


def _pace(
    method: type[Detector],
    config: DetectorConfig,
    train: np.ndarray,
    normal: np.ndarray,
    anomaly: np.ndarray,
    shares: tuple[float, float, float],
) -> tuple[float, float]:
    """In a worker: seconds of a step, and of scoring the validation images once."""
    return pace(method, config, train, normal, anomaly, claim_device(*shares))


def pace(
    method: type[Detector],
    config: DetectorConfig,
    train: np.ndarray,
    normal: np.ndarray,
    anomaly: np.ndarray,
    device: str = "cpu",
) -> tuple[float, float]:
    """Seconds of a training step, and of scoring the validation images once, in this process.

    Images are uint8 (N, C, H, W); of the training images a few batches are enough.
    """
    sets = [torch.tensor(images, device=device) for images in (train, normal, anomaly)]
    steps = REHEARSED_STEPS[device != "cpu"]
    detector, step = _trained_briefly(method, config, sets[0], steps)
    began = time.perf_counter()
    detector.calibrate(evenly_spaced(sets[0], CALIBRATION_IMAGES))
    for images in sets[1:]:
        detector.scores(images)
    return step, time.perf_counter() - began


def find_room(
    *,
    cpus_per_trial: float,
    gpus_per_trial: float,
    concurrent: int | None,
    may_grow: bool = False,
    notes: Sequence[str] = (),
) -> Room:
    """How many trials run at a time with these shares of the machine: at most `concurrent`, or as
    many as fit for None.

    Raises `RequestError` when not even one fits. A cluster that is not this machine's own
    `may_grow`: there an explicit number of trials is believed.
    """
    fit = connection.places(cpus_per_trial, gpus_per_trial)
    if may_grow and concurrent is not None:
        return Room(concurrent, gpus_per_trial, connection.most_cpus(), tuple(notes))
    if fit < 1:
        raise RequestError(
            f"no machine has room for a trial with {cpus_per_trial:g} CPUs and {gpus_per_trial:g} "
            "GPUs; ask for less per trial, or with --address and --concurrent wait for machines "
            "that are still to come"
        )
    concurrent = min(fit, concurrent or fit)
    cards = connection.gpus()
    if not may_grow and 0 < gpus_per_trial < 1 and cards > 1:
        # Ray fills the first card before it uses the next: fewer trials than fit would crowd there.
        gpus_per_trial = max(gpus_per_trial, 1 / math.ceil(concurrent / cards))
    return Room(concurrent, gpus_per_trial, connection.most_cpus(), tuple(notes))


def free_memory() -> FreeMemory:
    """What is free on the cards of the cluster now, before any trial runs on them.

    ALL_FREE where PyTorch uses no GPU; with a note also where a machine does not answer in time,
    since others use its cards.
    """
    look: Any = ray.remote(free_on_cards)
    answers = [
        look.options(
            num_cpus=0,
            num_gpus=gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, False),
        ).remote()
        for node, gpus in connection.cards().items()
    ]
    try:
        found = ray.get(answers, timeout=LOOK_SECONDS)
    except ray.exceptions.RayError:
        for answer in answers:
            ray.cancel(answer, force=True)
        return replace(ALL_FREE, notes=(NOT_SEEN,))
    return least_free([card for cards in found for card in cards])


def free_on_cards() -> list[tuple[int, int]]:
    """Bytes that are free, and all bytes, of every card that this process may use."""
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.mem_get_info(card) for card in range(torch.cuda.device_count())]


def least_free(cards: Sequence[tuple[int, int]]) -> FreeMemory:
    """Of cards with so many bytes free, and in all: what trials may use on any of them."""
    if not cards:
        return ALL_FREE
    free, total = min(cards, key=lambda card: card[0] / card[1])
    held = total - free - CUDA_CONTEXT  # of which one was that of the process that looked
    if held < NOTEWORTHY * total:
        return FreeMemory(free / total, free)
    note = (
        f"other processes hold {memory_size(held)} of a GPU's {memory_size(total)}; all trials on "
        f"it together use no more than the {memory_size(free)} that are free"
    )
    return FreeMemory(free / total, free, (note,))


def share_that_fits(share: float, bytes_per_trial: int, memory: FreeMemory) -> float:
    """A share of a card under which so many trials fit into the free memory, at least `share`."""
    while share < 1 and SPARE * bytes_per_trial > share * memory.bytes:
        share = min(2 * share, 1.0)
    return share


def measure_share(
    detector_class: type[Detector], config: DetectorConfig, images: np.ndarray, cpus: float
) -> GpuShare | None:
    """The share of a card that trains most, found by training on `images` (N, C, H, W) uint8.

    None where PyTorch cannot use the GPU, or when no measurement succeeded.
    """
    few = images[: PROBE_BATCHES * config.batch_size]
    parts = (detector_class, config, few, images.nbytes - few.nbytes)

    def measure(trials: int) -> Measured | None:
        worker = ray.remote(num_cpus=cpus, num_gpus=1 / trials)(Probe)
        probes: list[Any] = [worker.remote(*parts, cpus, 1 / trials) for _ in range(trials)]
        try:
            card = ray.get([p.prepare.remote() for p in probes], timeout=ANSWER_SECONDS)
            if not all(card):
                return None
            found = ray.get([p.run.remote(PROBE_SECONDS) for p in probes], timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError:
            return None
        finally:
            for probe in probes:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.kill(probe)
        rates, sizes, services = zip(*found, strict=True)
        # The first to look saw the least of the others.
        return Measured(sum(rates), max(sizes), max(card), all(services))

    return choose_share(measure, most=int(max(connection.most_cpus() / cpus, 1)))


def choose_share(measure: Callable[[int], Measured | None], most: int) -> GpuShare | None:
    """The share under which a card trains most images per second, of those that fit into it.

    `measure` runs a number of trainings at a time, at most `most`; it gives None when that failed.
    """
    rates: dict[int, float] = {}
    best, size, mps, free = 0, 0, False, 0
    for trials in (n for n in TRIALS_ON_A_CARD if n <= most):
        found = measure(trials)
        if found is None:
            break
        rates[trials] = round(found.images_per_second, 1)
        size, mps = max(size, found.bytes_per_trial), found.mps
        free = free or found.free_bytes  # of the first: what those before held may not be back yet
        if best and rates[trials] < WORTHWHILE * rates[best]:
            break
        best = trials
        if 2 * trials * SPARE * size > free:
            break
    return GpuShare(1 / best, rates, size, mps) if best else None


class Probe:
    """One training on its share of a card, run for some seconds to see what it does."""

    def __init__(
        self,
        detector_class: type[Detector],
        config: DetectorConfig,
        images: np.ndarray,
        other_bytes: int,
        cpus: float,
        gpus: float,
    ) -> None:
        self._parts = detector_class, config
        self._images = images
        self._other_bytes = other_bytes  # images that a trial keeps on the card beside these
        self._shares = cpus, gpus

    def prepare(self) -> int:
        """Build and train once; bytes that were free on the card before, 0 without one."""
        device = claim_device(*self._shares)
        free = 0 if device == "cpu" else torch.cuda.mem_get_info()[0]
        detector_class, config = self._parts
        channels, height, width = self._images.shape[1:]
        self._on_device = torch.tensor(self._images, device=device)
        self._detector = detector_class(config, (channels, height, width), device)
        self._detector.train_epoch(self._on_device)
        return free

    def run(self, seconds: float) -> tuple[float, int, bool]:
        """Images trained per second, bytes held, and whether CUDA MPS serves this process."""
        began, done = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            self._detector.train_epoch(self._on_device)  # waits for the card when it reads losses
            done += len(self._on_device)
        rate = done / (time.monotonic() - began)
        if self._on_device.device.type == "cpu":
            return rate, 0, False
        # Scoring needs memory too, and not every method scores to calibrate.
        self._detector.calibrate(self._on_device)
        self._detector.scores(self._on_device)
        held = torch.cuda.max_memory_reserved() + self._other_bytes + int(CUDA_CONTEXT)
        return rate, held, mps_is_running()
