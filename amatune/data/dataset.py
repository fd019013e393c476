"""A named data set: what it is, where it lies, how it is opened."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

from amatune.data.places import DataDir
from amatune.data.sources.base import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """One line of the list of data sets."""

    name: str  # as written in --dataset or --ood
    summary: str
    image: str  # "1 x 28 x 28" (channels, height, width), or in words
    train: int | None = None  # images in the part; None when it depends on the path
    test: int | None = None
    classes: tuple[str, ...] = ()
    download: int | None = None  # bytes; None when there is nothing to fetch
    licence: str = ""  # empty when there is nothing to license
    url: str = ""  # where it comes from


@dataclasses.dataclass(frozen=True, kw_only=True)
class Presence:
    """Whether a data set is at hand, and sound as far as that can be verified. No image was
    decoded to find out."""

    state: Literal["built in", "complete", "incomplete", "missing", "at its path"]
    place: Path | None = None  # the folder it is in, or that its files belong in
    files: tuple[str, ...] = ()  # what is missing there, or damaged and how, with sizes
    verified: bool = True  # False: there is nothing to verify what is there by
    by_hand: bool = False  # they cannot be downloaded, the user must put them there


@dataclasses.dataclass(frozen=True)
class Dataset(ABC):
    """A data set with a name of its own: `DATASET` of one module of `amatune.data.sets`."""

    effort: ClassVar[int]  # to have it: 0 none, 1 a download, 2 the user's; sets are listed by it

    info: DatasetInfo

    @abstractmethod
    def find(self, data_dir: DataDir = None) -> Presence:
        """Where it is in a data folder, or would be put.

        Raises `DataError` when the folder cannot be read.
        """

    @abstractmethod
    def open(self, data_dir: DataDir = None) -> Source:
        """The set, put into the data folder where it is not there and can be.

        Raises `DataError` when it cannot be had.
        """


@dataclasses.dataclass(frozen=True)
class BuiltIn(Dataset):
    """A set that needs no files of its own."""

    effort: ClassVar[int] = 0

    make: Callable[[], Source]

    def find(self, data_dir: DataDir = None) -> Presence:  # noqa: ARG002
        """It is at hand everywhere."""
        return Presence(state="built in")

    def open(self, data_dir: DataDir = None) -> Source:  # noqa: ARG002
        """The images, made anew."""
        return self.make()
