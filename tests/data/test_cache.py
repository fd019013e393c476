"""The cache of decoded pictures: right pixels whatever happens to it, and nothing decoded twice."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures_on_disk import write_pictures
from PIL import Image

from amatune.data import cache as caching
from amatune.data import pictures
from amatune.data.cache import PictureCache
from amatune.data.pictures import find_pictures, read_picture, reporting_to, without_rows
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.errors import DataError

SHAPE = (1, 16, 16)


def make_old(folder):
    """Files changed a moment ago are not remembered, so that tests have to age theirs."""
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))


@pytest.fixture
def files(tmp_path):
    """30 pictures."""
    folder = write_pictures(tmp_path / "pictures", 30)
    make_old(folder)
    return find_pictures([folder])


@pytest.fixture
def cache(tmp_path):
    return PictureCache(tmp_path / "cache")


@pytest.fixture
def worked(monkeypatch):
    """The files that were decoded, and those that were inspected."""
    decoded, inspected = [], []
    decode, inspect = pictures._decode, pictures._inspect
    monkeypatch.setattr(
        pictures, "_decode", lambda path, *how: decoded.append(path) or decode(path, *how)
    )
    monkeypatch.setattr(pictures, "_inspect", lambda path: inspected.append(path) or inspect(path))
    return decoded, inspected


def read(cache, files, shape=SHAPE):
    sound, unreadable = cache.inspect(files)
    assert not unreadable
    pixels, unreadable = cache.read_pictures(files, [sound[f].digest for f in files], shape)
    assert not unreadable
    return pixels


def truth(files, shape=SHAPE):
    return np.stack([read_picture(file, shape) for file in files])


def kept(cache):
    """The digests of the pictures in the cache."""
    with_key = sqlite3.connect(cache.file)
    try:
        return {key.split()[0] for (key,) in with_key.execute("SELECT key FROM pixels")}
    finally:
        with_key.close()


# What is kept


def test_the_second_time_no_file_is_opened(cache, files, worked):
    decoded, inspected = worked
    first = read(cache, files)
    assert sorted(decoded) == sorted(inspected) == files  # each once
    decoded.clear(), inspected.clear()
    again = read(PictureCache(cache.file.parent), files[::-1])
    assert decoded == inspected == []
    assert (again[::-1] == first).all()
    assert (first == truth(files)).all()
    assert cache.problem is None


def test_a_moved_picture_is_found_and_a_copy_fills_every_place(cache, files, worked):
    decoded, _ = worked
    read(cache, files)
    decoded.clear()
    moved = files[3].rename(files[3].with_name("moved.png"))
    files[7].with_name("copy.png").write_bytes(files[7].read_bytes())
    asked = [moved, files[7], files[7].with_name("copy.png")]
    pixels = read(cache, asked)
    assert decoded == []
    assert (pixels == truth(asked)).all()


def test_other_settings_are_other_entries(cache, files, worked, monkeypatch):
    decoded, inspected = worked
    read(cache, files)
    for shape in ((3, 16, 16), (1, 16, 8)):
        decoded.clear()
        assert (read(cache, files, shape) == truth(files, shape)).all()
        assert set(decoded) == set(files)
    decoded.clear(), inspected.clear()
    monkeypatch.setattr(caching, "_RULE", "the next version")
    read(cache, files)
    assert sorted(decoded) == sorted(inspected) == files


def test_an_altered_file_is_noticed_even_under_its_old_times(cache, files):
    read(cache, files)
    status = files[0].stat()
    content = bytearray(files[0].with_suffix(".png").read_bytes())
    Image.new("L", (20, 20), 9).save(files[0])
    altered = files[0].read_bytes()
    files[0].write_bytes(altered.ljust(len(content), b"\0"))  # after the end, which PNG allows
    os.utime(files[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert files[0].stat().st_size == status.st_size
    assert (read(cache, files) == truth(files)).all()


def test_a_file_changed_a_moment_ago_is_not_remembered(cache, files, worked):
    _, inspected = worked
    os.utime(files[0])
    read(cache, files)
    inspected.clear()
    read(cache, files)
    assert inspected == [files[0]]


def test_a_file_that_changes_between_hash_and_decoding_spoils_nothing(cache, files):
    sound, _ = cache.inspect(files)
    old = truth(files)
    digests = [sound[file].digest for file in files]
    content = files[0].read_bytes()
    files[0].write_bytes(files[1].read_bytes())
    cache.read_pictures(files, digests, SHAPE)
    files[0].write_bytes(content)
    assert (read(cache, files) == old).all()


@settings(max_examples=40)
@given(st.integers(0, 12), st.sets(st.integers(0, 11)))
def test_rows_are_closed_up(count, gone):
    gone = {row for row in gone if row < count}
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None]
    expected = [row for row in range(count) if row not in gone]
    found = without_rows(pixels, gone)
    assert found[:, 0, 0, 0].tolist() == expected
    assert count == 0 or np.shares_memory(found, pixels) or not expected


def test_broken_files_leave_their_rows_and_are_not_kept(cache, files):
    for row in (0, 7, 29):
        files[row].write_bytes(files[row].read_bytes()[:200])
    sound, _ = cache.inspect(files)
    digests = [sound[file].digest for file in files]
    for _ in range(2):
        pixels, unreadable = cache.read_pictures(files, digests, SHAPE)
        assert list(unreadable) == [files[0], files[7], files[29]]
        assert (pixels == truth([file for file in files if file not in unreadable])).all()
    assert not {digests[row] for row in (0, 7, 29)} & kept(cache)


def test_test_pictures_are_not_kept_before_they_are_asked_for(tmp_path, own_picture_cache, worked):
    write_pictures(tmp_path / "good", 150)
    write_pictures(tmp_path / "bad", 100)
    request = ProblemRequest(dataset=f"folder:{tmp_path}", normal_classes=("good",))
    made = make_problem(request)
    made.to_dict()
    source = next(iter(made._sources.values()))
    test = {
        source._inspected[one].digest
        for name, split in made.splits.by_name().items()
        for selection in split
        for one in selection.ids
        if name.startswith("test")
    }
    assert test
    default = PictureCache.default()
    assert default.file.parent == own_picture_cache
    assert not test & kept(default)
    made.test_images()
    assert test <= kept(default)
    # With the test part kept, a search still does not look it up.
    decoded, _ = worked
    decoded.clear()
    looked_up = []
    load = PictureCache._load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            PictureCache,
            "_load",
            lambda self, db, keys, px: (
                looked_up.extend(key.split()[0] for key in keys) or load(self, db, keys, px)
            ),
        )
        make_problem(request)
    assert looked_up
    assert not test & set(looked_up)
    assert decoded == []


# How much is kept


def test_what_was_used_longest_ago_goes_first(tmp_path, files, monkeypatch):
    shape = (3, 64, 64)  # 12 KiB
    now = 1_000_000.0
    monkeypatch.setattr(caching.time, "time", lambda: now)
    cache = PictureCache(tmp_path / "cache", limit=500_000)
    for start in (0, 10, 20):
        now += 10
        read(cache, files[start : start + 10], shape)
        now += 10
        read(cache, files[:10], shape)  # these stay in use
        assert cache.file.stat().st_size <= cache.limit + 100_000  # empty tables
    digests = [cache.inspect([file])[0][file].digest for file in files]
    assert set(digests[:10]) <= kept(cache)
    assert set(digests[20:]) <= kept(cache)
    assert not set(digests[10:20]) <= kept(cache)
    assert cache.problem is None


@pytest.mark.parametrize("limit", [0, 1000])
def test_without_room_nothing_is_kept(tmp_path, files, limit):
    cache = PictureCache(tmp_path / "cache", limit)
    assert (read(cache, files) == truth(files)).all()
    assert cache.problem is None
    assert cache.file.exists() == bool(limit)
    assert not limit or kept(cache) == set()


def test_the_default_cache_is_the_environments(monkeypatch, tmp_path):
    monkeypatch.setenv("AMATUNE_CACHE_BYTES", "12345")
    assert PictureCache.default().limit == 12345
    monkeypatch.delenv("AMATUNE_CACHE_BYTES")
    monkeypatch.delenv("AMATUNE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    default = PictureCache.default()
    assert default.file.parent == tmp_path / ".cache" / "amatune" / "pictures"
    assert default.limit == 10 * 2**30
    monkeypatch.setenv("AMATUNE_CACHE_BYTES", "10G")
    with pytest.raises(DataError, match="must be a whole number of bytes, got '10G'; 0 turns"):
        PictureCache.default()


def test_clearing_tells_what_it_freed_and_leaves_other_files(cache, files):
    assert cache.clear() == 0
    read(cache, files)
    (cache.file.parent / "mine.txt").write_text("x")
    size = cache.file.stat().st_size
    assert cache.clear() == size
    assert os.listdir(cache.file.parent) == ["mine.txt"]
    assert (read(cache, files) == truth(files)).all()


# What goes wrong


def flip(file, start, end):
    content = bytearray(file.read_bytes())
    content[start:end] = (byte ^ 0xFF for byte in content[start:end])
    file.write_bytes(content)


def flip_pixel(file):
    """Damage that SQLite itself does not notice."""
    database = sqlite3.connect(file)
    with database:
        database.execute("UPDATE pixels SET bytes = zeroblob(length(bytes)) WHERE rowid = 5")
    database.close()


def flip_look(file):
    database = sqlite3.connect(file)
    with database:
        database.execute("UPDATE looks SET found = replace(found, 'a', 'b')")
    database.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"no database at all, however long it may be" * 100),
        lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
        lambda file: flip(file, 3, 4),
        lambda file: flip(file, caching._PAGE, 2 * caching._PAGE),
        flip_pixel,
        flip_look,
    ],
)
def test_a_damaged_cache_is_filled_anew(cache, files, worked, damage):
    decoded, _ = worked
    read(cache, files)
    damage(cache.file)
    assert (read(cache, files) == truth(files)).all()
    assert cache.problem is None
    decoded.clear()
    assert (read(cache, files) == read(cache, files)).all()
    assert decoded == []


def no_folder(_monkeypatch, folder):
    folder.write_text("a file in its place")


def no_space(monkeypatch, folder):
    def refuse(path, *_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert not folder.exists()


@pytest.mark.parametrize("prevent", [no_folder, no_space])
def test_without_a_folder_pictures_are_decoded_and_it_is_said_once(
    tmp_path, own_picture_cache, monkeypatch, prevent
):
    for name, count in (("good", 150), ("bad", 100), ("worse", 100)):
        write_pictures(tmp_path / name, count)
    prevent(monkeypatch, own_picture_cache)
    good, *others = (f"folder:{tmp_path / name}" for name in ("good", "bad", "worse"))
    made = make_problem(ProblemRequest(dataset=good, ood=tuple(others)))
    made.test_images()
    (warning,) = made.warnings
    assert f"the cache of decoded pictures in {own_picture_cache} is not used" in warning
    assert "set AMATUNE_CACHE" in warning
    assert not own_picture_cache.is_dir()


CHILD = """
import resource, signal, sys, time
from pathlib import Path
import numpy as np
from amatune.data import cache as caching
from amatune.data.cache import PictureCache
from amatune.data.pictures import find_pictures

