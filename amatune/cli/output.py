"""Where output goes, line by line, and the command lines and paths that it names.

Nothing that comes from a file's name or contents reaches a terminal as a command to it.
"""

import contextlib
import os
import shlex
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console

from amatune.errors import AmatuneError, RequestError
from amatune.runs import RunFolder, all_runs
from amatune.wording import visible

RUNS_DIR = "runs"
PIPE_WIDTH = 120  # columns of a table that does not go to a terminal


class Interrupted(AmatuneError):
    """Ctrl-C ended the command before its time."""

    exit_code = 130


def make_console(file: TextIO | None = None) -> Console:
    """Standard output or a file; in a pipe without colours, and wide enough for a table."""
    console = Console(highlight=False, file=file)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console


def say(console: Console, line: str = "") -> None:
    """Print one line, unbroken, so that it can be copied and searched."""
    console.print(visible(line), markup=False, soft_wrap=True)


def complain(line: str) -> None:
    """Print one line on standard error, under the program's name."""
    print(f"amatune: {visible(line)}", file=sys.stderr)


@contextlib.contextmanager
def destination(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears under its name only when it is complete.

    Links lead to the file they stand for. What is no regular file, a device or a named pipe, is
    written into as it is.
    """
    if output is None:
        with _standard_output() as file:
            yield file
        return
    try:
        target = output.resolve()
        mode = target.stat().st_mode if target.exists() else None
        in_a_folder = target.parent.is_dir()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = getattr(error, "strerror", None) or "its links lead in a circle"
        raise RequestError(f"cannot write to {output}: {reason}") from error
    if (mode is not None and stat.S_ISDIR(mode)) or not in_a_folder:
        raise RequestError(f"cannot write to {output}: name a file in a folder that exists")
    replaced = mode is None or stat.S_ISREG(mode)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        written = partial if replaced else target
        # Bytes of a name that are no UTF-8 are escaped, as JSON would write them.
        with written.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        if replaced:
            partial.replace(target)
    except OSError as error:
        raise AmatuneError(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        if replaced:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _standard_output() -> Iterator[TextIO]:
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError as error:  # `amatune score ... | head`
        # Nothing more can be written, not even by the interpreter when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise AmatuneError("whoever reads the output has stopped reading") from error
    except OSError as error:
        raise AmatuneError(f"cannot write the output: {error.strerror or error}") from error


def near(path: Path) -> str:
    """The path as short as it gets: relative when it lies below the working directory."""
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


def about(run: RunFolder, *words: str) -> str:
    """An `amatune` command line about a run, to copy; one that trains joins the run's cluster."""
    runs_dir = near(run.path.parent)
    tail = [] if runs_dir == RUNS_DIR else ["--runs-dir", runs_dir]
    if words[0] in ("search", "best"):
        from amatune.runs.request import joining

        with contextlib.suppress(AmatuneError):
            tail += joining(run.record().request.address)
    return shlex.join(["amatune", *words, *tail])


def how_to_resume(run: RunFolder) -> str:
    """What to call to continue a search."""
    return f"continue with: {about(run, 'search', '--resume', '--name', run.name)}"


def tensorboard(run: RunFolder) -> str:
    """The command that shows a run's trials."""
    return shlex.join(["tensorboard", "--logdir", near(_tensorboard_folder(run))])


def tensorboard_of_all(runs: Sequence[RunFolder]) -> str:
    """The command that shows these runs together: their folder's, or one that names each."""
    places = [_tensorboard_folder(run) for run in runs]
    parents = {place.parent.parent for place in places}
    if len(parents) == 1:
        (parent,) = parents
        if {run.path for run in all_runs(parent)} <= {run.path for run in runs}:
            return shlex.join(["tensorboard", "--logdir", near(parent)])
    named = [f"{place.parent.name}:{near(place)}" for place in places]
    return shlex.join(["tensorboard", "--logdir_spec", ",".join(named)])


def _tensorboard_folder(run: RunFolder) -> Path:
    return run.event_files(run.record().request.storage_path)
