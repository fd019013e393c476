"""The benchmarks run and print their figures; what they measure is not asserted."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize("family", ["small", "residual"])
def test_throughput_prints_gains_and_the_share_of_the_peak(family):
    options = ["--family", family, "--width", "0.05", "--batch", "10", "--rounds", "1"]
    command = [sys.executable, BENCHMARKS / "throughput.py", *options, "--threads", "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for line in ("plain:", "shared:", "fused:", "share of the matrix peak"):
        assert line in run.stdout


def test_decoding_prints_speed_and_memory():
    command = [sys.executable, BENCHMARKS / "decoding.py", "--pictures", "30"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for line in ("off ", "cold ", "cached ", "the cache takes"):
        assert f"\n{line}" in run.stdout
