"""What a search or a retraining shows while it is under way: a live table, lines, JSON, nothing."""

import contextlib
import dataclasses
import json
import math
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import Progress
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from amatune.cli.output import near, say
from amatune.cli.progress import PROGRESS_SECONDS, pictures_bar
from amatune.cli.tables import ENDED, STYLES, cell, make_table
from amatune.errors import RequestError
from amatune.runs import RunFolder
from amatune.several import JOINT
from amatune.tuning.events import (
    Event,
    RetrainStarted,
    RetrainUpdate,
    Saving,
    SearchEnded,
    SearchStarted,
    State,
    TestStarted,
    TimeEstimate,
    TrialUpdate,
)
from amatune.wording import clock, counted, figure, memory_size, settings_text


@dataclass(frozen=True)
class Training:
    """One line of a progress display: a trial of a search, or a seed of a retraining."""

    label: str
    state: State
    epoch: int
    epochs: int
    auroc: float | None  # validation
    detail: str  # settings, or why it failed
    note: str = ""  # why it waits to be tried again
    gpu_bytes: int | None = None

    @property
    def share(self) -> float:
        """How much of it is done."""
        return self.epoch / self.epochs if self.epochs else 0.0

    @property
    def rank(self) -> tuple[bool, float]:
        """Full budget first, then by AUROC."""
        return self.state == "done", -math.inf if self.auroc is None else self.auroc


def estimate_text(event: TimeEstimate) -> str:
    """How long all of it takes, in a line."""
    step = event.seconds_per_step
    each = f"{1000 * step:.3g} ms" if step < 1 else f"{step:.3g} s"
    if event.at_most:
        whole = f"at most about {clock(event.seconds)}, if no trial is stopped early"
    else:
        whole = f"about {clock(event.seconds)}"
    return f"time for {counted(event.trainings, 'training')}: {whole} ({each} a step, with scoring)"


