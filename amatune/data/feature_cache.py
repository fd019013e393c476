"""Maps of a network on disk, so that the trials of a search compute them once.

A file is one tensor, in the folder of decoded pictures:

    features-<SHA-256 of its key>.safetensors    `features`, and in its header their CRC-32

A key names the network by its weights, the size and the level, and the pictures by their content;
so a file is the same whoever writes it. Each appears whole, by a rename, and what was used longest
ago goes first; a file that another process removes meanwhile is one that is not there. Reading
runs no code: a tensor is a shape, a type and bytes. A damaged file is removed and made anew. Where
the folder cannot be written or the disk is full, everything is computed as if there were no cache.
"""

import contextlib
import hashlib
import os
import time
import zlib
from pathlib import Path
from typing import Self

import safetensors
import safetensors.torch
from torch import Tensor

from amatune.data.cache import PictureCache, remove_files
from amatune.files import write_bytes

_NAME, _SUM = "features", "crc32"
_LEFT_OVER = 3600  # seconds after which a file that was being written belongs to a killed process
_AT_ONCE = 64  # of the limit, the part that is written before the folder is looked through again


class FeatureCache:
    """Tensors by key in a folder; safe to share between processes.

    `limit` is in bytes; 0 turns the cache off. Each process that writes at the same time may exceed
    it by a 64th.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.problem: str | None = None  # why nothing is kept any more
        self._room = 0  # bytes that may be written before the folder is looked through

    @classmethod
    def default(cls) -> Self:
        """That of the user, with the folder and the limit of decoded pictures, for its own files.

        Raises `DataError` when AMATUNE_CACHE_BYTES is not a whole number of bytes.
        """
        pictures = PictureCache.default()
        return cls(pictures.file.parent, pictures.limit)

    def recall(self, key: str) -> Tensor | None:
        """The tensor kept by this key, None where there is none."""
        if self.limit == 0:
            return None
        file = self._file(key)
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                tensor: Tensor = opened.get_tensor(_NAME)
                about = opened.metadata() or {}
            os.utime(file)  # used now
        except FileNotFoundError:
            return None
        except (OSError, safetensors.SafetensorError):
            self._remove(file)
            return None
        if about.get(_SUM) != _checksum(tensor):
            self._remove(file)
            return None
        return tensor

    def keep(self, key: str, features: Tensor) -> None:
        """Keep a tensor on the CPU, and remove what was used longest ago where it needs room."""
        size = features.nbytes
        if self.limit == 0 or self.problem is not None or size > self.limit // 2:
            return
        try:
            features = features.contiguous()
            content = safetensors.torch.save({_NAME: features}, {_SUM: _checksum(features)})
            if len(content) > self._room:
                # Seldom: of thousands of files this takes longer than the network that made one.
                self._make_room(max(len(content), self.limit // _AT_ONCE))
            # Not lasting: it has a checksum, and can be made anew.
            write_bytes(self._file(key), content, lasting=False)
            self._room -= len(content)
        except FileNotFoundError:
            pass  # another process cleared the cache meanwhile
        except OSError as error:
            self.problem = f"features are not kept in {self.folder}: {error}"

    def clear(self) -> int:
        """Remove everything and return the bytes that this frees, also what is being written.

        Raises `DataError` when a file cannot be removed.
        """
        return remove_files([*self._files(), *self._unfinished()], self.folder)

    def _make_room(self, size: int) -> None:
        """Remove files until so many bytes may be written, and what killed processes left."""
        oldest = time.time() - _LEFT_OVER
        for file in self._unfinished():
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_mtime < oldest:
                    self._remove(file)
        entries = []
        for file in self._files():
            with contextlib.suppress(FileNotFoundError):  # removed by another process
                status = file.stat()
                entries.append((status.st_mtime_ns, status.st_size, file))
        excess = sum(held for _, held, _ in entries) + size - self.limit
        for _, held, file in sorted(entries):
            if excess <= 0:
                break
            self._remove(file)
            excess -= held
        self._room = size

    def _files(self) -> list[Path]:
        return list(self.folder.glob(f"{_NAME}-*.safetensors"))

    def _unfinished(self) -> list[Path]:
        """What is being written, or was when its process was killed: see `write_bytes`."""
        return list(self.folder.glob(f".{_NAME}-*.safetensors-*"))

    def _file(self, key: str) -> Path:
        return self.folder / f"{_NAME}-{hashlib.sha256(key.encode()).hexdigest()}.safetensors"

    def _remove(self, file: Path) -> None:
        with contextlib.suppress(OSError):
            file.unlink()


def _checksum(tensor: Tensor) -> str:
    return str(zlib.crc32(tensor.numpy().data))
