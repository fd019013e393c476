"""MNIST's format."""

import pytest
from fake_sets import lay

from amatune.data.catalogue import open_source
from amatune.errors import DataError


@pytest.mark.parametrize("fake", ["mnist"], indirect=True)
def test_a_header_that_does_not_fit_is_told(fake, root):
    file = "t10k-labels-idx1-ubyte"
    content = fake.home[file]
    lay(root / "mnist", {**fake.home, file: content[:4] + b"\0\0\0\x07" + content[8:]})
    with pytest.raises(DataError, match=f"{file} is damaged"):
        open_source("mnist")
