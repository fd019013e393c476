"""Published sets: every layout is found, every file verified, what lacks is fetched or told."""

from collections import Counter

import pytest
from fake_sets import FAKES, REAL, check, install, lay, md5

from amatune.data.catalogue import find_dataset, open_source
from amatune.data.dataset import Presence
from amatune.data.published import dataset
from amatune.errors import DataError
from amatune.wording import download_size


@pytest.mark.parametrize(
    ("name", "home"), [(one.name, home) for one in REAL.values() for home in one.homes]
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
        assert f"{file} ({download_size(len(content))}, MD5 {md5(content)})" in message
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


@pytest.mark.parametrize("home", REAL["mnist"].homes)
@pytest.mark.parametrize("fake", ["mnist"], indirect=True)
def test_one_damaged_file_is_the_only_one_that_is_asked_for(fake, root, home):
    name = "t10k-labels-idx1-ubyte"
    lay(root / home, {**fake.home, name: fake.home[name][:-1]})
    found = find_dataset("mnist")
    assert (found.state, found.place) == ("incomplete", root / home)
    (lacking,) = found.files
    assert lacking.startswith(f"{name}.gz (")
    assert "bytes" in lacking
    with pytest.raises(DataError) as raised:
        open_source("mnist")
    assert f"put into {root / home}: {name}.gz" in str(raised.value)
    assert str(raised.value).count(", MD5 ") == 1


@pytest.mark.parametrize("fake", ["mnist"], indirect=True)
def test_of_archives_the_damaged_one_is_asked_for(fake, root):
    archives = {file: content for file, (content, _) in fake.archives.items()}
    first = next(iter(archives))
    lay(root / "MNIST/raw", {**archives, first: archives[first][:-5]})
    assert [one.split(" ")[0] for one in find_dataset("mnist").files] == [first]
    with pytest.raises(DataError) as raised:
        open_source("mnist")
    assert str(raised.value).count(", MD5 ") == 1


@pytest.mark.parametrize(
    ("name", "file", "told"),
    [
        ("svhn", "test_32x32.mat", "test_32x32.mat is damaged, it has another MD5"),
        ("cifar10", "cifar-10-batches-py/data_batch_2", "data_batch_2 is damaged"),
    ],
)
def test_another_md5_is_not_complete(name, file, told, root, monkeypatch):
    fake = FAKES[name]()
    install(monkeypatch, name, fake)
    home = root / REAL[name].homes[0]
    lay(home, {**fake.home, file: fake.home[file][:-1] + b"?"})
    found = find_dataset(name)
    assert found.state == "incomplete"
    assert told in found.files[0]
    with pytest.raises(DataError, match="cannot be downloaded"):
        open_source(name)


@pytest.mark.parametrize("fake", ["omniglot"], indirect=True)
def test_a_folder_that_lacks_pictures_is_left_alone_and_told(fake, root):
    home = root / "omniglot-py"
    lay(home, fake.home)
    gone = sorted(home.rglob("*.png"))[:2]
    for path in gone:
        path.unlink()
    found = find_dataset("omniglot")
    assert found.state == "incomplete"
    assert "images_background has 58 of 60 pictures" in found.files[0]
    with pytest.raises(DataError, match=r"images_background has 58 of 60 pictures; remove"):
        open_source("omniglot")
    assert len(list(home.rglob("*.png"))) == 88


def test_a_data_folder_that_is_none_is_told(root):
    root.write_text("a file")
    with pytest.raises(DataError, match=rf"the data folder {root} is a file; name a folder"):
        open_source("mnist")


def test_an_unreadable_data_folder_is_told(root, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(root))

    monkeypatch.setattr(dataset, "is_there", refuse)
    for attempt in (find_dataset, open_source):
        with pytest.raises(DataError, match=r"cannot use mnist in the data folder .* denied"):
            attempt("mnist")
