"""scikit-learn's handwritten digits."""

import numpy as np

from amatune.data.dataset import BuiltIn, DatasetInfo
from amatune.data.pictures import fit
from amatune.data.sources.base import Source
from amatune.data.sources.embedded import EmbeddedSource


def _open() -> Source:
    """Test part: the third, sixth and ninth of every ten images of a class, in file order."""
    # Imported here: it takes seconds, and listing the sets does not need it.
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    bunch = load_digits()
    small = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]  # 8 x 8, 0 to 16
    seen = np.zeros(10, int)
    in_test = np.zeros(len(small), bool)
    for row, digit in enumerate(bunch.target):
        in_test[row] = seen[digit] % 10 in (2, 5, 8)
        seen[digit] += 1
    return EmbeddedSource(
        "digits", fit(small, (1, 28, 28)), [str(d) for d in bunch.target], in_test
    )


DATASET = BuiltIn(
    DatasetInfo(
        name="digits",
        summary="scikit-learn's handwritten digits, 8 x 8 enlarged; needs no download",
        image="1 x 28 x 28",
        train=1260,
        test=537,
        classes=tuple("0123456789"),
        licence="CC BY 4.0",
        url="https://archive.ics.uci.edu/dataset/80",
    ),
    _open,
)
