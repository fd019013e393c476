"""The cache of features: the same tensors whatever happens to it, and never more than its limit."""

import os
import stat
import time

import pytest
import torch

from amatune.data.feature_cache import FeatureCache
from amatune.errors import DataError


def tensor(seed=0, count=1000):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def files(cache):
    return sorted(cache.folder.glob("*"))


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "cache", 2**20)


def test_what_is_kept_is_recalled_by_its_key_alone(cache):
    assert cache.recall("a") is None
    cache.keep("a", tensor().view(10, 100).T)
    assert torch.equal(cache.recall("a"), tensor().view(10, 100).T)
    assert cache.recall("b") is None
    assert torch.equal(FeatureCache(cache.folder, 2**20).recall("a"), cache.recall("a"))


def test_what_was_used_longest_ago_goes_first(cache):
    cache.limit = 13_000  # three of 4,000 bytes and their headers
    for number in range(3):
        cache.keep(str(number), tensor(number))
    for age, one in enumerate("120"):
        os.utime(cache._file(one), (1e9 + age, 1e9 + age))
    assert cache.recall("1") is not None  # used now
    cache.keep("3", tensor(3))
    assert [cache.recall(one) is not None for one in "0123"] == [True, True, False, True]
    assert sum(file.stat().st_size for file in files(cache)) <= cache.limit


def test_the_folder_is_looked_through_seldom(cache, monkeypatch):
    """Thousands of files take longer to look through than the network that made one."""
    looked = []
    plain = FeatureCache._files
    monkeypatch.setattr(FeatureCache, "_files", lambda self: looked.append(1) or plain(self))
    cache.limit = 2**22  # of which a 64th has room for some 15 of 4,100 bytes
    for number in range(100):
        cache.keep(str(number), tensor(number))
    assert len(files(cache)) == 100
    assert 100 // 16 <= len(looked) <= 100 // 14
    cache.limit = 2**17
    cache._room = 0
    for number in range(100, 120):
        cache.keep(str(number), tensor(number))
        assert sum(file.stat().st_size for file in files(cache)) <= cache.limit


def test_nothing_larger_than_half_of_the_limit_is_kept(cache):
    cache.limit = 6000
    cache.keep("a", tensor())
    assert cache.recall("a") is None


@pytest.mark.parametrize("damage", [b"", b"\0" * 50, None])
def test_a_damaged_file_is_removed(cache, damage):
    cache.keep("a", tensor())
    (file,) = files(cache)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # safetensors has no checksum of its own
    file.write_bytes(content if damage is None else damage)
    assert cache.recall("a") is None
    assert files(cache) == []
    cache.keep("a", tensor())
    assert torch.equal(cache.recall("a"), tensor())


def test_a_folder_that_cannot_be_written_is_told_and_harms_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = FeatureCache(tmp_path / "file", 2**20)
    cache.keep("a", tensor())
    assert "features are not kept in" in cache.problem
    assert cache.recall("a") is None


def test_the_users_limit_and_folder_are_those_of_pictures(own_picture_cache, monkeypatch):
    monkeypatch.setenv("AMATUNE_CACHE_BYTES", "0")
    cache = FeatureCache.default()
    assert (cache.folder, cache.limit) == (own_picture_cache, 0)
    cache.keep("a", tensor())
    assert not own_picture_cache.exists()
    monkeypatch.setenv("AMATUNE_CACHE_BYTES", "much")
    with pytest.raises(DataError, match="AMATUNE_CACHE_BYTES must be a whole number"):
        FeatureCache.default()


def test_clearing_frees_and_leaves_what_is_not_its_own(cache):
    cache.keep("a", tensor())
    (cache.folder / "pictures-1.sqlite").write_bytes(b"other")
    size = cache._file("a").stat().st_size
    assert cache.clear() == size
    assert [file.name for file in files(cache)] == ["pictures-1.sqlite"]


def test_files_are_readable_by_others(cache):
    cache.keep("a", tensor())
    assert stat.S_IMODE(files(cache)[0].stat().st_mode) == 0o644


def test_what_killed_processes_left_goes_when_it_is_old_or_all_is_cleared(cache):
    cache.keep("a", tensor())
    place = cache._file("a")
    old, new = (place.with_name(f".{place.name}-{end}") for end in ("old", "new"))
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 4000,) * 2)
    cache._room = 0
    cache.keep("b", tensor(1))
    assert not old.exists()
    assert new.exists()  # another process may be writing it
    size = sum(file.stat().st_size for file in files(cache))
    assert cache.clear() == size
    assert files(cache) == []


def test_a_cache_that_is_cleared_while_it_is_written_stays_in_use(cache, monkeypatch):
    plain = os.replace

    def clear_first(*names):
        cache.clear()
        plain(*names)

    monkeypatch.setattr(os, "replace", clear_first)
    cache.keep("a", tensor())
    assert cache.problem is None
    monkeypatch.setattr(os, "replace", plain)
    cache.keep("a", tensor())
    assert torch.equal(cache.recall("a"), tensor())
