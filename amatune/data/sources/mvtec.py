"""MVTec AD's layout (Bergmann et al., CVPR 2019), one object of it, which many others use too.

    bottle/train/good/*.png
    bottle/test/good/*.png
    bottle/test/broken_large/*.png                  one folder for each kind of defect
    bottle/ground_truth/broken_large/*_mask.png     optional; also without _mask

Anything beside these is left alone.
"""

from pathlib import Path

from amatune.data.pictures import SUFFIXES, pictures_below
from amatune.data.sources.base import PARTS
from amatune.data.sources.defects import GOOD, DefectPictures
from amatune.errors import DataError
from amatune.files import usable_path

_GOOD = {part: f"{part}/{GOOD}" for part in PARTS}
_MASKS = "ground_truth"


class MvtecSource(DefectPictures):
    """One object in that layout; ids are paths relative to its folder.

    Raises `DataError`, which names what is missing, for a folder in another layout.
    """

    def __init__(self, path: str, kind: str = "mvtec") -> None:
        root = folder_at(path, kind)
        try:
            if not has_layout(root):
                raise DataError(_other_layout(root, kind))
            kinds = [one.name for one in _folders(root / "test") if one.name != GOOD]
            defects = {name: found for name in kinds if (found := _pictures(root, f"test/{name}"))}
            good = {part: _pictures(root, _GOOD[part]) for part in PARTS}
            masks = {
                one: mask
                for name, ids in defects.items()
                for one in ids
                if (mask := _mask(root / _MASKS / name, Path(one).stem)) is not None
            }
        except OSError as error:  # one that may not be entered
            raise DataError(f"cannot look into {error.filename}: {error.strerror}") from error
        super().__init__(f"{kind}:{root}", root, good, defects, masks)


def folder_at(path: str, kind: str) -> Path:
    """The folder of one object. Raises `DataError` when it is none."""
    root = usable_path(path, DataError).resolve()
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise DataError(f"{kind}:{path} must name the folder of one object, but {root} {found}")
    return root


def has_layout(root: Path) -> bool:
    """Whether a folder is one object in this layout."""
    return all((root / place).is_dir() for place in _GOOD.values())


def objects_below(root: Path) -> list[str]:
    """The folders directly below that are objects in this layout."""
    return [one.name for one in _folders(root) if has_layout(one)]


def _other_layout(root: Path, kind: str) -> str:
    if found := objects_below(root):
        return (
            f"{kind}:{root} holds several objects, name one of them: {kind}:{root / found[0]} "
            f"({', '.join(found[:15])})"
        )
    absent = next(place for place in _GOOD.values() if not (root / place).is_dir())
    return (
        f"{kind}:{root} has no {absent}/; this layout is {_GOOD['train']}/, {_GOOD['test']}/ and "
        f"a folder test/KIND/ for each kind of defect; for any other, name folder:{root}"
    )


def _folders(root: Path) -> list[Path]:
    return sorted(one for one in root.iterdir() if one.is_dir() and not one.name.startswith("."))


def _pictures(root: Path, place: str) -> list[str]:
    """None is no error: what that leaves too few of is told when the problem is made."""
    return sorted(file.relative_to(root).as_posix() for file in pictures_below(root / place))


def _mask(folder: Path, stem: str) -> Path | None:
    names = [f"{stem}{end}{suffix}" for end in ("_mask", "") for suffix in SUFFIXES]
    return next((folder / name for name in names if (folder / name).is_file()), None)
