"""Runs on disk: their folders (`folder`), what was asked of them (`request`), and `run.json`
(`record`).

What importing this package costs is paid by every command: it brings the folders alone.
"""

from amatune.runs.folder import AnyRun, RunFolder, all_runs

__all__ = ["AnyRun", "RunFolder", "all_runs"]