@dataclass
class View:
    """Follows the events of a search or a retraining; the subclasses show them."""

    console: Console
    time_budget: float | None = None  # seconds
    held: Sequence[str] = ()  # settings not worth repeating for every trial: those held fixed
    run: Path | None = None
    trainings: dict[str, Training] = field(default_factory=dict)
    total: int = 0
    earlier: int = 0  # ended before this command
    earlier_share: float = 0.0  # of a whole training each, added up
    estimate: TimeEstimate | None = None
    doubted: bool = False  # whether it was told what a method says against a trial
    sides: tuple[int, int] | None = None  # validation anomalies and normal images
    began: float = field(default_factory=time.monotonic)
    ending: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Self:
        from amatune.data.pictures import reporting_to

        self.ending.enter_context(reporting_to(self.read))
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.close()

    def read(self, what: str, done: int, total: int) -> None:
        """Take in how far the reading of many pictures is; not every display shows it."""

    def __call__(self, event: Event) -> None:
        """Take in one event: this is the listener of `run_search` and `run_best`."""
        match event:
            case SearchStarted():
                self.begin(event.run, event.trials)
                self.held = tuple(event.fixed)
                self.sides = event.validation_anomalies, event.validation_normals
                which = "dry run" if event.run is None else f"run {near(event.run)}"
                self.say(f"{which}: {event.problem}")
                gpus = f" and {event.gpus_per_trial:g} GPU" if event.gpus_per_trial else ""
                self.say(
                    f"{event.method}: {counted(event.trials, 'trial')} of up to "
                    f"{counted(event.epochs, 'epoch')}, {event.concurrent} at a time with "
                    f"{event.cpus_per_trial:g} CPU{gpus} each"
                )
                budget = (
                    f"a trial: up to {counted(event.steps, 'step')}, {event.steps_per_epoch:,} in "
                    f"an epoch, each on {event.batch} of {event.training_images:,} training images"
                )
                of_each = () if JOINT in event.method else (budget,)  # several have their own
                for line in (*event.methods, *of_each):
                    self.say(line)
                if event.run is not None:
                    self.recall(event.run, event.finished)
                self.warn(event.warnings)
            case RetrainStarted():
                all_of_them = len(event.configurations) * len(event.seeds)
                self.begin(event.run, all_of_them - event.finished)
                seeds = counted(len(event.seeds), "seed")
                self.say(
                    f"retraining {', '.join(event.configurations)}: {seeds} "
                    + (f"of {counted(event.epochs, 'epoch')} each" if event.epochs else "each")
                    + (f", {event.concurrent} at a time" if event.concurrent else "")
                )
                if event.finished:
                    self.say(
                        f"finished already: {event.finished} of {counted(all_of_them, 'training')}"
                    )
                self.warn(event.warnings)
            case TrialUpdate():
                self.update(self.trial(event))
                if event.state == "done" and event.reason and not self.doubted:
                    # A search has many trials, and this method's are often alike.
                    self.doubted = True
                    self.warn([f"trial {event.number}: {event.reason} (told once)"])
            case RetrainUpdate(configuration=configuration, seed=seed, reason=reason):
                label = f"{configuration} seed {seed}"
                waits, doubted = event.state == "waiting", event.state == "done" and reason
                self.update(
                    Training(
                        label=label,
                        state=event.state,
                        epoch=event.epoch,
                        epochs=event.epochs,
                        auroc=event.auroc,
                        detail="" if waits or doubted else reason,
                        note=reason if waits else "",
                        gpu_bytes=event.gpu_bytes,
                    )
                )
                if doubted:
                    self.warn([f"{label}: {reason}"])
            case SearchEnded():
                for training in self.running():
                    unfinished = dataclasses.replace(training, state="waiting")
                    self.trainings[training.label] = unfinished
            case TimeEstimate():
                self.estimate = event
                self.say(estimate_text(event))
                self.warn(event.warnings)
            case Saving():
                self.say("saving; Ctrl-C again ends now")
            case TestStarted():
                self.say(
                    f"chosen on validation images: {event.chosen}; scoring the test images with "
                    f"{counted(event.models, 'model')}"
                )

    def begin(self, run: Path | None, total: int) -> None:
        """Start the clock."""
        self.run, self.total, self.began = run, total, time.monotonic()

    def trial(self, event: TrialUpdate) -> Training:
        """A trial as a line of the display."""
        failed = event.state == "failed"
        return Training(
            label=f"trial {event.number}",
            state=event.state,
            epoch=event.epoch,
            epochs=event.epochs,
            auroc=event.auroc,
            detail=event.reason if failed else settings_text(event.settings, self.held),
            note=event.reason if event.state == "waiting" else "",
            gpu_bytes=event.gpu_bytes,
        )

    def recall(self, run: Path, finished: int) -> None:
        """Take in the trials that an earlier session of the run finished."""
        if not finished:
            return
        from amatune.tuning.study import read_trials

        known = [self.trial(t) for t in read_trials(RunFolder(run)) if t.state in ENDED]
        self.trainings = {training.label: training for training in known}
        self.earlier, self.earlier_share = len(known), sum(one.share for one in known)
        self.say(f"finished already: {counted(finished, 'trial')}")

    def update(self, training: Training) -> None:
        """Take in a training's new state."""
        self.trainings[training.label] = training

    def say(self, line: str) -> None:
        """Print a line that stays."""
        say(self.console, line)

    def warn(self, warnings: Sequence[str]) -> None:
        """Print what the user should know before hours of work."""
        for warning in warnings:
            self.say(f"warning: {warning}")

    def now(self) -> list[Training]:
        """All trainings; a copy, since another thread may be drawing it."""
        return list(self.trainings.values())

    def count(self, *states: State) -> int:
        """How many trainings are in one of these states."""
        return sum(training.state in states for training in self.now())

    def running(self) -> list[Training]:
        """The trainings under way."""
        return [training for training in self.now() if training.state == "running"]

    def best(self, most: int) -> list[Training]:
        """The best trainings that ended, best first."""
        ended = [training for training in self.now() if training.state in ("done", "pruned")]
        return sorted(ended, key=lambda training: training.rank, reverse=True)[:most]

    def error(self, auroc: float | None) -> float | None:
        """The standard error of a validation AUROC, from its value and the number of images.

        None at 1, where the formula gives 0 however few the images are.
        """
        from amatune.metrics import hanley_mcneil

        if auroc is None or self.sides is None:
            return None
        return hanley_mcneil(auroc, *self.sides) or None

    def times(self) -> str:
        """Time gone and, once some was measured, about how much is left."""
        gone = time.monotonic() - self.began
        known = self.now()
        ended = [training.share for training in known if training.state in ENDED]
        here = sum(t.share for t in known if t.state in (*ENDED, "running")) - self.earlier_share
        left = math.inf
        if len(ended) > self.earlier and here:
            # In whole trainings: those under way are partly done, and stopped trials are short.
            usual = statistics.fmean(ended)
            todo = usual * (self.total - len(ended)) - sum(t.share for t in self.running())
            left = max(0.0, gone / here * todo)
        elif self.estimate is not None:
            left = max(self.estimate.seconds - gone, 0.0)
        if self.time_budget is not None:
            left = min(left, max(0.0, self.time_budget - gone))
        return f"{clock(gone)} gone" + ("" if left == math.inf else f", about {clock(left)} left")


class QuietView(View):
    """Shows nothing but warnings."""

    def say(self, line: str) -> None:
        """Only what may change what the user does."""
        if line.startswith("warning:"):
            say(self.console, line)


class JsonView(View):
    """One JSON object per event, for programs."""

    def __call__(self, event: Event) -> None:
        """Print the event and its fields."""
        super().__call__(event)
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
        values = {"event": name, **dataclasses.asdict(event)}
        # In one piece: that Ctrl-C came is told by another thread.
        print(json.dumps(values, default=str) + "\n", end="", flush=True)

    def say(self, line: str) -> None:
        """The events say it all."""


