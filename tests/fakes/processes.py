"""Searches as processes of their own, which tests may kill. See `fake_search.py`."""

import contextlib
import importlib
import json
import multiprocessing
import multiprocessing.forkserver
import os
import re
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

import amatune.cluster  # noqa: F401 - sets Ray's switches, for what is forked too
from amatune.runs import RunFolder
from amatune.tuning.study import read_trials

HERE = Path(__file__).parent
MARK = "AMATUNE_TEST_SEARCH"  # in the environment of all that a search starts


def fork(target, *arguments):
    """Start a process that calls this function.

    It is forked from one that has imported everything, which takes seconds.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["fake_search", "processes"])
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        multiprocessing.forkserver.ensure_running()
    process = processes.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


class Program:
    """A program of the fakes, `main(words)` of a module, as if it had been started by itself: in a
    session of its own, so that its group can be signalled. Used like a `subprocess.Popen`."""

    def __init__(self, module, words, folder):
        self.mark = uuid.uuid4().hex
        self._streams = [folder / f"{self.mark}.{name}" for name in ("out", "err")]
        environment = {**os.environ, MARK: self.mark}
        self._process = fork(_run, module, words, environment, self._streams)
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self.returncode

    def kill(self):
        self._process.kill()

    def printed(self):
        """What it has written to its output so far."""
        output = self._streams[0]
        return output.read_text(encoding="utf-8") if output.exists() else ""

    def communicate(self, timeout=None):
        """What it has written to its output and to its errors, once it has ended."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("a program of the tests", timeout)
        return tuple(stream.read_text(encoding="utf-8") for stream in self._streams)


def _run(module, words, environment, streams):
    os.setsid()
    for number, stream in enumerate(streams, 1):
        handle = os.open(stream, os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(environment)
    importlib.import_module(module).main(words)


def search_words(tmp_path, *words, **changes):
    """What `fake_search.py` is called with."""
    wanted = {"runs_dir": str(tmp_path), "trials": 4, "scheduler": "none", **changes}
    return [json.dumps(wanted), *words]


def start(tmp_path, *words, **changes):
    """The search of `fake_search.py`."""
    return Program("fake_search", search_words(tmp_path, *words, **changes), tmp_path)


def trials(tmp_path, name="run"):
    return read_trials(RunFolder(tmp_path / name))


def wait_until(condition, process, seconds=240):
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
    """Living processes that the search has started, by what they carry, and itself; and the words
    that each was called with."""
    mark = f"{MARK}={process.mark}".encode()
    own = str(process.pid) if process.poll() is None else ""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                carried = (folder / "environ").read_bytes().split(b"\0")
                if mark in carried or folder.name == own:
                    words = (folder / "cmdline").read_bytes().decode(errors="replace")
                    found[int(folder.name)] = words.split("\0")
    return {pid: words for pid, words in found.items() if words != [""]}  # a dead one has none


def private_folder(processes):
    """Where the cluster of these `members` keeps its files."""
    (folder,) = {
        Path(found)
        for words in processes.values()
        for found in re.findall(r"(/[^ =]*/amatune-\w+)/ray/", " ".join(words))
    }
    return folder


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
