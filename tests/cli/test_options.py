"""What option texts are read as."""

from typing import Any

import pytest

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
