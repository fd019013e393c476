"""Small fakes of the published sets: their archives, and what reading them should give.

What a set is made of is replaced; how it is found, fetched, verified and read is not. Nothing
leaves this machine.
"""

import dataclasses
import gzip
import hashlib
import importlib
import io
import pickle
import tarfile
import threading
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image
from scipy.io import savemat

from amatune.data import pictures
from amatune.data.published.files import Download, Made
from amatune.data.sets import cifar10, cifar100, fashion_mnist
from amatune.data.sources.base import PARTS

RNG = np.random.default_rng(0)
COUNTS = {"train": 60, "test": 30}


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

    archives: dict[str, tuple[bytes, tuple[Made, ...]]]
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
            made = (Made(name, size=len(fake.home[name])),)
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
    made = tuple(Made(file, md5(content)) for file, content in fake.home.items())
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
        fake.archives[f"{name}.zip"] = (zipped(files), (Made(name, pictures=COUNTS[part]),))
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
        "GTSRB-Training_fixed.zip": (zipped(train), (Made("GTSRB/Training", pictures=60),)),
        "GTSRB_Final_Test_Images.zip": (
            zipped(test),
            (Made("GTSRB/Final_Test/Images", pictures=30),),
        ),
        "GTSRB_Final_Test_GT.zip": (zipped(table), (Made("GT-final_test.csv"),)),
    }
    ordered = [str(int(one.split("/")[2])) for one in sorted(train)]
    labels = {"train": ordered, "test": classes["test"]}
    return Fake(archives, {**train, **test, **table}, labels=labels)


def celeba():
    files = {f"img_align_celeba/{n:06}.jpg": picture("RGB", "JPEG") for n in range(100)}
    parts = [0] * 60 + [1] * 10 + [2] * 30
    table = "".join(f"{n:06}.jpg {part}\n" for n, part in enumerate(parts)).encode()
    archives = {
        "img_align_celeba.zip": (zipped(files), (Made("img_align_celeba", pictures=100),)),
        "list_eval_partition.txt": (table, ()),
    }
    home = {**files, "list_eval_partition.txt": table}
    return Fake(archives, home, labels={"train": [], "test": []})


FAKES = {
    "mnist": mnist,
    "fashion-mnist": mnist,
    "cifar10": lambda: cifar(
        "cifar-10-python.tar.gz", cifar10.FILES, "labels", cifar10.DATASET.info.classes
    ),
    "cifar100": lambda: cifar(
        "cifar-100-python.tar.gz", cifar100.FILES, "fine_labels", cifar100.DATASET.info.classes
    ),
    "svhn": svhn,
    "omniglot": omniglot,
    "gtsrb": gtsrb,
    "celeba": celeba,
}


def set_module(name):
    """The file of a named set."""
    return importlib.import_module(f"amatune.data.sets.{name.replace('-', '_')}")


REAL = {name: set_module(name).DATASET for name in FAKES}


def install(monkeypatch, name, fake, url="http://127.0.0.1:9/"):
    """Let a set consist of the fake's files, to be had from a server (by default a dead one)."""
    downloads = tuple(
        Download(file, len(content), md5(content), (url + file,), makes)
        for file, (content, makes) in fake.archives.items()
    )
    one = dataclasses.replace(REAL[name], downloads=downloads)
    monkeypatch.setattr(set_module(name), "DATASET", one)


def lay(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def odin_files(folder="iSUN"):
    return {f"{folder}/part/{n}.png": picture() for n in range(100)}


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
        self.http.handle_error = lambda *_: None  # a client that has given up
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


def check(source, name, fake):
    """That a source gives the images and labels of a fake."""
    shape = source.image_shape
    assert source.name == name
    assert "{} x {} x {}".format(*shape) == REAL[name].info.image
    for part in PARTS:
        ids = list(source.ids(part))
        assert len(ids) == COUNTS[part]
        if name == "fashion-mnist":
            expected = [fashion_mnist.CLASSES[int(n)] for n in fake.labels[part]]
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
