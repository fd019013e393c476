"""Problems of real pictures and arrays, where the sample data is at hand."""

from pathlib import Path

import pytest
from problems import problem

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the sample data in {SHARED}")
def test_real_pictures_of_varying_sizes():
    tile = SHARED / "magnetic_tile"
    made = problem(dataset=f"folder:{tile}/normal", ood=(f"folder:{tile}/defect",))
    assert "; 64 x 64 pixels, grey (they have " in made.describe()
    counts = made.splits.counts()
    assert made.image_shape == (1, 64, 64)
    held_out = (counts["train_normals"] + counts["validation_normals"]) // 5
    assert counts["validation_normals"] == held_out
    assert sum(counts[name] for name in counts if "normals" in name) == 300
    assert counts["validation_anomalies"] == 50
    assert counts["test_anomalies"] == round(0.2 * counts["test_normals"])
    assert made.warnings == made.test_duplicates() == []
    assert 60 < made.train_images().mean() < 200
    same = problem(dataset=f"folder:{tile}", normal_classes=("normal",))
    assert same.splits.counts() == counts
    assert same.splits.test_normals[0].ids == tuple(
        f"normal/{one}" for one in made.splits.test_normals[0].ids
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the sample data in {SHARED}")
def test_real_arrays():
    made = problem(
        dataset=f"npz:{SHARED / 'fashion_mnist.npz'}",
        ood=(f"npz:{SHARED / 'mnist.npz'}", f"npz:{SHARED / 'cifar10.npz'}"),
    )
    assert made.image_shape == (1, 28, 28)
    assert made.splits.counts() == {
        "train_normals": 4950,
        "validation_normals": 50,
        "validation_anomalies": 50,
        "test_normals": 2000,
        "test_anomalies": 400,
    }
    one = problem(dataset=f"npz:{SHARED / 'mnist.npz'}", normal_classes=("8",))
    assert [len(s.ids) for s in one.splits.test_anomalies] == [40]
