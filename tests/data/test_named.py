"""The named sets: layouts, lazy reading, verification, downloading and unpacking.

Small fakes stand in for the real files: what a set is made of is replaced, how it is found,
fetched, verified and read is not. Nothing leaves this machine.
"""

import dataclasses
import gzip
import hashlib
import inspect
import io
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from amatune.data import named, pictures, sources
from amatune.data.named import _Download, _Made
from amatune.data.places import DATA, data_folder
from amatune.data.protocol import Problem, ProblemRequest, make_problem
from amatune.data.sources import PARTS, Presence, find_dataset, list_datasets, open_source
from amatune.errors import DataError

RNG = np.random.default_rng(0)
REAL = {one.name: one for one in named._SETS}
COUNTS = {"train": 60, "test": 30}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """An empty data folder, and no way out."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(DATA, str(tmp_path / "data"))
    return tmp_path / "data"


# Fakes: for every set the archives, and what reading it should give


def md5(content):
    return hashlib.md5(content).hexdigest()


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def picture(mode="RGB", suffix="PNG", size=(20, 24)):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).convert(mode).save(buffer, suffix)
    return buffer.getvalue()


def idx(array):
    header = np.array([0x800 | array.ndim, *array.shape], ">u4")
    return header.tobytes() + array.tobytes()


def pixels(part, *shape):
    return RNG.integers(0, 256, (COUNTS[part], *shape), np.uint8)


def numbers(part, classes):
    return np.arange(COUNTS[part]) % classes


@dataclasses.dataclass
class Fake:
    """A set's archives with what each makes, what lies in its home, and images and labels."""

    archives: dict[str, tuple[bytes, tuple[_Made, ...]]]
    home: dict[str, bytes]
    images: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    labels: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def mnist():
    fake = Fake({}, {})
    for part, stem in (("train", "train"), ("test", "t10k")):
        fake.images[part] = pixels(part, 28, 28)[:, None]
        fake.labels[part] = [str(n) for n in numbers(part, 10)]
        for name, array in (
            (f"{stem}-images-idx3-ubyte", fake.images[part][:, 0]),
            (f"{stem}-labels-idx1-ubyte", numbers(part, 10).astype(np.uint8)),
        ):
            fake.home[name] = idx(array)
            made = (_Made(name, size=len(fake.home[name])),)
            fake.archives[f"{name}.gz"] = (gzip.compress(fake.home[name]), made)
    return fake


def python2(contents):
    """A pickle that names NumPy's modules as CIFAR's do."""
    return pickle.dumps(contents, protocol=3).replace(b"numpy._core.", b"numpy.core.")


def cifar(name, files, key, classes):
    fake = Fake({}, {})
    for part in PARTS:
        fake.images[part] = pixels(part, 3, 32, 32)
        labels = numbers(part, len(classes))
        fake.labels[part] = [classes[n] for n in labels]
        ranges = np.array_split(np.arange(COUNTS[part]), len(files[part]))
        for file, rows in zip(files[part], ranges, strict=True):
            data = fake.images[part][rows].reshape(len(rows), -1)
            fake.home[file] = python2({"data": data, key: labels[rows].tolist()})
    made = tuple(_Made(file, md5(content)) for file, content in fake.home.items())
    fake.archives[name] = (tarred(fake.home), made)
    return fake


def svhn():
    fake = Fake({}, {})
    for part in PARTS:
        fake.images[part] = pixels(part, 3, 32, 32)
        labels = numbers(part, 10)
        fake.labels[part] = [str(n) for n in labels]
        buffer = io.BytesIO()
        y = np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)
        savemat(buffer, {"X": fake.images[part].transpose(2, 3, 1, 0), "y": y}, do_compression=True)
        fake.home[f"{part}_32x32.mat"] = buffer.getvalue()
        fake.archives[f"{part}_32x32.mat"] = (buffer.getvalue(), ())
    return fake


