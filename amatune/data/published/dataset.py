"""A published set that lies in the data folder in one of torchvision's layouts, or is downloaded.

Layouts, addresses and MD5 sums are torchvision's, which a test compares. Its classes are not used:
they read everything into memory, the test part too, unpickle CIFAR's files without restriction, and
wait for a silent server for ever.

The data folder says where files lie and nothing else: names and ids do not depend on it, so it may
be moved, and a saved problem found in its new place.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from amatune.data.dataset import Dataset, Presence
from amatune.data.places import DATA, DataDir, data_folder
from amatune.data.published.downloads import alone, at_hand, fetch
from amatune.data.published.files import Download, checksum, fault, is_sound, is_there, usable
from amatune.data.published.unpacking import install
from amatune.data.sources.base import Source
from amatune.errors import DataError
from amatune.wording import download_size


@dataclasses.dataclass(frozen=True)
class PublishedDataset(Dataset):
    """A set whose files are known, each with its MD5 sum."""

    effort: ClassVar[int] = 1

    homes: tuple[str, ...]  # where it may lie in the data folder; it is downloaded into the first
    downloads: tuple[Download, ...]
    read: Callable[[Path, str], Source]  # its home, and a digest of its files

    @property
    def name(self) -> str:
        """As written in --dataset or --ood."""
        return self.info.name

    def find(self, data_dir: DataDir = None) -> Presence:
        """Where it is, or would be put, verified as `open` does. Raises `DataError` when the data
        folder cannot be read."""
        root = data_folder(data_dir)
        with usable(root, self.name):
            home = self._home(root)
            faults = {d: why for d in self.downloads if (why := fault(d, home)) is not None}
            # An archive that is at hand makes what lacks; only a folder is never replaced.
            lacking = {
                d: why
                for d, why in faults.items()
                if is_there(d, home) or at_hand(d, (home, root))[0] is None
            }
        if not lacking:
            return Presence(state="complete", place=home)
        nothing = len(lacking) == len(self.downloads) and not any(lacking.values())
        return Presence(
            state="missing" if nothing else "incomplete",
            place=home,
            files=tuple(
                f"{d.name} ({download_size(d.size)}{why and ': ' + why})"
                for d, why in lacking.items()
            ),
        )

    def _home(self, root: Path) -> Path:
        """Where most of it lies; of equal places the first."""
        homes = [root / home for home in self.homes]
        return max(homes, key=lambda home: sum(is_there(d, home) for d in self.downloads))

    def open(self, data_dir: DataDir = None) -> Source:
        """The set, downloaded when it is not there. Raises `DataError` when it cannot be had."""
        root = data_folder(data_dir)
        with usable(root, self.name):
            home, digest = self._sound(root) or self._fetched(root)
            return self.read(home, digest)

    def _sound(self, root: Path) -> tuple[Path, str] | None:
        """Where the whole set lies, every file verified, and a digest of the files."""
        for home in (root / home for home in self.homes):
            if all(is_there(d, home) for d in self.downloads):
                sums = [(m.path, checksum(m, home)) for d in self.downloads for m in d.parts]
                if all(found is not None for _, found in sums):
                    return home, hashlib.sha256(repr(sums).encode()).hexdigest()
        return None

    def _fetched(self, root: Path) -> tuple[Path, str]:
        home = self._home(root)
        root.mkdir(parents=True, exist_ok=True)
        with alone(root, self.name) as scratch:
            home.mkdir(parents=True, exist_ok=True)
            # Perhaps none any more: another process may have fetched them while this one waited.
            lacking = [d for d in self.downloads if not is_sound(d, home)]
            for number, download in enumerate(lacking):
                archive, reasons = at_hand(download, (home, root))
                if archive is None:
                    archive, refusals = fetch(download, scratch, self.name)
                    reasons += refusals
                if archive is None:
                    raise self._unavailable(root, home, lacking[number:], reasons)
                install(download, archive, home, scratch)
        sound = self._sound(root)
        if sound is None:
            raise DataError(
                f"{self.name} in {home} is not what it should be, although its archives are; "
                "remove it and try again"
            )
        return sound

    def _unavailable(
        self, root: Path, home: Path, lacking: Sequence[Download], reasons: Sequence[str]
    ) -> DataError:
        files = ", ".join(
            f"{d.name} ({download_size(d.size)}, MD5 {d.md5})"
            for d in lacking
            if at_hand(d, (home, root))[0] is None
        )
        return DataError(
            f"{self.name} is not in the data folder and cannot be downloaded "
            f"({'; '.join(reasons)}); put into {home}: {files}; they come from {self.info.url}; "
            f"the data folder is chosen with --data-dir or {DATA}"
        )
