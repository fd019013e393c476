"""A trained detector at rest: what it is built from, and its tensors.

The one form in which a detector leaves a worker, is handed to another, is kept in a run or an
export, and is pickled with an estimator. On disk it is a folder:

    model.safetensors  the tensors that scoring needs, by flat name
    config.json        everything else, with the SHA-256 of every other file and of itself

An export is such a folder with more files in it and more said in its config.json. Reading one runs
no code that it holds, and refuses a file that is not the one that was written.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import safetensors
import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from amatune import registry
from amatune.config import DetectorConfig, ImageShape
from amatune.detector import Detector
from amatune.errors import RequestError
from amatune.files import read_bytes, write_bytes
from amatune.version import __version__

SCHEMA_VERSION = 3  # of config.json
MAX_SIDE = 4096  # pixels, and channels; what is larger, no machine could score
WEIGHTS = "model.safetensors"
CONFIG = "config.json"

MODEL = "amatune-model"  # a detector that a retraining keeps in its run
EXPORT = "amatune-export"  # one that is made to be handed on
_AGAIN = {
    MODEL: "remove the folder and call `amatune best` again",
    EXPORT: "copy or export the model again",
}


_UNSTORED = 64  # times the stored tensors' bytes that all networks together may take, or ...
_SMALL = 2**28  # ... bytes, whichever is more


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredDetector:
    """A calibrated detector as plain values. It pickles, and holds nothing of a device."""

    method: str  # its name
    config: Mapping[str, Any]  # every setting, as used
    image_shape: ImageShape  # (C, H, W)
    seed: int
    primary: str  # the score that ranks images
    tensors: Mapping[str, Tensor]  # `Detector.inference_state`, on the CPU
    facts: Mapping[str, Any] = field(default_factory=dict)  # more about it, JSON values by name
    version: str = __version__  # of the amatune that made it

    @classmethod
    def of(cls, detector: Detector) -> Self:
        """The detector as it is now; training it further changes nothing here.

        Raises `RequestError` before `calibrate`.
        """
        state = detector.inference_state()
        return cls(
            method=detector.name,
            config=detector.config.to_dict(),
            image_shape=detector.image_shape,
            seed=detector.seed,
            primary=detector.primary_score,
            tensors={name: value.detach().cpu().clone() for name, value in state.items()},
        )

    def build(
        self, device: str | torch.device = "cpu", detector: type[Detector] | None = None
    ) -> Detector:
        """The detector, ready to score; `detector` is its class where the caller has it.

        Raises `RequestError` for an unknown method, and when settings or tensors do not fit it;
        nothing of the size that the settings ask for is allocated before that.
        """
        cls = detector or registry.find_method(self.method).detector
        config = cls.Config.from_dict(self.config)
        self._require_fitting(cls, config)
        built = cls(config, self.image_shape, device, self.seed)
        built.load_inference_state(self.tensors)
        return built

    def _require_fitting(self, cls: type[Detector], config: DetectorConfig) -> None:
        """Raise `RequestError` unless these settings make networks that the tensors fill.

        They are laid out without memory first. Networks that scoring does not need are bounded by
        the size of those it does.
        """
        layout = lay_out(cls, config, self.image_shape)
        layout.require_fitting(self.tensors)
        asked = network_bytes(layout)
        held = sum(value.nbytes for value in self.tensors.values())
        if asked > max(_UNSTORED * held, _SMALL):
            raise RequestError(
                f"the settings make networks of {asked:,} bytes, {held:,} of which are stored"
            )

    def to_dict(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "amatune_version": self.version,
            "method": self.method,
            "config": dict(self.config),
            "image_shape": list(self.image_shape),
            "seed": self.seed,
            "primary": self.primary,
            **self.facts,
        }

    def with_facts(self, facts: Mapping[str, Any]) -> Self:
        """The same detector with more said about it. The names are not those of its fields."""
        return dataclasses.replace(self, facts={**self.facts, **facts})

    def to_files(self, kind: str, others: Mapping[str, bytes]) -> dict[str, bytes]:
        """The contents of a folder of this detector and `others`, by name; config.json last."""
        files = {WEIGHTS: tensors_to_bytes(dict(self.tensors)), **others}
        hashes = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
        config = {"kind": kind, **self.to_dict(), "sha256": hashes}
        config["config_sha256"] = own_hash(config)
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        return {**files, CONFIG: text.encode()}

    def save(self, folder: Path) -> None:
        """Keep it in a folder of a run, beside what else lies there.

        Each file appears whole, config.json as the last: a folder that has one is complete.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)  # of an earlier detector, with other weights
        for name, content in self.to_files(MODEL, {}).items():
            write_bytes(folder / name, content)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The detector in a folder, an export's too.

        Raises `RequestError` when it is not complete, was written by another version or changed.
        """
        return cls.with_files(folder)[0]

    @classmethod
    def with_files(cls, folder: Path, kind: str | None = None) -> tuple[Self, dict[str, bytes]]:
        """`load`, and the contents of every file that belongs to it, config.json excepted; of a
        folder of this `kind` alone."""
        config = read_config(folder)
        if kind not in (None, config["kind"]):
            raise RequestError(f"{folder / CONFIG} describes an {config['kind']}, not an {kind}")
        files = {name: _read(folder / name) for name in config["sha256"]}
        for name, content in files.items():
            if hashlib.sha256(content).hexdigest() != config["sha256"][name]:
                raise _changed(folder / name, config["kind"])
        try:
            tensors = tensors_from_bytes(files[WEIGHTS])
        except safetensors.SafetensorError as error:
            raise RequestError(f"{folder / WEIGHTS} does not fit its name: {error}") from error
        own = ("method", "config", "seed", "primary")
        hidden = {*own, *_FIELDS, "kind", "schema_version", "config_sha256"}
        stored = cls(
            **{name: config[name] for name in own},
            image_shape=tuple(config["image_shape"]),
            tensors=tensors,
            facts={name: value for name, value in config.items() if name not in hidden},
            version=config["amatune_version"],
        )
        return stored, files


def lay_out(cls: type[Detector], config: DetectorConfig, image_shape: ImageShape) -> Detector:
    """A detector whose tensors have shapes and no memory.

    Raises `RequestError` for settings of which no network can be made, whatever their size.
    """
    try:
        with torch.device("meta"):
            return cls(config, image_shape, "meta", seed=0)
    except (RuntimeError, ValueError, TypeError, OverflowError, MemoryError) as error:
        told = str(error).partition("\n")[0]
        raise RequestError(f"no network can be made of the settings: {told}") from error


def network_bytes(detector: Detector) -> int:
    """The bytes of all of its networks."""
    networks = {**detector.networks, **detector.averages}.values()
    return sum(value.nbytes for one in networks for value in one.state_dict().values())


def read_facts(folder: Path) -> dict[str, Any] | None:
    """What config.json tells of the detector in a folder; None where there is no complete one.

    Raises `RequestError` when it was written by another version or changed.
    """
    return read_config(folder) if (folder / CONFIG).exists() else None


# What config.json must hold, beside kind and version.
_FIELDS: dict[str, type] = {
    "amatune_version": str,
    "method": str,
    "config": dict,
    "image_shape": list,
    "seed": int,
    "primary": str,
    "sha256": dict,
}


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of config.json, checked.

    Raises `RequestError` when there is none, it was written by another version, or changed.
    """
    path = folder / CONFIG
    try:
        config: dict[str, Any] = json.loads(_read(path))
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise RequestError(f"{path} is not readable JSON: {error}") from None
    if type(config) is not dict:
        raise RequestError(f"{path} does not describe a detector")
    kind, version = config.get("kind"), config.get("schema_version")
    if kind is None and isinstance(config.get("sha256"), str):
        config = _model_of_0_1(config)
    elif kind not in _AGAIN:
        raise RequestError(f"{path} does not describe a detector")
    elif isinstance(version, bool) or (kind, version) not in _READABLE:
        raise RequestError(
            f"{path} has schema version {version!r}, this amatune reads {SCHEMA_VERSION}; read it "
            f"with the amatune that wrote it, or {_AGAIN[kind]}"
        )
    elif config.get("config_sha256") != own_hash(config):
        raise _changed(path, kind)
    elif version == _EXPORTS_OF_0_1:
        config = _export_of_0_1(config)
    # Exactly: true is an int too.
    wrong = [name for name, type_ in _FIELDS.items() if type(config.get(name)) is not type_]
    if "seed" not in wrong and not -(2**63) <= config["seed"] < 2**64:  # what torch takes
        wrong.append("seed")
    if "image_shape" not in wrong and not _is_image_shape(config["image_shape"]):
        wrong.append("image_shape")
    if "sha256" not in wrong and not _is_hashes(config["sha256"]):
        wrong.append("sha256")
    if wrong:
        raise RequestError(f"{path} was edited: missing or unusable {', '.join(wrong)}")
    return config


