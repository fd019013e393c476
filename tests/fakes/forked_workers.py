"""Ray's workers, forked from a process that has imported everything, which takes three seconds.

Ray starts this program in the place of its `setup_worker.py`: it asks that process for a worker and
lives as long as that. For the tests' own cluster alone; a search's own has Ray's workers.
"""

import json
import os
import socket
import sys

ADDRESS = "AMATUNE_TEST_WORKERS"  # in the environment of a cluster, the socket to ask at


def ask() -> None:
    """Have a worker made with the words, the environment and the streams of this process."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[ADDRESS])
        asked = json.dumps([sys.argv[1:], dict(os.environ)]).encode()
        socket.send_fds(connection, [len(asked).to_bytes(4, "big")], [1, 2])
        connection.sendall(asked)
        connection.recv(1)  # nothing comes: it is closed when the worker ends


def serve(listening: socket.socket) -> None:
    """Fork a worker for everyone who asks, for ever.

    Ray reads much of a worker's environment, its job among it, when it is imported: nothing is
    before somebody asks, and all who ask are of one cluster and one job.
    """
    import signal

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # none is waited for
    while True:
        connection, _ = listening.accept()
        length, streams, _, _ = socket.recv_fds(connection, 4, 2)
        with connection.makefile("rb") as incoming:
            words, environment = json.loads(incoming.read(int.from_bytes(length, "big")))
        os.environ.clear()
        os.environ.update(environment)
        import fake_search  # noqa: F401 - and with it all that a worker does

        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            for own, stream in enumerate(streams, 1):
                os.dup2(stream, own)
            become_worker(words)
        for handle in (*streams, connection.detach()):
            os.close(handle)


def become_worker(words: list[str]) -> None:
    """Do what Ray's `setup_worker.py` does with these words."""
    import argparse
    import runpy

    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray._private.utils import update_envs

    parser = argparse.ArgumentParser()
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    known, rest = parser.parse_known_args(words)
    update_envs(RuntimeEnvContext.deserialize(known.serialized_runtime_env_context).env_vars)
    sys.argv = [word for word in rest if word not in ("-s", "-S")]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(socket.socket(fileno=int(sys.argv[2])))
    else:
        ask()