class LiveView(View):
    """A table that redraws itself: how far things are, what runs, the best few."""

    reading: tuple[str, int, int] | None = None  # what, pictures done, in all

    def __enter__(self) -> Self:
        super().__enter__()
        self.ending.enter_context(
            Live(get_renderable=self.draw, console=self.console, transient=True)
        )
        return self

    def read(self, what: str, done: int, total: int) -> None:
        """Show a bar until all are read."""
        self.reading = (what, done, total) if done < total else None

    def draw(self) -> RenderableType:
        """The display as of now; called from the refreshing thread."""
        if (reading := self.reading) is not None:
            what, done, total = reading
            line = Table.grid(padding=(0, 2))
            bar = ProgressBar(total=total, completed=done, width=20)
            line.add_row(bar, f"{done:,} of {total:,}", what)
            return line
        if not self.total:
            return Text("starting ...", style="dim")
        ended = self.count(*ENDED)
        states: tuple[State, ...] = ("running", *ENDED)
        counts = Text("  ").join(Text(f"{self.count(s)} {s}", style=STYLES[s]) for s in states)
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self.total, completed=ended, width=20)
        head.add_row(bar, f"{ended} of {self.total}", counts)

        # Lines for the head, the times, the headings, a gap and the lines said above.
        room = max(4, self.console.height - 10)
        running, best = self.running(), self.best(min(5, room // 2))
        shown = running[: room - len(best)]
        on_gpu = any(training.gpu_bytes for training in shown)
        memory = ("GPU memory",) if on_gpu else ()
        table = make_table("", "state", "epoch", "validation AUROC", *memory, "settings")
        # The settings get the width that is left, and one line.
        table.expand, table.columns[-1].ratio, table.columns[-1].no_wrap = True, 1, True
        for training in [*shown, None, *best]:
            if training is None:
                table.add_row(Text("best", style="bold") if best else "")
                continue
            table.add_row(
                training.label,
                Text(training.state, style=STYLES[training.state]),
                f"{training.epoch}/{training.epochs}",
                figure(training.auroc, self.error(training.auroc)),
                *(["" if training.gpu_bytes is None else memory_size(training.gpu_bytes)] * on_gpu),
                cell(training.note or training.detail),
            )
        hidden = len(running) - len(shown)
        more = [Text(f"{hidden} more are running", style="dim")] if hidden else []
        return Group(head, Text(self.times(), style="dim"), table, *more)


class PlainView(View):
    """A line per training that ended, and one now and then about those under way."""

    spoke = 0.0  # when the last line was said
    reading: Progress | None = None  # a bar on a terminal, when standard error is one

    def __enter__(self) -> Self:
        super().__enter__()
        self.spoke = time.monotonic()
        return self

    def read(self, what: str, done: int, total: int) -> None:
        """Show a bar on standard error; without a terminal a line now and then."""
        if self.reading is None:
            self.reading = self.ending.enter_context(pictures_bar())
            self.reading.add_task(what)
        if not self.reading.disable:
            task, unfinished = self.reading.task_ids[0], done < total
            self.reading.update(
                task, description=what, completed=done, total=total, visible=unfinished
            )
        elif done < total and time.monotonic() - self.spoke > PROGRESS_SECONDS:
            self.say(f"{what}: {done:,} of {total:,}")

    def say(self, line: str) -> None:
        """Print a line at once, so that a log can be followed."""
        super().say(line)
        self.console.file.flush()
        self.spoke = time.monotonic()

    def update(self, training: Training) -> None:
        """Report an ending, or how far things are when nothing was said for a while."""
        super().update(training)
        if training.state in ENDED:
            facts = [
                f"{training.label} {training.state}",
                f"epoch {training.epoch}/{training.epochs}",
                f"validation AUROC {figure(training.auroc)}",
            ]
            if training.detail:
                facts.append(training.detail)
            self.say(f"[{clock(time.monotonic() - self.began)}] {', '.join(facts)}")
        elif training.note:
            self.say(f"[{clock(time.monotonic() - self.began)}] {training.label}: {training.note}")
        elif time.monotonic() - self.spoke > PROGRESS_SECONDS:
            running = [f"{t.label} at {t.epoch}/{t.epochs}" for t in self.running()]
            facts = [f"{self.count(*ENDED)} of {self.total} ended"]
            if running:
                more = f" and {len(running) - 4} more" if len(running) > 4 else ""
                facts.append(f"running {', '.join(running[:4])}{more}")
            facts += [f"best {figure(t.auroc)} ({t.label})" for t in self.best(1)]
            self.say(f"[{self.times()}] {'; '.join(facts)}")


def kind_of_view(*, quiet: bool, as_json: bool) -> type[View] | None:
    """The view that was asked for; None: `make_view` decides. Raises `RequestError` for two."""
    if quiet and as_json:
        raise RequestError("--quiet and --json exclude each other; give one of them")
    return QuietView if quiet else JsonView if as_json else None


def make_view(console: Console, kind: type[View] | None = None, **options: Any) -> View:
    """A view of that kind; by default the live one on a terminal, else the one in lines."""
    live = console.is_terminal and not console.is_dumb_terminal
    return (kind or (LiveView if live else PlainView))(console, **options)
