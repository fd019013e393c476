"""What a search costs beside the training: seconds per trial and the driver's memory.

    python benchmarks/scale.py --trials 1000

A whole search with the detector of the tests, which trains in no time: proposals by TPE, ASHA, the
study on disk, Ray's workers. Prints a line for every tenth of the trials; flat columns are the aim.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import pytest

FAKES = Path(__file__).parent.parent / "tests" / "fakes"
sys.path.insert(0, str(FAKES))
os.environ["PYTHONPATH"] = str(FAKES)  # for Ray's workers

from fake_search import install, request  # noqa: E402

from amatune.tuning.events import Event, TrialUpdate  # noqa: E402
from amatune.tuning.search import run_search  # noqa: E402

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> float:
    """Memory of this process now, MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * PAGE / 2**20


class Meter:
    """Prints how time and memory grow with the trials that have ended."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.ended = 0
        self.since = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Listen to a search."""
        if isinstance(event, TrialUpdate) and event.state in ("done", "pruned", "failed"):
            self.ended += 1
            if self.ended % self.every == 0:
                now = time.monotonic()
                each = (now - self.since) / self.every
                print(f"{self.ended:6}{each:12.3f}{resident():12.0f}", flush=True)
                self.since = now


def main() -> None:
    """Search and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--concurrent", type=int, default=2)
    arguments = parser.parse_args()
    install(pytest.MonkeyPatch())
    print(f"{'trials':>6}{'s a trial':>12}{'driver MiB':>12}")
    with tempfile.TemporaryDirectory() as folder:
        asked = request(
            folder,
            trials=arguments.trials,
            epochs=arguments.epochs,
            concurrent=arguments.concurrent,
        )
        began = time.monotonic()
        outcome = run_search(asked, Meter(max(1, arguments.trials // 10)))
        seconds = time.monotonic() - began
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    print(
        f"{arguments.trials} trials ({outcome.pruned} pruned) in {seconds:.0f} s, start included; "
        f"the run's folder took {size / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
