"""Decoded pictures on disk, so that the second search in a folder starts at once.

One SQLite file holds two kinds of entries:

    looks     path, size and times of a file -> SHA-256 of its bytes, and its header
    pixels    SHA-256 of a file's bytes, image shape, decoding rule -> its pixels

Pixels belong to content: a moved or copied picture is found again, an altered one is not. Looks
spare reading 100,000 files to learn their hashes. The decoding rule is the version of the geometry
rule and those of the libraries that decode and resize.

Pictures come in as they are asked for, never ahead: what nobody has decoded is not in here, and
looking one up is decoding it. So the test part stays closed until the test.

SQLite's transactions keep writers apart and undo what a killed one left unfinished. Every entry has
a checksum: a damaged file is removed and filled anew. Where the folder cannot be written or the
disk is full, pictures are decoded as if there were no cache, and `PictureCache.problem` says so.
"""

import contextlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import PIL
import torch
from numpy.typing import NDArray

from amatune.data.pictures import (
    DECODING,
    GEOMETRY,
    Header,
    ImageShape,
    Inspected,
    Pixels,
    decode_into,
    inspect_pictures,
    without_rows,
)
from amatune.data.places import cache_folder
from amatune.errors import DataError

DEFAULT_LIMIT = 10 * 2**30  # bytes

_FILE = "pictures-1.sqlite"  # the number is the version of the tables
_RULE = (
    f"geometry {GEOMETRY}, decoding {DECODING}, Pillow {PIL.__version__}, torch {torch.__version__}"
)
_LOCK_SECONDS = 60.0  # to wait for another writer, which needs well under a second
_ASKED = 500  # keys in one query; SQLite takes at least 999
_FRESH_SECONDS = 2.0  # a file changed so recently may change again and keep its times
_PAGE = 16_384  # bytes; a picture of 32 x 32 would fill three quarters of SQLite's own 4,096
_OVERHEAD = 800  # bytes that an entry takes beside its pixels, about

# `uses` is apart from `pixels`, so that noting a use does not rewrite pixels.
_TABLES = (
    "CREATE TABLE IF NOT EXISTS looks (path BLOB PRIMARY KEY, state TEXT NOT NULL, "
    "found TEXT NOT NULL, checksum INTEGER NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS pixels (key TEXT PRIMARY KEY, bytes BLOB NOT NULL, "
    "checksum INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS uses (key TEXT PRIMARY KEY, size INTEGER NOT NULL, "
    "used INTEGER NOT NULL) WITHOUT ROWID",
)

T = TypeVar("T")


def remove_files(files: Sequence[Path], cache: Path) -> int:
    """Remove the files of a cache and return the bytes that this frees.

    Raises `DataError`, which names the `cache`, when one cannot be removed.
    """
    freed = 0
    try:
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # removed by another process
                size = file.stat().st_size
                file.unlink()
                freed += size
    except OSError as error:
        raise DataError(f"cannot clear the cache {cache}: {error.strerror}") from error
    return freed


