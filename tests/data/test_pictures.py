"""Decoding any picture to the detector's shape, and finding pictures on disk."""

import hashlib
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from amatune.data import pictures
from amatune.data.pictures import (
    Header,
    Inspected,
    find_pictures,
    fit,
    inspect_pictures,
    native_shape,
    read_picture,
    read_pictures,
)
from amatune.errors import DataError

ORIENTATION = 0x0112


def save(path, mode, size=(12, 10), value=None, **options):
    Image.new(mode, size, value).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("mode", "suffix", "value", "grey", "colour"),
    [
        ("1", "png", 1, 255, (255, 255, 255)),
        ("L", "png", 77, 77, (77, 77, 77)),
        ("L", "jpg", 77, 77, (77, 77, 77)),
        ("LA", "png", (77, 255), 77, (77, 77, 77)),
        ("LA", "png", (77, 0), 255, (255, 255, 255)),  # transparent: the white behind
        ("RGB", "png", (255, 0, 0), 76, (255, 0, 0)),  # ITU-R 601: .299 of 255
        ("RGB", "bmp", (0, 255, 0), 150, (0, 255, 0)),
        ("RGB", "ppm", (0, 0, 255), 29, (0, 0, 255)),
        ("RGB", "webp", (255, 255, 255), 255, (255, 255, 255)),
        ("RGBA", "png", (255, 0, 0, 255), 76, (255, 0, 0)),
        ("RGBA", "png", (9, 9, 9, 0), 255, (255, 255, 255)),
        ("RGBA", "png", (0, 0, 0, 51), 204, (204, 204, 204)),
        ("I;16", "png", 257 * 100, 100, (100, 100, 100)),
        ("I;16", "tif", 65535, 255, (255, 255, 255)),
        ("I", "tif", 257 * 3, 3, (3, 3, 3)),
        ("CMYK", "jpg", (0, 0, 0, 0), 255, (255, 255, 255)),
        ("CMYK", "tif", (0, 255, 255, 0), 76, (255, 0, 0)),
        ("YCbCr", "jpg", (128, 128, 128), 128, (128, 128, 128)),
    ],
)
def test_modes(tmp_path, mode, suffix, value, grey, colour):
    path = save(tmp_path / f"picture.{suffix}", mode, value=value)
    as_grey = read_picture(path, (1, 10, 12))
    as_colour = read_picture(path, (3, 10, 12))
    assert as_grey.dtype == as_colour.dtype == np.uint8
    assert as_grey.shape == (1, 10, 12)
    assert as_colour.shape == (3, 10, 12)
    assert (as_grey == grey).all()
    assert (as_colour == np.array(colour, np.uint8)[:, None, None]).all()


def write_tiff(path, pixels, bits, photometric):
    """Grey (H, W) as an uncompressed TIFF; Pillow writes neither 12 bits nor white as 0."""
    height, width = pixels.shape
    if bits == 12:
        rows = ("".join(f"{value:012b}" for value in row) for row in pixels.tolist())
        packed = b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)
    else:
        packed = pixels.astype("<u2").tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1}
    tags |= {278: height, 279: len(packed)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    path.write_bytes(
        struct.pack("<2sHIH", b"II", 42, 8, len(tags))
        + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        + struct.pack("<I", 0)
        + packed
    )


@pytest.mark.parametrize(
    ("bits", "photometric", "values", "levels"),
    [
        (12, 1, (0, 4095, 2048, 803), (0, 255, 128, 50)),
        (16, 1, (0, 65535, 257 * 3, 4095), (0, 255, 3, 16)),
        (16, 0, (0, 65535, 257 * 3, 65535 - 257), (255, 0, 252, 1)),
    ],
)
def test_deep_grey_of_tiff_keeps_its_range(tmp_path, bits, photometric, values, levels):
    pixels = np.array([values] * 8).repeat(2, axis=1)
    write_tiff(tmp_path / "deep.tif", pixels, bits, photometric)
    found = read_picture(tmp_path / "deep.tif")
    assert found[0, 0, ::2].tolist() == list(levels)


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette(tmp_path, suffix):
    picture = Image.new("P", (12, 10), 1)
    picture.putpalette([0, 0, 0, 0, 200, 0])
    picture.save(tmp_path / f"opaque.{suffix}")
    picture.save(tmp_path / f"clear.{suffix}", transparency=1)
    opaque = read_picture(tmp_path / f"opaque.{suffix}", (3, 10, 12))
    assert opaque[:, 0, 0].tolist() == [0, 200, 0]
    clear = read_picture(tmp_path / f"clear.{suffix}", (3, 10, 12))
    assert clear[:, 0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_exif_orientation_turns_pictures_upright(tmp_path, orientation, suffix):
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 255  # the top left corner
    # What a camera held that way stores, so that the tag's turn restores `upright`.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"picture.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    rgb = Image.fromarray(np.ascontiguousarray(stored)).convert("RGB")
    rgb.save(path, exif=exif, **options)

    found = read_picture(path, (1, 16, 24))[0].astype(int)

    assert np.abs(found - upright).max() < 40  # JPEG rings at the edge
    sound, _ = inspect_pictures([path])
    assert sound[path].header == Header(colour=True, height=16, width=24)


def test_first_frame_of_several(tmp_path):
    frames = [Image.new("L", (10, 10), value) for value in (10, 200)]
    for suffix in ("gif", "tif"):
        frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:])
        assert (read_picture(tmp_path / f"x.{suffix}", (1, 10, 10)) == 10).all()


