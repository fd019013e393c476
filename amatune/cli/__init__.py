"""The command line; `amatune.cli.app` has the commands."""

from amatune.cli.app import app, main

__all__ = ["app", "main"]
