"""Pictures on disk, and the one rule that makes any picture fit a detector.

The geometry rule. A detector sees images of one shape (C, H, W), decided by the normal set and
applied to every other picture: the anomalies, and whatever is scored later.

1. Decoding, to 8 bits: the first frame, turned upright by its EXIF orientation; transparent parts
   laid on white; palette, CMYK and the like become RGB; 16-bit grey is divided by 257 and 12-bit
   grey, of TIFF, by 4095 / 255, so that a grey level means the same in every picture. What fills
   12 of 16 bits is not told apart from dark pictures. Floating point and 32-bit grey are refused:
   their range is unknown.
2. Channels: grey becomes colour by repeating it; colour becomes grey by the ITU-R 601 luma,
   0.299 R + 0.587 G + 0.114 B.
3. Size: bilinear with antialiasing to exactly (H, W), without keeping the aspect ratio, so that no
   border is invented and nothing is cut off; in whole numbers, so that any engine gives the same
   bytes (`resizing`).

What the normal set decides: an array set keeps its own shape; a folder is colour when one of its
training pictures is, and keeps their size when they all have the same and no side exceeds
64 pixels; else it becomes 64 x 64 when grey and 32 x 32 in colour, or when most of the pictures are
that small (`native_shape`). Most methods have small networks for grey images and large ones for
colour: so an epoch costs about the same on a CPU, and four times as much at twice the side. A
method that makes use of larger pictures says up to which side (`Detector.largest_side`): those of
one size up to that keep it, others become squares of their median longer side, at most that one.
`image_size` and `channels` of a request override either. A side has 8 to 2048 pixels.
"""

import contextlib
import hashlib
import os
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from amatune.data.resizing import RULE, Resizing, resize
from amatune.errors import DataError
from amatune.files import AnyPaths, opened, usable_paths
from amatune.wording import visible

ImageShape = tuple[int, int, int]  # (channels, height, width)
Pixels = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]  # what is done to the pictures, done so far, in all
S = TypeVar("S")
T = TypeVar("T")

# Versions of the rule above, of its steps 2 and 3 and of step 1: what was decoded by another one is
# decoded anew.
GEOMETRY = RULE
DECODING = 2

SUFFIXES = (  # in capitals too
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
MIN_SIDE = 8  # pixels; below, nothing is left to convolve
MAX_SIDE = 2048  # pixels; above, few pictures fit into memory
MAX_PIXELS = 89_478_485  # a quarter of a GiB as RGB: Pillow's own bound on decompression bombs

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_KEEP_SIDE = 64  # pictures of one size up to this keep it
_GREY_SIDE = 64
_COLOUR_SIDE = 32
_SMALL = 48  # longer side; where half of the pictures have no longer one, 32 pixels do
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N", "I"})
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})
# Modes whose 0 is not black, or that have alpha.
_NO_NUMBERS = frozenset({"P", "PA", "LA", "La", "RGBA", "RGBa", "CMYK", "YCbCr"})
_LOSSY = frozenset({"JPEG", "MPO", "WEBP"})  # formats that ring at edges
_ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 swap width and height
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF: bits of a sample, and what its 0 means
_WHITE_IS_ZERO = 0
_BATCH = 2048  # files handed to the threads at once: bounds the memory that waiting ones take


class Header(NamedTuple):
    """What a picture's header says, before any pixel is decoded."""

    colour: bool
    height: int  # upright
    width: int


class Inspected(NamedTuple):
    """What one reading of a file tells without decoding it."""

    digest: str  # SHA-256 of its bytes, hexadecimal
    header: Header


class Decoded(NamedTuple):
    """How the decoding of one file went."""

    digest: str  # of the very bytes that were decoded; "" when they could not be read
    problem: str  # why there are no pixels; "" when there are


# A context variable and not an argument: the pictures are read below `Problem` and the interface
# of all sources, none of which has anything to do with who watches. Unset, nothing is reported.
_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextlib.contextmanager
def reporting_to(progress: Progress) -> Iterator[None]:
    """Meanwhile, call `progress` after every picture inspected or decoded in this thread's calls.

    It is called by the thread that reads the pictures, also for few of them.
    """
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


