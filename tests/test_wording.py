"""Words for values: one form for each, and nothing that commands a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amatune import wording


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (0.00123456, "0.00123"),
        (True, "true"),
        (None, "none"),
        ("ray", "ray"),
        ((0.3, 0.6), "[0.3,0.6]"),
        ([1, None], "[1,none]"),
    ],
)
def test_values(value: object, text: str) -> None:
    assert wording.value_text(value) == text


def test_settings_leave_out_what_they_are_told() -> None:
    settings = {"lr": 0.5, "width": 0.25, "mirrored": False}
    assert wording.settings_text(settings) == "lr=0.5 width=0.25 mirrored=false"
    assert wording.settings_text(settings, ["width"]) == "lr=0.5 mirrored=false"
    assert wording.settings_text({}) == ""


def test_figures() -> None:
    assert wording.figure(None) == "-"
    assert wording.figure(0.98765) == "0.988"
    assert wording.figure(0.98765, 0.0014) == "0.988 ± 0.001"
    assert wording.interval(0.9, 1) == "0.900 to 1.000"


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 trials"), (1, "1 trial"), (2, "2 trials"), (1234, "1,234 trials")]
)
def test_counted_things(number: int, text: str) -> None:
    assert wording.counted(number, "trial") == text


def test_counted_things_with_another_plural() -> None:
    assert wording.counted(1, "class", "classes") == "1 class"
    assert wording.counted(2, "class", "classes") == "2 classes"
    assert wording.count(60_000) == "60,000"
    assert wording.count(None) == "-"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (2**20 - 1, "1 MiB"),
        (3 * 2**20, "3 MiB"),
        (2.5 * 2**30, "2.5 GiB"),
    ],
)
def test_memory_sizes(size: float, text: str) -> None:
    assert wording.memory_size(size) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(4542, "5 kB"), (1_234_567, "1.2 MB"), (182_040_794, "182 MB"), (2_500_000_000, "2,500 MB")],
)
def test_download_sizes(size: int, text: str) -> None:
    assert wording.download_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01"), (360000, "100:00:00")],
)
def test_clocks(seconds: float, text: str) -> None:
    assert wording.clock(seconds) == text


def test_sentences_begin_with_a_capital_letter() -> None:
    assert wording.sentence("no evidence of A") == "No evidence of A"
    assert wording.sentence("") == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe 1.png", "größe 1.png"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x7f\x9b", "\\x7f\\x9b"),
        ("\udcff.png", "\\xff.png"),
        ("\ud800", "\\ud800"),
        ("gnp.\u202eexe", "gnp.\\u202eexe"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_what_commands_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert wording.visible(text) == shown


@given(st.text(st.characters(categories=None)))
def test_visible_text_is_one_line_that_can_be_encoded(text: str) -> None:
    shown = wording.visible(text)
    assert shown.encode("utf-8")[:1] != b"\n"
    assert len(shown.splitlines()) <= 1
    assert wording.visible(shown) == shown
