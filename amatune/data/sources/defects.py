"""Good pictures and defects of several kinds, as published sets of factory pictures have them."""

# ruff: noqa: D102 - as `Source` says; not every source needs every argument

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amatune.data.pictures import ImageShape, inspect_masks, read_mask
from amatune.data.sources.base import PARTS, Id, Part
from amatune.data.sources.files import OwnPictures, digest_of
from amatune.errors import DataError
from amatune.wording import counted

GOOD = "good"


class DefectPictures(OwnPictures):
    """Good pictures for both parts, and defects that were published for the test alone.

    A search needs defects to choose settings by, and what chooses must not be tested. So of each
    kind half, rounded down, belongs to the part "train": those whose bytes' SHA-256 comes first,
    whatever the seed. The others are the test, all of them.

    Classes: `good`, and the kinds of defect.
    """

    tells_defects = True

    def __init__(
        self,
        name: str,
        root: Path,
        good: Mapping[Part, Sequence[str]],
        defects: Mapping[str, Sequence[str]],  # kind -> ids
        masks: Mapping[str, Path],  # id -> file that is not black where the defect is
    ) -> None:
        self._good = good
        self._defects = defects
        self._masks = masks
        self._kinds = {one: kind for kind, ids in defects.items() for one in ids}
        super().__init__(name, root, sorted([*good["train"], *good["test"], *self._kinds]))

    @property
    def image_shape(self) -> ImageShape | None:
        return self._native(one for one in self._parts["train"] if one not in self._kinds)

    @property
    def why_no_classes(self) -> str:
        return "it has no pictures"

    @property
    def more_anomalies(self) -> str:
        return (
            "half of each kind of defect chooses settings and the others are tested; add pictures "
            "of defects, or name another set of them with --ood"
        )

    def labels(self, part: Part) -> Sequence[str]:
        return [self.kind(one) for one in self.ids(part)]

    def kind(self, one: Id) -> str:
        return self._kinds.get(str(one), GOOD)

    def record(self, used: Mapping[Part, Sequence[Id]]) -> dict[str, Any]:
        found = super().record(used)
        tested = sorted(str(one) for one in used["test"])
        if any(one in self._kinds for one in tested):
            # A table may tell them, which is edited while the pictures stay.
            found["kinds"] = digest_of(f"{one} {self.kind(one)}" for one in tested)
        ids = sorted({str(one) for part in PARTS for one in used[part]} & set(self._masks))
        if not ids:
            return found
        inspected, _ = self._cache.inspect([self._masks[one] for one in ids])
        # One that cannot be read is noted as that; `mask` says why, when it is asked for.
        found["masks"] = digest_of(
            f"{one} {mask.digest if (mask := inspected.get(self._masks[one])) else 'broken'}"
            for one in ids
        )
        return found

    def mask(self, one: Id, size: tuple[int, int]) -> NDArray[np.bool_] | None:
        file = self._masks.get(str(one))
        if file is None:
            return None
        mask, own = read_mask(file, size)
        if (error := self._other_size(str(one), own)) is not None:
            raise error
        return mask

    def require_masks(self, ids: Iterable[Id]) -> None:
        # What is wrong with one would else be found at the test, after every training.
        marked = [str(one) for one in ids if str(one) in self._masks]
        found = inspect_masks([self._masks[one] for one in marked])
        errors = [
            error
            for one, own in zip(marked, found, strict=True)
            if (error := own if isinstance(own, DataError) else self._other_size(one, own))
        ]
        if errors:
            raise DataError(
                f"{len(errors)} of {counted(len(marked), 'mask')} of {self.name} cannot be used, "
                f"the first: {errors[0]}; put them right, or remove them: pictures without a mask "
                "have no part in pixel figures"
            )

    def _other_size(self, one: str, own: tuple[int, int]) -> DataError | None:
        """What to raise where a mask of that height and width is not as large as its picture."""
        header = self._inspected[one].header
        if own == (header.height, header.width):
            return None
        return DataError(
            f"the mask {self._masks[one]} has {own[1]} x {own[0]} pixels, its picture {one} has "
            f"{header.width} x {header.height}; they must be of one size"
        )

    @cached_property
    def _parts(self) -> dict[Part, list[str]]:
        """The pictures with a sound header, sorted."""
        sound = set(self._sound())
        parts = {part: [one for one in self._good[part] if one in sound] for part in PARTS}
        for ids in self._defects.values():
            drawn = sorted(sound & set(ids), key=lambda one: (self._inspected[one].digest, one))
            half = len(drawn) // 2
            parts["train"] += drawn[:half]
            parts["test"] += drawn[half:]
        return {part: sorted(ids) for part, ids in parts.items()}
