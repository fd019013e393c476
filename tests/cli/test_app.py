"""The commands: their help, their exit codes, and one message for what is wrong."""

import re
from typing import Any

import pytest
from calls import ANSI, python

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


def test_the_process_exits_with_the_code() -> None:
    done = python("-m", "amatune", "search", "--trials", "none")
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


def test_options_are_called_as_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Errors are shared with Python, where names have no dashes; paths stay what they are."""
    assert main(["search", "--val-anomalies", "2"]) == 2
    assert "--val-anomalies must be" in capsys.readouterr().err
    assert main(["search", "--dataset", "npz:/gone/val_anomalies.npz", "--ood", "svhn"]) == 2
    assert "/gone/val_anomalies.npz" in capsys.readouterr().err
