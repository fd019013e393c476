"""Maps and outlines over pictures."""

import numpy as np

from amatune.results.overlay import outline, overlaid, shares_of


def test_the_highest_place_of_all_pictures_is_red_and_the_lowest_as_it_was():
    maps = np.zeros((2, 3, 4), np.float32) + 5
    maps[0, 1, 2], maps[1, 0, 0] = 9, 7
    images = np.full((2, 1, 3, 4), 100, np.uint8)
    shares = shares_of(maps)
    drawn = overlaid(images, shares)
    assert drawn.shape == (2, 3, 3, 4)
    assert drawn[0, :, 1, 2].tolist() == [193, 40, 40]  # 0.6 of the way to (255, 0, 0)
    assert drawn[1, :, 0, 0].tolist() == [146, 70, 70]  # half of that
    assert (drawn[0, :, 0] == 100).all()
    assert not shares_of(np.ones((1, 2, 2), np.float32)).any()  # a plain map is not above itself


def test_an_outline_surrounds_a_mask_and_leaves_it_free():
    images = np.zeros((2, 3, 8, 8), np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[0:3, 2:5] = True  # touches the upper edge
    outline(images, [mask, None])
    drawn = (images[0] == np.array([0, 255, 255]).reshape(3, 1, 1)).all(axis=0)
    expected = np.zeros((8, 8), bool)
    expected[0:4, 1] = expected[0:4, 5] = expected[3, 1:6] = True  # around it
    expected[0, 2:5] = True  # and where there is nothing around
    np.testing.assert_array_equal(drawn, expected)
    assert not images[1].any()
