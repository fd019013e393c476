"""How many images are in memory while they are scored."""

from pathlib import Path

import numpy as np
import pytest

import amatune
from amatune.export import Exported, scoring


def test_batches_of_large_images_are_smaller(
    exported: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = amatune.load(exported)
    expected = [row.score for row in loaded.score_files([pictures])]
    sizes: list[int] = []
    plain = Exported.scores

    def counted(loaded: Exported, images: np.ndarray) -> dict[str, np.ndarray]:
        sizes.append(len(images))
        return plain(loaded, images)

    monkeypatch.setattr(Exported, "scores", counted)
    for values, batches in ((2 * 12 * 12, [2, 2, 1]), (1, [1] * 5), (2**26, [5])):
        monkeypatch.setattr(scoring, "_MOST_VALUES", values)
        sizes.clear()
        found = [row.score for row in loaded.score_files([pictures])]
        assert sizes == batches
        assert found == pytest.approx(expected, rel=1e-4)
