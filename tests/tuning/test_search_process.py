"""A search as a process: killed, interrupted, and listened to. Each on a cluster of its own."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import torch
from processes import (
    HERE,
    epochs_of,
    members,
    private_folder,
    search_words,
    start,
    trials,
    wait_until,
)


def test_kill_nine_and_resume(tmp_path):
    """Killed in the middle of trials, it resumes: every trial ends exactly once, none is lost. What
    the killed one left of Ray is removed.

    With its study in a journal; `test_chaos.py` kills one with a database, more often.
    """
    slow = {"fixed": {"seconds": 0.1}, "epochs": 12, "trials": 3, "checkpoint_seconds": 0.0}
    slow["study_storage"] = "journal"
    process = start(tmp_path, **slow)
    wait_until(lambda: sum(epochs_of(tmp_path)) >= 18, process)
    left = private_folder(members(process))
    process.kill()
    process.communicate()
    assert left.exists()
    before = trials(tmp_path)
    assert "running" in [t.state for t in before]
    # A second search of the same run is possible at once: the lock went with the process.
    process = start(tmp_path, "resume", **slow)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert not left.exists()

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


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_ends_it_in_good_order(tmp_path, by):
    """Ctrl-C in a terminal reaches every process of the group, and so do `timeout` and the end of a
    batch job."""
    called = time.monotonic()
    process = start(tmp_path, fixed={"seconds": 0.1}, epochs=500, trials=3, concurrent=2)
    wait_until(lambda: sum(epochs_of(tmp_path)) >= 4, process)
    began = time.monotonic()
    os.killpg(process.pid, by)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert errors == ""
    # On a busy machine everything takes long.
    assert time.monotonic() - began < max(40, began - called)
    assert output.splitlines()[-1].strip() == "SearchEnded"
    assert output.count("Saving") == 1
    assert not members(process)
    unfinished = trials(tmp_path)
    assert {t.state for t in unfinished} == {"running"}
    for trial in (t for t in unfinished if t.epoch > 0):
        places = (tmp_path / "run" / "trials").glob(f"{trial.number:04d}/checkpoint_*/*.pt")
        assert [torch.load(p, weights_only=True)["epoch"] for p in places] >= [trial.epoch - 1]


def test_a_second_interrupt_ends_it_now(tmp_path):
    """The first is answered at once, also while epochs of a minute leave nothing to save."""
    process = start(tmp_path, fixed={"seconds": 60.0}, epochs=500, trials=3, concurrent=2)
    wait_until(lambda: "TrialUpdate running" in process.printed(), process)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    wait_until(lambda: "Saving" in process.printed(), process)
    assert time.monotonic() - began < 2 + 8  # a busy machine
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    assert "SearchEnded" not in output  # nor is anything waited for
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors  # which `amatune` turns into how to go on
    assert not members(process)
    assert {trial.state for trial in trials(tmp_path)} == {"running"}


def test_a_search_says_nothing_by_itself(tmp_path):
    """Neither Ray nor Optuna nor a failing trial nor a dying worker writes to the streams."""
    trouble = {"diverges_at": 0.7, "trouble": "death", "traces": str(tmp_path)}
    words = search_words(tmp_path, name="silent", fixed=trouble, trials=2)
    # Not forked: importing is silent, too.
    command = [sys.executable, HERE / "fake_search.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "failed" in [t.state for t in trials(tmp_path, "silent")]
    log = (tmp_path / "silent" / "log.txt").read_text(encoding="utf-8")
    assert "worker died or was killed" in log
