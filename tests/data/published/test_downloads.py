"""Downloads: cut, wrong, interrupted, shared, silent."""

import dataclasses
import io
import subprocess
import sys
import threading
from collections import Counter
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_sets import FAKES, REAL, check, lay, md5

from amatune.data.catalogue import find_dataset, open_source
from amatune.data.published import downloads
from amatune.data.published.files import Download
from amatune.data.sets import celeba
from amatune.errors import DataError


def test_a_cut_connection_is_tried_again(serve):
    fake = FAKES["svhn"]()
    server = serve("svhn", fake)
    server.cut = 1
    check(open_source("svhn"), "svhn", fake)
    assert server.asked["train_32x32.mat"] == 2


def test_a_file_that_stays_wrong_is_told_and_not_kept(root, serve):
    fake = FAKES["svhn"]()
    server = serve("svhn", fake)
    server.cut = 100
    with pytest.raises(DataError, match=r"train_32x32\.mat: got [\d,]+ of [\d,]+ bytes, and an"):
        open_source("svhn")
    assert server.asked == {"train_32x32.mat": downloads.ATTEMPTS}
    assert not list((root / "svhn").iterdir())
    server.cut = 0
    check(open_source("svhn"), "svhn", fake)


def test_what_was_complete_before_an_interruption_is_not_fetched_again(root, serve):
    fake = FAKES["gtsrb"]()
    server = serve("gtsrb", fake)
    third = server.files.pop("GTSRB_Final_Test_GT.zip")
    with pytest.raises(DataError, match=r"HTTP Error 404.*put into \S+: GTSRB_Final_Test_GT\.zip"):
        open_source("gtsrb")
    assert find_dataset("gtsrb").state == "incomplete"
    # As a killed process would leave it:
    lay(root / ".gtsrb.partial", {"unpacked/GTSRB/Training/00000/x.ppm": b"half", "y.zip": b"half"})
    server.files["GTSRB_Final_Test_GT.zip"] = third
    server.asked.clear()
    check(open_source("gtsrb"), "gtsrb", fake)
    assert server.asked == {"GTSRB_Final_Test_GT.zip": 1}
    assert not (root / ".gtsrb.partial").exists()


OPEN_IN_A_PROCESS = """
import dataclasses, sys
from amatune.data.catalogue import open_source
from amatune.data.published.files import Download
from amatune.data.sets import svhn
downloads = [
    Download(name, int(size), md5, (url + name,))
    for url, name, size, md5 in [line.split("|") for line in sys.argv[2:]]
]
svhn.DATASET = dataclasses.replace(svhn.DATASET, downloads=tuple(downloads))
print(len(open_source("svhn", sys.argv[1]).labels("train")))
"""


def test_two_processes_share_one_download(root, serve):
    fake = FAKES["svhn"]()
    server = serve("svhn", fake)
    server.slow.clear()
    files = [f"{server.url}|{f}|{len(c)}|{md5(c)}" for f, (c, _) in fake.archives.items()]
    command = [sys.executable, "-c", OPEN_IN_A_PROCESS, str(root), *files]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **options) for _ in range(2)]
    lines = [[], []]

    def listen(number):
        for line in processes[number].stderr:
            lines[number].append(line)
            if "waiting" in line:
                server.slow.set()  # the other one is let go on

    listeners = [threading.Thread(target=listen, args=(number,)) for number in range(2)]
    for listener in listeners:
        listener.start()
    outputs = [process.stdout.read() for process in processes]
    for listener in listeners:
        listener.join()
    for process in processes:
        process.wait()
        process.stdout.close()
        process.stderr.close()
    assert outputs == ["60\n", "60\n"], lines
    assert sum("waiting for another process" in "".join(one) for one in lines) == 1
    assert server.asked == Counter(dict.fromkeys(fake.archives, 1))


def test_a_silent_server_is_given_up(serve, monkeypatch):
    server = serve("svhn", FAKES["svhn"]())
    monkeypatch.setattr(downloads, "TIMEOUT", 0.05)
    server.slow.clear()
    with pytest.raises(DataError, match="timed out"):
        open_source("svhn")
    server.slow.set()


def test_google_needs_gdown(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gdown", None)
    (url,) = REAL["celeba"].downloads[1].urls
    with pytest.raises(RuntimeError, match=r"needs gdown, .* pip install 'amatune\[datasets\]'"):
        downloads._retrieve(url, tmp_path / "x", REAL["celeba"].downloads[1], "celeba")


def test_google_is_asked_by_gdown(monkeypatch, serve):
    fake = FAKES["celeba"]()
    serve("celeba", fake)
    files = {d.name: f"https://drive.google.com/uc?id={d.name}!" for d in REAL["celeba"].downloads}
    made = [dataclasses.replace(d, urls=(files[d.name],)) for d in celeba.DATASET.downloads]
    monkeypatch.setattr(
        celeba, "DATASET", dataclasses.replace(celeba.DATASET, downloads=tuple(made))
    )

    def download(*, id, output):
        Path(output).write_bytes(fake.archives[id.removesuffix("!")][0])

    gdown = SimpleNamespace(download=download, __spec__=ModuleSpec("gdown", None))
    monkeypatch.setitem(sys.modules, "gdown", gdown)
    check(open_source("celeba"), "celeba", fake)

    def refuse(**_):
        raise Exception("Too many users have viewed this file")

    gdown.download = refuse
    with pytest.raises(RuntimeError, match="Too many users"):
        downloads._retrieve(made[1].urls[0], Path("x"), made[1], "celeba")


def test_no_module_of_the_data_needs_a_system_of_its_own():
    """They are imported where there is no `fcntl`, as on Windows."""
    script = """
import importlib, pkgutil, sys
import filelock  # which knows its systems
sys.modules["fcntl"] = None
import amatune.data
for module in pkgutil.walk_packages(amatune.data.__path__, "amatune.data."):
    importlib.import_module(module.name)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_server_that_never_ends_fills_no_disk(monkeypatch, tmp_path):
    class Endless(io.BytesIO):
        def read(self, size=-1):
            return b"x" * size

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Endless())
    download = Download("x", 100_000, "0" * 32, ("http://nowhere/x",))
    found, reasons = downloads.fetch(download, tmp_path, "it")
    assert found is None
    assert reasons == ["http://nowhere/x: it sends more than the 100,000 bytes that are expected"]
    assert (tmp_path / "x").stat().st_size < 400_000
