"""Fetching the files of a published set, each verified; two processes share one download."""

import contextlib
import http.client
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from filelock import FileLock, Timeout

from amatune.data.published.files import Download, md5
from amatune.extras import require_extra
from amatune.wording import download_size

TIMEOUT = 30.0  # seconds that a server may be silent
ATTEMPTS = 2  # at a file that arrives incomplete
PROGRESS_SECONDS = 5.0  # between two lines about a download


@contextlib.contextmanager
def alone(root: Path, name: str) -> Iterator[Path]:
    """Be the only process that fetches or unpacks this set; gives an empty folder to work in.

    Both go with the process: a lock is released by its end, and the next one clears the folder.
    """
    scratch = root / f".{name}.partial"
    lock = FileLock(root / f".{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _tell(f"{name}: waiting for another process that fetches it")
        lock.acquire()
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release()


def at_hand(download: Download, folders: Sequence[Path]) -> tuple[Path | None, list[str]]:
    """The file where somebody has put it already, and why others by its name are not used."""
    damaged = []
    for path in dict.fromkeys(folder / download.name for folder in folders):
        if path.is_file():
            if md5(path) == download.md5:
                return path, []
            damaged.append(
                f"{path} is there but damaged, {path.stat().st_size:,} of {download.size:,} bytes "
                "and another MD5"
            )
    return None, damaged


def fetch(download: Download, folder: Path, name: str) -> tuple[Path | None, list[str]]:
    """Download a file into a folder and verify it; None and the reasons when it cannot be had."""
    target = folder / download.name
    reasons = []
    for url in download.urls:
        for _ in range(ATTEMPTS):
            try:
                _retrieve(url, target, download, name)
            except (OSError, http.client.HTTPException, RuntimeError) as error:
                reasons.append(f"{url}: {_said(error)}")
                if not isinstance(error, http.client.HTTPException | TimeoutError):
                    break  # refused: a second attempt would be, too
                continue
            if md5(target) == download.md5:
                return target, []
            reasons.append(
                f"{url}: got {target.stat().st_size:,} of {download.size:,} bytes, and another MD5"
            )
    return None, list(dict.fromkeys(reasons))


def _said(error: Exception) -> str:
    """The message of an error without urllib's wrapping."""
    wrapped = isinstance(error, urllib.error.URLError) and not isinstance(
        error, urllib.error.HTTPError
    )
    return str(error.reason if wrapped else error)  # type: ignore[attr-defined]


def _retrieve(url: str, target: Path, download: Download, name: str) -> None:
    address = urlsplit(url)
    if address.netloc == "drive.google.com":
        _retrieve_from_google(parse_qs(address.query)["id"][0], target)
        return
    request = urllib.request.Request(url, headers={"User-Agent": "amatune"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response, target.open("wb") as file:
        _tell(f"{name}: downloading {download.name}, {download_size(download.size)}")
        received, told = 0, time.monotonic()
        while chunk := response.read(1 << 16):
            file.write(chunk)
            received += len(chunk)
            if received > 2 * download.size:
                raise OSError(f"it sends more than the {download.size:,} bytes that are expected")
            if time.monotonic() - told >= PROGRESS_SECONDS:
                told = time.monotonic()
                _tell(f"{name}: {download.name}, {received / download.size:.0%}")


def _retrieve_from_google(file_id: str, target: Path) -> None:
    """Raises `RuntimeError` when gdown is not installed, or whatever it says itself."""
    try:
        require_extra("datasets")
        import gdown

        gdown.download(id=file_id, output=str(target))
    except Exception as error:  # gdown's own kinds derive from nothing else
        raise RuntimeError(error) from error


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