def test_resizing_is_antialiased_like_pillows():
    rng = np.random.default_rng(0)
    for size in ((90, 70), (20, 33)):
        image = rng.integers(0, 256, size, np.uint8)
        expected = Image.fromarray(image).resize((28, 32), Image.Resampling.BILINEAR)
        found = fit(image[None, None], (1, 32, 28))[0, 0].astype(int)
        assert np.abs(found - np.asarray(expected)).max() <= 1
    # Fine stripes become an even grey; without antialiasing they would alias to black and white.
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))[None, None]
    small = fit(stripes, (1, 8, 8)).astype(int)
    assert np.abs(small[..., 1:-1] - 127.5).max() < 10


def test_luma_is_pillows_and_fitting_does_not_depend_on_the_batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (515, 3, 9, 9), np.uint8)
    expected = np.asarray(Image.fromarray(images[0].transpose(1, 2, 0)).convert("L"))
    assert (fit(images, (1, 9, 9))[0, 0] == expected).all()
    together = fit(images, (1, 12, 8))
    assert (together[-2:] == fit(images[-2:], (1, 12, 8))).all()
    assert (fit(images[:2], (3, 9, 9)) == images[:2]).all()


def test_arrays_and_files_meet_the_same_rule(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "x.png")
    for shape in ((1, 28, 28), (3, 32, 20), (3, 40, 50)):
        from_array = fit(np.ascontiguousarray(image.transpose(2, 0, 1)[None]), shape)[0]
        assert (read_picture(tmp_path / "x.png", shape) == from_array).all()


@pytest.mark.parametrize(
    ("headers", "shape"),
    [
        ([Header(False, 28, 28)] * 3, (1, 28, 28)),
        ([Header(False, 64, 40)] * 3, (1, 64, 40)),
        ([Header(False, 65, 40)] * 3, (1, 64, 64)),
        ([Header(True, 65, 40)] * 3, (3, 32, 32)),
        ([Header(False, 7, 40)] * 3, (1, 32, 32)),
        ([Header(False, 30, 40)] * 3 + [Header(False, 400, 300)] * 2, (1, 32, 32)),
        ([Header(False, 30, 40)] * 2 + [Header(False, 400, 300)] * 3, (1, 64, 64)),
        ([Header(False, 28, 28), Header(True, 28, 28)], (3, 28, 28)),
        ([Header(False, 28, 28), Header(False, 28, 29)], (1, 32, 32)),
        ([], (1, 32, 32)),
    ],
)
def test_shape_decided_by_a_folder(headers, shape):
    assert native_shape(headers) == shape


@pytest.mark.parametrize(
    ("headers", "shape"),
    [
        ([Header(True, 200, 256)] * 3, (3, 200, 256)),
        ([Header(True, 300, 256)] * 3, (3, 256, 256)),
        ([Header(False, 60, 128), Header(False, 90, 128), Header(False, 9, 500)], (1, 128, 128)),
        ([Header(False, 28, 28), Header(False, 28, 29)], (1, 32, 32)),
        ([], (1, 32, 32)),
    ],
)
def test_a_method_may_make_use_of_larger_pictures(headers, shape):
    assert native_shape(headers, 256) == shape


