"""Searches as processes of their own, which tests may kill. See `fake_search.py`."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

from amatune.runs import RunFolder
from amatune.tuning.study import read_trials

HERE = Path(__file__).parent
MARK = "AMATUNE_TEST_SEARCH"  # in the environment of a search and of all that it starts


def start(tmp_path, *words, **changes):
    """The search of `fake_search.py`, in a session of its own: its group can be signalled."""
    wanted = {"runs_dir": str(tmp_path), "trials": 4, "scheduler": "none", **changes}
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, str(HERE / "fake_search.py"), json.dumps(wanted), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, MARK: mark},
    )
    process.mark = mark
    return process


def trials(tmp_path, name="run"):
    return read_trials(RunFolder(tmp_path / name))


def wait_until(condition, process, seconds=90):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it took too long"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.15)


def epochs_of(tmp_path):
    """Of every trial, how many results the study has; read as cheaply as can be."""
    file = tmp_path / "run" / "study.db"
    journal = file.with_suffix(".journal")
    if journal.exists():
        lines = [line for line in journal.read_bytes().splitlines(True) if line.endswith(b"\n")]
        logs = [json.loads(line) for line in lines]
        reports = {(log["trial_id"], log["step"]) for log in logs if "intermediate_value" in log}
        return list(Counter(trial for trial, _ in reports).values())
    if not file.exists():
        return []
    # Not read-only: what a killed process was writing has to be rolled back first.
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=rw", uri=True, timeout=30)) as study:
        counts = "select count(*) from trial_intermediate_values group by trial_id"
        return [count for (count,) in study.execute(counts)]


def members(process):
    """Living processes that the search has started, and itself, by what they carry, and the words
    that each was called with."""
    mark = f"{MARK}={process.mark}".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                carried = (folder / "environ").read_bytes().split(b"\0")
                if mark in carried:
                    words = (folder / "cmdline").read_bytes().decode(errors="replace")
                    found[int(folder.name)] = words.split("\0")
    return {pid: words for pid, words in found.items() if words != [""]}  # a dead one has none


def named(process, name):
    """The processes of the search whose program has this name."""
    return [pid for pid, words in members(process).items() if Path(words[0]).name == name]


def trainers(process):
    """The workers that train."""
    others = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
    names = {pid: words[0] for pid, words in members(process).items()}
    return [p for p, name in names.items() if name.startswith("ray::") and name not in others]


def hold(path, ready, release):
    """Work on a run, in a process that a test has started: it can be imported from here alone."""
    with RunFolder(path).alone():
        ready.set()
        release.wait(30)
