"""A folder of pictures."""

# ruff: noqa: D102 - as `Source` says; not every source needs every argument

from collections.abc import Sequence
from functools import cached_property

from amatune.data.pictures import find_pictures
from amatune.data.sources.base import PARTS, Part
from amatune.data.sources.files import OwnPictures
from amatune.errors import DataError
from amatune.files import usable_path


class FolderSource(OwnPictures):
    """A folder of pictures of any sizes and modes.

    Parts: the folders `train/` and `test/` directly below, when both are there (anything beside
    them is left alone); else a share of the pictures, `test_share`, is the test part, chosen by the
    SHA-256 of their bytes, so that adding a picture moves no other and copies stay in one part; or
    of their groups.

    Classes: the names of the folders directly below the part, when every picture lies in one.
    """

    def __init__(self, path: str) -> None:
        root = usable_path(path, DataError).resolve()
        if not root.is_dir():
            found = "is a file" if root.exists() else "does not exist"
            raise DataError(f"folder:{path} must name a folder, but {root} {found}")
        pictures = find_pictures([root])
        ids = [file.relative_to(root).as_posix() for file in pictures]
        super().__init__(f"folder:{root}", root, ids)

    @property
    def why_no_classes(self) -> str:
        return f"not every picture lies in a class folder, see {self._loose[0]}"

    def labels(self, part: Part) -> Sequence[str]:
        if self._loose:
            return []
        depth = 1 if self._is_divided else 0
        return [str(one).split("/")[depth] for one in self.ids(part)]

    @cached_property
    def _is_divided(self) -> bool:
        """Whether there are train/ and test/ folders. Raises `DataError` when one has a picture
        and the other none."""
        tops = {one.split("/")[0] for one in self._files if "/" in one}
        given = tops & set(PARTS)
        if len(given) == 1:
            (present,) = given
            (absent,) = set(PARTS) - given
            raise DataError(
                f"{self.name} has pictures in {present}/ but none in {absent}/; fill both, or name "
                f"folder:{self.location / present}"
            )
        return bool(given)

    @cached_property
    def _loose(self) -> list[str]:
        """Pictures that lie in no class folder."""
        depth = 1 if self._is_divided else 0
        return [one for part in PARTS for one in self._parts[part] if one.count("/") <= depth]

    @cached_property
    def _parts(self) -> dict[Part, list[str]]:
        """The pictures with a sound header."""
        sound = self._sound()
        if self._is_divided:
            return {p: [one for one in sound if one.startswith(f"{p}/")] for p in PARTS}
        return self._shared_out(sound)
