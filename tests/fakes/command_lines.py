"""`amatune ...` command lines in documents and scripts, checked against the real option parser."""

import contextlib
import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer

from amatune.cli.app import app

# What raises for a wrong option, value or command, as in `amatune.cli`.
_UsageError: type[Any] = typer.BadParameter.mro()[1]

_ENDS = frozenset({"|", ">", ">>", "<", "&&", "||", ";", "&", "2>&1"})  # of a shell's command
_STARTS = frozenset({"exec", "if", "then", "else", "do", "!", "nice", "time", "run_amatune"})


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of every call of amatune in shell text: prompts, comments, `\\` at line ends.

    Expansions such as `"${name}"` stay as they are, `"$@"` and arrays are left out.
    """
    for written in re.sub(r"\\\n", " ", text).splitlines():
        line = re.sub(r"^\s*(\$|>)\s+", "", written)
        line = re.sub(r"\"\$(@|\{\w+\[@\]\})\"", "", line)
        with contextlib.suppress(ValueError):  # a quotation over several lines
            words = shlex.split(line, comments=True)
            while words and words[0] in _STARTS:
                words = ["amatune", *words[1:]] if words[0] == "run_amatune" else words[1:]
            end = next((i for i, word in enumerate(words) if word in _ENDS), len(words))
            if words[:1] == ["amatune"] and end > 1:
                yield words[1:end]


def is_known(words: list[str]) -> bool:
    """Whether the first word is a command of this version."""
    return bool(words) and words[0] in typer.main.get_command(app).commands  # type: ignore[attr-defined]


def check(words: list[str]) -> str | None:
    """What the option parser says against the words after `amatune`; None when it takes them.

    Nothing is executed: values are parsed, the command is not called. The file of `--config` is not
    there to be read, and is left out.
    """
    if "--config" in words[:-1]:
        place = words.index("--config")
        words = [*words[:place], *words[place + 2 :]]
    command: Any = typer.main.get_command(app)
    try:
        with command.make_context("amatune", list(words)) as context:
            name, sub, rest = command.resolve_command(context, context._protected_args)
            sub.make_context(name, [*rest, *context.args], parent=context)
    except _UsageError as error:
        return str(error.format_message())
    except typer.Exit:
        return None  # --help, --version
    return None
