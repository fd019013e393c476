"""What others may write, names of folders and classes, does nothing in a model card."""

from pathlib import Path

import pytest

from amatune.detectors.ama import AMA
from amatune.export import export_detector

BAD = (
    "<script>alert(1)</script><img src=x> ![a](http://x) [b](http://y) "
    "`code` | column \\x\x1b[2J\n# top"
)


@pytest.mark.usefixtures("convert_once")
def test_text_of_others_is_shown_as_it_is(detector: AMA, tmp_path: Path) -> None:
    figures = {BAD: {"value": 0.9, "note": BAD}}
    data = {
        "summary": BAD,
        "warnings": [BAD],
        "training_images": {"shape": [3, 1, 12, 12], "sha256": "00"},
    }
    export_detector(detector, tmp_path / "export", figures=figures, data=data)
    card = (tmp_path / "export" / "README.md").read_text()
    shown = [line for line in card.splitlines() if "alert(1)" in line]
    assert len(shown) == 3  # data, warning, figure and its note
    for line in shown:
        assert "<script" not in line
        assert "<img" not in line
        assert "&lt;img src=x&gt;" in line
        assert r"!\[a\](http://x) \[b\](http://y) \`code\` \| column" in line
        assert r"\\x1b" in line
    assert "\x1b" not in card
    assert "\n# top" not in card
