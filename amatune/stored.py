"""A trained detector at rest: what it is built from, and its tensors.

The one form in which a detector leaves a worker, is handed to another, is kept in a run or an
export, and is pickled with an estimator. On disk it is a folder:

    model.safetensors  the tensors that scoring needs, by flat name
    config.json        everything else, with the SHA-256 of every other file and of itself

An export is such a folder with more files in it and more said in its config.json. Reading one runs
no code that it holds, and refuses a file that is not the one that was written.
"""

import dataclasses
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
from amatune.files import write_bytes
from amatune.sealed import CONFIG, FIELDS, MODEL, SCHEMA_VERSION, WEIGHTS, read_sealed, sealed
from amatune.version import __version__

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
        return sealed({"kind": kind, **self.to_dict()}, files)

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
        return cls.of_files(folder, *read_sealed(folder))

    @classmethod
    def of_files(cls, folder: Path, config: Mapping[str, Any], files: Mapping[str, bytes]) -> Self:
        """The detector that `read_sealed` read in a folder. Raises `RequestError` for weights that
        are none."""
        try:
            tensors = tensors_from_bytes(files[WEIGHTS])
        except safetensors.SafetensorError as error:
            raise RequestError(f"{folder / WEIGHTS} does not fit its name: {error}") from error
        own = ("method", "config", "seed", "primary")
        hidden = {*own, *FIELDS, "kind", "schema_version", "config_sha256"}
        return cls(
            **{name: config[name] for name in own},
            image_shape=tuple(config["image_shape"]),
            tensors=tensors,
            facts={name: value for name, value in config.items() if name not in hidden},
            version=config["amatune_version"],
        )


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