def bomb(path):
    """A PNG whose header claims 400 million pixels."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b""))


def truncated(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def flipped(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(path)
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 0xFF
    path.write_bytes(damaged)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text("not a picture"), "not a picture"),
        (lambda path: path.write_bytes(b""), "not a picture"),
        (lambda _: None, "no such file"),
        (lambda path: path.mkdir(), "it is not a regular file"),
        (os.mkfifo, "it is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is not a regular file"),
        (truncated, "truncated"),
        (flipped, "broken"),
        (bomb, "pixels"),
        (lambda path: Image.new("F", (9, 9)).save(path, "TIFF"), "floating-point"),
        (lambda path: Image.new("I", (9, 9), 70_000).save(path, "TIFF"), "32-bit"),
        (lambda path: Image.new("I", (9, 9), -1).save(path, "TIFF"), "32-bit"),
        (lambda path: Image.new("RGB", (9, 9)).save(path, "ICO"), "not one of"),
    ],
)
def test_broken_and_unsupported_files_are_named(tmp_path, make, reason):
    path = tmp_path / "broken.png"
    make(path)
    with pytest.raises(DataError, match=reason) as caught:
        read_picture(path, (1, 8, 8))
    assert str(path) in str(caught.value)
    save(tmp_path / "sound.png", "L")
    pixels, unreadable = read_pictures([path, tmp_path / "sound.png"], (1, 8, 8))
    assert pixels.shape == (1, 1, 8, 8)
    assert list(unreadable) == [path]


def test_a_bomb_below_pillows_error_and_above_our_bound(tmp_path, monkeypatch):
    path = save(tmp_path / "x.png", "L", (100, 100))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 9_999)
    with pytest.raises(DataError, match="more than 9,999 pixels"):
        read_picture(path, (1, 8, 8))
    _, unreadable = inspect_pictures([path])
    assert list(unreadable) == [path]


def test_headers_decode_no_pixels(tmp_path):
    truncated(tmp_path / "x.png")
    path = tmp_path / "x.png"
    sound, unreadable = inspect_pictures([path])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert sound == {path: Inspected(digest, Header(False, 64, 64))}
    assert not unreadable


def test_reading_many_keeps_the_order_and_the_warning_filters(tmp_path):
    paths = [save(tmp_path / f"{i}.png", "L", value=i) for i in range(40)]
    before = list(warnings.filters)
    pixels, unreadable = read_pictures(paths, (1, 10, 12))
    assert pixels[:, 0, 0, 0].tolist() == list(range(40))
    assert not unreadable
    assert warnings.filters == before
    assert read_pictures([], (1, 8, 9))[0].shape == (0, 1, 8, 9)


def test_finding_pictures(tmp_path):
    for name in ("b.png", "a.JPG", "deep/er/c.tiff", "notes.txt", ".hidden.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = [tmp_path / name for name in ("a.JPG", "b.png", "deep/er/c.tiff")]
    assert find_pictures([tmp_path]) == expected
    assert find_pictures([str(tmp_path), tmp_path / "b.png", tmp_path / "deep"]) == expected


def test_linked_folders_are_followed_once(tmp_path):
    save(tmp_path / "x.png", "L")
    inside = tmp_path / "pictures"
    inside.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    save(elsewhere / "y.png", "L")
    os.symlink(elsewhere, inside / "link")
    os.symlink(inside, inside / "circle")
    assert find_pictures([inside]) == [inside / "link" / "y.png"]


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        ([], "missing", "no such file or folder"),
        ([], ".", r"no pictures in .*accepted: \.bmp"),
        (["a.txt"], ".", r"no pictures in .*\.webp"),
        (["a.txt"], "a.txt", r"a\.txt is not a picture; accepted"),
    ],
)
def test_nothing_to_find(tmp_path, names, asked, message):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        find_pictures([tmp_path / asked])


def test_no_paths_at_all():
    with pytest.raises(DataError, match="empty list"):
        find_pictures([])
