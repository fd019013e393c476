"""Reading a folder of JPEG files of 256 x 256: pictures per second, cold and cached, and memory.

    python benchmarks/decoding.py                      # 2,000 pictures
    python benchmarks/decoding.py --pictures 100000

Each way of reading is a process of its own, so that its peak memory is its own. "cold" hashes,
inspects, decodes and keeps every picture; "cached" finds all of them in the cache; "off" has no
cache. The files themselves are in the operating system's memory all the time. "above start" is the
peak less what the process held before it opened the folder; the images alone take N x 3 KiB at
32 x 32.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from amatune.data.catalogue import open_source
from amatune.data.sources.base import PARTS

SIDE = 256
PER_FOLDER = 1000


def write(folder: Path, number: int) -> None:
    """One JPEG: smooth colour with noise, about 15 KiB, unlike any other."""
    generator = np.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8))
    pixels = np.asarray(coarse.resize((SIDE, SIDE)), np.int16)
    noisy = np.clip(pixels + generator.integers(-12, 13, pixels.shape), 0, 255).astype(np.uint8)
    path = folder / str(number // PER_FOLDER) / f"{number}.jpg"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(noisy).save(path, quality=80)
    os.utime(path, (1e9, 1e9))  # files changed a moment ago are not remembered


def peak() -> float:
    """The most memory this process has held so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def read(folder: Path) -> None:
    """Read both parts of the folder; prints seconds, MiB at the start and at the peak, bytes."""
    before, began = peak(), time.perf_counter()
    source = open_source(f"folder:{folder}")
    images = [source.read(part, source.ids(part), (3, 32, 32))[0] for part in PARTS]
    seconds = time.perf_counter() - began
    print(seconds, before, peak(), sum(part.nbytes for part in images))


def main() -> None:
    """Make the pictures, read them in every way and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=2000, metavar="N")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # read it, as one way
    arguments = parser.parse_args()
    if arguments.folder is not None:
        read(arguments.folder)
        return
    count = arguments.pictures
    print(
        f"{count:,} JPEG files of {SIDE} x {SIDE} to 3 x 32 x 32; {os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}, Pillow {PIL.__version__}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder, cache = Path(temporary, "pictures"), Path(temporary, "cache")
        folder.mkdir()
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(write, folder), range(count), chunksize=100))
        print(f"{'':8}{'pictures/s':>12}{'peak MiB':>10}{'above start':>13}{'images MiB':>12}")
        for way, limit in (("off", "0"), ("cold", ""), ("cached", "")):
            done = subprocess.run(
                [sys.executable, __file__, "--folder", str(folder)],
                env=os.environ | {"AMATUNE_CACHE": str(cache), "AMATUNE_CACHE_BYTES": limit},
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            seconds, before, after, size = map(float, done.stdout.split())
            print(
                f"{way:8}{count / seconds:12,.0f}{after:10,.0f}{after - before:13,.0f}"
                f"{size / 2**20:12,.1f}"
            )
        kept = sum(file.stat().st_size for file in cache.iterdir())
        print(f"the cache takes {kept / 2**20:,.1f} MiB")


if __name__ == "__main__":
    main()
