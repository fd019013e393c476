"""Write a few of a run's test images as PNG files, for `make demo` to score.

python benchmarks/demo_pictures.py demo/runs/digits demo/pictures
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from amatune.runs import RunFolder


def main() -> None:
    """Write the first pictures of either kind, `normal-0.png` and `anomaly-0.png` upwards."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--each", type=int, default=4, help="pictures of each kind (default 4)")
    arguments = parser.parse_args()

    problem = RunFolder(arguments.run).record().open_problem()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for kind, images in zip(("normal", "anomaly"), problem.test_images(), strict=True):
        for number, image in enumerate(images[: arguments.each]):
            pixels = np.moveaxis(image, 0, -1)  # (C, H, W) -> (H, W, C)
            picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            picture.save(arguments.folder / f"{kind}-{number}.png")


if __name__ == "__main__":
    main()