class PictureCache:
    """Decoded pictures in a folder; safe to share between processes.

    `limit` is in bytes; what was used longest ago goes first. 0 turns the cache off.
    """

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        self.file = folder / _FILE
        self.limit = limit
        self.problem: str | None = None  # why the cache is not used any more

    @classmethod
    def default(cls) -> Self:
        """The user's cache, in `cache_folder`, of AMATUNE_CACHE_BYTES.

        Raises `DataError` when that limit is not a whole number of bytes.
        """
        limit = os.environ.get("AMATUNE_CACHE_BYTES") or str(DEFAULT_LIMIT)
        if not limit.isdecimal():
            raise DataError(
                f"AMATUNE_CACHE_BYTES must be a whole number of bytes, got {limit!r}; 0 turns the "
                "cache of decoded pictures off"
            )
        return cls(cache_folder(), int(limit))

    def inspect(self, paths: Sequence[Path]) -> tuple[dict[Path, Inspected], dict[Path, str]]:
        """As `inspect_pictures`, without opening the files that have not changed since."""
        states = {path: _state(path) for path in paths}
        known = self._try(lambda db: _looks(db, states)) or {}
        sound, unreadable = inspect_pictures([path for path in paths if path not in known])
        newest = time.time() - _FRESH_SECONDS
        new = {
            path: (state.text, found)
            for path, found in sound.items()
            if (state := states[path]) is not None and state.modified < newest
        }
        self._try(lambda db: self._remember(db, new, used=list(known)))
        return known | sound, unreadable

    def read_pictures(
        self, paths: Sequence[Path], digests: Sequence[str], image_shape: ImageShape
    ) -> tuple[Pixels, dict[Path, str]]:
        """As `pictures.read_pictures`, decoding only what is not here yet.

        `digests` are the SHA-256 of the files' bytes. New pictures are kept batch by batch, so that
        a killed process leaves what it had decoded.
        """
        pixels = np.empty((len(paths), *image_shape), np.uint8)
        keys = [_key(digest, image_shape) for digest in digests]
        found = self._try(lambda db: self._load(db, keys, pixels))
        if found is None:  # rows may be filled in part
            found = np.zeros(len(paths), bool)
        missing = np.flatnonzero(~found).tolist()
        unreadable: dict[int, str] = {}
        start = 0
        for batch in decode_into(pixels, missing, [paths[row] for row in missing]):
            rows = missing[start : start + len(batch)]
            start += len(batch)
            new: dict[str, int] = {}  # key -> row; copies once
            for row, result in zip(rows, batch, strict=True):
                if result.problem:
                    unreadable[row] = result.problem
                else:
                    # By the bytes that were decoded, should the file have changed since.
                    new[_key(result.digest, image_shape)] = row
            self._try(lambda db, new=new: self._store(db, new, pixels))  # type: ignore[misc]
        return without_rows(pixels, unreadable), {paths[r]: why for r, why in unreadable.items()}

    def clear(self) -> int:
        """Remove everything and return the bytes that this frees.

        Raises `DataError` when a file cannot be removed.
        """
        return remove_files(self._files(), self.file)

    def _files(self) -> list[Path]:
        """The database and what SQLite keeps beside it."""
        return sorted(self.file.parent.glob(f"{_FILE}*"))

    # Every access opens the database anew: nothing is held that a fork, another thread or the end
    # of the process could leave in disorder, and the time it takes is nothing beside the pictures.

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.file, timeout=_LOCK_SECONDS, isolation_level=None)
        try:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'uses'").fetchone():
                database.execute(f"PRAGMA page_size = {_PAGE}")
                with _transaction(database):
                    for table in _TABLES:
                        database.execute(table)
            yield database
        finally:
            database.close()

    def _try(self, use: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `use` returns, or None when the cache does not work. A damaged one is removed."""
        if self.limit == 0 or self.problem is not None:
            return None
        try:
            try:
                with self._open() as database:
                    return use(database)
            except sqlite3.OperationalError:
                raise  # full, locked, not to be written: nothing wrong with what is there
            except (sqlite3.DatabaseError, _DamagedError):
                for file in self._files():
                    file.unlink(missing_ok=True)
                with self._open() as database:
                    return use(database)
        except (OSError, sqlite3.Error, _DamagedError) as error:
            self.problem = (
                f"the cache of decoded pictures in {self.file.parent} is not used: {error}; set "
                "AMATUNE_CACHE to a folder that can be written"
            )
            return None

    def _remember(
        self,
        database: sqlite3.Connection,
        new: Mapping[Path, tuple[str, Inspected]],
        used: Sequence[Path],
    ) -> None:
        now = int(time.time())
        rows = []
        for path, (state, inspected) in new.items():
            found = json.dumps([inspected.digest, *inspected.header])
            key = os.fsencode(path)
            rows.append((key, state, found, _checksum(key, state, found), now))
        with _transaction(database):
            self._make_room(database, len(rows) * _OVERHEAD)
            database.executemany("INSERT OR REPLACE INTO looks VALUES (?, ?, ?, ?, ?)", rows)
            database.executemany(
                "UPDATE looks SET used = ? WHERE path = ?", ((now, os.fsencode(p)) for p in used)
            )

    def _load(
        self, database: sqlite3.Connection, keys: Sequence[str], pixels: Pixels
    ) -> NDArray[np.bool_]:
        """Fill the rows of `pixels` whose keys are here, and tell which; (N,)."""
        rows: dict[str, list[int]] = {}
        for row, key in enumerate(keys):
            rows.setdefault(key, []).append(row)
        found = np.zeros(len(keys), bool)
        for key, content, checksum in _select(
            database, "SELECT key, bytes, checksum FROM pixels WHERE key IN", list(rows)
        ):
            if checksum != _checksum(key, content) or len(content) != pixels[0].nbytes:
                raise _DamagedError(f"wrong checksum in {self.file}")
            pixels[rows[key]] = np.frombuffer(content, np.uint8).reshape(pixels.shape[1:])
            found[rows[key]] = True
        now = int(time.time())
        with _transaction(database):
            database.executemany(
                "UPDATE uses SET used = ? WHERE key = ?",
                ((now, key) for key in rows if found[rows[key][0]]),
            )
        return found

    def _store(self, database: sqlite3.Connection, new: Mapping[str, int], pixels: Pixels) -> None:
        """Keep the row of each key."""
        room = len(new) * (_OVERHEAD + pixels[:1].nbytes)
        if not new or room > self.limit:
            return
        now = int(time.time())
        with _transaction(database):
            self._make_room(database, room)
            for key, row in new.items():
                content = pixels[row].tobytes()
                database.execute(
                    "INSERT OR REPLACE INTO pixels VALUES (?, ?, ?)",
                    (key, content, _checksum(key, content)),
                )
                database.execute(
                    "INSERT OR REPLACE INTO uses VALUES (?, ?, ?)", (key, len(content), now)
                )

    def _make_room(self, database: sqlite3.Connection, room: int) -> None:
        """Remove what was used longest ago until `room` bytes fit; the file does not shrink, the
        space in it is used again."""
        pages, free, size = (
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        excess = (pages - free) * size + room - self.limit
        if excess <= 0:
            return
        excess += self.limit // 10  # so that not every batch has to look for the oldest
        gone = []
        for key, bytes_held in database.execute("SELECT key, size FROM uses ORDER BY used, key"):
            gone.append((key,))
            excess -= bytes_held + _OVERHEAD
            if excess <= 0:
                break
        database.executemany("DELETE FROM pixels WHERE key = ?", gone)
        database.executemany("DELETE FROM uses WHERE key = ?", gone)
        database.execute(
            "DELETE FROM looks WHERE used < (SELECT COALESCE(MIN(used), :now) FROM uses)",
            {"now": int(time.time())},
        )


class _DamagedError(Exception):
    """An entry is not what was written."""


class _State:
    """What of a file changes when its bytes do."""

    def __init__(self, status: os.stat_result) -> None:
        self.modified = status.st_mtime
        # The time of the last change of the entry, too: copying tools set the other one back.
        self.text = f"{_RULE}, {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _state(path: Path) -> _State | None:
    try:
        return _State(path.stat())
    except OSError:
        return None  # whoever reads it will say why


def _looks(
    database: sqlite3.Connection, states: Mapping[Path, _State | None]
) -> dict[Path, Inspected]:
    """What is known of the files that are as they were."""
    paths = {os.fsencode(path): path for path, state in states.items() if state is not None}
    known = {}
    for key, text, found, checksum in _select(
        database, "SELECT path, state, found, checksum FROM looks WHERE path IN", list(paths)
    ):
        if checksum != _checksum(key, text, found):
            raise _DamagedError("wrong checksum")
        state = states[paths[key]]
        if state is not None and state.text == text:
            digest, *header = json.loads(found)
            known[paths[key]] = Inspected(digest, Header(*header))
    return known


def _select(
    database: sqlite3.Connection, query: str, keys: Sequence[str] | Sequence[bytes]
) -> Iterator[tuple[Any, ...]]:
    """The rows of a query that ends in IN, for any number of keys."""
    for start in range(0, len(keys), _ASKED):
        some = keys[start : start + _ASKED]
        yield from database.execute(f"{query} ({', '.join('?' * len(some))})", some)


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All or nothing. Takes the lock at once: one taken half-way can meet another's and fail."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # SQLite ends it by itself when the disk is full
            database.execute("ROLLBACK")
        raise


def _key(digest: str, image_shape: ImageShape) -> str:
    return f"{digest} {'x'.join(map(str, image_shape))} {_RULE}"


def _checksum(*parts: str | bytes) -> int:
    total = 0
    for part in parts:
        total = zlib.crc32(part.encode() if isinstance(part, str) else part, total)
    return total
