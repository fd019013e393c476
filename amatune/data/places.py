"""Where the files of data sets and decoded pictures lie."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from amatune.errors import DataError
from amatune.files import usable_path

DATA = "AMATUNE_DATA"  # the environment variable that names the data folder
CACHE = "AMATUNE_CACHE"  # the one that names the folder of decoded pictures

DataDir = str | os.PathLike[str] | None  # a data folder; None: AMATUNE_DATA, else the user's own


def data_folder(data_dir: DataDir = None) -> Path:
    """The folder of the named sets, as an absolute path; it need not exist.

    For None `AMATUNE_DATA` says where it is, else it is the user's: on Linux `~/.cache/amatune`.
    Raises `DataError` for what is no folder.
    """
    chosen = data_dir or os.environ.get(DATA) or _users_own()
    folder = usable_path(chosen, DataError).resolve()
    if folder.exists() and not folder.is_dir():
        raise DataError(
            f"the data folder {folder} is a file; name a folder with --data-dir or {DATA}"
        )
    return folder


def cache_folder() -> Path:
    """The folder of decoded pictures, as an absolute path: `AMATUNE_CACHE`, or the user's.

    It need not be there, nor usable: whoever keeps something in it says so. Raises `DataError` for
    one in the home of nobody.
    """
    chosen = os.environ.get(CACHE) or _users_own() / "pictures"
    try:
        return Path(chosen).expanduser().absolute()
    except RuntimeError as error:
        raise DataError(f"cannot use {CACHE}={os.fspath(chosen)!r:.200}: {error}") from None


def _users_own() -> Path:
    return user_cache_path("amatune", appauthor=False)
