"""A page for other people and other screens: hostile and long names, no folders, a phone."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fake_run import EPOCHS, add_trial, change, change_request, finished_run, write_run
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from parsed_page import Parsed
from PIL import Image

from amatune import report
from amatune.data.problem import Problem
from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest
from amatune.runs import RunFolder

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
EVIL = "<script>alert(1)<!--&lt;"
LONG = "2023-11-05 line 4, camera north, exposure 2, cell "


@pytest.fixture(scope="module")
def of_folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A tested run about a folder of pictures: class and file names are hostile or long."""
    data = tmp_path_factory.mktemp("secret place") / "Solar cells"
    generator = np.random.default_rng(0)
    for label, count, light in ((EVIL, 200, 100), ("bad", 90, 160)):
        (data / label).mkdir(parents=True)
        for number in range(count):
            pixels = generator.normal(light, 20, (8, 8)).clip(0, 255).astype(np.uint8)
            name = (f"cell{number:04}", f"{EVIL}{number}", f"{LONG}{number:04}")[number % 3]
            Image.fromarray(pixels).save(data / label / f"{name}.png")
    problem = make_problem(
        ProblemRequest(dataset=f"folder:{data}", normal_classes=(EVIL,), image_size=8)
    )
    run = finished_run(tmp_path_factory.mktemp("runs") / "cells", problem, seeds=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("amatune.report.curves.BOOTSTRAP", 2)
        place = str(data / "x.png")
        for state, values in ((TrialState.FAIL, []), (TrialState.COMPLETE, [0.5] * EPOCHS)):
            add_trial(
                run,
                {"weights": place},
                values,
                state,
                reason=f"cannot read {place!r}",
                distributions={"weights": CategoricalDistribution([place])},
            )
        saved = run.record().problem.to_dict()
        told = f"1 damaged picture; all are listed in {run.broken}"
        change(
            run,
            command=f"/opt/x/bin/amatune search --dataset 'folder:{data}' --fix weights={place}",
            problem={**saved, "warnings": [told]},
        )
        change_request(run, fixed={"traces": str(run.path / "traces")}, data_dir=str(data.parent))
        file = run.best / "leaderboard.json"
        board = json.loads(file.read_text(encoding="utf-8"))
        board["dropped"] = [f"trial-7: {place} is gone"]
        board["selection"] = {"apparent": 0.9, "corrected": 0.85, "of": 3}
        file.write_text(json.dumps(board), encoding="utf-8")
    return run


@pytest.fixture
def its_page(of_folder: RunFolder) -> Parsed:
    made = report.make_report(of_folder)
    assert made.notes == ()
    return Parsed(made.page)


def captions(page: Parsed) -> list[str]:
    part = page.source.split('<section id="pictures">')[1].split("</section>")[0]
    return [html.unescape(name) for name in re.findall("<br><small>(.*?)</small>", part)]


def test_names_of_files_and_classes_stay_text(its_page: Parsed) -> None:
    assert len(its_page.all("script")) == 3
    assert EVIL in " ".join(captions(its_page))
    assert f"class {EVIL} normal" in its_page.text
    assert any(EVIL in str(picture["title"]) for picture in its_page.all("figure"))
    assert "<script>alert" not in its_page.source


def test_nothing_in_the_figures_ends_their_script(tested: RunFolder) -> None:
    name = "</script><!-- & \u2028"
    rules = {name: CategoricalDistribution([name, "other"])}
    add_trial(tested, {name: name}, [0.9] * EPOCHS, distributions=rules)
    page = Parsed(report.make_report(tested).page)
    assert not set("<>&\u2028") & set(page.texts["script"][0])
    # Escaped for plotly, which reads markup, and again for the page.
    assert "&lt;/script&gt;&lt;!-- &amp; \u2028" in json.dumps(page.figures, ensure_ascii=False)


def test_no_folder_of_the_machine_is_told(of_folder: RunFolder, its_page: Parsed) -> None:
    for folder in ("secret place", str(of_folder.path.parent), "/opt/x", str(Path.home())):
        assert folder not in its_page.source, folder
    assert "folder:Solar cells: class" in its_page.text
    assert "amatune search --dataset 'folder:Solar cells' --fix weights=Solar cells/x.png" in (
        its_page.text
    )
    assert "all are listed in cells/broken.txt" in its_page.text
    assert "cannot read 'Solar cells/x.png'" in its_page.text
    assert "trial-7: Solar cells/x.png is gone" in its_page.text
    titles = [str(picture["title"]) for picture in its_page.all("figure")]
    assert all(title.startswith("folder:Solar cells ") for title in titles)


def test_why_something_is_missing_tells_no_folder(tested: RunFolder, tmp_path: Path) -> None:
    for file in tested.best.rglob("test.npz"):
        file.unlink()
    made = report.make_report(tested)
    assert str(tmp_path) in made.notes[0]  # whoever asked may know
    assert str(tmp_path) not in made.page
    assert "The scores in parts/best/models/trial-1/seed" in made.page


def test_captions_are_whole_names(its_page: Parsed, page: Parsed) -> None:
    names = captions(its_page)
    assert len(names) == 32
    for name in names:
        assert re.fullmatch(r"cell\d{4}\.png|.*\d+\.png", name), name
        assert "/" not in name
        assert name.startswith(("cell", EVIL, LONG[:8]))
        assert len(name) <= 32
    assert any("…" in name for name in names)
    assert all(re.fullmatch(r"digits \d+", name) for name in captions(page))  # no files


def test_one_is_singular(tmp_path: Path, problem: Problem) -> None:
    run = write_run(tmp_path / "one", problem.to_dict())
    change_request(run, trials=1, epochs=1)
    page = Parsed(report.make_report(run).page)
    assert "1 of up to 1 epoch " in page.text
    assert "0 of 1 trial has ended" in page.text
    assert "0 trials" in page.text
    add_trial(run, {"quality": 0.5, "kind": "plain"}, [0.5])
    page = Parsed(report.make_report(run).page)
    assert not re.search(r"\b1 (trials|epochs|seeds|images|trainings)\b", page.text)
    assert "1 trial " in page.text


def test_texts_have_room_on_a_phone(page: Parsed) -> None:
    """Names stand above their texts there, and the texts never share a width with long names."""
    style = "".join(page.texts["style"])
    assert re.search(r"dl > div \{[^}]*grid-template-columns: 12em minmax\(0, 1fr\)", style)
    narrow = style.split("@media (max-width: 600px)")[1]
    assert re.match(r" \{\s*dl > div \{ display: block;", narrow)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 480, 768, 1280])
