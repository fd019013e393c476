"""Paths as anybody may see them: a report is mailed, and folders tell of a machine and its user."""

import re
from collections.abc import Mapping

_ROOT = r"(?:(?:file://)?/(?!/)|[A-Za-z]:[\\/]|\\\\)"
_NAME = r"[^\s'\"<>|,;()\[\]/\\]+"
# An absolute path of at least two names: not within a word, a relative path or a web address. One
# with spaces is known by its quotes alone.
_QUOTED = re.compile(
    rf"(?P<before>(?P<quote>['\"])(?:[\w-]+[:=])?)"
    rf"(?P<path>{_ROOT}[^'\"\n/\\]+[/\\](?:(?!(?P=quote)).)*)(?=(?P=quote))"
)
_BARE = re.compile(rf"(?<![\w.~/\\]){_ROOT}{_NAME}(?:[/\\]+{_NAME})*[/\\]+(?:{_NAME})?")


def without_folders(text: str, known: Mapping[str, str]) -> str:
    """The text with the last name alone of every absolute path.

    `known` are absolute paths, and what stands for each: what lies below keeps its way from there.
    """
    if known:
        longest_first = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
        here = rf"(?<![\w.~/\\])({longest_first})(?![\w.-])"
        text = re.sub(here, lambda found: known[found[0]], text)
    text = _QUOTED.sub(lambda found: found["before"] + _last_name(found["path"]), text)
    return _BARE.sub(lambda found: _last_name(found[0]), text)


def _last_name(path: str) -> str:
    return re.split(r"[/\\]+", path.rstrip("/\\"))[-1]


def shortened(name: str, most: int) -> str:
    """A name of at most `most` characters: of a longer one the beginning and the end."""
    if len(name) <= most:
        return name
    tail = (most - 1) * 2 // 3  # numbers and endings say more
    return f"{name[: most - 1 - tail]}…{name[-tail:]}"
