"""A search whose processes and machines are killed, at random moments."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter

import pytest
from processes import HERE, epochs_of, members, start, trainers, trials, wait_until

from amatune.runs import RunFolder
from amatune.tuning.study import open_study


@pytest.mark.timeout(900)  # eight starts of Ray and a dozen of workers, on whatever machine this is
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
