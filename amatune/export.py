"""Exported detectors: a folder that scores pictures without a search's tools.

    export/  model.safetensors   weights and calibration, by flat name
             config.json         schema version, method, settings, image shape, figures, data,
                                 SHA-256 of the weights
             README.md           model card: data, settings, figures, limits, how to use it

    import amatune
    exported = amatune.load("export")
    for picture in exported.score_files(["photos/"]):
        print(picture.path, picture.score)         # higher = more anomalous

Loading reads no pickle, and imports neither Ray nor Optuna.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

import amatune
from amatune.data.pictures import find_pictures, read_pictures
from amatune.detector import Detector, ImageShape
from amatune.errors import AmatuneError, RequestError
from amatune.registry import detector_class

SCHEMA_VERSION = 1

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"

_KIND = "amatune-export"  # marks config.json as ours, so that only exports are ever replaced


@dataclass(frozen=True)
class ScoredPicture:
    """The scores of one picture file, or the reason why there are none."""

    path: Path
    score: float | None  # the detector's primary score, higher = more anomalous
    scores: dict[str, float]  # every score by name
    problem: str | None = None  # why the file could not be scored


@dataclass(frozen=True)
class Exported:
    """A detector read back from its folder, ready to score."""

    folder: Path
    method: str
    detector: Detector
    figures: dict[str, Any]  # as passed to `export_detector`
    data: dict[str, Any]

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W) every picture is brought to."""
        return self.detector.image_shape

    def score_files(
        self, paths: Iterable[str | Path], batch_size: int = 256
    ) -> Iterator[ScoredPicture]:
        """Score picture files, and those in folders, in order.

        At most `batch_size` pictures are in memory. One that cannot be read is reported in its
        place and does not stop the others. Raises `DataError` when there is nothing to score.
        """
        files = find_pictures(paths)
        for start in range(0, len(files), batch_size):
            yield from self._score_batch(files[start : start + batch_size])

    def _score_batch(self, files: list[Path]) -> Iterator[ScoredPicture]:
        images, unreadable = read_pictures(files, self.image_shape)
        scores = self.detector.scores(torch.from_numpy(images))
        columns = {name: iter(values.tolist()) for name, values in scores.items()}
        for path in files:
            if path in unreadable:
                yield ScoredPicture(path, None, {}, unreadable[path])
            else:
                own = {name: next(values) for name, values in columns.items()}
                yield ScoredPicture(path, own[self.detector.primary_score], own)


