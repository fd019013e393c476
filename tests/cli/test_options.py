"""What option texts are read as."""

from pathlib import Path
from typing import Any

import pytest
import typer

from amatune.cli.app import app
from amatune.cli.options import setting


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("true", True),
        ("False", False),
        ("None", None),
        ("ray", "ray"),
        ("A", "A"),
        ("[0.3, 0.6]", [0.3, 0.6]),
    ],
)
def test_settings_are_read(text: str, value: Any) -> None:
    read = setting(text)
    assert read == value
    assert type(read) is type(value)


def test_a_home_can_be_written_short_wherever_a_path_is_given() -> None:
    """And what is no path is told of: by our parser, which typer's own type is not."""
    commands: Any = typer.main.get_command(app)
    parsers = {
        f"{command} {option.name}": option.type_descriptor.parameter_info.parser
        for command, one in commands.commands.items()
        for option in one.params
        if option.type_descriptor.annotation in (Path, list[Path])
    }
    assert len(parsers) > 20
    assert [name for name, parser in parsers.items() if parser is None] == []