def find_pictures(paths: AnyPaths) -> list[Path]:
    """The picture files among `paths`, sorted, each once; folders are searched recursively.

    Hidden files and folders inside a folder are passed over. Raises `DataError` for a path that
    does not exist, for a file whose suffix is not accepted, and when nothing is found.
    """
    found: set[Path] = set()
    asked = usable_paths(paths, DataError)
    for path in asked:
        if path.is_dir():
            found.update(pictures_below(path))
        elif not path.exists():
            raise DataError(f"no such file or folder: {path}")
        elif path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path} is not a picture; accepted: {', '.join(SUFFIXES)}")
        else:
            found.add(path)
    if not found:
        where = ", ".join(map(str, asked)) or "an empty list of paths"
        raise DataError(f"no pictures in {where}; accepted: {', '.join(SUFFIXES)}")
    return sorted(found, key=lambda path: path.as_posix())


def read_picture(path: str | Path, image_shape: ImageShape | None = None) -> Pixels:
    """One picture by the geometry rule, as uint8 (C, H, W); without a shape only its first step is
    taken: uint8 (1 or 3, H, W) as large as it is.

    Raises `DataError`, naming the file, when it is missing, broken, in no supported format or
    larger than `MAX_PIXELS`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; errors still raise
        return _decode(Path(path), image_shape)[0]


def read_pictures(
    paths: Sequence[Path], image_shape: ImageShape, resizing: Resizing = resize
) -> tuple[Pixels, dict[Path, str]]:
    """Many pictures by the geometry rule, decoded by several threads.

    Returns uint8 (N, C, H, W) in the order given, without the pictures that could not be read,
    and those with the reason.
    """
    pixels = np.empty((len(paths), *image_shape), np.uint8)
    batches = decode_into(pixels, range(len(paths)), paths, resizing)
    results = [one for batch in batches for one in batch]
    unreadable = {row: result.problem for row, result in enumerate(results) if result.problem}
    return without_rows(pixels, unreadable), {paths[row]: why for row, why in unreadable.items()}


def read_mask(path: Path, size: tuple[int, int]) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """Where a picture of a mask is not black, brought to `size` (H, W); and the height and width
    that it has.

    In a lossy format, which rings, what is darker than middle grey counts as black. A pixel is in
    it when at least half of its area is; where nothing is left by that, the pixels with most of it
    are. Raises `DataError` as `read_picture`, and for a lossy one that is dark alone.
    """
    inside = _inside(path)
    shares = fit(np.where(inside, 255, 0).astype(np.uint8)[None, None], (1, *size))[0, 0]
    least = min(128, max(1, int(shares.max())))
    return shares >= least, inside.shape


def inspect_masks(paths: Sequence[Path]) -> list[tuple[int, int] | DataError]:
    """The height and width of each mask, or why it cannot be read. All of it is decoded: where a
    file was cut short, no header tells."""

    def inspect(path: Path) -> tuple[int, int] | DataError:
        try:
            return _inside(path).shape
        except DataError as error:
            return error

    return [one for batch in _in_threads(inspect, paths, "checking masks") for one in batch]


def _inside(path: Path) -> NDArray[np.bool_]:
    """Where a mask is not black, (H, W)."""
    try:
        with opened(path) as file, _open(file) as picture:
            values = np.asarray(picture.convert("RGB") if picture.mode in _NO_NUMBERS else picture)
            if picture.format in _LOSSY:
                if 0 < values.max() < 128:
                    raise ValueError(
                        f"a mask in {picture.format}, which may be lossy, must be black and white, "
                        "and this one is dark; save it as PNG"
                    )
                values = values >= 128
    except _DECODING_ERRORS as error:
        raise _unreadable(path, error) from error
    inside: NDArray[np.bool_] = (values if values.ndim == 2 else values.max(axis=2)) != 0
    return inside


def decode_into(
    pixels: Pixels, rows: Sequence[int], paths: Sequence[Path], resizing: Resizing = resize
) -> Iterator[list[Decoded]]:
    """Decode each path into its row of `pixels`, uint8 (N, C, H, W), by several threads.

    Yields the results of a batch of paths at a time, in their order. Every file is opened once, and
    beside `pixels` only as many pictures are in memory as there are threads.
    """

    def decode(task: tuple[int, Path]) -> Decoded:
        row, path = task
        try:
            pixels[row], digest = _decode(path, pixels.shape[1:], resizing)
        except DataError as error:
            return Decoded("", str(error))
        return Decoded(digest, "")

    return _in_threads(decode, list(zip(rows, paths, strict=True)), "decoding pictures")


def without_rows(pixels: Pixels, rows: Iterable[int]) -> Pixels:
    """`pixels` without some rows, closed up in place: a second array would double the memory."""
    gone = set(rows)
    if not gone:
        return pixels
    kept = min(gone)
    for row in range(kept, len(pixels)):
        if row not in gone:
            pixels[kept] = pixels[row]
            kept += 1
    return pixels[:kept]


def inspect_pictures(
    paths: Sequence[Path],
) -> tuple[dict[Path, Inspected], dict[Path, str]]:
    """Content hashes and headers of many pictures, without decoding pixels; every file is opened
    once. And those without a sound header, with the reason."""

    def inspect(path: Path) -> Inspected | str:
        try:
            return _inspect(path)
        except DataError as error:
            return str(error)

    sound: dict[Path, Inspected] = {}
    unreadable: dict[Path, str] = {}
    batches = _in_threads(inspect, paths, "inspecting pictures")
    for path, result in zip(paths, (one for batch in batches for one in batch), strict=True):
        if isinstance(result, str):
            unreadable[path] = result
        else:
            sound[path] = result
    return sound, unreadable


def native_shape(headers: Iterable[Header], largest: int | None = None) -> ImageShape:
    """The shape a set of pictures decides by the geometry rule; with a `largest` side that a method
    makes use of, up to that."""
    headers = list(headers)
    channels = 3 if any(header.colour for header in headers) else 1
    sizes = {(header.height, header.width) for header in headers}
    if len(sizes) == 1:
        height, width = sizes.pop()
        if min(height, width) >= MIN_SIDE and max(height, width) <= (largest or _KEEP_SIDE):
            return channels, height, width
    longer = sorted(max(header.height, header.width) for header in headers)
    is_small = not longer or longer[len(longer) // 2] <= _SMALL
    if largest is not None and not is_small:
        side = min(largest, longer[len(longer) // 2])
        return channels, side, side
    side = _COLOUR_SIDE if channels == 3 or is_small else _GREY_SIDE
    return channels, side, side


def shape_text(shape: ImageShape) -> str:
    """ "64 x 48 pixels, grey" for (1, 48, 64)."""
    channels, height, width = shape
    return f"{width} x {height} pixels, {'grey' if channels == 1 else 'colour'}"


def sizes_text(headers: Mapping[Header, int]) -> str:
    """The size of pictures, width first, or the smallest and the largest."""
    sizes = sorted({(h.width, h.height) for h in headers}, key=lambda size: size[0] * size[1])
    if not sizes:
        return ""
    texts = [f"{width} x {height}" for width, height in sizes]
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"


def fit(images: Pixels, image_shape: ImageShape, resizing: Resizing = resize) -> Pixels:
    """Steps 2 and 3 of the geometry rule: uint8 (N, C, H, W) to uint8 (N, *image_shape).

    C is 1 or 3 on both sides. `resizing` is another than today's for what was trained by it.
    """
    channels, height, width = image_shape
    if channels == 1 and images.shape[1] == 3:
        images = _luma(images)
    if images.shape[2:] != (height, width):
        images = resizing(images, (height, width))
    if channels == 3 and images.shape[1] == 1:
        images = np.repeat(images, 3, axis=1)
    return images


def _luma(images: Pixels) -> Pixels:
    """ITU-R 601 in 16-bit fixed point, the same integers as Pillow's."""
    red, green, blue = (images[:, [c]].astype(np.uint32) for c in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)


