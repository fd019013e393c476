"""How figures, times, settings, sizes and counts read, wherever they are shown.

The terminal, the report and the model card use the same words for the same value.
"""

import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

# What turns the direction of the text that follows: a name could be made to look like another.
_DIRECTIONS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def value_text(value: Any) -> str:
    """A setting's value, as `--fix` reads it: a number to three digits, true, none, [0.3,0.6]."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, tuple | list):
        return f"[{','.join(map(value_text, value))}]"
    return "none" if value is None else str(value)


def settings_text(settings: Mapping[str, Any], without: Collection[str] = ()) -> str:
    """Settings as `name=value`, with spaces between them; those in `without` are left out."""
    return " ".join(
        f"{name}={value_text(value)}" for name, value in settings.items() if name not in without
    )


def figure(value: float | None, spread: float | None = None) -> str:
    """A figure in [0, 1] to three digits, with its spread where there is one; `-` for None."""
    if value is None:
        return "-"
    return f"{value:.3f}" if spread is None else f"{value:.3f} ± {spread:.3f}"


def interval(low: float, high: float) -> str:
    """An interval of a figure: `0.912 to 0.934`."""
    return f"{low:.3f} to {high:.3f}"


def count(number: int | None) -> str:
    """A whole number with commas between thousands; `-` for None."""
    return "-" if number is None else f"{number:,}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and what is counted: `1 trial`, `2 trials`, `0 classes` (its plural given)."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def memory_size(size: float) -> str:
    """Bytes in memory or of a file, with 2^10 bytes in a KiB."""
    for unit in ("bytes", "KiB", "MiB"):
        if round(size) < 1024:
            return "1 byte" if unit == "bytes" and round(size) == 1 else f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def download_size(size: int) -> str:
    """Bytes as downloads state them, with 10^6 bytes in a MB."""
    if size < 100_000:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.1f} MB" if size < 10_000_000 else f"{size / 1e6:,.0f} MB"


def clock(seconds: float) -> str:
    """A duration as hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def sentence(text: str) -> str:
    """The text with a capital letter at its start."""
    return text[:1].upper() + text[1:]


def visible(text: str) -> str:
    """The text on one line, without what would command a terminal or cannot be encoded.

    Control characters, line ends, changes of the writing direction and bytes of a file's name that
    are no UTF-8 become escapes such as `\\x1b`.
    """
    return "".join(map(_visible_character, text))


def csv_cell(value: Any) -> Any:
    """A value as a cell of CSV. Text is one line that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def markdown_cell(text: str) -> str:
    """Text as the cell of a table in Markdown, where HTML would be taken as such."""
    plain = visible(text).replace("\\", "\\\\")
    return plain.replace("|", "\\|").replace("<", "&lt;")


def _visible_character(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that could not be decoded
        return f"\\x{ord(character) - 0xDC00:02x}"
    kind = unicodedata.category(character)
    if kind in ("Cc", "Cs", "Zl", "Zp") or character in _DIRECTIONS:
        return character.encode("unicode_escape").decode("ascii")
    return character
