"""The command line; `amatune.cli.app` has the commands."""

from amatune.cli.app import main

__all__ = ["main"]
