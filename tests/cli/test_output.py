"""Where output goes, and that no name in it commands a terminal or a spreadsheet."""

import contextlib
import csv
import io
import os
import threading
from pathlib import Path

import pytest
from calls import call
from rich.console import Console

from amatune.cli import main
from amatune.cli.output import complain, destination, say
from amatune.cli.tables import make_table
from amatune.errors import AmatuneError, RequestError
from amatune.wording import csv_cell


def write(output: Path, text: str = "new\n") -> None:
    with destination(output) as file:
        file.write(text)


def test_a_file_appears_when_it_is_complete() -> None:
    with destination(Path("out.txt")) as file:
        file.write("new\n")
        assert not Path("out.txt").exists()
    assert Path("out.txt").read_text() == "new\n"
    assert os.listdir() == ["out.txt"]


def test_after_an_error_the_file_is_as_it_was() -> None:
    Path("out.txt").write_text("old")
    with contextlib.suppress(ZeroDivisionError), destination(Path("out.txt")) as file:
        file.write("new")
        raise ZeroDivisionError
    assert Path("out.txt").read_text() == "old"
    assert os.listdir() == ["out.txt"]


def test_a_link_leads_to_the_file_that_is_replaced() -> None:
    Path("folder").mkdir()
    Path("folder/real.txt").write_text("old")
    Path("link.txt").symlink_to("folder/real.txt")
    write(Path("link.txt"))
    assert Path("link.txt").is_symlink()
    assert Path("folder/real.txt").read_text() == "new\n"
    Path("dangling.txt").symlink_to("folder/later.txt")
    write(Path("dangling.txt"))
    assert Path("dangling.txt").is_symlink()
    assert Path("folder/later.txt").read_text() == "new\n"
    assert sorted(os.listdir("folder")) == ["later.txt", "real.txt"]


def test_a_named_pipe_is_written_into() -> None:
    os.mkfifo("pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_text()))
    reader.start()
    write(Path("pipe"))
    reader.join(timeout=10)
    assert read == ["new\n"]
    assert Path("pipe").is_fifo()


def test_a_device_is_written_into() -> None:
    # Behind a link, so that a mistake would cost the link and not the machine's device.
    Path("null").symlink_to("/dev/null")
    write(Path("null"))
    assert Path("null").is_symlink()
    assert Path("/dev/null").is_char_device()
    Path("full").symlink_to("/dev/full")
    with pytest.raises(AmatuneError, match="cannot write full: No space left"):
        write(Path("full"))
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("output", ["folder", "gone/out.txt", "file/out.txt", "circle", "x" * 300])
def test_what_cannot_be_written_is_refused(output: str) -> None:
    Path("folder").mkdir()
    Path("file").touch()
    Path("circle").symlink_to("circle")
    before = sorted(os.listdir())
    with pytest.raises(RequestError, match=f"cannot write to {output}"):
        write(Path(output))
    assert sorted(os.listdir()) == before


def test_a_name_that_is_no_text_is_escaped_in_a_file() -> None:
    write(Path("out.txt"), "\udcff\n")
    assert Path("out.txt").read_text() == "\\udcff\n"


def test_lines_hold_no_commands_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    file = io.StringIO()
    say(Console(file=file), "bad\x1b[2J\nname [bold]")
    assert file.getvalue() == "bad\\x1b[2J\\nname [bold]\n"
    complain("bad\x1b[2J\nname")
    assert capsys.readouterr().err == "amatune: bad\\x1b[2J\\nname\n"
    assert main(["search", "--dataset", "digits\x1b[2J"]) == 2
    assert "digits\\x1b[2J" in capsys.readouterr().err
    assert main(["search", "--trials\x1b[2J"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_tables_hold_no_commands_to_a_terminal() -> None:
    file = io.StringIO()
    Console(file=file).print(make_table("bad\x1b[2J [bold]"))
    assert file.getvalue().rstrip() == "bad\\x1b[2J [bold]"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1.png", "'=1+1.png"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("a=b", "a=b"),
        ("\t=1", "\\t=1"),
        ("a\x1b[2J", "a\\x1b[2J"),
        (-0.5, -0.5),
        (None, None),
    ],
)
def test_a_cell_is_no_formula(value: object, cell: object) -> None:
    assert csv_cell(value) == cell


def test_odd_names_of_pictures_are_harmless(
    exported: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = (pictures / "0.png").read_bytes()
    for name in ("=cmd.png", "bell\x07\x1b[2J.png", "two\nlines.png"):
        Path(name).write_bytes(picture)
    Path("-bad\x1b[2J.png").write_bytes(b"no picture")
    names = ["=cmd.png", "bell\x07\x1b[2J.png", "two\nlines.png", "./-bad\x1b[2J.png"]
    assert main(["score", str(exported), *names]) == 1
    captured = capsys.readouterr()
    rows = list(csv.reader(io.StringIO(captured.out)))
    found = {row[0] for row in rows[1:]}
    plain = {"'=cmd.png", "bell\\x07\\x1b[2J.png", "two\\nlines.png"}
    assert found == {*plain, "'-bad\\x1b[2J.png"}
    assert captured.err.count("\n") == 1
    assert "\x1b" not in captured.out + captured.err


def test_scores_go_into_what_is_no_file(exported: Path, pictures: Path) -> None:
    Path("null").symlink_to("/dev/null")
    assert call(f"score {exported} {pictures} --output null") == 0
    assert Path("null").is_symlink()
    assert Path("/dev/null").is_char_device()
    assert sorted(os.listdir()) == ["model", "null"]
