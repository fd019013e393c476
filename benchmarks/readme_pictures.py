"""Draw the pictures of README from a searched run: the live table, the report, TensorBoard.

python benchmarks/readme_pictures.py runs/parts docs/images

The table is the program's own, of the moment at which two thirds of the trials have ended. The
other two are photographed by a headless Chromium, which must be installed.
"""

import argparse
import io
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from PIL import Image
from rich.console import Console

from amatune.cli.views import LiveView
from amatune.cluster.capacity import Room
from amatune.cluster.job import Images
from amatune.registry import searched_method
from amatune.report import make_report
from amatune.runs import RunFolder
from amatune.tuning.cost import started
from amatune.tuning.study import effort, open_study, trial_update

WIDTH = 1280  # pixels of the photographs, which are shown smaller
COLUMNS, LINES = 112, 22  # of the terminal


def main() -> None:
    """Write live.svg, report.webp and tensorboard.webp."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (arguments.folder / "live.svg").write_text(live_table(run), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_text(make_report(run).page, encoding="utf-8")
        photograph(page.as_uri(), arguments.folder / "report.webp", height=1000)
    with tensorboard(run) as address:
        photograph(f"{address}/#timeseries", arguments.folder / "tensorboard.webp", height=800)


class _Wrapped(LiveView):
    """Breaks long lines, as a terminal does."""

    def say(self, line: str) -> None:
        """Print it over as many lines as it takes."""
        self.console.print(line, markup=False, highlight=False, overflow="fold")


def live_table(run: RunFolder) -> str:
    """The display of a search as SVG, when two thirds of the run's trials had ended.

    The time is the share of all training that the trials make.
    """
    record, study = run.record(), open_study(run)
    request = record.request
    trials = study.get_trials(deepcopy=False)
    ended, running = 2 * len(trials) // 3, request.concurrent or 2
    console = Console(
        record=True, width=COLUMNS, height=LINES, file=io.StringIO(), force_terminal=True
    )
    view = _Wrapped(console)
    problem, method = record.open_problem(), searched_method(request.method)
    room = Room(concurrent=running, gpus_per_trial=0.0, most_cpus=request.cpus_per_trial)
    told = started(Path("runs") / run.name, record, method, problem, Images.of(problem), room, 0)
    # Nothing of the machine that it ran on.
    named = re.sub(r"(folder|npz):\S*/(\w+)[^ ,:]*", r"\1:\2", told.problem)
    view(replace(told, problem=named, warnings=()))
    for trial in trials[: ended + running]:
        update, values = trial_update(trial, request.epochs), trial.intermediate_values
        if trial.number >= ended:
            epoch = max(1, max(values, default=0) // 2)
            update = replace(update, state="running", epoch=epoch, auroc=values.get(epoch))
        view(update)
    gone = effort(study).hours * 3600 / running * ended / len(trials)
    view.began = time.monotonic() - gone
    console.print(view.draw(), highlight=False)
    drawn = console.export_svg(title="amatune search")
    # No font from elsewhere: the reader's own will do.
    return re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL).replace("Fira Code, ", "")


def photograph(address: str, file: Path, height: int) -> None:
    """A page as a headless browser shows it."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next((found for name in names if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit("there is no Chromium; install it, or leave the two photographs out")
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder) / "taken.png"
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        words += [f"--window-size={WIDTH},{height}", "--virtual-time-budget=60000"]
        words += [f"--user-data-dir={folder}/profile", f"--screenshot={taken}", address]
        subprocess.run([browser, *words], check=True, capture_output=True, timeout=600)
        with Image.open(taken) as image:
            image.convert("RGB").save(file, quality=80, method=6)


@contextmanager
def tensorboard(run: RunFolder) -> Iterator[str]:
    """TensorBoard on the run's trials, until it is left; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--logdir", str(run.tensorboard), "--port", str(port), "--load_fast", "false"]
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.5)
        time.sleep(20)  # until it has read the events
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