def omniglot():
    fake = Fake({}, {})
    for part, name in (("train", "images_background"), ("test", "images_evaluation")):
        files = {
            f"{name}/{alphabet}_{part}/character{n:02}/{n}.png": picture("1")
            for alphabet in ("Greek", "Latin")
            for n in range(COUNTS[part] // 2)
        }
        fake.home |= files
        fake.labels[part] = [one.split("/")[1] for one in sorted(files)]
        fake.archives[f"{name}.zip"] = (zipped(files), (_Made(name, pictures=COUNTS[part]),))
    return fake


def gtsrb():
    classes = {part: [str(n % 12) for n in range(COUNTS[part])] for part in PARTS}
    train = {
        f"GTSRB/Training/{int(c):05}/{n:05}.ppm": picture("RGB", "PPM", (15 + n % 9, 20))
        for n, c in enumerate(classes["train"])
    }
    test = {f"GTSRB/Final_Test/Images/{n:05}.ppm": picture("RGB", "PPM") for n in range(30)}
    rows = [f"{n:05}.ppm;20;24;1;1;9;9;{c}" for n, c in enumerate(classes["test"])]
    head = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    table = {"GT-final_test.csv": "\r\n".join([head, *rows]).encode()}
    archives = {
        "GTSRB-Training_fixed.zip": (zipped(train), (_Made("GTSRB/Training", pictures=60),)),
        "GTSRB_Final_Test_Images.zip": (
            zipped(test),
            (_Made("GTSRB/Final_Test/Images", pictures=30),),
        ),
        "GTSRB_Final_Test_GT.zip": (zipped(table), (_Made("GT-final_test.csv"),)),
    }
    ordered = [str(int(one.split("/")[2])) for one in sorted(train)]
    labels = {"train": ordered, "test": classes["test"]}
    return Fake(archives, {**train, **test, **table}, labels=labels)


def celeba():
    files = {f"img_align_celeba/{n:06}.jpg": picture("RGB", "JPEG") for n in range(100)}
    parts = [0] * 60 + [1] * 10 + [2] * 30
    table = "".join(f"{n:06}.jpg {part}\n" for n, part in enumerate(parts)).encode()
    archives = {
        "img_align_celeba.zip": (zipped(files), (_Made("img_align_celeba", pictures=100),)),
        "list_eval_partition.txt": (table, ()),
    }
    home = {**files, "list_eval_partition.txt": table}
    return Fake(archives, home, labels={"train": [], "test": []})


FAKES = {
    "mnist": mnist,
    "fashion-mnist": mnist,
    "cifar10": lambda: cifar(
        "cifar-10-python.tar.gz", named._CIFAR10_FILES, "labels", named._CIFAR10_CLASSES
    ),
    "cifar100": lambda: cifar(
        "cifar-100-python.tar.gz", named._CIFAR100_FILES, "fine_labels", named._CIFAR100_CLASSES
    ),
    "svhn": svhn,
    "omniglot": omniglot,
    "gtsrb": gtsrb,
    "celeba": celeba,
}


def install(monkeypatch, name, fake, url="http://127.0.0.1:9/"):
    """Let a set consist of the fake's files, to be had from a server (by default a dead one)."""
    downloads = [
        _Download(file, len(content), md5(content), (url + file,), makes)
        for file, (content, makes) in fake.archives.items()
    ]
    one = dataclasses.replace(REAL[name], downloads=lambda: downloads)
    monkeypatch.setattr(named, "ENTRIES", {**named.ENTRIES, name: named._entry(one)})


def lay(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture
def fake(request, monkeypatch):
    """The fake of the set that the test names, not in the data folder yet."""
    made = FAKES[request.param]()
    install(monkeypatch, request.param, made)
    return made


class Server:
    """Serves files on this machine; `cut` shortens so many first answers, `refused` is 404."""

    def __init__(self, files):
        self.files = files
        self.asked = Counter()
        self.cut = 0
        self.slow = threading.Event()
        self.slow.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rsplit("/")[-1]
                server.asked[name] += 1
                server.slow.wait(30)
                if name not in server.files:
                    self.send_error(404)
                    return
                content = server.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                cut = server.cut > 0
                server.cut -= cut
                self.wfile.write(content[: len(content) // 2] if cut else content)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def serve(monkeypatch):
    servers = []

    def start(name, fake):
        server = Server({file: content for file, (content, _) in fake.archives.items()})
        servers.append(server)
        install(monkeypatch, name, fake, server.url)
        return server

    yield start
    for server in servers:
        server.close()


def check(source, name, fake):
    """That a source gives the images and labels of a fake."""
    shape = source.image_shape
    assert source.name == name
    assert "{} x {} x {}".format(*shape) == REAL[name].info.image
    for part in PARTS:
        ids = list(source.ids(part))
        assert len(ids) == COUNTS[part]
        if name == "fashion-mnist":
            expected = [named._FASHION_CLASSES[int(n)] for n in fake.labels[part]]
        else:
            expected = fake.labels[part]
        assert list(source.labels(part)) == expected
        some = [ids[40 % len(ids)], ids[3], ids[17]]
        images, read = source.read(part, some, shape)
        assert read == some
        assert images.dtype == np.uint8
        assert images.flags.c_contiguous
        if fake.images:
            assert (images == fake.images[part][some]).all()
        else:
            whole = [pictures.read_picture(source.location / str(one), shape) for one in some]
            assert (images == whole).all()


# Facts


@pytest.mark.parametrize("name", REAL)
def test_facts_agree_with_each_other(name):
    info, downloads = REAL[name].info, REAL[name].downloads()
    assert sum(d.size for d in downloads) == info.download
    assert len({d.name for d in downloads}) == len(downloads)
    for d in downloads:
        assert len(d.md5) == 32
        assert all(url.startswith("http") for url in d.urls)
    assert list(info.classes) == list(sources.sorted_classes(info.classes))


def test_facts_are_torchvisions():
    source = inspect.getsource(datasets.GTSRB)
    for d in REAL["gtsrb"].downloads():
        assert d.md5 in source
        assert d.name in source
        assert d.urls == (named._GTSRB_URL + d.name,)
    assert named._GTSRB_URL in source
    assert list(named._FASHION_CLASSES) == datasets.FashionMNIST.classes
    assert len(named._CIFAR100_CLASSES) == 100
    made = [m for d in REAL["cifar100"].downloads() for m in d.parts]
    assert [m.path for m in made] == [f for files in named._CIFAR100_FILES.values() for f in files]
    made = [m for d in REAL["cifar10"].downloads() for m in d.parts]
    assert [m.path for m in made] == [f for files in named._CIFAR10_FILES.values() for f in files]
    assert {m.md5 for m in made} == {s for _, s in datasets.CIFAR10.train_list} | {
        s for _, s in datasets.CIFAR10.test_list
    }


def test_every_set_of_the_paper_is_listed():
    names = {info.name for info in list_datasets()}
    assert names >= {*FAKES, "imagenet-resize", "lsun-resize", "isun", "uniform-noise"}


def test_the_data_folder_is_the_chosen_one_else_the_environments(root, monkeypatch, tmp_path):
    assert data_folder() == root
    assert (
        data_folder(tmp_path / "told") == data_folder(str(tmp_path / "told")) == tmp_path / "told"
    )
    monkeypatch.setenv(DATA, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_folder() == tmp_path / ".cache/amatune"
    assert data_folder("~/sets") == tmp_path / "sets"


# Layouts


@pytest.mark.parametrize(
    ("name", "home"), [(one.name, home) for one in named._SETS for home in one.homes]
)
def test_a_set_is_found_where_it_lies(name, home, root, monkeypatch):
    fake = FAKES[name]()
    install(monkeypatch, name, fake)
    lay(root / home, fake.home)
    assert find_dataset(name) == Presence(state="complete", place=root / home)
    check(open_source(name), name, fake)


@pytest.mark.parametrize("name", FAKES)
def test_a_missing_set_is_told_file_by_file(name, root, monkeypatch):
    fake = FAKES[name]()
    install(monkeypatch, name, fake)
    found = find_dataset(name)
    assert (found.state, found.place) == ("missing", root / REAL[name].homes[0])
    with pytest.raises(DataError) as raised:
        open_source(name)
    message = str(raised.value)
    assert f"{name} is not in the data folder and cannot be downloaded" in message
    assert f"put into {root / REAL[name].homes[0]}: " in message
    assert "refused" in message
    assert "--data-dir" in message
    assert "\n" not in message
    for file, (content, _) in fake.archives.items():
        assert f"{file} ({named.megabytes(len(content))}, MD5 {md5(content)})" in message
    assert not list(root.glob(".*.partial"))


@pytest.mark.parametrize("name", FAKES)
def test_a_set_is_downloaded_verified_and_then_simply_there(name, root, serve, capsys):
    fake = FAKES[name]()
    server = serve(name, fake)
    check(open_source(name), name, fake)
    assert server.asked == Counter(dict.fromkeys(fake.archives, 1))
    told = capsys.readouterr().err
    assert all(f"{name}: downloading {file}, " in told for file in fake.archives)
    check(open_source(name), name, fake)
    assert server.asked.total() == len(fake.archives)
    assert find_dataset(name).state == "complete"
    hidden = [path.name for path in root.iterdir() if path.name.startswith(".")]
    assert hidden == [f".{name}.lock"]


@pytest.mark.parametrize("name", FAKES)
def test_archives_put_there_by_hand_are_used(name, root, monkeypatch):
    fake = FAKES[name]()
    install(monkeypatch, name, fake)
    archives = {file: content for file, (content, _) in fake.archives.items()}
    lay(root, archives)
    check(open_source(name), name, fake)
    assert all((root / file).read_bytes() == content for file, content in archives.items())


# Verification


@pytest.mark.parametrize("fake", ["mnist"], indirect=True)
def test_a_damaged_archive_put_there_is_named(fake, root):
    file, (content, _) = next(iter(fake.archives.items()))
    lay(root / "MNIST/raw", {file: content[:-5]})
    with pytest.raises(
        DataError, match=f"{file} is there but damaged, .* of {len(content):,} byte"
    ):
        open_source("mnist")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_2"),
        ("cifar100", "cifar-100-python/test"),
        ("svhn", "test_32x32.mat"),
        ("celeba", "list_eval_partition.txt"),
    ],
)
def test_a_truncated_file_is_fetched_again(name, file, root, serve):
    fake = FAKES[name]()
    home = root / REAL[name].homes[0]
    lay(home, {**fake.home, file: fake.home[file][:-9]})
    server = serve(name, fake)
    check(open_source(name), name, fake)
    assert server.asked.total() == 1
    assert (home / file).read_bytes() == fake.home[file]


def test_no_pickle_is_opened_before_its_sum_is_right(root, monkeypatch):
    fake = FAKES["cifar10"]()
    install(monkeypatch, "cifar10", fake)
    lay(root, {**fake.home, "cifar-10-batches-py/test_batch": b"cos\nsystem\n(S'x'\ntR."})
    monkeypatch.setattr(named, "_unpickle", lambda path: pytest.fail(f"{path} was opened"))
    with pytest.raises(DataError, match="cannot be downloaded"):
        open_source("cifar10")


@pytest.mark.parametrize(
    "forged", [b"cos\nsystem\n(S'touch owned'\ntR.", b"cbuiltins\neval\n."], ids=["system", "eval"]
)
def test_a_forged_pickle_does_nothing(forged, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = FAKES["cifar100"]()
    fake.home["cifar-100-python/train"] = forged
    made = tuple(_Made(file, md5(content)) for file, content in fake.home.items())
    fake.archives = {"cifar-100-python.tar.gz": (tarred(fake.home), made)}
    install(monkeypatch, "cifar100", fake)
    lay(root, fake.home)
    with pytest.raises(DataError, match="not CIFAR's, it is not loaded: it asks for"):
        open_source("cifar100")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("fake", ["omniglot"], indirect=True)
def test_a_folder_that_lacks_pictures_is_left_alone_and_told(fake, root):
    home = root / "omniglot-py"
    lay(home, fake.home)
    gone = sorted(home.rglob("*.png"))[:2]
    for path in gone:
        path.unlink()
    with pytest.raises(DataError, match=r"images_background has 58 of 60 pictures; remove"):
        open_source("omniglot")
    assert len(list(home.rglob("*.png"))) == 88


@pytest.mark.parametrize("fake", ["mnist"], indirect=True)
def test_a_header_that_does_not_fit_is_told(fake, root):
    file = "t10k-labels-idx1-ubyte"
    content = fake.home[file]
    lay(root / "mnist", {**fake.home, file: content[:4] + b"\0\0\0\x07" + content[8:]})
    with pytest.raises(DataError, match=f"{file} is damaged"):
        open_source("mnist")


# Downloading


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
    assert server.asked == {"train_32x32.mat": named.ATTEMPTS}
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
from amatune.data import named
from amatune.data.sources import open_source
real = {one.name: one for one in named._SETS}["svhn"]
downloads = [
    named._Download(name, int(size), md5, (url + name,))
    for url, name, size, md5 in [line.split("|") for line in sys.argv[2:]]
]
one = dataclasses.replace(real, downloads=lambda: downloads)
named.ENTRIES = {**named.ENTRIES, "svhn": named._entry(one)}
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
    monkeypatch.setattr(named, "TIMEOUT", 0.05)
    server.slow.clear()
    with pytest.raises(DataError, match="timed out"):
        open_source("svhn")
    server.slow.set()


def test_google_needs_gdown(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gdown", None)
    (url,) = REAL["celeba"].downloads()[1].urls
    with pytest.raises(RuntimeError, match="pip install gdown"):
        named._retrieve(url, tmp_path / "x", REAL["celeba"].downloads()[1], "celeba")


def test_a_data_folder_that_is_none_is_told(root):
    root.write_text("a file")
    with pytest.raises(DataError, match=f"cannot use mnist in the data folder {root}: .*exists"):
        open_source("mnist")


def test_an_unreadable_data_folder_is_told(root, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(root))

    monkeypatch.setattr(named, "_is_there", refuse)
    for attempt in (find_dataset, open_source):
        with pytest.raises(DataError, match=r"cannot use mnist in the data folder .* denied"):
            attempt("mnist")


# Anomalies of ODIN


def odin_files(folder="iSUN"):
    return {f"{folder}/part/{n}.png": picture() for n in range(100)}


def check_odin(source):
    assert source.name == "isun"
    assert source.image_shape is None
    assert source.class_names == ()
    assert list(source.labels("train")) == []
    counts = [len(source.ids(part)) for part in PARTS]
    assert sum(counts) == 100
    assert 15 < counts[1] < 45
    images, _ = source.read("test", source.ids("test")[:2], (1, 28, 28))
    assert images.shape == (2, 1, 28, 28)


@pytest.mark.parametrize(
    ("archive", "pack", "folder"),
    [
        (None, None, "iSUN"),
        ("iSUN.tar.gz", tarred, "iSUN"),
        ("iSUN.tgz", tarred, "."),
        ("iSUN.zip", zipped, "iSUN"),
        ("iSUN.zip", zipped, "."),
    ],
)
def test_odin_sets_are_found_packed_or_not(archive, pack, folder, root):
    files = odin_files(folder)
    lay(root, {archive: pack(files)} if archive else files)
    assert find_dataset("isun") == Presence(state="complete", place=root / (archive or "iSUN"))
    check_odin(open_source("isun"))
    assert find_dataset("isun") == Presence(state="complete", place=root / "iSUN")
    check_odin(open_source("isun"))


def test_a_missing_odin_set_says_which_file_to_put_where(root):
    with pytest.raises(
        DataError, match=rf"get iSUN\.tar\.gz from https://\S+ and put it into {root}"
    ):
        open_source("isun")
    found = find_dataset("isun")
    assert (found.state, found.files, found.by_hand) == ("missing", ("iSUN.tar.gz",), True)


def tar_with(**facts):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("iSUN/x.png")
        for key, value in facts.items():
            setattr(info, key, value)
        archive.addfile(info, io.BytesIO(b""))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("iSUN.tar.gz", tar_with(name="../../evil.png")),
        ("iSUN.tar.gz", tar_with(name="/tmp/amatune-evil.png")),
        ("iSUN.tar.gz", tar_with(type=tarfile.SYMTYPE, linkname="/etc")),
        ("iSUN.tar.gz", tar_with(type=tarfile.LNKTYPE, linkname="../x")),
        ("iSUN.tar.gz", tar_with(type=tarfile.FIFOTYPE)),
        ("iSUN.zip", zipped({"iSUN/../../../evil.png": b""})),
        ("iSUN.zip", zipped({"/tmp/amatune-evil.png": b""})),
    ],
    ids=["tar ..", "tar /", "symbolic link", "hard link", "pipe", "zip ..", "zip /"],
)
def test_an_archive_that_leads_outside_is_refused(name, content, root, tmp_path):
    lay(root, {name: content})
    with pytest.raises(DataError, match="is a link or leads outside"):
        open_source("isun")
    assert {path.name for path in root.iterdir()} == {name, ".isun.lock"}
    assert not list(tmp_path.rglob("*evil*"))
    assert not Path("/tmp/amatune-evil.png").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("iSUN.tar.gz", b"nothing"),
        ("iSUN.tar.gz", tarred(odin_files())[:-4000]),
        ("iSUN.zip", zipped(odin_files())[:-4000]),
    ],
    ids=["no archive", "cut tar", "cut zip"],
)
def test_a_damaged_archive_leaves_nothing(name, content, root):
    lay(root, {name: content})
    with pytest.raises(DataError, match=f"cannot unpack {root / name}, it is damaged"):
        open_source("isun")
    assert {path.name for path in root.iterdir()} == {name, ".isun.lock"}


# In a problem


def test_each_request_reads_its_own_data_folder(tmp_path):
    """Two requests in one process: neither folder is chosen for the other, nor for the next."""
    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        lay(folder, odin_files())
    request = ProblemRequest(ood=("isun",))
    made = [make_problem(request, folder) for folder in folders]
    again = [Problem.from_dict(one.to_dict(), f) for one, f in zip(made, folders, strict=True)]
    for one, other in (made, again):
        assert (one.train_images() == other.train_images()).all()
        anomalies = [problem.validation_images()[1] for problem in (one, other)]
        assert not np.array_equal(*anomalies)
    for one, other in zip(made, again, strict=True):
        assert (one.validation_images()[1] == other.validation_images()[1]).all()
    for folder in folders:
        assert find_dataset("isun", folder).place == folder / "iSUN"
        assert open_source("isun", folder).location == folder / "iSUN"
    assert find_dataset("isun").state == "missing"
    with pytest.raises(DataError, match="isun is not in the data folder"):
        make_problem(request)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "gtsrb"])
