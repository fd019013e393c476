"""How far the reading and the scoring of many pictures is, on standard error."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from amatune.cli.output import say
from amatune.wording import counted

PROGRESS_SECONDS = 30.0  # of silence in a pipe, before a line tells how far things are


def pictures_bar() -> Progress:
    """A bar on standard error that goes when it is done; disabled when that is no terminal."""
    console = Console(stderr=True)
    described = TextColumn("{task.description}")
    columns = (BarColumn(), MofNCompleteColumn(), described, TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


class ScoringProgress:
    """How far the scoring is, on standard error: a bar, or without a terminal a line now and
    then."""

    def __init__(self, bar: Progress, total: int) -> None:
        self._bar = bar
        self._total = total
        self._done = 0
        self._task = bar.add_task("pictures", total=total)
        self._spoke = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line that stays, above the bar."""
        say(self._bar.console, line)

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        self._bar.advance(self._task)
        now = time.monotonic()
        if self._bar.disable and now - self._spoke > PROGRESS_SECONDS:
            self.say(f"{self._done:,} of {counted(self._total, 'picture')} scored")
            self._spoke = now


@contextlib.contextmanager
def scoring_progress(total: int) -> Iterator[ScoringProgress]:
    """Show how far the scoring of so many pictures is."""
    with pictures_bar() as bar:
        yield ScoringProgress(bar, total)
