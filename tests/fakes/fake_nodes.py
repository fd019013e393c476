"""A search on a cluster of three machines, all of them this one; a machine is killed midway.

Prints what becomes of the trials. Run by a test, as a program.
"""

import os
import uuid
from pathlib import Path

import pytest
from fake_search import install, request
from ray.cluster_utils import Cluster

from amatune.tuning.events import Event, SearchStarted, TrialUpdate
from amatune.tuning.search import run_search


def main(words: list[str]) -> None:
    """Search in the folder that is the one word, kill, and print."""
    (folder,) = words
    os.environ["RAY_AUTH_TOKEN"] = uuid.uuid4().hex
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
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
        trials=4,
        epochs=20,
        concurrent=None,
        scheduler="none",
        fixed={"seconds": 0.15},
    )

    running = set()

    def watch(event: Event) -> None:
        if isinstance(event, SearchStarted):
            print("at a time", event.concurrent, flush=True)
        if isinstance(event, TrialUpdate):
            (running.add if event.state == "running" else running.discard)(event.number)
            if len(running) == 3 and event.epoch > 1 and len(others) == 2:  # each machine has one
                nodes.remove_node(others.pop(), allow_graceful=False)
            if event.state in ("waiting", "done", "failed") and event.reason:
                print(event.number, event.state, event.epoch, event.reason, flush=True)

    outcome = run_search(asked, watch, checkpoint_seconds=0.0)
    print("done", outcome.done, "failed", outcome.failed, flush=True)
    nodes.shutdown()
