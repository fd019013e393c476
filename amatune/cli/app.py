"""The command line: its commands, its exit codes, and what becomes of errors.

Commands turn options into requests, show what happens meanwhile, and print the result. What is
slow to import (torch, Ray, Optuna) is imported inside the command that needs it, so that
`amatune --help` answers at once.

Exit codes: 0 done, 1 ran and failed, 2 the request was wrong, 130 interrupted and resumable. Only
`AmatuneError` and the errors of option parsing become a message; anything else is a bug and keeps
its traceback.
"""

import inspect
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape

from amatune.cli.best import best
from amatune.cli.catalogue import datasets, methods, space
from amatune.cli.config import key_of
from amatune.cli.options import Command, examples_of
from amatune.cli.output import complain
from amatune.cli.plan import plan
from amatune.cli.quantize import quantize
from amatune.cli.recalibrate import recalibrate
from amatune.cli.reproduce import reproduce
from amatune.cli.runs import compare, report, status
from amatune.cli.score import score
from amatune.cli.search import search
from amatune.cli.verify import verify
from amatune.errors import AmatuneError
from amatune.version import __version__

# What option parsing raises for a wrong option, value or command.
_UsageError: type[Any] = typer.BadParameter.mro()[1]

app = typer.Typer(
    name="amatune",
    help="Search the settings of an image anomaly detector, retrain the best, score pictures.",
    epilog="A first run, in minutes:\n"
    "amatune search --width 0.25 --steps 800 --trials 12\n"
    "amatune best --export",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `arguments` default to the process's own."""
    try:
        code = app(args=arguments, prog_name="amatune", standalone_mode=False)
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "amatune"
        complain(f"{error.format_message().rstrip('.')}; see {command} --help")
        return 2
    except AmatuneError as error:
        words = sys.argv[1:] if arguments is None else arguments
        complain(_in_options(str(error), words[0] if words else ""))
        return error.exit_code
    except typer.Abort:
        return 130
    return code if isinstance(code, int) else 0


def _in_options(message: str, name: str) -> str:
    """A message about what Python calls `min_recall`, which is `--min-recall` of that command."""
    command = typer.main.get_group(app).commands.get(name)
    for option in command.params if command else ():
        if "_" in (option.name or "") and key_of(option) != option.name:
            # Not in a path, or between quotes.
            alone = rf"(?<![\w./\\'\"-]){option.name}(?![\w/\\'\"-])"
            message = re.sub(alone, f"--{key_of(option)}", message)
    return message


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"amatune {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _entry(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def _register(command: Command) -> None:
    """Add a command; its docstring is its help, reflowed to the terminal's width."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    epilog = "\n".join(["[bold]Examples[/bold]", *map(escape, examples_of(command))])
    app.command(help=text, epilog=epilog)(command)


for _command in (
    *(search, best, score, verify, recalibrate, quantize, status, report, compare),
    *(plan, reproduce, datasets, methods, space),
):
    _register(_command)