def own_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of everything else in config.json, so that an edit is noticed."""
    rest = {name: value for name, value in config.items() if name != "config_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


# amatune 0.1 kept less of what a detector is built from.
_EXPORTS_OF_0_1 = 2  # their schema version; its models had none
_READABLE = {(MODEL, SCHEMA_VERSION), (EXPORT, SCHEMA_VERSION), (EXPORT, _EXPORTS_OF_0_1)}


def _model_of_0_1(config: Mapping[str, Any]) -> dict[str, Any]:
    hashes = {WEIGHTS: config["sha256"]}
    return {**config, "kind": MODEL, "amatune_version": "0.1.0", "sha256": hashes}


def _export_of_0_1(config: Mapping[str, Any]) -> dict[str, Any]:
    scores = config.get("scores")
    primary = scores.get("primary") if isinstance(scores, dict) else None
    return {**config, "seed": 0, "primary": primary}


def _is_image_shape(values: list[Any]) -> bool:
    return len(values) == 3 and all(type(v) is int and 0 < v <= MAX_SIDE for v in values)


def _is_hashes(values: dict[str, Any]) -> bool:
    # What config.json says must not lead to files elsewhere.
    return WEIGHTS in values and all(
        isinstance(value, str) and name != CONFIG and Path(name).name == name
        for name, value in values.items()
    )


def _changed(path: Path, kind: str) -> RequestError:
    return RequestError(
        f"{path} is not what was saved there (its SHA-256 differs from the one in {CONFIG}): it "
        f"was changed or cut short; {_AGAIN[kind]}"
    )


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        raise RequestError(
            f"{path.parent} holds no complete model: it has no {path.name}; `amatune best "
            "--export` makes one"
        ) from None
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error}") from None