# What Pillow raises on damaged files: OSError (with UnidentifiedImageError) and, from the depths of
# its plugins, the others.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)


def _decode(
    path: Path, image_shape: tuple[int, ...] | None, resizing: Resizing = resize
) -> tuple[Pixels, str]:
    """The picture as uint8 (C, H, W), and the digest of its bytes."""
    try:
        with opened(path) as file:
            digest = _digest(file)
            with _open(file) as picture:
                pixels = _to_eight_bits(picture)
    except _DECODING_ERRORS as error:
        raise _unreadable(path, error) from error
    if image_shape is None:
        return pixels, digest
    channels, height, width = image_shape
    fitted: Pixels = fit(pixels[None], (channels, height, width), resizing)[0]
    return fitted, digest


def _is_turned(picture: Image.Image) -> bool:
    """Whether EXIF swaps the width and height of the header, as far as the header tells."""
    if picture.format == "TIFF":
        return False  # Pillow turns these by itself
    if picture.format == "PNG" and "exif" not in picture.info:
        return False  # getexif would decode all pixels in search of a late chunk
    return bool(picture.getexif().get(_ORIENTATION, 1) >= 5)


def _inspect(path: Path) -> Inspected:
    try:
        with opened(path) as file:
            digest = _digest(file)
            with _open(file) as picture:
                width, height = picture.size[::-1] if _is_turned(picture) else picture.size
                return Inspected(digest, Header(picture.mode not in _GREY_MODES, height, width))
    except _DECODING_ERRORS as error:
        raise _unreadable(path, error) from error