def export_detector(
    detector: Detector,
    folder: str | os.PathLike[str],
    *,
    method: str,
    figures: Mapping[str, Any],
    data: Mapping[str, Any],
) -> None:
    """Write a calibrated detector to `folder`, replacing an earlier export there.

    `figures` are what the model card tells of its quality: name -> {"value", "spread" over seeds,
    "low" and "high" of the 95% interval, "note"}, all but the value optional. `data` says what the
    detector was trained and tested on: "summary" is one line, "warnings" a list of more; other keys
    are kept as they are. Both hold JSON values. The folder appears complete or not at all.

    Raises `RequestError` when `folder` holds anything that is not an export or the detector is not
    calibrated, `AmatuneError` when the disk refuses.
    """
    target = Path(folder).resolve()
    require_replaceable(target)
    tensors = {k: v.detach().cpu().contiguous() for k, v in detector.inference_state().items()}
    weights = safetensors.torch.save(tensors)
    config = {
        "kind": _KIND,
        "schema_version": SCHEMA_VERSION,
        "amatune_version": amatune.__version__,
        "method": method,
        "config": detector.config.to_dict(),
        "image_shape": list(detector.image_shape),
        "preprocessing": _preprocessing(detector.image_shape),
        "scores": {"primary": detector.primary_score, "names": list(detector.score_names)},
        "figures": dict(figures),
        "data": dict(data),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    contents = {
        WEIGHTS: weights,
        CONFIG: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
        CARD: _model_card(config, detector).encode(),
    }
    try:
        _replace_folder(target, contents)
    except OSError as error:
        raise AmatuneError(f"cannot write the export to {target}: {error}") from error


def require_replaceable(folder: str | os.PathLike[str]) -> None:
    """Raise `RequestError` unless `folder` is new, empty, or an earlier export."""
    target = Path(folder)
    if not target.exists():
        return
    if not target.is_dir():
        raise RequestError(f"cannot export to {target}: it is a file; name a folder")
    foreign = sorted({path.name for path in target.iterdir()} - {WEIGHTS, CONFIG, CARD})
    if foreign:
        raise RequestError(
            f"cannot export to {target}: it holds {foreign[0]!r}, which is not part of an export; "
            "name a new folder, or an earlier export to replace"
        )
    if any(target.iterdir()) and not _is_export(target):
        raise RequestError(
            f"cannot export to {target}: its {CONFIG} is not that of an export; name a new folder, "
            "or an earlier export to replace"
        )


def _is_export(folder: Path) -> bool:
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("kind") == _KIND


def load(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> Exported:
    """Read an exported detector.

    Raises `RequestError` when the folder or a file of it is missing, was written by a newer
    version, or is not what was exported.
    """
    path = Path(folder)
    config = _read_config(path)
    weights = _read_bytes(path / WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != config["weights_sha256"]:
        raise RequestError(
            f"{path / WEIGHTS} is not the file that was exported (its SHA-256 differs from the "
            f"one in {CONFIG}): it was changed or cut short; copy or export the model again"
        )
    try:
        cls = detector_class(config["method"])
        settings = cls.Config.from_dict(config["config"])
        detector = cls(settings, tuple(config["image_shape"]), device)
        detector.load_inference_state(safetensors.torch.load(weights))
    except (RequestError, safetensors.SafetensorError) as error:
        raise RequestError(
            f"the export {path} does not fit amatune {amatune.__version__} (it was written by "
            f"{config['amatune_version']}), or its {CONFIG} was edited: {error}"
        ) from error
    return Exported(path, config["method"], detector, config["figures"], config["data"])


# What config.json must hold, beside the schema version.
_FIELDS: dict[str, type] = {
    "amatune_version": str,
    "method": str,
    "config": dict,
    "image_shape": list,
    "figures": dict,
    "data": dict,
    "weights_sha256": str,
}


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise RequestError(
            f"there is no exported model at {folder}; `amatune best --export` makes one"
        )
    path = folder / CONFIG
    try:
        config = json.loads(_read_bytes(path))
    except ValueError as error:  # not JSON, or not UTF-8
        raise RequestError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(config, dict) or config.get("kind") != _KIND:
        raise RequestError(f"{path} does not describe an exported model")
    version = config.get("schema_version")
    if version != SCHEMA_VERSION:
        raise RequestError(
            f"{path} has schema version {version!r}, this amatune reads {SCHEMA_VERSION}; "
            "load it with the amatune that wrote it, or export the model again"
        )
    wrong = [name for name, kind in _FIELDS.items() if not isinstance(config.get(name), kind)]
    if "image_shape" not in wrong and not _is_image_shape(config["image_shape"]):
        wrong.append("image_shape")
    if wrong:
        raise RequestError(f"{path} was edited: missing or unusable {', '.join(wrong)}")
    return config


def _is_image_shape(values: list[Any]) -> bool:
    return len(values) == 3 and all(type(v) is int and v > 0 for v in values)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RequestError(
            f"{path.parent} is not a complete export: it holds no {path.name}"
        ) from None
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error}") from None


def _replace_folder(target: Path, contents: Mapping[str, bytes]) -> None:
    # A folder cannot be exchanged in one step everywhere: the new one is completed first, then two
    # renames follow. Killed between them, the earlier export lies beside, whole.
    target.parent.mkdir(parents=True, exist_ok=True)
    new, old = (target.parent / f".{target.name}-{uuid.uuid4().hex}" for _ in range(2))
    try:
        new.mkdir()
        for name, data in contents.items():
            with (new / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def _preprocessing(shape: ImageShape) -> dict[str, Any]:
    channels, height, width = shape
    return {
        "decoding": "8 bits, first frame, upright, transparent parts on white",
        "channels": "grey by ITU-R 601 luma" if channels == 1 else "RGB",
        "size": f"{width} x {height} pixels, bilinear with antialiasing, aspect ratio not kept",
        "range": "0..255 becomes -1..1",
    }


_OVER_SEEDS = """\
A figure with a spread is the mean and standard deviation over several trainings, each from a seed
of its own; this model is the one of them that did best on validation images.

"""


def _model_card(config: Mapping[str, Any], detector: Detector) -> str:
    channels, height, width = detector.image_shape
    colour = "grey" if channels == 1 else "RGB"
    data = config["data"]
    figures = "\n".join(
        f"| {name} | {_value(f)} | {_interval(f)} | {f.get('note', '')} |"
        for name, f in config["figures"].items()
    )
    warnings = "".join(f"- Warning: {warning}\n" for warning in data.get("warnings", []))
    spreads = [figure.get("spread") for figure in config["figures"].values()]
    seeds = "" if all(spread is None for spread in spreads) else _OVER_SEEDS
    settings = "\n".join(f"| {k} | `{json.dumps(v)}` |" for k, v in config["config"].items())
    return f"""# {detector.name} anomaly detector

{detector.summary}.
Trained on images of what is normal, it gives every picture a score; the higher, the less it looks
like them.

- Data: {data.get("summary", "not stated")}
- Input: {colour} pictures, brought to {width} x {height} pixels
- Made by: amatune {config["amatune_version"]}
{warnings}
## Figures

| figure | value | 95% interval | note |
|---|---|---|---|
{figures or "| none was measured | | | |"}

{seeds}AUROC is the probability that an anomaly scores higher than a normal image; 0.5 is chance.
The intervals cover the choice of test images, not a change of their source.

## Use

```
amatune score FOLDER_OF_THIS_FILE pictures/ --output scores.csv
```

```python
import amatune

exported = amatune.load("FOLDER_OF_THIS_FILE")
for picture in exported.score_files(["pictures/"]):
    print(picture.path, picture.score)
```

## Limits

- A score has no unit and no built-in threshold: choose one on pictures of your own, by the false
  alarms you can afford.
- The figures hold for the anomalies named above. Other kinds may be easier or harder, and pictures
  from another camera, crop or lighting can score as anomalies although nothing is wrong.
- Pictures are resized as in training; details smaller than a pixel of {width} x {height} are lost.

## Settings

| setting | value |
|---|---|
{settings}
"""


def _value(figure: Mapping[str, Any]) -> str:
    spread = figure.get("spread")
    return f"{figure['value']:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def _interval(figure: Mapping[str, Any]) -> str:
    if figure.get("low") is None or figure.get("high") is None:
        return ""
    return f"{figure['low']:.3f} to {figure['high']:.3f}"
