"""Carrying a table out, and the command: what is there, what fails, what is interrupted."""

import json
from types import SimpleNamespace

import pytest
from fake_table import DIGITS, SMALL, leave_result, plan_of, saved

from amatune.cli import main
from amatune.errors import AmatuneError, DiskFullError, RequestError
from amatune.reproduce import run as running
from amatune.reproduce.outcome import read_outcome
from amatune.reproduce.run import carry_out, failures
from amatune.reproduce.write import latex, write_all

# --- carrying it out ------------------------------------------------------------------------------


def pretend(monkeypatch, search=None, best=None):
    """In the place of searches and retrainings; what was called, in order."""
    called = []

    def run_search(request, _listener, resume, known):
        assert not known  # found on images of these tables
        called.append((request.name, resume))
        return search(request) if search else SimpleNamespace(interrupted=False)

    def run_best(run, **_):
        if best:
            best(run)
        leave_result(run, 1.0)

    monkeypatch.setattr(running, "run_search", run_search)
    monkeypatch.setattr(running, "run_best", run_best)
    return called


def test_what_is_there_is_skipped_and_what_fails_is_tried_again(tmp_path, monkeypatch):
    plan = plan_of(tmp_path, "deep-svdd", only=("mnist-0", "mnist-1", "mnist-2"))
    names = [job.name for job in plan.jobs]
    broken = {names[1]}

    def search(request):
        if request.name in broken:
            raise AmatuneError("no picture can be read")
        return SimpleNamespace(interrupted=False)

    called = pretend(monkeypatch, search)
    updates = []
    carry_out(plan, updates.append)
    assert [update.state for update in updates] == [
        *("begins", "tested", "begins", "failed", "begins", "tested")
    ]
    assert failures(plan) == {names[1]: "no picture can be read"}
    assert plan.trainings == SMALL.trials + 2 * SMALL.seeds
    broken.clear()
    called.clear()
    carry_out(plan, lambda _: None)
    assert called == [(names[1], False)]
    assert failures(plan) == {}


def test_only_failures_of_what_was_asked_for_are_told_and_those_of_others_are_kept(
    tmp_path, monkeypatch, capsys
):
    """Another process may do other columns of the same table."""

    def search(request):
        raise AmatuneError(f"{request.name} broke")

    pretend(monkeypatch, search)
    first = plan_of(tmp_path, "deep-svdd", only=("mnist-0",))
    other = plan_of(tmp_path, "deep-svdd", only=("mnist-1",))
    carry_out(first, lambda update: carry_out(other, lambda _: None) if update.reason else None)
    assert list(failures(first)) == ["mnist-0--deep-svdd"]
    assert list(failures(other)) == ["mnist-1--deep-svdd"]
    pretend(monkeypatch)
    place = ["--runs-dir", str(tmp_path), "--method", "deep-svdd"]
    assert main([*COMMAND, *place, "--only", "mnist-0"]) == 0
    assert "failed" not in capsys.readouterr().err
    assert list(failures(other)) == ["mnist-1--deep-svdd"]
    assert main([*COMMAND, *place, "--table"]) == 0  # nothing was tried
    assert "digit 1: mnist-1--deep-svdd broke" in " ".join(capsys.readouterr().out.split())


def test_a_leaderboard_that_cannot_be_read_is_made_again(tmp_path, monkeypatch):
    called = pretend(monkeypatch)
    plan = plan_of(tmp_path, "deep-svdd", only=("mnist-0",))
    carry_out(plan, lambda _: None)
    plan.jobs[0].run.leaderboard.write_text("{")
    carry_out(plan, lambda _: None)
    assert len(called) == 2
    assert plan.jobs[0].tested

    def broken(_):
        raise AmatuneError("it broke")

    pretend(monkeypatch, broken)
    plan.jobs[0].run.leaderboard.write_text("{")
    carry_out(plan, lambda _: None)
    assert failures(plan) == {"mnist-0--deep-svdd": "it broke"}


@pytest.mark.parametrize(
    "damage", ['{"a":', "[]", '{"mnist-0--deep-svdd": "a\\n\\\\input{x}\\udcff"}']
)
def test_what_failed_may_be_damaged_or_hold_what_breaks_a_file(tmp_path, damage):
    plan = plan_of(tmp_path, "deep-svdd", only=("mnist-0",))
    plan.folder.mkdir()
    (plan.folder / "failed.json").write_text(damage)
    outcome = read_outcome(plan)
    write_all(outcome, plan.folder)
    assert not [line for line in latex(outcome).splitlines() if line.startswith("\\input")]
    assert len(failures(plan)) == damage.count("mnist")


def test_an_interrupted_search_is_resumed(tmp_path, monkeypatch):
    plan = plan_of(tmp_path, "deep-svdd", only=("mnist-0",))

    def search(request):
        folder = plan.folder / request.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text("{}")
        return SimpleNamespace(interrupted=len(called) == 1)

    called = pretend(monkeypatch, search)
    with pytest.raises(KeyboardInterrupt):
        carry_out(plan, lambda _: None)
    carry_out(plan, lambda _: None)
    assert called == [("mnist-0--deep-svdd", False), ("mnist-0--deep-svdd", True)]


def test_a_full_disk_ends_it(tmp_path, monkeypatch):
    def search(_):
        raise DiskFullError("no space is left")

    pretend(monkeypatch, search)
    with pytest.raises(DiskFullError):
        carry_out(plan_of(tmp_path, "deep-svdd"), lambda _: None)