def _in_threads(work: Callable[[S], T], items: Sequence[S], what: str) -> Iterator[list[T]]:
    """The results of `work` in the order of `items`, batch by batch; progress is reported."""
    progress = _progress.get()
    with ThreadPoolExecutor(threads()) as pool:
        for start in range(0, len(items), _BATCH):
            results = []
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # once for all threads: the filters are global
                for result in pool.map(work, items[start : start + _BATCH]):
                    results.append(result)
                    if progress is not None:
                        progress(what, start + len(results), len(items))
            yield results


def _digest(file: BufferedReader) -> str:
    """SHA-256 of an open file, which is left at its start."""
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return digest


def _open(file: BufferedReader) -> Image.Image:
    picture = Image.open(file, formats=_FORMATS)
    if picture.width * picture.height > MAX_PIXELS:
        picture.close()
        raise Image.DecompressionBombError
    return picture


def _deep_range(picture: Image.Image) -> tuple[int, bool]:
    """The largest value of grey in more than 8 bits, and whether that is black."""
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return 65535, False
    (bits, *_) = picture.tag_v2.get(_BITS, (16,))
    return 2 ** min(bits, 16) - 1, picture.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _to_eight_bits(picture: Image.Image) -> Pixels:
    """Step 1 of the geometry rule, as uint8 (1 or 3, H, W)."""
    top, is_inverted = _deep_range(picture)  # before: a turned one has lost its tags
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise ValueError("floating-point pixels are not supported, save it as 8 or 16 bits")
    if picture.mode in _SIXTEEN_BIT:
        deep = np.asarray(picture).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("32-bit grey is not supported, save it as 8 or 16 bits")
        levels = np.round(deep / (top / 255)).astype(np.uint8)[None]
        return 255 - levels if is_inverted else levels
    grey = picture.mode in _GREY_MODES
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture).convert("RGB")
    picture = picture.convert("L" if grey else "RGB")
    pixels = np.asarray(picture)
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _unreadable(path: Path, error: Exception) -> DataError:
    reasons: dict[type[Exception], str] = {
        Image.DecompressionBombError: f"it has more than {MAX_PIXELS:,} pixels",
        UnidentifiedImageError: f"not a picture, or not one of {', '.join(_FORMATS)}",
        FileNotFoundError: "no such file",
        PermissionError: "no permission to read it",
    }
    reason = reasons.get(type(error), str(error) or type(error).__name__)
    return DataError(f"cannot read picture {visible(str(path))}: {reason}")


def pictures_below(folder: Path) -> list[Path]:
    """Pictures below `folder`, in no order. Linked folders are followed, each real folder once.

    Raises `DataError` for a folder that cannot be listed.
    """
    found, entered = [], {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        below = {name: os.path.realpath(Path(parent, name)) for name in sorted(folders)}
        folders[:] = []
        for name, real in below.items():
            if not name.startswith(".") and real not in entered:
                entered.add(real)
                folders.append(name)
        found += [
            Path(parent, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return found


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot list folder {error.filename}: {error.strerror}") from error


def threads() -> int:
    """How many threads read files: the work is in C and lets go of the lock."""
    return min(8, os.cpu_count() or 1)
