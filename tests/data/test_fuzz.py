"""Archives and pictures damaged in every way: read, or refused by name; nothing else."""

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from amatune.data.archives import find_arrays
from amatune.data.catalogue import open_source
from amatune.data.pictures import inspect_pictures, read_picture
from amatune.errors import DataError

quickly = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# Cut off at a place, then bytes replaced by others; places are shares of the length.
DAMAGE = st.tuples(
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4))),
)


def damaged(content: bytes, damage: tuple[float, list[tuple[float, bytes]]]) -> bytes:
    length, changes = damage
    spoilt = bytearray(content if length > 0.5 else content[: round(2 * length * len(content))])
    for place, new in changes:
        start = int(place * len(spoilt))
        spoilt[start : start + len(new)] = new
    return bytes(spoilt)


def archive(compressed: bool) -> bytes:
    file = io.BytesIO()
    images = np.arange(20 * 64, dtype=np.uint8).reshape(20, 8, 8)
    save = np.savez_compressed if compressed else np.savez
    labels = np.arange(20) % 3
    save(file, train_images=images, test_images=images, train_labels=labels, test_labels=labels)
    return file.getvalue()


ARCHIVES = [archive(compressed=False), archive(compressed=True)]


def use(path: Path) -> None:
    """All that a search and `amatune score` read of an archive."""
    with contextlib.suppress(DataError):
        source = open_source(f"npz:{path}")
        assert len(source.ids("train")) <= 100_000
        source.record({"train": [], "test": []})
        source.read("train", list(source.ids("train"))[:3], (1, 8, 8))
    with contextlib.suppress(DataError):
        for array in find_arrays(path):
            for batch in array.batches((1, 8, 8), 256):
                assert batch.shape[1:] == (1, 8, 8)


@quickly
@given(which=st.integers(0, 1), damage=DAMAGE)
def test_damaged_archives(tmp_path, which, damage):
    path = tmp_path / "x.npz"
    path.write_bytes(damaged(ARCHIVES[which], damage))
    use(path)


HEADERS = st.one_of(
    st.fixed_dictionaries(
        {
            "descr": st.sampled_from(["|u1", "<i8", "<U100000", "|O", "|V9", "x", "", None, 5]),
            "fortran_order": st.sampled_from([True, False, None, "x"]),
            "shape": st.one_of(
                st.lists(st.integers(-3, 10**13), max_size=5).map(tuple),
                st.sampled_from([(10**12, 8, 8), (-1, 8, 8), (20, 8, 8), (True, 8, 8), 7, None]),
            ),
        }
    ).map(repr),
    st.text(max_size=30),
    st.sampled_from(["(" * 5000, "[" * 200, "{'shape': " + "9" * 5000 + "}", "{}", "None"]),
)


@quickly
@given(
    header=HEADERS,
    member=st.sampled_from(["train_images", "test_images", "train_labels"]),
    version=st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)]),
    compressed=st.booleans(),
)
def test_headers_that_declare_anything(tmp_path, header, member, version, compressed):
    path = tmp_path / "x.npz"
    text = header.encode("utf-8", "replace")
    size = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with (
        zipfile.ZipFile(io.BytesIO(ARCHIVES[0])) as whole,
        zipfile.ZipFile(path, "w", kind) as spoilt,
    ):
        for name in whole.namelist():
            content = whole.read(name)
            if name == f"{member}.npy":
                content = b"\x93NUMPY" + bytes(version) + size + text + content[128:]
            spoilt.writestr(name, content)
    use(path)


def test_a_header_that_declares_more_images_than_the_file_holds(tmp_path):
    path = tmp_path / "x.npz"
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8)}
    )
    with zipfile.ZipFile(path, "w") as made:
        for part in ("train", "test"):
            made.writestr(f"{part}_images.npy", file.getvalue() + bytes(6400))
    with pytest.raises(DataError, match="would have 64,000,000,000,000 bytes"):
        open_source(f"npz:{path}")
    with pytest.raises(DataError, match="would have 64,000,000,000,000 bytes"):
        find_arrays(path)


def picture(suffix: str, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, suffix, **options)
    return file.getvalue()


PICTURES = [picture(s) for s in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "WEBP")]
PICTURES.append(picture("TIFF", compression="tiff_lzw"))


@quickly
@given(which=st.integers(0, len(PICTURES) - 1), damage=DAMAGE)
def test_damaged_pictures(tmp_path, which, damage):
    path = tmp_path / "x.png"
    path.write_bytes(damaged(PICTURES[which], damage))
    with contextlib.suppress(DataError):
        assert read_picture(path, (3, 16, 16)).shape == (3, 16, 16)
    sound, unreadable = inspect_pictures([path])
    assert len(sound) + len(unreadable) == 1