# --- the command ----------------------------------------------------------------------------------

COMMAND = ["reproduce", "table2", "--source", "mnist=npz:/nowhere/mnist.npz"]


def test_the_command_runs_what_is_missing_and_writes_the_table(tmp_path, monkeypatch, capsys):
    called = pretend(monkeypatch)
    place = ["--runs-dir", str(tmp_path), "--only", "mnist-3", "--method", "deep-svdd"]
    assert main([*COMMAND, *place]) == 0
    told = capsys.readouterr().out
    assert called == [("mnist-3--deep-svdd", False)]
    assert "1 run in " in told
    assert "[1/1] digit 3, Deep SVDD: tested" in told
    written = {file.suffix for file in (tmp_path / "table2-small").glob("table2.*")}
    assert written == {".md", ".csv", ".tex", ".html", ".json"}


def test_the_command_joins_tables(filled, tmp_path, monkeypatch, capsys):
    called = pretend(monkeypatch)
    file = saved(filled, tmp_path, *DIGITS[:7])
    place = ["--runs-dir", str(tmp_path), "--only", "mnist-3", "--method", "deep-svdd"]
    assert main([*COMMAND, *place, "--join", str(file)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert called == []
    assert "mnist-3: 1 row taken from" in told
    own = filled.outcome.cells["deep-svdd", "mnist-3"].test.auroc
    assert f"{own:.3f} (0.884)" in told
    assert main([*COMMAND, *place, "--join", str(tmp_path / "no.json")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_the_command_fails_with_the_runs_that_failed(tmp_path, monkeypatch, capsys):
    def search(_):
        raise RequestError("the file /nowhere/mnist.npz is not there")

    pretend(monkeypatch, search)
    place = ["--runs-dir", str(tmp_path), "--only", "mnist-3", "--method", "deep-svdd"]
    assert main([*COMMAND, *place, "--json"]) == 1
    told = capsys.readouterr()
    events = [json.loads(line) for line in told.out.splitlines()]
    assert [event["event"] for event in events] == ["run", "run", "table"]
    assert events[1]["reason"] == "the file /nowhere/mnist.npz is not there"
    assert "1 run failed (mnist-3--deep-svdd); the same command tries again" in told.err


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    pretend(monkeypatch, lambda _: SimpleNamespace(interrupted=True))
    assert main([*COMMAND, "--runs-dir", str(tmp_path), "--method", "deep-svdd"]) == 130
    assert "the same command goes on where it stopped" in capsys.readouterr().err


def test_the_cost_is_measured_once_for_runs_that_are_alike(tmp_path, monkeypatch, capsys):
    estimated, at_once = [], 1

    def rehearse(request):
        estimated.append(request.name)
        if request.method == "alad":
            raise RequestError("no such file")
        return SimpleNamespace(seconds=80.0, seconds_per_step=0.01, concurrent=at_once)

    monkeypatch.setattr("amatune.tuning.rehearsal.rehearse", rehearse)
    place = ["--runs-dir", str(tmp_path), "--only", "mnist", "--method", "deep-svdd"]
    assert main([*COMMAND, *place, "--dry-run"]) == 0
    assert estimated == [None]
    # 8 trials take 80 s; 6 retrainings come on top, ten times over.
    told = "All: at most 0:23:20; 1 of the runs were tried for it."
    assert capsys.readouterr().out.endswith(f"{told}\n")
    assert not (tmp_path / "table2-small").exists()

    (tmp_path / "table2-small" / "mnist-0--deep-svdd").mkdir(parents=True)
    assert main([*COMMAND, *place, "--dry-run", "--quiet"]) == 0
    assert capsys.readouterr().out == f"{told} What has begun is counted whole.\n"
    assert main([*COMMAND, *place, "--dry-run", "--json"]) == 0
    each, total = map(json.loads, capsys.readouterr().out.splitlines())
    assert (each["event"], each["runs"], each["seconds"]) == ("estimate", 10, 140.0)
    assert total == {"event": "total", "seconds": 1400.0, "tried": 1}

    at_once = 8  # the trials are one round, and so are the retrainings
    two = ["--runs-dir", str(tmp_path), "--only", "mnist-1", "--method", "alad"]
    assert main([*COMMAND, *two, "--method", "deep-svdd", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "note: ALAD on mnist cannot be tried: no such file" in told
    assert "All: at most 0:02:40; 1 of the runs were tried for it." in told
    assert main([*COMMAND, *two, "--dry-run"]) == 2


@pytest.mark.parametrize("place", ["file", "/proc/none"])
@pytest.mark.parametrize("more", [(), ("--table",)])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch, capsys, place, more):
    pretend(monkeypatch)
    (tmp_path / "file").touch()
    place = ["--runs-dir", str(tmp_path / place), "--method", "deep-svdd"]
    assert main([*COMMAND, *place, *more]) == 2
    assert "name another folder" in capsys.readouterr().err


@pytest.mark.parametrize(("asked", "told"), [("head:6379", "head:6379"), (None, "local")])
def test_retraining_is_told_the_cluster_of_the_search(tmp_path, monkeypatch, asked, told):
    """Which it does not take from the run's record alone."""
    plan = plan_of(tmp_path, "deep-svdd", only=("mnist-0",), address=asked)
    addresses = []
    pretend(monkeypatch)
    monkeypatch.setattr(running, "run_best", lambda *_, address, **__: addresses.append(address))
    carry_out(plan, lambda _: None)
    assert addresses == [told]