def test_a_saved_problem_is_found_again_in_another_data_folder(name, root, tmp_path, monkeypatch):
    fake = FAKES[name]()
    install(monkeypatch, name, fake)
    lay(root / REAL[name].homes[0], fake.home)
    lay(root, odin_files())
    request = ProblemRequest(dataset=name, ood=("isun",))
    problem = make_problem(request)
    assert not problem.test_opened
    saved = problem.to_dict()
    assert str(root) not in repr(saved)
    root.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="not in the data folder"):
        Problem.from_dict(saved)
    again = Problem.from_dict(saved, tmp_path / "moved")
    assert again.to_dict() == saved
    assert (again.train_images() == problem.train_images()).all()


def test_other_images_under_the_same_names_are_noticed(root, monkeypatch):
    first, second = FAKES["mnist"](), FAKES["mnist"]()
    lay(root, odin_files())
    lay(root / "mnist", first.home)
    install(monkeypatch, "mnist", first)
    saved = make_problem(ProblemRequest(dataset="mnist", ood=("isun",))).to_dict()
    test = "t10k-images-idx3-ubyte"
    lay(root / "mnist", {test: second.home[test]})
    with pytest.raises(DataError, match="other images under the same names"):
        Problem.from_dict(saved)


def test_odin_sets_cannot_be_the_normal_set(root):
    lay(root, odin_files())
    with pytest.raises(DataError, match="isun cannot be the normal set"):
        make_problem(ProblemRequest(dataset="isun", ood=("uniform-noise",)))


def test_no_test_picture_is_decoded_before_the_test(root, monkeypatch):
    fake = FAKES["celeba"]()
    install(monkeypatch, "celeba", fake)
    damaged = dict.fromkeys(list(fake.home)[70:100], b"no picture")
    lay(root / "celeba", {**fake.home, **damaged})
    problem = make_problem(ProblemRequest(dataset="celeba", ood=("uniform-noise",)))
    assert problem.train_images().shape[1:] == (3, 32, 32)
    with pytest.raises(DataError, match="too many damaged pictures"):
        problem.test_images()
