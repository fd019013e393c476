"""Pixel AUROC and PRO against scikit-learn and a calculation threshold by threshold."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from amatune.errors import RequestError
from amatune.results.localisation import (
    FPR_LIMIT,
    Masks,
    PixelCounts,
    PixelFigures,
    has_pixels,
    over_seeds,
    pixel_figures,
    read_pixels,
    write_pixels,
)


def regions_of(mask):
    """Connected sets of pixels, also over corners, by flooding."""
    left, found = {tuple(p) for p in np.argwhere(mask)}, []
    while left:
        region, waiting = set(), [left.pop()]
        while waiting:
            row, column = waiting.pop()
            region.add((row, column))
            around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            waiting += around
        found.append(sorted(region))
    return found


def pro_by_hand(maps, masks):
    """Bergmann et al.'s Eq. 1 and the area, threshold by threshold over all values."""
    regions = [(i, r) for i, mask in enumerate(masks) for r in regions_of(mask)]
    outside = np.concatenate([m[~k] for m, k in zip(maps, masks, strict=True)])
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
        overlaps = [np.mean([maps[i][p] >= threshold for p in region]) for i, region in regions]
        points.append((float((outside >= threshold).mean()), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x1 <= FPR_LIMIT:
            area += (x1 - x0) * (y0 + y1) / 2
        elif x0 < FPR_LIMIT:
            there = y0 + (y1 - y0) * (FPR_LIMIT - x0) / (x1 - x0)
            area += (FPR_LIMIT - x0) * (y0 + there) / 2
    return area / FPR_LIMIT


def a_case(seed, levels):
    """Maps of two normal pictures and three anomalies, values of a few levels that float32's first
    digits tell apart."""
    rng = np.random.default_rng(seed)
    masks = [np.zeros((9, 12), bool) for _ in range(5)]
    masks[2][1:4, 2:5] = masks[2][4, 5] = masks[3][0, 0] = masks[4][6:, 3:9] = True
    masks[2][7, 9:11] = True
    maps = [rng.integers(-levels, levels, m.shape) / 8 + m * rng.random() * 2 for m in masks]
    return [np.round(m * 8).astype(np.float32) / 8 for m in maps], masks


@pytest.mark.parametrize("levels", [3, 20, 200])
def test_figures_are_those_of_scikit_learn_and_of_every_threshold(levels):
    maps, masks = a_case(levels, levels)
    counts = PixelCounts()
    for values, mask in zip(maps, masks, strict=True):
        counts.add(values, mask if mask.any() else None)
    found = counts.figures()
    inside = np.concatenate([mask.ravel() for mask in masks])
    exact = roc_auc_score(inside, np.concatenate([values.ravel() for values in maps]))
    assert found.auroc == pytest.approx(exact, abs=1e-12)
    assert found.pro == pytest.approx(pro_by_hand(maps, masks), abs=1e-12)
    assert (found.masked, found.regions) == (3, 4)


def test_close_values_are_told_apart_to_one_part_in_2048():
    rng = np.random.default_rng(0)
    values, mask = rng.normal(5, 1, (200, 300)), rng.random((200, 300)) < 0.05
    values += mask
    counts = PixelCounts()
    counts.add(values, mask)
    exact = roc_auc_score(mask.ravel(), values.ravel())
    assert counts.figures().auroc == pytest.approx(exact, abs=2e-4)


def test_maps_are_made_a_few_at_a_time_and_of_masked_anomalies_alone(monkeypatch):
    monkeypatch.setattr("amatune.results.localisation.BATCH", 2)
    maps, masks = a_case(1, 50)
    images = np.zeros((6, 1, 9, 12), np.uint8)
    images[:, 0, 0, 0] = range(6)  # names them; the last has no mask
    asked = []

    def maps_of(batch):
        asked.append(batch[:, 0, 0, 0].tolist())
        return np.stack([maps[number] for number in asked[-1]])

    known = Masks.of([*masks[2:], None])
    found = pixel_figures(maps_of, images[:2], images[2:], known)
    assert asked == [[0, 1], [2, 3], [4]]
    assert found.pro == pytest.approx(pro_by_hand(maps, masks), abs=1e-12)
    assert pixel_figures(lambda _: None, images[:2], images[2:], known) is None


def test_empty_masks_tell_nothing():
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    assert Masks.of([None, empty]) is None
    assert Masks.of([]) is None
    assert Masks.of([empty, full, None]).known.tolist() == [False, True, False]


def test_what_cannot_be_measured_is_refused():
    counts = PixelCounts()
    counts.add(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="outside of masks and inside"):
        counts.figures()
    with pytest.raises(ValueError, match="finite"):
        counts.add(np.full((4, 4), np.nan))


def test_figures_are_kept_and_read(tmp_path):
    figures = PixelFigures(auroc=0.9, pro=0.7, masked=3, regions=4)
    other = PixelFigures(auroc=0.8, pro=0.9, masked=3, regions=4)
    summary = over_seeds([figures, other])
    assert (summary.auroc, summary.pro) == (pytest.approx(0.85), pytest.approx(0.8))
    assert summary.auroc_spread == pytest.approx(np.std([0.9, 0.8], ddof=1))
    assert over_seeds([figures, None]) is None
    for one in (figures, None):
        write_pixels(tmp_path / "pixels.json", one)
        assert read_pixels(tmp_path / "pixels.json") == one
    for text in ("[]", "{}", '{"figures": {"auroc": "high"}}', "{"):
        (tmp_path / "pixels.json").write_text(text)
        assert not has_pixels(tmp_path / "pixels.json")
    (tmp_path / "pixels.json").write_text("{}")
    with pytest.raises(RequestError, match="cannot be read as pixel figures"):
        read_pixels(tmp_path / "pixels.json")
