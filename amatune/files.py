"""Files that are written whole or not at all, and those of a user, which are read with care."""

import contextlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from amatune.errors import RequestError

# Several paths, or one.
AnyPaths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

_MOUNTS = Path("/proc/self/mounts")  # of Linux
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "fuse.sshfs"})


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BufferedReader]:
    """A file that a user names, open for reading bytes.

    Raises `OSError` for what is no regular file: a named pipe may never answer, and a device never
    end. Links are followed.
    """
    with open(path, "rb", opener=_open_regular) as file:
        yield file


def _open_regular(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe would wait for whoever is to write into it.
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError("it is not a regular file")


def usable_path(text: str | os.PathLike[str], kind: type[RequestError] = RequestError) -> Path:
    """A path that a user names, with `~` for a home; it need not exist.

    Raises `kind` for what the system cannot look up: an empty path, one that is too long or holds a
    zero byte, one in a folder that may not be entered, the home of nobody.
    """
    try:
        if not os.fspath(text):
            raise ValueError("it is empty")
        path = Path(text).expanduser()
        path.exists()
        str(path).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        reason = "half of a surrogate pair is no text"
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no such user
        reason = getattr(error, "strerror", None) or str(error)
    else:
        if "\0" not in str(path):
            return path
        reason = "a zero byte is in no name"
    raise kind(f"cannot use the path {os.fspath(text)!r:.200}: {reason}")


def usable_paths(paths: AnyPaths, kind: type[RequestError] = RequestError) -> list[Path]:
    """Likewise of each; one that is in no list is a list of one, and not of its letters."""
    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    return [usable_path(path, kind) for path in several]


def read_bytes(path: Path) -> bytes:
    """The contents of a regular file. Raises `OSError`."""
    with opened(path) as file:
        return file.read()


def read_text(path: Path, what: str, most_bytes: int) -> str:
    """The text of a file that a user names, in UTF-8; `what` it should hold is for messages.

    Raises `RequestError` when it cannot be read, is larger than `most_bytes`, or is no regular
    file.
    """
    try:
        with opened(path) as file:
            content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise RequestError(f"cannot read {what} {path}: it is larger than {most_bytes:,} bytes")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(f"cannot read {what} {path}: it is not UTF-8 text") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        raise RequestError(f"cannot read {what} {path}: {reason}") from error


def read_json(text: str, what: str) -> Any:
    """The JSON value in a text that a user may have written; `what` it is, is for messages.

    Raises `RequestError` for what is no JSON, is nested too deep, holds a number of thousands of
    digits, or text that cannot be written again (half of a surrogate pair).
    """
    try:
        value = json.loads(text)
        # Bytes of a file's name that are no UTF-8 come as `write_json` has written them.
        json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except RecursionError:
        raise RequestError(f"{what} is not JSON that can be read: it is nested too deep") from None
    except UnicodeEncodeError:
        raise RequestError(
            f"{what} is not JSON that can be read: half of a surrogate pair is no text"
        ) from None
    except json.JSONDecodeError as error:
        raise RequestError(f"{what} is not JSON: {error}") from None
    except ValueError:  # Python's limit on the digits of a whole number
        raise RequestError(
            f"{what} is not JSON that can be read: one of its numbers has too many digits"
        ) from None
    return value


def network_filesystem(path: Path) -> str | None:
    """The kind of network file system that a path lies on, such as "nfs4"; None on another one,
    or where the system does not say. What is not there yet counts as where it will be."""
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    place = path.resolve()
    best, kind = -1, ""
    for line in mounts:
        _device, mounted, found, *_ = line.split(" ")
        # Blanks and the like are written as \040.
        point = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), mounted))
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), found  # of several at one point the last one counts
    return kind if kind in NETWORK else None


def write_json(path: Path, contents: Any) -> None:
    """Write JSON, atomically. Bytes of a file's name that are no UTF-8 become JSON's escapes."""
    text = json.dumps(contents, indent=2, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes, *, lasting: bool = True) -> None:
    """Write atomically: into a neighbouring temporary file, then renamed.

    What is `lasting` is on the disk before it has its name. Of other files a computer that fails
    may leave some empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
