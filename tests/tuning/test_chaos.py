"""A search whose processes and machines are killed, at random moments."""

import os
import random
import signal

import pytest
from fake_search import install, request
from processes import Program, epochs_of, members, start, trainers, trials, wait_until

from amatune.runs import RunFolder
from amatune.tuning.search import run_search
from amatune.tuning.study import open_study


@pytest.mark.timeout(1800)  # four starts of Ray and some of workers, on whatever machine this is
@pytest.mark.usefixtures("ray_cluster")
def test_killed_again_and_again_it_reports_what_an_uninterrupted_search_does(tmp_path, monkeypatch):
    """Driver and workers in any order, at random moments."""
    luck = random.Random(0)
    victims = ["driver"] * 2 + ["worker"] * 2
    luck.shuffle(victims)
    asked = {"trials": 6, "epochs": 24, "scheduler": "asha", "checkpoint_seconds": 0.0}
    slow = {**asked, "fixed": {"seconds": 0.08}}
    process = start(tmp_path, **slow)
    for victim in victims:
        if process.poll() is not None:
            process = start(tmp_path, "resume", **slow)
        goal = sum(epochs_of(tmp_path)) + luck.randint(1, 12)
        wait_until(lambda g=goal: sum(epochs_of(tmp_path)) >= g, process)
        if victim == "worker":
            wait_until(lambda p=process: trainers(p), process)
            os.kill(luck.choice(trainers(process)), signal.SIGKILL)
        else:
            process.kill()
            process.communicate()
            assert process.returncode == -signal.SIGKILL
    if process.poll() is not None:
        process = start(tmp_path, "resume", **slow)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors

    install(monkeypatch)
    del asked["checkpoint_seconds"]
    run_search(request(tmp_path / "whole", **asked, fixed={"seconds": 0.0}))

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
    wait_until(lambda: not members(process), None)


def test_a_machine_of_the_cluster_may_die(tmp_path):
    """Its trial goes on elsewhere, from its checkpoint on the shared storage."""
    process = Program("fake_nodes", [str(tmp_path)], tmp_path)
    output, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    lines = output.splitlines()
    assert lines[0] == "at a time 3"
    assert any("its worker process died" in line for line in lines), lines
    assert lines[-1] == "done 4 failed 0"
    assert {t.state for t in trials(tmp_path)} == {"done"}