what, folder, pictures = sys.argv[1:]
cache = PictureCache(Path(folder))
if what == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
elif what == "killed":
    checksum, calls = caching._checksum, []
    def slow(*parts):
        calls.append(parts)
        if len(calls) == 45:  # 30 looks, then pixels
            print("writing", flush=True)
            time.sleep(100)
        return checksum(*parts)
    caching._checksum = slow
files = find_pictures([pictures])
print("ready", flush=True)
sys.stdin.readline()
for shape in ((3, 64, 64), (1, 50, 50), (3, 40, 70)):
    sound, _ = cache.inspect(files)
    digests = [sound[file].digest for file in files]
    pixels, _ = cache.read_pictures(files, digests, shape)
print(int(pixels.sum(dtype=np.int64)), cache.problem, flush=True)
"""


def child(what, cache, files):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, what, str(cache.file.parent), str(files[0].parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(caching.__file__).parents[2])},
    )


def go(process):
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_disk_that_fills_up_costs_the_cache_alone(cache, files):
    with child("full", cache, files) as process:
        go(process)
        total, problem = process.stdout.read().split(" ", 1)
    assert int(total) == truth(files, (3, 40, 70)).sum(dtype=np.int64)
    assert "is not used" in problem
    assert [file.name for file in cache.file.parent.iterdir()] == [cache.file.name]
    assert (read(cache, files, (3, 64, 64)) == truth(files, (3, 64, 64))).all()
    assert cache.problem is None


def test_two_processes_fill_it_at_once(cache, files, worked):
    processes = [child("both", cache, files) for _ in range(2)]
    for process in processes:
        go(process)
    expected = f"{truth(files, (3, 40, 70)).sum(dtype=np.int64)} None\n"
    for process in processes:
        with process:
            assert process.stdout.read() == expected
    decoded, _ = worked
    for shape in ((3, 64, 64), (1, 50, 50), (3, 40, 70)):
        decoded.clear()
        pixels = read(cache, files, shape)
        assert decoded == []
        assert (pixels == truth(files, shape)).all()


def test_a_killed_writer_leaves_nothing_half_written(cache, files):
    with child("killed", cache, files) as process:
        go(process)
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert kept(cache) == set()
    assert (read(cache, files, (3, 64, 64)) == truth(files, (3, 64, 64))).all()
    assert cache.problem is None
    assert len(kept(cache)) == len(files)


# Who watches


def test_progress_is_told_to_a_listener_alone(cache, files):
    told = []
    read(cache, files[:10])
    with reporting_to(lambda *facts: told.append(facts)):
        read(cache, files)
    assert told == [
        (f"{what} pictures", done, 20)
        for what in ("inspecting", "decoding")
        for done in range(1, 21)
    ]
    read(cache, files, (1, 8, 8))
    assert len(told) == 40


def test_another_decoding_is_another_entry(cache, files, worked, monkeypatch):
    assert f"decoding {pictures.DECODING}" in caching._RULE
    read(cache, files)
    monkeypatch.setattr(caching, "_RULE", caching._RULE.replace("decoding", "another decoding"))
    read(cache, files)
    decoded, _ = worked
    assert len(decoded) == 2 * len(files)


def test_clearing_does_not_mind_what_another_process_removed(tmp_path):
    (tmp_path / "there").write_bytes(b"1234")
    assert caching.remove_files([tmp_path / "gone", tmp_path / "there"], tmp_path) == 4
    assert os.listdir(tmp_path) == []
