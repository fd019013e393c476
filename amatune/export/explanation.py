"""What a detector saw in a picture, side by side: original, reconstruction and difference; or where
it looks anomalous, as a map and laid over the original. And such maps as files of numbers."""

import io
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from amatune.data.pictures import Pixels
from amatune.errors import AmatuneError, RequestError
from amatune.export.scoring import AnyExport, ScoredPicture, printable
from amatune.files import write_bytes
from amatune.results.overlay import overlaid, shares_of

MAP_FORMATS = ("npy", "png")  # of `write_map`

_SIDE = 192  # pixels; smaller images are enlarged by a whole factor, to at most about this
_GAP = 8  # pixels around and between the three
_LINE = 18  # pixels of a line of text
_REBUILT = ("original", "reconstruction", "difference")
_MAPPED = ("original", "map", "overlay")


def require_explainable(export: AnyExport, folder: Path, option: str = "--explain") -> None:
    """Raise `RequestError` unless the export can tell where a picture looks anomalous, and
    `folder` is new or empty; `option` is what asked for it."""
    if export.pixel_map(np.empty((0, *export.image_shape), np.uint8)) is None:
        raise RequestError(
            f"{export.method} makes neither reconstructions nor maps with these settings, so that "
            f"it cannot explain its scores; leave {option} out"
        )
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"cannot explain into {folder}: it is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise RequestError(f"cannot explain into {folder}: it is not empty; name a new folder")


def write_map(
    export: AnyExport, picture: ScoredPicture, folder: Path, number: int, form: str = "npy"
) -> None:
    """Write where a scored picture looks anomalous to `folder`, which is made: `00001-<name>.npy`,
    float32 (H, W), the size that the detector sees, higher = more anomalous; or of the form png,
    16 bits of grey from the lowest to the highest value of the map, with both in the file.

    Raises `AmatuneError` when the disk refuses.
    """
    if picture.image is None:
        return
    found = export.pixel_map(picture.image[None].copy())
    if found is None:
        raise RequestError(f"{export.method} makes no maps")
    content = io.BytesIO()
    if form == "png":
        _write_png(content, found[0], picture.path)
    else:
        np.save(content, found[0], allow_pickle=False)
    file = folder / f"{number:05}-{_file_name(picture.path)}.{form}"
    try:
        write_bytes(file, content.getvalue())
    except OSError as error:
        raise AmatuneError(f"cannot write {file}: {error.strerror or error}") from error


def _write_png(content: io.BytesIO, values: NDArray[np.float32], path: Path) -> None:
    """A map (H, W) as 16 bits of grey: value = low + (high - low) * grey / 65535."""
    low, high = float(values.min()), float(values.max())
    shares = (values.astype(np.float64) - low) / max(high - low, 1e-300)
    about = PngInfo()
    about.add_text("low", repr(low))
    about.add_text("high", repr(high))
    about.add_itxt("path", printable(path))
    grey = np.round(shares * 65535).astype(np.uint16)
    Image.fromarray(grey).save(content, "PNG", pnginfo=about)


def explain(export: AnyExport, pictures: Sequence[ScoredPicture], folder: Path) -> None:
    """Write a PNG per scored picture to `folder`, `01-<name>.png` and on, in the order given.

    Of one that reconstructs, the difference is |original - reconstruction|, the mean over
    the channels, black where there is none; of others there is a map, and it in red over the
    original. White, or red, is the largest value among all `pictures`, so that they can be
    compared. The folder appears complete or not at all. Raises `AmatuneError` when the disk
    refuses.
    """
    images = np.stack([picture.image for picture in pictures if picture.image is not None])
    if len(images) < len(pictures):
        raise RequestError(f"{export.method} cannot explain these pictures")
    titles, second, third = _panels(export, images)

    folder = folder.resolve()
    new = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    digits = max(2, len(str(len(pictures))))
    try:
        new.mkdir(parents=True)
        for rank, (picture, *panels) in enumerate(
            zip(pictures, images, second, third, strict=True)
        ):
            name = _file_name(picture.path)
            lines = _caption(rank + 1, picture, export.primary_score)
            about = PngInfo()
            about.add_itxt("path", printable(picture.path))
            _side_by_side(titles, panels, lines).save(
                new / f"{rank + 1:0{digits}}-{name.removesuffix('.png')}.png", pnginfo=about
            )
        new.replace(folder)  # an empty folder gives way
    except OSError as error:
        raise AmatuneError(f"cannot write to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _panels(export: AnyExport, images: Pixels) -> tuple[Sequence[str], Pixels, Pixels]:
    """Titles, and what is shown beside images (N, C, H, W): two of (N, 1 or 3, H, W)."""
    rebuilt = export.reconstruct(images)
    if rebuilt is not None:
        seen = ((rebuilt + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
        gaps = np.abs(images.astype(np.float32) - seen).mean(axis=1, keepdims=True)
        shown = np.round(gaps * (255 / max(float(gaps.max()), 1.0))).astype(np.uint8)
        return _REBUILT, seen, shown
    found = export.pixel_map(images)
    if found is None:
        raise RequestError(f"{export.method} cannot explain these pictures")
    shares = shares_of(found)
    return _MAPPED, np.round(shares[:, None] * 255).astype(np.uint8), overlaid(images, shares)


def _file_name(path: Path) -> str:
    return re.sub(r"[^\w.-]+", "-", path.name)[-80:]


def _caption(rank: int, picture: ScoredPicture, score: str) -> list[str]:
    p = "" if picture.p_value is None else f", p = {picture.p_value:.3g}"
    name = printable(Path(picture.path.name))
    return [f"{rank}. {name}", f"{score} = {picture.score:.6g}{p}"]


def _side_by_side(
    titles: Sequence[str], panels: Sequence[Pixels], lines: Sequence[str]
) -> Image.Image:
    """Three panels (1 or 3, H, W) under their titles and above the lines, on white."""
    height, width = panels[0].shape[1:]
    factor = max(1, round(_SIDE / max(height, width)))
    height, width = height * factor, width * factor
    wide = max(width, 96)  # room for a title
    canvas = Image.new(
        "RGB",
        (_GAP + 3 * (wide + _GAP), 3 * _GAP + height + _LINE * (1 + len(lines))),
        "white",
    )
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    for column, (title, panel) in enumerate(zip(titles, panels, strict=True)):
        left = _GAP + column * (wide + _GAP)
        draw.text((left, _GAP), title, "black", font)
        pixels = panel[0] if len(panel) == 1 else panel.transpose(1, 2, 0)
        large = np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)
        canvas.paste(Image.fromarray(large).convert("RGB"), (left, _GAP + _LINE))
    for number, line in enumerate(lines):
        draw.text((_GAP, 2 * _GAP + height + _LINE * (1 + number)), line, "black", font)
    return canvas
