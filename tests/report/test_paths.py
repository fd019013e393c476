"""Paths as anybody may see them."""

import pytest

from amatune.report.paths import shortened, without_folders

KNOWN = {"/home/ada/runs/parts": "parts", "/data/Solar cells": "Solar cells"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("folder:/data/Solar cells: 222 train", "folder:Solar cells: 222 train"),
        ("all are listed in /home/ada/runs/parts/broken.txt", "all are listed in parts/broken.txt"),
        ("/home/ada/runs/parts-2/run.json", "run.json"),  # another run
        ("search --dataset folder:/x/y/good --fix a=1", "search --dataset folder:good --fix a=1"),
        ("--data-dir=/x/y/", "--data-dir=y"),
        ("--ood 'npz:/x/y z/bad ones.npz' --seed 1", "--ood 'npz:bad ones.npz' --seed 1"),
        ("'/x/y z/a b.png' cannot be read", "'a b.png' cannot be read"),
        ('"/x/y z/a b.png" cannot be read', '"a b.png" cannot be read'),
        ("No such file: /x/y.png, /x/z.png; /a/b", "No such file: y.png, z.png; b"),
        ("file:///home/ada/x.png", "x.png"),
        (r"at C:\Users\ada\x.png", "at x.png"),
        (r"at \\server\share\x.png", "at x.png"),
        # What is no absolute path
        ("bad/cell0564.png", "bad/cell0564.png"),
        ("../x/y ./a/b ~/c/d", "../x/y ./a/b ~/c/d"),
        ("1/9 epochs, true/false/none", "1/9 epochs, true/false/none"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("</script> / a", "</script> / a"),
        ("/tmp", "/tmp"),
        ("", ""),
    ],
)
def test_paths_lose_their_folders(text: str, expected: str) -> None:
    assert without_folders(text, KNOWN) == expected


def test_the_longest_known_path_counts() -> None:
    known = {"/a/b": "B", "/a/b/c": "C"}
    assert without_folders("/a/b/c/d /a/b/x", known) == "C/d B/x"


@pytest.mark.parametrize("length", [1, 11, 12, 13, 200])
def test_long_names_keep_both_ends(length: int) -> None:
    name = "".join(chr(ord("a") + i % 26) for i in range(length))
    short = shortened(name, 12)
    assert len(short) == min(length, 12)
    if length > 12:
        begin, end = short.split("…")
        assert name.startswith(begin)
        assert name.endswith(end)
        assert len(begin) >= 4
        assert len(end) >= 7
    else:
        assert short == name
