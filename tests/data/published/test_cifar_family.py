"""CIFAR's pickles: nothing in them acts."""

import pytest
from fake_sets import FAKES, install, lay, md5, tarred

from amatune.data.catalogue import open_source
from amatune.data.published import cifar_family
from amatune.data.published.files import Made
from amatune.errors import DataError


def test_no_pickle_is_opened_before_its_sum_is_right(root, monkeypatch):
    fake = FAKES["cifar10"]()
    install(monkeypatch, "cifar10", fake)
    lay(root, {**fake.home, "cifar-10-batches-py/test_batch": b"cos\nsystem\n(S'x'\ntR."})
    monkeypatch.setattr(cifar_family, "_unpickle", lambda path: pytest.fail(f"{path} was opened"))
    with pytest.raises(DataError, match="cannot be downloaded"):
        open_source("cifar10")


@pytest.mark.parametrize(
    "forged", [b"cos\nsystem\n(S'touch owned'\ntR.", b"cbuiltins\neval\n."], ids=["system", "eval"]
)
def test_a_forged_pickle_does_nothing(forged, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = FAKES["cifar100"]()
    fake.home["cifar-100-python/train"] = forged
    made = tuple(Made(file, md5(content)) for file, content in fake.home.items())
    fake.archives = {"cifar-100-python.tar.gz": (tarred(fake.home), made)}
    install(monkeypatch, "cifar100", fake)
    lay(root, fake.home)
    with pytest.raises(DataError, match="not CIFAR's, it is not loaded: it asks for"):
        open_source("cifar100")
    assert not (tmp_path / "owned").exists()
