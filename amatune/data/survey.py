"""What a source holds, and what a search would make of it."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from amatune.data.catalogue import open_source
from amatune.data.pictures import Header, ImageShape, shape_text, sizes_text
from amatune.data.places import DataDir
from amatune.data.protocol import held_out
from amatune.data.sources.base import PARTS, Id, Part, Source
from amatune.data.sources.defects import GOOD
from amatune.data.sources.files import PictureFiles
from amatune.wording import count, counted

_ANY_NUMBER = 1e12  # of damaged pictures: all are to be told


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """A source, looked at as a search would look at it: of test images, headers alone."""

    name: str
    images: Mapping[Part, int]  # sound ones
    classes: Mapping[str, int]  # images of both parts by class; empty without classes
    headers: Mapping[Header, int]  # images by size and mode; of pictures, as far as they were met
    copies: Sequence[tuple[str, str]]  # images and the first that each equals, byte by byte
    broken: Mapping[Id, str]  # with the reason
    image_shape: ImageShape | None  # that a search brings them to; None: cannot be the normal set
    validation: int  # training images that a search holds out

    def rows(self) -> dict[str, str]:
        """Everything in words, by what it is about."""
        grey = sum(n for header, n in self.headers.items() if not header.colour)
        colour = sum(n for header, n in self.headers.items() if header.colour)
        example = f", for example {self.copies[0][0]} of {self.copies[0][1]}" if self.copies else ""
        reason = f", the first: {next(iter(self.broken.values()))}" if self.broken else ""
        modes = [f"{count(n)} {name}" for n, name in ((grey, "grey"), (colour, "colour")) if n]
        return {
            "train": count(self.images["train"]),
            "test": count(self.images["test"]),
            "classes": ", ".join(f"{name} ({n:,})" for name, n in self.classes.items()) or "-",
            "sizes": sizes_text(self.headers) or "-",
            "modes": ", ".join(modes) or "-",
            "duplicates": f"{count(len(self.copies))}{example}",
            "broken": f"{count(len(self.broken))}{reason}",
            "in a search": self._use(),
        }

    def _use(self) -> str:
        if self.image_shape is None:
            return "anomalies, in the size of the normal set"
        return (
            f"{shape_text(self.image_shape)}; as the normal set, "
            f"{counted(self.validation, 'training image')} would validate"
        )


def survey(name: str, data_dir: DataDir = None, *, decode: bool = True) -> Survey:
    """Look at a source, decoding its training part. Raises `DataError` when it cannot be used.

    Without `decode` neither copies nor pictures that break while they are decoded are found.
    """
    source = open_source(name, data_dir)
    source.max_broken = _ANY_NUMBER
    ids = {part: list(source.ids(part)) for part in PARTS}
    shape = source.image_shape
    digests = _digests(source, ids["train"], shape if decode else None)
    gone = set(source.unreadable)
    images = {part: sum(one not in gone for one in ids[part]) for part in PARTS}
    labels = Counter(label for part in PARTS for label in source.labels(part))
    normals = images["train"]
    if source.tells_defects:
        normals = sum(label == GOOD for label in source.labels("train"))
    return Survey(
        name=source.name,
        images=images,
        classes={one: labels[one] for one in source.class_names},
        headers=source.headers(),
        copies=_copies(digests),
        broken=source.unreadable,
        image_shape=shape,
        validation=held_out(normals, of_classes=source.tells_defects),
    )


def _digests(source: Source, ids: Sequence[Id], shape: ImageShape | None) -> Mapping[Id, str]:
    """What tells images apart; the training part is decoded on the way."""
    if shape is None:
        return {}
    pixels, sound = source.read("train", ids, shape)
    if isinstance(source, PictureFiles):
        return source.digests()
    found = (hashlib.sha256(image.tobytes()).hexdigest() for image in pixels)
    return dict(zip(sound, found, strict=True))


def _copies(digests: Mapping[Id, str]) -> list[tuple[str, str]]:
    first: dict[str, Id] = {}
    found = []
    for one, digest in digests.items():
        original = first.setdefault(digest, one)
        if original != one:
            found.append((str(one), str(original)))
    return found
