"""What a detector saw in a picture: original, reconstruction and difference side by side."""

import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from amatune.data.pictures import Pixels
from amatune.detector import Detector
from amatune.errors import AmatuneError, RequestError
from amatune.export.scoring import ScoredPicture, printable

_SIDE = 192  # pixels; smaller images are enlarged by a whole factor, to at most about this
_GAP = 8  # pixels around and between the three
_LINE = 18  # pixels of a line of text
_TITLES = ("original", "reconstruction", "difference")


def require_explainable(detector: Detector, folder: Path) -> None:
    """Raise `RequestError` unless the detector reconstructs, and `folder` is new or empty."""
    if not detector.reconstructs:
        raise RequestError(
            f"{detector.name} makes no reconstructions, so that it cannot explain its scores; "
            "leave --explain out"
        )
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"cannot explain into {folder}: it is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise RequestError(f"cannot explain into {folder}: it is not empty; name a new folder")


def explain(detector: Detector, pictures: Sequence[ScoredPicture], folder: Path) -> None:
    """Write a PNG per scored picture to `folder`, `01-<name>.png` and on, in the order given.

    The difference is |original - reconstruction|, the mean over the channels, black where there is
    none; white is the largest one among all `pictures`, so that they can be compared. The folder
    appears complete or not at all. Raises `AmatuneError` when the disk refuses.
    """
    images = np.stack([picture.image for picture in pictures if picture.image is not None])
    rebuilt = detector.reconstruct(torch.from_numpy(images))
    if rebuilt is None or len(images) < len(pictures):
        raise RequestError(f"{detector.name} cannot explain these pictures")
    seen = ((rebuilt.numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    gaps = np.abs(images.astype(np.float32) - seen).mean(axis=1, keepdims=True)
    shown = np.round(gaps * (255 / max(float(gaps.max()), 1.0))).astype(np.uint8)

    folder = folder.resolve()
    new = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    digits = max(2, len(str(len(pictures))))
    try:
        new.mkdir(parents=True)
        for rank, (picture, *panels) in enumerate(zip(pictures, images, seen, shown, strict=True)):
            name = re.sub(r"[^\w.-]+", "-", picture.path.name)[-80:]
            lines = _caption(rank + 1, picture, detector.primary_score)
            about = PngInfo()
            about.add_itxt("path", printable(picture.path))
            _side_by_side(panels, lines).save(
                new / f"{rank + 1:0{digits}}-{name.removesuffix('.png')}.png", pnginfo=about
            )
        new.replace(folder)  # an empty folder gives way
    except OSError as error:
        raise AmatuneError(f"cannot write to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _caption(rank: int, picture: ScoredPicture, score: str) -> list[str]:
    p = "" if picture.p_value is None else f", p = {picture.p_value:.3g}"
    name = printable(Path(picture.path.name))
    return [f"{rank}. {name}", f"{score} = {picture.score:.6g}{p}"]


def _side_by_side(panels: Sequence[Pixels], lines: Sequence[str]) -> Image.Image:
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
    for column, (title, panel) in enumerate(zip(_TITLES, panels, strict=True)):
        left = _GAP + column * (wide + _GAP)
        draw.text((left, _GAP), title, "black", font)
        pixels = panel[0] if len(panel) == 1 else panel.transpose(1, 2, 0)
        large = np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)
        canvas.paste(Image.fromarray(large).convert("RGB"), (left, _GAP + _LINE))
    for number, line in enumerate(lines):
        draw.text((_GAP, 2 * _GAP + height + _LINE * (1 + number)), line, "black", font)
    return canvas
