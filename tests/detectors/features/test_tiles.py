"""Tiles of large pictures: where they lie, and scores and maps against those of each tile alone."""

import itertools

import numpy as np
import pytest
import torch

from amatune.data.feature_cache import FeatureCache
from amatune.detectors.features import Features, FeaturesConfig, detector
from amatune.detectors.features.patches import normalised
from amatune.detectors.features.tiles import Tiling, starts
from amatune.errors import ConfigError
from amatune.export.onnx import onnx_bytes
from amatune.stored import StoredDetector

SHAPE = (1, 48, 80)
TILE, OVERLAP = 32, 8
ROWS, COLUMNS = (0, 16), (0, 24, 48)  # by hand: 2 tiles cover 48 pixels, 3 cover 80


def config(**settings):
    given = {"backbone": "random", "resolution": 64, "model": "coreset", "coreset": 0.05}
    return FeaturesConfig(**{**given, "tile": TILE, "tile_overlap": OVERLAP, **settings})


def images(count=6, seed=0, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def trained(**settings):
    made = Features(config(**settings), SHAPE)
    made.train_epoch(images())
    made.calibrate(images())
    return made


def of_a_tile(made):
    """The same detector, for tiles as pictures of their own."""
    settings = {**made.config.to_dict(), "tile": None}
    alone = Features(FeaturesConfig.from_dict(settings), (1, TILE, TILE))
    alone.load_inference_state(made.inference_state())
    return alone


def cut(pictures):
    return [pictures[:, :, y : y + TILE, x : x + TILE] for y in ROWS for x in COLUMNS]


@pytest.mark.parametrize(("side", "tile", "overlap"), [(100, 32, 0), (100, 32, 8), (1024, 256, 32)])
def test_tiles_cover_a_side_with_as_few_as_overlap_enough(side, tile, overlap):
    found = starts(side, tile, overlap)
    assert found[0] == 0
    assert found[-1] == side - tile
    gaps = [after - before for before, after in itertools.pairwise(found)]
    assert max(gaps) <= tile - overlap
    assert max(gaps) - min(gaps) <= 1
    assert (len(found) - 2) * (tile - overlap) + tile < side, "one fewer would not reach"


def test_a_side_no_longer_than_a_tile_is_one():
    assert starts(30, 32, 8) == [0]
    assert Tiling((30, 80), 32, 8, 4).tile == (30, 32)


@pytest.mark.parametrize(
    "settings", [{}, {"model": "gaussians", "dims": 6, "layers": "2"}, {"model": "mean"}]
)
def test_a_picture_scores_the_maximum_over_its_tiles(settings):
    made, pictures = trained(**settings), images(3, seed=1)
    alone = of_a_tile(made)
    for name, values in made.scores(pictures).items():
        each = torch.stack([alone.scores(tile)[name] for tile in cut(pictures)])
        torch.testing.assert_close(values, each.amax(dim=0))
        assert each.argmax(dim=0).unique().numel() > 1, "they are not all of one tile"


def test_contrast_is_that_of_the_whole_picture():
    """A tile with next to nothing in it would be as loud as any other."""
    pictures = images()
    pictures[:, :, :, :40] = 128
    pictures[:, :, 8, 8] = 129
    made = Features(config(contrast_normalization=True), SHAPE)
    seen = pictures.float() / 127.5 - 1
    tiles = made._tiling()(seen)[:: len(ROWS) * len(COLUMNS)]
    torch.testing.assert_close(tiles, normalised(seen)[:, :, :TILE, :TILE])
    assert float(tiles.flatten(1).std(dim=1).max()) < 0.01
    plain = Features(config(), SHAPE)
    torch.testing.assert_close(made._sight()(tiles)[0], plain._sight()(tiles)[0])


def test_a_map_is_the_mean_of_those_of_the_tiles():
    made, pictures = trained(), images(2, seed=1)
    alone = of_a_tile(made)
    total, count = np.zeros((2, 48, 80)), np.zeros((48, 80))
    for (y, x), tile in zip(itertools.product(ROWS, COLUMNS), cut(pictures), strict=True):
        total[:, y : y + TILE, x : x + TILE] += alone.pixel_map(tile).numpy()
        count[y : y + TILE, x : x + TILE] += 1
    assert sorted(set(count.ravel())) == [1, 2, 4]
    np.testing.assert_allclose(made.pixel_map(pictures).numpy(), total / count, rtol=1e-4)


def test_few_tiles_at_a_time_give_the_same(monkeypatch):
    pictures = images(3, seed=1)
    made = trained()
    whole, maps = made.scores(pictures), made.pixel_map(pictures)
    monkeypatch.setattr(detector, "PIXELS_AT_ONCE", 2 * 64 * 64)
    assert made.at_most(256) == 1
    again = trained()
    torch.testing.assert_close(again.memory, made.memory)
    torch.testing.assert_close(again.scores(pictures), whole)
    torch.testing.assert_close(again.pixel_map(pictures), maps)


def test_more_tiles_than_patches_are_sampled(monkeypatch):
    monkeypatch.setattr(detector, "MOST_PATCHES", 20)
    made = trained(coreset=1.0)
    assert made.memory.shape[0] == 20


def test_what_the_cache_has_no_room_for_is_not_kept(tmp_path):
    for limit, kept in ((2**30, True), (2**16, False)):
        made = Features(config(), SHAPE)
        made.store = FeatureCache(tmp_path, limit)
        made.train_epoch(images())
        assert bool(list(tmp_path.iterdir())) == kept
        made.store.clear()


def test_tiles_as_large_as_the_pictures_are_refused():
    with pytest.raises(ConfigError, match=r"tiles of 96 pixels .* brought to 80 x 48: choose"):
        Features(config(tile=96), SHAPE)
    assert Features(config(tile=64), SHAPE).config.view(SHAPE) == (1, 48, 64)


def test_a_stored_detector_has_its_tiles():
    made, pictures = trained(), images(3, seed=1)
    stored = StoredDetector.of(made)
    assert stored.config["tile"] == TILE
    assert torch.equal(stored.build().score(pictures), made.score(pictures))


def test_onnx_takes_whole_pictures():
    onnxruntime = pytest.importorskip("onnxruntime")
    made, pictures = trained(), images(3, seed=1)
    session = onnxruntime.InferenceSession(onnx_bytes(made))
    found = session.run(None, {"pictures": pictures.numpy().transpose(0, 2, 3, 1)})
    wanted = [*made.scores(pictures).values(), made.pixel_map(pictures)]
    for values, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(values, expected.numpy(), rtol=1e-4)
