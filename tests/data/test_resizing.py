"""The rule of resizing: against exact fractions, Pillow, and what it must do at any size."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from amatune.data.resizing import ONE, RULE, resize, resize_by, resize_in_floats, weights


def triangle(before: int, after: int) -> list[list[Fraction]]:
    """Bilinear weights with antialiasing, exactly: rows of the result, columns of the picture."""
    scale = Fraction(before, after)
    rows = []
    for row in range(after):
        centre = (row + Fraction(1, 2)) * scale
        heights = [
            max(Fraction(0), 1 - abs(place + Fraction(1, 2) - centre) / max(scale, Fraction(1)))
            for place in range(before)
        ]
        rows.append([height / sum(heights) for height in heights])
    return rows


@pytest.mark.parametrize(("before", "after"), [(7, 7), (9, 4), (4, 9), (12, 28), (31, 8), (1, 5)])
def test_weights_are_the_triangles(before: int, after: int) -> None:
    found = weights(before, after)
    assert (found == np.round(found)).all()
    assert (found.sum(axis=1) == ONE).all()
    exact = np.array([[float(share * ONE) for share in row] for row in triangle(before, after)])
    assert np.abs(found - exact).max() <= 1  # a difference of two that are rounded


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (40, 25), (3, 70), (90, 5)])
def test_pixels_are_sums_of_whole_numbers(size: tuple[int, int]) -> None:
    height, width = 16, 23
    images = np.random.default_rng(0).integers(0, 256, (2, 3, *size), np.uint8)
    across, down = weights(size[1], width).astype(np.int64), weights(size[0], height).astype(int)
    wide = (images.astype(np.int64) @ across.T + ONE // 2) >> 16
    both = (down @ wide + ONE // 2) >> 16
    assert np.array_equal(resize(images, (height, width)), both)


def test_hardly_anything_differs_from_pillow() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((90, 70), (20, 33), (200, 31), (64, 64)):
        image = rng.integers(0, 256, (height, width), np.uint8)
        expected = Image.fromarray(image)
        for size in ((28, height), (28, 32)):  # Pillow by itself begins with the height of some
            expected = expected.resize(size, Image.Resampling.BILINEAR)
        gap = np.abs(resize(image[None, None], (32, 28))[0, 0].astype(int) - np.asarray(expected))
        assert gap.max() <= 1
        assert (gap > 0).mean() < 0.02


def test_an_even_picture_stays_even_and_its_own_size_itself() -> None:
    for value in (0, 1, 127, 255):
        even = np.full((1, 1, 97, 1031), value, np.uint8)
        for size in ((8, 8), (97, 9), (120, 1031), (200, 2000)):
            assert (resize(even, size) == value).all()
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 9, 11), np.uint8)
    assert np.array_equal(resize(image, (9, 11)), image)


def test_a_strip_is_no_burden_and_none_is_too_much() -> None:
    strip = np.random.default_rng(0).integers(0, 256, (1, 1, 1, 300_000), np.uint8)
    found = resize(strip, (8, 8))
    assert np.abs(found.astype(float) - 127.5).max() < 3  # means of a hundred thousand
    assert resize(strip[:0], (8, 8)).shape == (0, 1, 8, 8)


def test_the_first_rule_is_still_there() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 40, 30), np.uint8)
    first, newest = resize_by(1)(images, (16, 16)), resize_by(RULE)(images, (16, 16))
    assert np.array_equal(first, resize_in_floats(images, (16, 16)))
    assert np.array_equal(newest, resize(images, (16, 16)))
    assert 0 < np.abs(first.astype(int) - newest).max() <= 1
