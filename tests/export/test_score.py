"""`amatune score`: archives, thresholds, explanations, and what happens when things go wrong."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import amatune
from amatune.cli import main
from amatune.data import archives
from amatune.detectors.ama import AMA
from amatune.errors import DataError
from amatune.export import Exported, ScoredPicture, export_detector, find_inputs
from amatune.results.certify import point_at
from amatune.results.operating import Demand, Guarantee

# Every test finds the exported detector in the folder `model` beside it.
pytestmark = pytest.mark.usefixtures("exported")


@pytest.fixture(autouse=True)
def in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pixels(count: int, *size: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *(size or (12, 12))), np.uint8)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def scored(text: str) -> list[dict[str, str]]:
    """The rows of pictures that could be scored."""
    return [row for row in rows(text) if not row["error"]]


def score(*arguments: object) -> int:
    return main(["score", "model", *map(str, arguments)])


# --- archives -------------------------------------------------------------------------------------


def test_an_archive_is_scored_row_by_row(detector: AMA, capsys: pytest.CaptureFixture[str]) -> None:
    images = pixels(300)
    np.savez_compressed("parts.npz", images=images, train_images=images[:2], labels=[1])
    assert score("parts.npz") == 0
    found = rows(capsys.readouterr().out)
    assert [row["path"] for row in found] == [f"parts.npz[{n}]" for n in range(300)]
    expected = detector.scores(torch.from_numpy(images[:, None]))
    for name in ("A", "R"):
        assert [float(row[name]) for row in found] == pytest.approx(
            expected[name].tolist(), rel=1e-4
        )


def test_arrays_of_a_data_set_are_named_by_their_keys(pictures: Path) -> None:
    colour = pixels(3, 20, 15, 3)
    np.savez("set.npz", train_images=pixels(2), test_images=colour, test_labels=[0, 1, 0])
    loaded = amatune.load("model")
    found = list(loaded.score_files(["set.npz", pictures / "0.png", "set.npz"], batch_size=2))
    assert [str(row.path) for row in found] == [
        str(pictures / "0.png"),
        *(f"set.npz:test_images[{n}]" for n in range(3)),
        *(f"set.npz:train_images[{n}]" for n in range(2)),
    ]
    # The geometry rule makes grey 12 x 12 pixels of the coloured ones, as of a picture's.
    Image.fromarray(colour[1]).save("one.png")
    (alone,) = loaded.score_files(["one.png"])
    assert alone.score == pytest.approx(found[2].score, rel=1e-4)
    assert find_inputs(["set.npz", pictures]).count == 10


def test_rows_are_read_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pixels(7, 10, 12, 3)
    np.savez("parts.npz", images=images)
    monkeypatch.setattr(archives, "_CHUNK", 2 * 10 * 12 * 3)
    (array,) = archives.find_arrays(Path("parts.npz"))
    parts = list(array.batches((3, 10, 12), 256))
    assert [len(part) for part in parts] == [2, 2, 2, 1]
    assert np.array_equal(np.concatenate(parts), images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"pictures": pixels(2)}, "holds pictures; name its array of images one of images"),
        ({}, "holds nothing"),
        ({"images": pixels(2).astype(np.float32)}, "must be uint8"),
        ({"images": pixels(2, 12, 12, 4)}, "with C 1 or 3"),
        ({"images": pixels(2, 0, 12)}, "1 to"),
        ({"images": np.asfortranarray(pixels(2))}, "Fortran order"),
        ({"images": np.array([{"a": 1}], dtype=object)}, "must be uint8"),
    ],
)
def test_an_archive_of_anything_else_is_told_and_passed_over(
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    arrays: dict[str, Any],
    told: str,
) -> None:
    np.savez("parts.npz", **arrays)
    assert score("parts.npz", pictures) == 1
    captured = capsys.readouterr()
    assert len(scored(captured.out)) == 5
    (failed,) = [row for row in rows(captured.out) if row["error"]]
    assert told in failed["error"]
    assert captured.err.count("\n") == 1
    assert told in captured.err


def test_a_damaged_archive_is_told_after_what_could_be_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_CHUNK", 200 * 300)
    np.savez("parts.npz", images=pixels(4, 200, 300))
    whole = Path("parts.npz").read_bytes()
    Path("parts.npz").write_bytes(whole[:-500])
    assert score("parts.npz") == 2
    assert "parts.npz, it is damaged" in capsys.readouterr().err
    spoilt = bytearray(whole)
    spoilt[len(whole) // 2] ^= 1
    Path("parts.npz").write_bytes(spoilt)
    assert score("parts.npz") == 1  # the checksum of the whole is wrong, known at its end
    captured = capsys.readouterr()
    assert len(scored(captured.out)) == 3
    assert "Bad CRC-32" in rows(captured.out)[-1]["error"]
    assert "Bad CRC-32" in captured.err
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 12, 12)}
    )
    with zipfile.ZipFile("parts.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(144 * 3))
    assert score("parts.npz") == 2
    assert (
        "images of shape (1000000000, 12, 12) would have 144,000,000,000 bytes"
        in capsys.readouterr().err
    )


def test_an_archive_that_is_a_pipe_is_told(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("pipe.npz")
    os.mkfifo("pipe.png")
    Path("zero.png").symlink_to("/dev/zero")
    assert score("pipe.npz", "pipe.png", "zero.png", pictures) == 1
    told = [row["error"] for row in rows(capsys.readouterr().out) if row["error"]]
    assert len(told) == 3
    assert all("it is not a regular file" in one for one in told)


def test_an_archive_that_is_not_there() -> None:
    with pytest.raises(DataError, match=r"no such file or folder: none\.npz"):
        find_inputs(["none.npz"])


# --- pictures of all kinds ------------------------------------------------------------------------


def test_odd_pictures_are_scored_or_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amatune.data.pictures.MAX_PIXELS", 300 * 300)
    Path("odd").mkdir()
    Image.new("L", (1, 1), 7).save("odd/pixel.png")
    Image.new("CMYK", (20, 30), (1, 2, 3, 4)).save("odd/print.jpg")
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save("odd/deep.png")
    Image.new("RGBA", (9, 9), (1, 2, 3, 100)).save("odd/glass.png")
    Image.new("L", (301, 300)).save("odd/huge.png")
    Image.new("F", (9, 9)).save("odd/real.tiff")
    Path("odd/empty.png").touch()
    os.mkfifo("odd/pipe.txt")
    bad_name = b"odd/\xff.png"
    Path(os.fsdecode(bad_name)).write_bytes(Path("odd/pixel.png").read_bytes())
    assert score("odd", "--json") == 1
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    found = [line["path"] for line in lines if line["error"] is None]
    names = ["deep.png", "glass.png", "pixel.png", "print.jpg", "\\xff.png"]
    assert sorted(found) == sorted(f"odd/{name}" for name in names)
    told = captured.err.splitlines()
    assert len(told) == 3
    assert any("huge.png: it has more than 90,000 pixels" in line for line in told)
    assert any("empty.png" in line for line in told)
    assert any("real.tiff" in line for line in told)


def test_a_score_that_is_no_number_is_told(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = AMA.scores

    def spoilt(self: AMA, images: torch.Tensor, batch_size: int = 256) -> dict[str, torch.Tensor]:
        found = original(self, images, batch_size)
        found["R"][1] = torch.nan
        return found

    monkeypatch.setattr(AMA, "scores", spoilt)
    found = list(amatune.load("model").score_files([pictures]))
    assert [row.score is None for row in found] == [False, True, False, False, False]
    assert "1.png: the detector gives it no finite score" in str(found[1].problem)


# --- p-values and flags ---------------------------------------------------------------------------


def test_pictures_are_flagged_at_the_asked_rate(
    detector: AMA, capsys: pytest.CaptureFixture[str]
) -> None:
    normal = detector.score(torch.from_numpy(pixels(60, 1, 12, 12, seed=4)))
    export_detector(detector, "model", figures={}, data={}, normal_scores=normal)
    np.savez("parts.npz", images=pixels(200))
    for arguments, rate in (([], 0.05), (["--fpr", "0.3"], 0.3)):
        assert score("parts.npz", *arguments) == 0
        found = rows(capsys.readouterr().out)
        assert list(found[0]) == ["path", "score", "A", "R", "AC", "RC", "p_value", "flag", "error"]
        flagged = [row["flag"] == "true" for row in found]
        assert flagged == [float(row["p_value"]) <= rate for row in found]
        assert 0 < sum(flagged) < 200
        assert {row["flag"] for row in found} == {"true", "false"}
    assert score("parts.npz", "--json") == 0
    line = json.loads(capsys.readouterr().out.splitlines()[0])
    assert type(line["flag"]) is bool
    assert type(line["p_value"]) is float


@pytest.mark.parametrize("rate", ["0.03", "0", "1", "-0.5", "nan"])
def test_an_impossible_rate_is_refused(
    pictures: Path, capsys: pytest.CaptureFixture[str], rate: str
) -> None:
    assert score(pictures, "--fpr", rate) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "with 30 normal images in the calibration, rates from 0.0323 (1/31)" in captured.err


def test_few_normal_images_leave_the_flag_empty(
    detector: AMA, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = np.arange(10.0)
    export_detector(detector, "model", figures={}, data={}, normal_scores=few)
    assert score(pictures) == 0
    captured = capsys.readouterr()
    assert {row["flag"] for row in rows(captured.out)} == {""}
    assert all(row["p_value"] for row in rows(captured.out))
    assert "rates from 0.091 (1/11) to below 1 are possible" in captured.err
    assert score(pictures, "--fpr", "0.1") == 0
    assert {row["flag"] for row in rows(capsys.readouterr().out)} <= {"true", "false"}


def test_without_a_calibration_both_stay_empty(
    detector: AMA, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_detector(detector, "model", figures={}, data={})
    assert score(pictures, "--json") == 0
    line = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (line["p_value"], line["flag"]) == (None, None)
    assert score(pictures, "--fpr", "0.05") == 2
    assert "no false positive rate can be stated" in capsys.readouterr().err


# --- explanations ---------------------------------------------------------------------------------


def test_the_highest_scores_are_explained(detector: AMA) -> None:
    images = pixels(40)
    np.savez("parts.npz", images=images)
    assert score("parts.npz", "--explain", "why/here", "--explain-top", 3, "--output", "s.csv") == 0
    order = detector.score(torch.from_numpy(images[:, None])).argsort(descending=True)[:3].tolist()
    names = [f"{rank:02}-parts.npz-{row}-.png" for rank, row in enumerate(order, 1)]
    assert sorted(os.listdir("why/here")) == names
    assert os.listdir("why") == ["here"]
    picture = Image.open(f"why/here/{names[0]}")
    assert picture.info["path"] == f"parts.npz[{order[0]}]"
    # Enlarged 16 times: the first panel is the image that the detector saw.
    shown = np.asarray(picture.convert("L"))[26 : 26 + 192, 8 : 8 + 192]
    assert np.array_equal(shown[::16, ::16], images[order[0]])
    rebuilt = detector.reconstruct(torch.from_numpy(images[order][:, None])).numpy()
    rebuilt = np.round((rebuilt + 1) * 127.5)
    gap = np.abs(images[order][:, None] - rebuilt)
    third = np.asarray(picture.convert("L"))[26 : 26 + 192, 408 : 408 + 192][::16, ::16]
    assert np.array_equal(third, np.round(gap[0, 0] * (255 / gap.max())))


def test_fewer_pictures_than_asked_for_are_all_explained(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("why").mkdir()
    assert score(pictures, "--explain", "why") == 0
    assert len(os.listdir("why")) == 5
    assert len(rows(capsys.readouterr().out)) == 5


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--explain", "full"], "full: it is not empty"),
        (["--explain", "full/file"], "full/file: it is a file"),
        (["--explain", "new", "--explain-top", "0"], "at least 1, got 0"),
        (["--explain-top", "3"], "give both"),
    ],
)
def test_a_wrong_request_to_explain(
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    Path("full").mkdir()
    Path("full/file").touch()
    assert score(pictures, "--output", "s.csv", *arguments) == 2
    assert told in capsys.readouterr().err
    assert sorted(os.listdir()) == ["full", "model"]


def test_a_method_without_reconstructions_cannot_explain(
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(AMA, "reconstructs", False)
    assert score(pictures, "--explain", "why") == 2
    assert "ama makes neither reconstructions nor maps" in capsys.readouterr().err


def test_maps_are_files_in_the_order_of_the_rows(detector: AMA, pictures: Path) -> None:
    (folder := Path("mixed")).mkdir()
    for number in (1, 3):
        shutil.copy(pictures / f"{number}.png", folder)
    (folder / "2.png").write_bytes(b"damaged")
    assert score(folder, "--maps", "where", "--output", "s.csv") == 1
    assert sorted(os.listdir("where")) == ["00001-1.png.npy", "00003-3.png.npy"]
    image = np.array(Image.open(pictures / "3.png"))[None, None]
    expected = detector.pixel_map(torch.from_numpy(image))
    assert expected is not None
    assert np.array_equal(np.load("where/00003-3.png.npy", allow_pickle=False), expected[0])
    rebuilt = detector.reconstruct(torch.from_numpy(image))
    assert rebuilt is not None
    error = np.abs(image / 127.5 - 1 - rebuilt.numpy()).mean(axis=1)
    assert np.allclose(expected, error, atol=1e-6)
    assert score(folder, "--maps", "where") == 2


def test_maps_as_pictures_keep_their_scale(pictures: Path) -> None:
    assert score(pictures, "--maps", "npy", "--output", "s.csv") == 0
    assert score(pictures, "--maps", "png", "--map-format", "png", "--output", "s.csv") == 0
    assert sorted(os.listdir("png")) == [f"0000{n + 1}-{n}.png.png" for n in range(5)]
    for name in os.listdir("png"):
        values = np.load(f"npy/{name.removesuffix('.png')}.npy", allow_pickle=False)
        with Image.open(f"png/{name}") as picture:
            low, high = float(picture.info["low"]), float(picture.info["high"])
            assert picture.info["path"] == str(pictures / name[6:].removesuffix(".png"))
            grey = np.asarray(picture)
        assert (grey.dtype, grey.min(), grey.max()) == (np.uint16, 0, 65535)
        assert (low, high) == (values.min(), values.max())
        read = low + (high - low) * grey.astype(np.float64) / 65535
        assert np.abs(read - values).max() <= (high - low) / 65535


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--map-format", "png"], "give both"),
        (["--maps", "new", "--map-format", "jpg"], "--map-format must be npy or png, got 'jpg'"),
    ],
)
def test_a_wrong_format_of_maps(
    pictures: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert score(pictures, *arguments) == 2
    assert told in capsys.readouterr().err
    assert not Path("new").exists()


# --- interruptions and disks that refuse ----------------------------------------------------------


def test_an_interruption_leaves_nothing_behind(
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = Exported._score_batch

    def interrupted(self: Exported, batch: Any) -> Iterator[ScoredPicture]:
        yield next(original(self, batch))
        raise KeyboardInterrupt

    monkeypatch.setattr(Exported, "_score_batch", interrupted)
    assert score(pictures, "--output", "s.csv", "--explain", "why") == 130
    assert capsys.readouterr().err == "amatune: interrupted\n"
    assert os.listdir() == ["model"]


def test_a_disk_that_is_full(
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert score(pictures) == 1
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space left"):
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    assert "cannot write the output: No space left" in capsys.readouterr().err


def test_a_reader_that_stops_reading(pictures: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "amatune", "score", "model", str(pictures)],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(amatune.__file__).parent.parent)},
    )
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == "amatune: whoever reads the output has stopped reading\n"


def test_a_silent_pipe_hears_how_far_the_scoring_is(
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("amatune.cli.progress.PROGRESS_SECONDS", -1.0)
    assert score(pictures, "--output", "s.csv") == 0
    assert capsys.readouterr().err.splitlines() == [
        f"{n} of 5 pictures scored" for n in range(1, 6)
    ]


# --- thresholds with a name -----------------------------------------------------------------------


@pytest.mark.usefixtures("convert_once")
def test_the_threshold_of_the_export_flags_unless_a_rate_is_named(
    detector: AMA, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("parts.npz", images=pixels(40))
    scores = detector.score(torch.from_numpy(pixels(40)[:, None])).numpy()
    middle = float(np.sort(scores)[29:31].mean())
    point = point_at("cheapest", middle, scores, scores)
    demand = Demand(cost_miss=2.0, cost_alarm=1.0)
    held = Guarantee(demand=demand, point=point, statement="cheap")
    facts: dict[str, Any] = {"figures": {}, "data": {}, "normal_scores": scores}
    export_detector(detector, "model", **facts, guarantee=held)
    assert amatune.load("model").guarantee == held
    for options, flagged in (((), 10), (("--threshold", "cheapest"), 10), (("--fpr", "0.5"), 19)):
        assert score("parts.npz", *options) == 0
        found = [row["flag"] for row in rows(capsys.readouterr().out)]
        assert found.count("true") == flagged
    assert score("parts.npz", "--threshold", "certified") == 2
    assert "has no threshold 'certified' (with a name it has 'cheapest')" in capsys.readouterr().err
    assert "the cheapest threshold" in Path("model/README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("pictures")
def test_what_cannot_be_read_keeps_its_place_among_archives() -> None:
    np.savez("b.npz", images=pixels(2))
    for name in ("a.npz", "c.npz"):
        Path(name).write_bytes(b"no archive")
    Image.fromarray(pixels(1)[0]).save("bb.png")
    found = list(amatune.load("model").score_files(["c.npz", "bb.png", "b.npz", "a.npz"]))
    assert [str(row.path) for row in found] == ["a.npz", "b.npz[0]", "b.npz[1]", "bb.png", "c.npz"]
    assert [row.score is None for row in found] == [True, False, False, False, True]
    assert "a.npz" in (found[0].problem or "")


def test_one_path_need_not_be_in_a_list(pictures: Path) -> None:
    """And is not taken letter by letter, of which `/` would be every picture there is."""
    loaded = amatune.load("model")
    listed = list(loaded.score_files([pictures]))
    assert list(loaded.score_files(pictures)) == list(loaded.score_files(str(pictures))) == listed
