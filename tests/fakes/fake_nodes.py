"""A search on a cluster of three machines, all of them this one; a machine is killed midway.

Prints what becomes of the trials. Run by a test, as a program.
"""

import os
import sys
import uuid
from pathlib import Path

os.environ["RAY_AUTH_TOKEN"] = uuid.uuid4().hex
os.environ["PYTHONPATH"] = str(Path(__file__).parent)

import pytest
from fake_search import install, request
from ray.cluster_utils import Cluster

from amatune.tuning.events import Event, SearchStarted, TrialUpdate
from amatune.tuning.search import run_search


def main(folder: Path) -> None:
    """Search, kill, and print."""
    install(pytest.MonkeyPatch())
    nodes = Cluster(
        initialize_head=True,
        connect=False,
        head_node_args={"num_cpus": 1, "include_dashboard": False},
    )
    others = [nodes.add_node(num_cpus=1) for _ in range(2)]
    asked = request(
        folder,
        address=nodes.address,
        storage_path=f"file://{folder}/shared",
        trials=5,
        epochs=20,
        concurrent=None,
        scheduler="none",
        fixed={"seconds": 0.15},
    )

    def watch(event: Event) -> None:
        if isinstance(event, SearchStarted):
            print("at a time", event.concurrent, flush=True)
        if isinstance(event, TrialUpdate):
            if event.number == 2 and event.state == "running" and event.epoch == 8 and others:
                nodes.remove_node(others.pop(), allow_graceful=False)
            if event.state in ("waiting", "done", "failed") and event.reason:
                print(event.number, event.state, event.epoch, event.reason, flush=True)

    outcome = run_search(asked, watch, checkpoint_seconds=0.0)
    print("done", outcome.done, "failed", outcome.failed, flush=True)
    nodes.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
