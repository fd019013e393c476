"""The commands: their help, their exit codes, and one message for what is wrong."""

import re
from pathlib import Path
from typing import Any

import pytest
from calls import ANSI, call, python

import amatune
from amatune.cli import main
from amatune.errors import AmatuneError

COMMANDS = [
    *("search", "best", "score", "status", "report", "compare", "datasets", "methods", "space")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_reads_well(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: amatune {command}" in text
    assert f"Examples\n amatune {command}" in re.sub(r" +\n", "\n", text)
    assert ANSI not in text
    # A rule of the markup, an escaped bracket or a stray backtick pair would show here.
    assert "[bold]" not in text
    assert "\\[" not in text


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"│ {command} " in text for command in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"amatune {amatune.__version__}\n"


def test_help_imports_nothing_slow() -> None:
    program = (
        "import sys\nfrom amatune.cli import main\nmain(['search', '--help'])\n"
        "print(sorted({'torch', 'ray', 'optuna', 'numpy', 'sklearn'} & sys.modules.keys()))"
    )
    done = python("-c", program)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("serch", "'serch'"),
        ("search --tials 3", "--tials"),
        ("search extra", "extra"),
        ("search --trials", "--trials"),
        ("search --trials 0", "trials must be at least 1, got 0"),
        ("search --trials many", "'--trials': 'many' is not a whole number"),
        ("search --trials 1.5", "'1.5' is not a whole number"),
        ("search --epochs -3", "epochs must be at least 1, got -3"),
        ("search --concurrent 0", "concurrent must be at least 1, got 0"),
        ("search --time-budget soon", "'soon' is not a time; write 90s, 10m or 2h"),
        ("search --time-budget 0s", "'0s' is not a time"),
        ("search --time-budget 10", "'10' is not a time"),
        ("search --gpus-per-trial some", "'some' is not a share of GPUs; write auto, 0, 0.25"),
        ("search --gpus-per-trial -1", "'-1' is not a share of GPUs"),
        ("search --gpus-per-trial nan", "'nan' is not a share of GPUs"),
        ("search --cpus-per-trial 0", "got 0"),
        ("search --cpus-per-trial one", "'one' is not a number"),
        ("search --seed -1", "-1"),
        ("search --sampler grid", "'grid'; known: tpe, random, gp, qmc"),
        ("search --scheduler pbt", "'pbt'; known: asha, hyperband, median, none"),
        ("search --objective best", "'best'; known: pooled, mean, worst"),
        ("search --stop-at 0.4", "must be in (0.5, 1], got 0.4"),
        ("search --space none.json", "cannot read the search space none.json"),
        ("search --enqueue none.json", "cannot read the settings in none.json"),
        ("search --space .", "cannot read the search space .: it is not a regular file"),
        ("search --enqueue .", "cannot read the settings in .: it is not a regular file"),
        ("search --warm-start gone", "'gone'"),
        ("search --quiet --json", "exclude each other"),
        ("search --anomaly-fraction 0.6", "a share in [0, 0.5], got 0.6"),
        ("search --contamination -1", "a share in [0, 0.5], got -1"),
        ("search --dataset photos --ood photos", "both the normal set and an anomaly set"),
        ("search --test-ood digits --ood photos", "name another --test-ood"),
        ("search --method amma", "'amma'; did you mean 'ama'"),
        ("search --dataset digitz", "'digitz'; did you mean 'digits'"),
        ("search --dataset folder:nowhere", "nowhere"),
        ("search --ood digitz", "'digitz'"),
        ("search --normal-class eleven", "'eleven'"),
        ("search --val-anomalies 3", "at least 10, got 3"),
        ("search --image-size 2", "of 8 to 1024 pixels, got 2"),
        ("search --channels 4", "1 (grey) or 3 (colour), got 4"),
        ("search --image-size 20000", "a whole number of 8 to 1024 pixels, got 20000"),
        ("search --keep-together twins", "keep_together must be 'near-copies', got 'twins'"),
        ("search --max-broken few", "'few' is not a number"),
        ("search --max-broken 1.5", "a whole number of pictures, or a share below 1, got 1.5"),
        ("search --max-broken -1", "got -1"),
        ("search --width wide", "'wide' is not a number"),
        ("search --width -1", "width must be positive, got -1"),
        ("search --fix k", "'k' is not NAME=VALUE"),
        ("search --fix k=", "'k=' is not NAME=VALUE"),
        ("search --fix =3", "'=3' is not NAME=VALUE"),
        ("search --fix k=3 --fix k=4", "'k' twice"),
        ("search --width 0.5 --fix width=1", "give one of them"),
        ("search --fix kk=3", "unknown setting 'kk'"),
        ("search --fix k=three", "k must be a whole number, got 'three'"),
        ("search --fix epochs=3", "epochs cannot be held fixed"),
        ("search --preset authors", "did you mean 'authors-code'"),
        ("search --name a/b", "'a/b'"),
        ("search --resume", "there are no runs in runs"),
        ("search --resume --name gone", "'gone'"),
        ("best", "there are no runs in runs"),
        ("best gone", "'gone'"),
        ("best --top 0", "there are no runs in runs"),
        ("best --seeds x", "'x' is not a whole number"),
        ("status", "there are no runs in runs"),
        ("status gone --runs-dir other", "'gone': there are no runs in other"),
        ("datasets mnits", "'mnits'; did you mean 'mnist'"),
        ("search --dataset digits --ood isun --data-dir here", "put it into "),
        ("score", "EXPORT"),
        ("score model", "PATH"),
        ("score nowhere picture.png", "nowhere"),
        ("space amma", "'amma'; did you mean 'ama'"),
        ("space", "METHOD"),
    ],
)
def test_a_wrong_request_gets_one_message(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(line) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("amatune: ")
    assert captured.err.count("\n") == 1
    assert told in captured.err
    assert not list(Path().glob("runs/*"))


def test_the_process_exits_with_the_code() -> None:
    done = python("-m", "amatune.cli", "search", "--trials", "none")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_an_error_of_ours_is_one_line(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search"]) == AmatuneError.exit_code
    assert capsys.readouterr().err == "amatune: noted\n"
    assert asked


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(amatune.tuning.search, "run_search", broken)
    with pytest.raises(ZeroDivisionError):
        main(["search"])
