"""Calls of the command line, in this process and in another."""

import subprocess
import sys

from amatune.cli import main

ANSI = "\x1b"


def call(line: str) -> int:
    """Run a command in this process, as `main` would for these words."""
    return main(line.split())


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter, to see what a process prints, imports and exits with."""
    return subprocess.run([sys.executable, *arguments], check=False, capture_output=True, text=True)
