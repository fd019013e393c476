"""From a search to scores, as a user would go."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from calls import ANSI, call

import amatune


@pytest.mark.usefixtures("ray_cluster")
def test_search_best_export_score(pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def shell(line: str) -> str:
        capfd.readouterr()
        code = call(line)
        output, errors = capfd.readouterr()  # of other programs that it starts, too
        assert code == 0, errors + output
        assert errors == ""
        assert ANSI not in output
        return output

    small = (
        "--width 0.05 --fix critic_steps=1 --fix batch_size=64 --image-size 12 "
        "--concurrent 1 --gpus-per-trial 0"
    )
    Path("first.json").write_text('{"k": 6, "lambda_reg": 0.125}', encoding="utf-8")
    text = shell(f"search --trials 3 --epochs 2 --name tiny {small} --enqueue first.json")
    assert re.search(r"trial 1 \w+, .* k=6 .*lambda_reg=0\.125", text)
    assert re.search(r"validation AUROC \d\.\d+ \(standard error \d\.\d+ with 50 anomalies\)", text)
    for number in range(3):
        assert len(re.findall(rf"trial {number} (?:done|pruned), epoch", text)) == 1
    assert "validation AUROC" in text
    assert "amatune best tiny --export" in text
    assert "tensorboard --logdir runs/tiny/tensorboard" in text

    text = shell("best tiny --top 1 --seeds 1 --export --export-dir model")
    assert re.search(r"Test AUROC of A: \d\.\d{3}, 95% interval \d\.\d{3} to \d\.\d{3}", text)
    assert "amatune score model" in text
    assert "digits: classes 0-4 normal" in Path("model/README.md").read_text(encoding="utf-8")
    config = json.loads(Path("model/config.json").read_text(encoding="utf-8"))
    assert config["calibration"]["normal_images"] == 269  # those of the test
    assert config["data"]["training_images"]["shape"] == [582, 1, 12, 12]
    exported = amatune.load("model")
    kept = next(Path("runs/tiny/best/models").glob("*/seed1/test.npz"))
    chosen = json.loads(Path("runs/tiny/best/leaderboard.json").read_text(encoding="utf-8"))
    name = next(row["configuration"] for row in chosen["rows"] if row["chosen"])
    with np.load(kept.parents[2] / name / "seed1" / "test.npz") as scores:
        assert np.array_equal(exported.calibration.scores, np.sort(scores["A/normal"]))

    assert len(shell(f"score model {pictures}").splitlines()) == 6

    text = shell("status")
    assert "Run tiny: " in text
    assert "of 3" in text
    assert "Test AUROC of A" in text
