"""The anomaly sets of the ODIN paper: pictures that are put into the data folder by hand.

No checksum of them is published. What lies there is taken as it is, which is said wherever it is
listed or used, with the number of pictures beside that of the paper.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from amatune.data.dataset import Dataset, Presence
from amatune.data.pictures import SUFFIXES, find_pictures
from amatune.data.places import DATA, DataDir, data_folder
from amatune.data.published.downloads import alone
from amatune.data.published.files import usable
from amatune.data.published.unpacking import unpack
from amatune.data.sources.base import Part, Source
from amatune.data.sources.folder import FolderSource
from amatune.errors import DataError


class _Anomalies(FolderSource):
    """A folder of anomalies. They have no parts: some are the test part, by content, as for any
    folder."""

    def __init__(self, name: str, folder: Path, published: int) -> None:
        super().__init__(str(folder))
        self.name = name
        self._published = published  # pictures

    @property
    def notes(self) -> Sequence[str]:
        found = len(self._files)
        # The folder's name alone: where the data folder lies is not the run's to tell.
        told = f"{self.name} is used as it lies in {Path(self.location).name}: there is no checksum"
        if found == self._published:
            told += f" to verify it by; it has the {found:,} pictures of the published set"
        else:
            told += f" to verify it by, and it has {found:,} pictures, the published set "
            told += f"{self._published:,}"
        return [*super().notes, told]

    @property
    def image_shape(self) -> None:
        return None

    @property
    def why_no_classes(self) -> str:
        return "its images have no classes"

    def labels(self, part: Part) -> Sequence[str]:  # noqa: ARG002
        return []


@dataclasses.dataclass(frozen=True)
class OdinDataset(Dataset):
    """A set that is put into the data folder by hand: a folder of pictures, or its archive."""

    effort: ClassVar[int] = 2

    folder: str  # also the name of the archive, before its suffix
    pictures: int  # of the published set

    @property
    def _archives(self) -> tuple[str, ...]:
        return tuple(self.folder + suffix for suffix in (".tar.gz", ".tgz", ".zip"))

    def _found(self, root: Path) -> Path | None:
        """The folder, else an archive."""
        folder = root / self.folder
        if folder.is_dir() and any(
            name.lower().endswith(SUFFIXES) for _, _, names in os.walk(folder) for name in names
        ):
            return folder
        return next((root / name for name in self._archives if (root / name).is_file()), None)

    def find(self, data_dir: DataDir = None) -> Presence:
        """Its folder, else its archive. Raises `DataError` when the data folder cannot be read."""
        root = data_folder(data_dir)
        with usable(root, self.info.name):
            found = self._found(root)
        if found:
            return Presence(state="complete", place=found, verified=False)
        return Presence(state="missing", place=root, files=(self._archives[0],), by_hand=True)

    def open(self, data_dir: DataDir = None) -> Source:
        """The pictures, unpacked when only their archive is there; else raises `DataError`."""
        root = data_folder(data_dir)
        with usable(root, self.info.name):
            found = self._found(root)
            if found is None:
                raise DataError(
                    f"{self.info.name} is not in the data folder and cannot be downloaded by "
                    f"amatune: get {self._archives[0]} from {self.info.url} and put it into {root} "
                    f"(as .tgz or .zip, or unpacked to {self.folder}/, will do, too); the data "
                    f"folder is chosen with --data-dir or {DATA}"
                )
            if not found.is_dir():
                self._unpack(root)
            return _Anomalies(self.info.name, root / self.folder, self.pictures)

    def _unpack(self, root: Path) -> None:
        with alone(root, self.info.name) as scratch:
            archive = self._found(root)
            if archive is None or archive.is_dir():
                return  # by another process, while this one waited
            unpacked = scratch / "unpacked"
            unpack(archive, unpacked)
            find_pictures([unpacked])  # raises when there are none
            inner = unpacked / self.folder
            os.replace(inner if inner.is_dir() else unpacked, root / self.folder)
