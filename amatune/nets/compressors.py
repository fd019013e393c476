"""Lossless compressors of pictures: how many bits does a picture take?

    webp       WebP, by Pillow                               png, jpeg2000   by Pillow
    jxl        JPEG XL, by imagecodecs (amatune[jpegxl])     flif            the `flif` command

Sizes are those of whole files, headers included: of 28 x 28 grey pixels a PNG's takes some .6 bits
per dimension, and JPEG 2000's more than most pictures differ by. Other versions of a compressor
give other sizes, by some bytes.
"""

import io
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, features
from torch import Tensor

from amatune.errors import AmatuneError, RequestError
from amatune.extras import require_extra

CompressorName = Literal["webp", "png", "jpeg2000", "jxl", "flif"]
Pixels = NDArray[np.uint8]  # (H, W) or (H, W, 3)

_SECONDS = 60  # that `flif` may take for a picture


class Compressor(NamedTuple):
    """How a picture becomes the bytes of a file, and by what program."""

    encode: Callable[[Pixels], bytes]
    version: Callable[[], str]  # name and version; raises `RequestError` where it is not there


def version_of(name: CompressorName) -> str:
    """The program behind a compressor and its version, for people: "libwebp 1.6.0, Pillow 13.0.0".

    Raises `RequestError`, with what helps, where there is none.
    """
    return COMPRESSORS[name].version()


def compress(name: CompressorName, images: Tensor) -> list[bytes]:
    """The files that images (B, C, H, W) in [-1, 1] become, rounded to the nearest bytes.

    Raises `AmatuneError` when the compressor fails.
    """
    values = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    encode = COMPRESSORS[name].encode
    return [encode(one[0] if len(one) == 1 else one.transpose(1, 2, 0)) for one in values]


def compressed_bits(name: CompressorName, images: Tensor) -> Tensor:
    """Size of the files in bits per dimension, (B, C, H, W) in [-1, 1] -> (B,)."""
    dimensions = images.shape[1:].numel()
    sizes = [8 * len(file) / dimensions for file in compress(name, images)]
    return torch.tensor(sizes, dtype=torch.float32, device=images.device)


# --- each -----------------------------------------------------------------------------------------


def _by_pillow(form: str, feature: str, library: str, **options: Any) -> Compressor:
    def encode(pixels: Pixels) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, form, **options)
        return file.getvalue()

    def version() -> str:
        if not features.check(feature):
            raise RequestError(
                f"this Pillow was built without {library}; choose another compressor, or install "
                "Pillow from PyPI"
            )
        return f"{library} {features.version(feature)}, Pillow {PIL.__version__}"

    return Compressor(encode, version)


def _encode_jxl(pixels: Pixels) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, effort=7))


def _version_of_jxl() -> str:
    require_extra("jpegxl")
    import imagecodecs

    return f"{imagecodecs.jpegxl_version()}, imagecodecs {imagecodecs.__version__}"


def _encode_flif(pixels: Pixels) -> bytes:
    kind = "P5" if pixels.ndim == 2 else "P6"
    header = f"{kind}\n{pixels.shape[1]} {pixels.shape[0]}\n255\n".encode()
    with TemporaryDirectory(prefix="amatune-flif-") as folder:
        picture, file = Path(folder, "picture.pnm"), Path(folder, "picture.flif")
        picture.write_bytes(header + pixels.tobytes())
        _run_flif("-e", "-N", str(picture), str(file))
        return file.read_bytes()


def _version_of_flif() -> str:
    if shutil.which("flif") is None:
        raise RequestError(
            "there is no command `flif` on the path; choose the compressor jxl, its heir, or webp"
        )
    told = re.search(r"FLIF \(Free Lossless Image Format\) (\S+)", _run_flif("-hvv"))
    return f"FLIF {told[1]}" if told else "FLIF of an unknown version"


def _run_flif(*arguments: str) -> str:
    """What the command says. Raises `AmatuneError` when it fails."""
    try:
        done = subprocess.run(
            ["flif", *arguments], capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise AmatuneError(f"the command `flif` failed: {said.strip()}") from error
    return done.stdout + done.stderr


COMPRESSORS: Mapping[CompressorName, Compressor] = {
    "webp": _by_pillow("WEBP", "webp", "libwebp", lossless=True, quality=100),
    "png": _by_pillow("PNG", "zlib", "zlib", optimize=True),
    "jpeg2000": _by_pillow("JPEG2000", "jpg_2000", "OpenJPEG"),
    "jxl": Compressor(_encode_jxl, _version_of_jxl),
    "flif": Compressor(_encode_flif, _version_of_flif),
}
