"""Settings of several configurations side by side: which differ, in texts that say so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amatune.wording import value_text

ABSENT = "-"  # where a configuration does not have a setting
_DIGITS = range(3, 18)  # from those of `value_text` to those that tell any two numbers apart


@dataclass(frozen=True, kw_only=True)
class SettingRow:
    """A setting in every configuration."""

    name: str
    texts: tuple[str, ...]  # one a configuration; values that differ have texts that differ
    differs: bool


def side_by_side(settings: Sequence[Mapping[str, Any]]) -> list[SettingRow]:
    """Every setting that any of the configurations has, in the order in which they name them."""
    names = dict.fromkeys(name for own in settings for name in own)
    return [_row(name, settings) for name in names]


def _row(name: str, settings: Sequence[Mapping[str, Any]]) -> SettingRow:
    """With as many digits as it takes to tell the values apart."""

    def texts(digits: int) -> tuple[str, ...]:
        return tuple(_text(own[name], digits) if name in own else ABSENT for own in settings)

    different = len(set(texts(_DIGITS[-1])))
    shown = next(own for own in map(texts, _DIGITS) if len(set(own)) == different)
    return SettingRow(name=name, texts=shown, differs=different > 1)


def _text(value: Any, digits: int) -> str:
    """As `value_text`, a number to so many digits."""
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, tuple | list):
        return f"[{','.join(_text(one, digits) for one in value)}]"
    return value_text(value)