def test_the_page_fits(its_page: Parsed, tmp_path: Path, width: int) -> None:
    measure = """<script>
      const widths = [...document.querySelectorAll('dd, figcaption')].map(
        one => [one.tagName, one.getBoundingClientRect().width, one.textContent]);
      parent.postMessage({page: document.documentElement.scrollWidth, widths}, '*');
    </script></body>"""
    inner = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", its_page.source)
    (tmp_path / "inner.html").write_text(inner.replace("</body>", measure), encoding="utf-8")
    (tmp_path / "outer.html").write_text(
        f"""<!DOCTYPE html><pre></pre>
        <iframe src="inner.html" width="{width}" height="800"></iframe>
        <script>onmessage = e =>
          document.querySelector('pre').textContent = JSON.stringify(e.data)</script>""",
        encoding="utf-8",
    )
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --virtual-time-budget=5000"
    )
    shown = subprocess.run(
        [
            str(CHROMIUM),
            *flags.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            (tmp_path / "outer.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    found = json.loads(html.unescape(re.search("<pre>(.*?)</pre>", shown, re.DOTALL)[1]))  # type: ignore[index]
    assert found["page"] <= width  # nothing scrolls sideways but tables and wide figures
    least = {"DD": 220, "FIGCAPTION": 70}
    for kind, wide, text in found["widths"]:
        assert wide >= least[kind], (kind, wide, text)
