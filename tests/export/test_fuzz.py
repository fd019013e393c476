"""Exports changed in every way, hashes included: read, or refused; nothing absurd is allocated."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amatune.errors import AmatuneError, RequestError
from amatune.export import Calibration, load
from amatune.sealed import own_hash

quickly = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def rehash(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit config.json as somebody would who knows how it is checked."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    if isinstance(config.get("sha256"), dict):
        for name in config["sha256"]:
            if (folder / name).is_file():
                content = (folder / name).read_bytes()
                config["sha256"][name] = hashlib.sha256(content).hexdigest()
    config["config_sha256"] = own_hash(config)
    path.write_text(json.dumps(config))


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """Meanwhile the process may take 4 GiB of address space more than it has."""
    import resource  # not on Windows

    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + 2**32, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux alone tells it")
@pytest.mark.usefixtures("bounded_memory")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 300.0),
        ("width", 1e300),
        ("latent_dim", 10**9),
        ("latent_dim", 10**30),
        ("image_shape", [1, 4000, 4000]),
        ("image_shape", [1, 10**9, 10**9]),
        ("image_shape", [10**9, 12, 12]),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_allocated(
    exported: Path, name: str, value: Any
) -> None:
    def enlarge(config: dict[str, Any]) -> None:
        (config if name in config else config["config"])[name] = value

    rehash(exported, enlarge)
    with pytest.raises(RequestError):
        load(exported)


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_in_an_export_is_refused(exported: Path, name: str) -> None:
    (exported / name).unlink()
    os.mkfifo(exported / name)
    with pytest.raises(RequestError, match="it is not a regular file"):
        load(exported)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 10**9, 10**40, 1e308, 0.0, "", "ray", [], {}, [1], "\ud800"]),
    st.text(max_size=5),
)


@pytest.mark.parametrize("name", ["kind", "schema_version"])
def test_what_cannot_be_looked_up_is_refused(exported: Path, name: str) -> None:
    rehash(exported, lambda config: config.update({name: []}))
    with pytest.raises(AmatuneError):
        load(exported)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_file_that_nothing_can_be_named_is_refused(exported: Path, name: str) -> None:
    rehash(exported, lambda config: config["sha256"].update({name: ""}))
    with pytest.raises(RequestError, match="cannot read '"):
        load(exported)


@quickly
@given(data=st.data())
def test_settings_and_facts_of_any_value(exported: Path, data: st.DataObject) -> None:
    folder = exported.with_name("changed")
    shutil.copytree(exported, folder, dirs_exist_ok=True)

    def change(config: dict[str, Any]) -> None:
        place = config
        if data.draw(st.booleans()):
            place = config[data.draw(st.sampled_from(["config", "sha256", "scores"]))]
        place[data.draw(st.sampled_from([*place, "new"]))] = data.draw(ODD)

    rehash(folder, change)
    with contextlib.suppress(AmatuneError):
        load(folder).detector.scores(torch.zeros(2, 1, 12, 12, dtype=torch.uint8))


@quickly
@given(
    name=st.sampled_from(["config.json", "model.safetensors", "calibration.safetensors"]),
    length=st.floats(0, 1),
    place=st.floats(0, 1, exclude_max=True),
    new=st.binary(max_size=12),
    rehashed=st.booleans(),
)
def test_files_of_any_bytes(
    exported: Path, name: str, length: float, place: float, new: bytes, rehashed: bool
) -> None:
    folder = exported.with_name("changed")
    shutil.copytree(exported, folder, dirs_exist_ok=True)
    content = (folder / name).read_bytes()
    spoilt = bytearray(content if length > 0.5 else content[: round(2 * length * len(content))])
    # Half of the changes fall into a header, the part that says what follows.
    start = int(place * min(len(spoilt), 2000 if length > 0.75 else len(spoilt)))
    spoilt[start : start + len(new)] = new
    (folder / name).write_bytes(spoilt)
    if rehashed and name != "config.json":
        rehash(folder, lambda _config: None)
    with contextlib.suppress(AmatuneError):
        load(folder)


@quickly
@given(content=st.binary(max_size=300))
def test_calibrations_of_any_bytes(content: bytes) -> None:
    with contextlib.suppress(RequestError):
        Calibration.from_bytes(content)
