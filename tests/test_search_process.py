"""A search as a process: killed, interrupted, and listened to. Each on a cluster of its own."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from amatune.runs import RunFolder
from amatune.tuning.study import open_study, read_trials

HERE = Path(__file__).parent


def start(tmp_path, *words, **changes):
    """The search of `fake_search.py`, in a session of its own: its group can be signalled."""
    wanted = {"runs_dir": str(tmp_path), "trials": 4, "scheduler": "none", **changes}
    return subprocess.Popen(
        [sys.executable, str(HERE / "fake_search.py"), json.dumps(wanted), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


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
    if not file.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as study:
        counts = "select count(*) from trial_intermediate_values group by trial_id"
        return [count for (count,) in study.execute(counts)]


def test_kill_nine_and_resume(tmp_path):
    """Killed in the middle of trials, it resumes: every trial ends exactly once, none is lost."""
    slow = {"fixed": {"seconds": 0.1}, "epochs": 12, "trials": 3, "checkpoint_seconds": 0.0}
    process = start(tmp_path, **slow)
    wait_until(lambda: sum(epochs_of(tmp_path)) >= 18, process)
    process.kill()
    process.communicate()
    before = trials(tmp_path)
    assert "running" in [t.state for t in before]
    # A second search of the same run is possible at once: the lock went with the process.
    process = start(tmp_path, "resume", **slow)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors

    after = trials(tmp_path)
    assert [t.number for t in after] == [0, 1, 2]
    assert [t.state for t in after] == ["done"] * 3
    assert [t.settings for t in after[: len(before)]] == [t.settings for t in before]
    ends = Counter(line for line in output.splitlines() if line.endswith(("done", "failed")))
    assert sum(ends.values()) == 3 - [t.state for t in before].count("done")
    continued = [t for t in before if t.state == "running" and t.epoch > 1]
    # From their checkpoints, not from the start: a result per epoch that was left, and few twice.
    results = output.splitlines().count("TrialUpdate running")
    left = 3 * 12 - sum(t.epoch for t in before)
    assert results < left + 2 * len(continued) + 3 * 2
    assert not list((tmp_path / "run" / "trials").glob("*/checkpoint_*"))


def members(process):
    """Processes of the search's session and their names."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
                if session == process.pid:
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    found[int(folder.name)] = words[0].decode(errors="replace")
    return found


def trainers(process):
    """The workers that train."""
    others = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
    names = members(process).items()
    return [pid for pid, name in names if name.startswith("ray::") and name not in others]


def test_killed_a_dozen_times_it_reports_what_an_uninterrupted_search_does(tmp_path):
    """Driver and workers in turn, at random moments."""
    luck = random.Random(0)
    asked = {"trials": 6, "epochs": 36, "scheduler": "asha", "checkpoint_seconds": 0.0}
    slow = {**asked, "fixed": {"seconds": 0.08}}
    kills, process = Counter(), None
    while sum(kills.values()) < 12:
        if process is None or process.poll() is not None:
            words = ["resume"] if epochs_of(tmp_path) else []
            process = start(tmp_path, *words, **slow)
        goal = sum(epochs_of(tmp_path)) + luck.randint(1, 6)
        wait_until(lambda g=goal, p=process: sum(epochs_of(tmp_path)) >= g or p.poll() == 0, None)
        if process.poll() == 0:
            break
        workers = trainers(process)
        if workers and luck.random() < 0.7:
            os.kill(luck.choice(workers), signal.SIGKILL)
            kills["worker"] += 1
        else:
            process.kill()
            process.communicate()
            kills["driver"] += 1
    assert sum(kills.values()) == 12, kills
    assert min(kills.values()) >= 3, kills
    if process.poll() is None:
        process.kill()
        process.communicate()
    process = start(tmp_path, "resume", **slow)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors

    whole = start(tmp_path / "whole", **{**asked, "fixed": {"seconds": 0.0}})
    _, errors = whole.communicate(timeout=120)
    assert whole.returncode == 0, errors

    def told(folder):
        run = RunFolder(folder / "run")
        settings = [{k: v for k, v in t.settings.items() if k != "seconds"} for t in trials(folder)]
        curves = [(t.state, t.intermediate_values) for t in open_study(run).trials]
        return list(zip(settings, curves, strict=True))

    assert told(tmp_path) == told(tmp_path / "whole")
    run = tmp_path / "run"
    numbers = {f"{trial.number:04d}" for trial in trials(tmp_path)}
    folders = [p.name for p in (run / "trials").iterdir() if p.is_dir()]
    assert {name.partition(".")[0] for name in folders} == numbers
    assert not list((run / "trials").glob("*/checkpoint_*"))
    assert not list(run.glob(".study-*"))
    wait_until(lambda: not members(process), None, seconds=20)


def test_a_machine_of_the_cluster_may_die(tmp_path):
    """Its trial goes on elsewhere, from its checkpoint on the shared storage."""
    process = subprocess.run(
        [sys.executable, str(HERE / "fake_nodes.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert lines[0] == "at a time 3"
    assert any("its worker process died" in line for line in lines), lines
    assert lines[-1] == "done 5 failed 0"
    assert {t.state for t in trials(tmp_path)} == {"done"}


@pytest.mark.parametrize("by", ["ctrl-c", "sigterm"])
def test_one_interrupt_ends_it_in_good_order(tmp_path, by):
    """Ctrl-C in a terminal reaches every process of the group, a job's end the driver alone."""
    process = start(tmp_path, fixed={"seconds": 0.1}, epochs=500, trials=3, concurrent=2)
    wait_until(lambda: sum(epochs_of(tmp_path)) >= 4, process)
    began = time.monotonic()
    if by == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors == ""
    assert time.monotonic() - began < 40
    assert "SearchEnded" in output
    unfinished = trials(tmp_path)
    assert {t.state for t in unfinished} == {"running"}
    for trial in unfinished:
        places = (tmp_path / "run" / "trials").glob(f"{trial.number:04d}/checkpoint_*/*.pt")
        assert [torch.load(p, weights_only=True)["epoch"] for p in places] >= [trial.epoch - 1]


def test_a_search_says_nothing_by_itself(tmp_path):
    """Neither Ray nor Optuna nor a failing trial nor a dying worker writes to the streams."""
    trouble = {"diverges_at": 0.7, "trouble": "death", "traces": str(tmp_path)}
    process = start(tmp_path, name="silent", fixed=trouble, trials=2)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert (output, errors) == ("", "")
    assert "failed" in [t.state for t in trials(tmp_path, "silent")]
    log = (tmp_path / "silent" / "log.txt").read_text(encoding="utf-8")
    assert "worker died or was killed" in log
