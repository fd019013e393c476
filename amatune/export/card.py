"""The model card of an export."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from amatune.detector import Detector
from amatune.export.calibration import DEFAULT_RATE
from amatune.export.preparation import MAP
from amatune.wording import counted, visible

_OVER_SEEDS = """\
A figure with a spread is the mean and standard deviation over several trainings, each from a seed
of its own; this model is the one of them that did best on validation images.

"""

_HOW_SURE = """\
Those images have chosen nothing, so that the true rates lie in the exact 95% intervals above.
"""

_APPROXIMATE = """\
The rates are approximate: these images may have helped to choose the settings, and they are a
sample.
"""

_RECALIBRATED = """\
Since {date} they come from pictures that `amatune recalibrate` was given as good ones; before that
from those of the run{before}. They are a sample, and the rates approximate.
"""

_NO_THRESHOLDS = """\
This model was exported without scores of held-out normal images: choose a threshold on pictures of
your own, by the false alarms you can afford.
"""


def model_card(config: Mapping[str, Any], detector: Detector) -> str:
    """README.md of an export, from the contents of its config.json."""
    channels, height, width = detector.image_shape
    colour = "grey" if channels == 1 else "RGB"
    data = config["data"]
    figures = "\n".join(
        f"| {_plain(name)} | {_value(f)} | {_interval(f)} | {_plain(f.get('note', ''))} |"
        for name, f in config["figures"].items()
    )
    warnings = "".join(f"- Warning: {_plain(warning)}\n" for warning in data.get("warnings", []))
    credits = "".join(f"- Made with: {_plain(work)}\n" for work in detector.credits())
    spreads = [figure.get("spread") for figure in config["figures"].values()]
    seeds = "" if all(spread is None for spread in spreads) else _OVER_SEEDS
    settings = "\n".join(f"| {k} | {_code(v)} |" for k, v in config["config"].items())
    return f"""# {detector.name} anomaly detector

{detector.summary}.
Trained on images of what is normal, it gives every picture a score; the higher, the less it looks
like them.

- Data: {_plain(data.get("summary", "not stated"))}
- Training images: {_training(data)}
- Input: {colour} pictures, brought to {width} x {height} pixels
- Scores: {_names(detector)}
- Made by: amatune {config["amatune_version"]}
{_scored_with(config)}{credits}{warnings}
## Figures

| figure | value | 95% interval | note |
|---|---|---|---|
{figures or "| none was measured | | | |"}

{seeds}AUROC is the probability that an anomaly scores higher than a normal image; 0.5 is chance.
The intervals cover the choice of test images, not a change of their source.

## Thresholds

{_thresholds(config)}
## Use

```
amatune score FOLDER_OF_THIS_FILE pictures/ --output scores.csv
```

```python
import amatune

exported = amatune.load("FOLDER_OF_THIS_FILE")
for picture in exported.score_files(["pictures/"]):
    print(picture.path, picture.score, picture.p_value)
```

{_without_amatune(config, detector)}
Every file here is checked when amatune loads the model, this one too: keep notes of your own in
another file.

## Limits

- A score has no unit.
- The figures hold for the anomalies named above. Other kinds may be easier or harder, and pictures
  from another camera, crop or lighting can score as anomalies although nothing is wrong.
- Pictures are resized as in training; details smaller than a pixel of {width} x {height} are lost.

## Settings

| setting | value |
|---|---|
{settings}
"""


def _training(data: Mapping[str, Any]) -> str:
    training = data.get("training_images")
    if not training:
        return "not stated"
    count, *shape = training["shape"]
    size = " x ".join(map(str, shape))
    digest = _plain(training["sha256"])
    return f"{count:,} of {size} (channels, height, width), SHA-256 `{digest}`"


def _plain(text: Any) -> str:
    """Text of others, such as the name of a folder or a class, as Markdown that shows it and no
    more: neither HTML nor links, pictures, code, columns or commands to a terminal."""
    escaped = html.escape(visible(str(text)), quote=False)
    return re.sub(r"([\\`\[\]|])", r"\\\1", escaped)


def _code(value: Any) -> str:
    """A value as inline code in a table."""
    text = json.dumps(value)
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def _names(detector: Detector) -> str:
    names = [f"`{name}`" for name in detector.score_names]
    return f"{', '.join(names)}; `{detector.primary_score}` is the one in use"


def _scored_with(config: Mapping[str, Any]) -> str:
    programs = config["scored_with"].items()
    return "".join(
        f"- Scores depend on {_plain(name)}: made with {_plain(version)}\n"
        for name, version in programs
    )


def _how_sure(config: Mapping[str, Any]) -> str:
    again = config.get("recalibrated")
    if again is None:
        return _HOW_SURE if config["calibration"]["images"].startswith("test") else _APPROXIMATE
    before = again["normal_images_before"]
    dropped = "".join(f"; its threshold {_code(name)} is left out" for name in again["dropped"])
    images = "" if before is None else f", {before} images"
    return _RECALIBRATED.format(date=_plain(again["date"]), before=images + dropped)


def _thresholds(config: Mapping[str, Any]) -> str:
    calibration = config["calibration"]
    if calibration is None:
        return _NO_THRESHOLDS
    normals, score = calibration["normal_images"], calibration["score"]
    points, held = config["operating_points"], config["guarantee"]
    points = [*points, *([held["point"]] if held and held["point"] else [])]
    if points:
        table = _table(
            ("threshold for", "score above", "normal images flagged", "anomalies flagged"),
            [(one["name"], f"`{one['threshold']!r}`", *map(_rate, _rates(one))) for one in points],
        )
    else:
        rates = (
            (row["false_positive_rate"], row["threshold"]) for row in calibration["thresholds"]
        )
        rows = [(f"{rate:.0%}", f"`{threshold!r}`") for rate, threshold in rates]
        table = _table(("false positive rate", "threshold"), rows) if rows else ""
    images = calibration["images"]
    return f"""\
A picture is flagged when its {score} is above the threshold.

{table}{_promise(held)}Thresholds come from the scores of {normals} normal {_plain(images)} \
that the model did not learn
from, as does the p-value that `amatune score` writes: (1 + how many of them score as high or
higher) / {normals + 1}. No rate below 1/{normals + 1} ({1 / (normals + 1):.2%}) can be stated.

{_how_sure(config)}\
They hold for pictures like these images; from another camera, crop or lighting, more may be
flagged.
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def _rates(point: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return point["false_alarms"], point["recall"]


def _rate(rate: Mapping[str, Any]) -> str:
    share = rate["hits"] / rate["of"]
    return f"{rate['hits']} of {rate['of']}: {share:.3f} ({_interval(rate)})"


def _promise(held: Mapping[str, Any] | None) -> str:
    """What was demanded of a threshold, and what is said of it."""
    if held is None:
        return ""
    name = f"{held['point']['name']}: " if held["point"] else ""
    return f"Demanded of a threshold: {name}{_plain(held['statement'])}.\n\n"


def _without_amatune(config: Mapping[str, Any], detector: Detector) -> str:
    if not detector.exports_to_onnx:
        return f"""\
There is no model.onnx, the form for other programs: {detector.why_no_onnx}.
"""
    _, height, width = detector.image_shape
    tolerance = config["onnx"]["tolerance"]
    has_map, checked = MAP in config["onnx"]["outputs"], config["onnx"].get("checked")
    return f"""\
Without amatune, with numpy, pillow and onnxruntime:

```python
{_onnx_example(config, detector)}
```

The input `pictures` of `model.onnx` is uint8, (batch, height, width, channels): any number of
pictures of one size, whatever it is, with 1 channel of grey or 3 in the order red, green, blue; 8
bits, upright, without transparency. The model brings them to {width} x {height} pixels by itself,
by the rule by which it was trained, to the byte. For the same pixels its scores and those of
amatune agree within {tolerance:g}, absolute up to a score of 1 and relative above.
{_MAP_OUTPUT.format(height=height, width=width) if has_map else ""}{_checked(checked)}\
{_int8(config.get("int8"))}"""


_MAP_OUTPUT = """\
The output `map`, float32 (batch, {height}, {width}), says where a picture looks anomalous; higher
is more so.
"""


def _int8(figures: Mapping[str, Any] | None) -> str:
    """What is said of a model in 8 bits."""
    if figures is None:
        return ""
    calibration = figures["calibration"]
    thresholds = calibration["thresholds"]
    rows = [(f"{one['false_positive_rate']:.0%}", f"`{one['threshold']!r}`") for one in thresholds]
    table = "\n" + _table(("false positive rate", "threshold in 8 bits"), rows) if rows else ""
    measured = "".join(f"- {line}\n" for line in told(figures))
    text = f"""\

### In 8 bits

`model.int8.onnx` takes and gives the same, with convolutions in 8-bit integers; its scores are
others, and so are its thresholds, from {calibration["normal_images"]} good pictures
(`amatune score --engine onnx-int8`). Measured when it was made:

{measured}{table}"""
    return text.rstrip() + "\n"


def told(figures: Mapping[str, Any]) -> list[str]:
    """What `int8` of config.json says, as sentences."""
    sizes = [f"{figures[key] / 1e6:.1f}" for key in ("bytes", "bytes_before")]
    times = [f"{1000 * figures[key]:.1f}" for key in ("seconds", "seconds_before")]
    lines = [
        f"8 bits: {sizes[0]} MB instead of {sizes[1]}, {times[0]} ms a picture on one core instead "
        f"of {times[1]}",
        f"scores of {counted(figures['pictures'], 'picture')} differ by "
        f"{figures['mean_difference']:.3g} in the mean, by {figures['largest_difference']:.3g} at "
        f"most; those of good ones have a standard deviation of {figures['deviation']:.3g}",
    ]
    decisions = figures["decisions"]
    if decisions is not None:
        rate = decisions["false_positive_rate"]
        changed = f"{decisions['changed']} of {figures['pictures']} change"
        lines.append(f"decisions at {rate:.0%} false alarms: {changed}")
    area = figures["auroc"]
    if area is not None:
        lines.append(
            f"AUROC against {counted(area['anomalies'], 'anomaly', 'anomalies')}: "
            f"{area['value']:.4f} instead of {area['before']:.4f}, a loss of {area['loss']:.4f} ± "
            f"{area['standard_error']:.4f}"
        )
    return lines


def _checked(checked: Mapping[str, Any] | None) -> str:
    if checked is None:
        return ""
    return f"""\

Checked when it was exported, on {checked["pictures"]} validation pictures of several sizes by
{checked["by"]}: the largest difference was {checked["largest_difference"]:.1e}. On your pictures,
`amatune verify FOLDER_OF_THIS_FILE pictures/` does the same.
"""


def _onnx_example(config: Mapping[str, Any], detector: Detector) -> str:
    names = list(detector.score_names)
    calibration = config["calibration"] or {"thresholds": []}
    rows = calibration["thresholds"]
    row = next((row for row in rows if row["false_positive_rate"] >= DEFAULT_RATE), None)
    held, flag = config["guarantee"], ""
    if held and held["point"]:
        point = held["point"]
        flag = (
            f"\nprint(score > {point['threshold']!r})  # flagged, by the {point['name']} threshold"
        )
    elif row is not None:
        rate = f"{row['false_positive_rate']:.0%}"
        flag = f"\nprint(score > {row['threshold']!r})  # flagged, at about {rate} false positives"
    return f"""\
import numpy as np
import onnxruntime
from PIL import Image

picture = np.asarray(Image.open("picture.png").convert("RGB"))  # grey ones may stay as they are
session = onnxruntime.InferenceSession("FOLDER_OF_THIS_FILE/model.onnx")
scores = dict(zip({names!r}, session.run({names!r}, {{"pictures": picture[None]}})))
score = scores["{detector.primary_score}"]  # one per picture{flag}"""


def _value(figure: Mapping[str, Any]) -> str:
    spread = figure.get("spread")
    return f"{figure['value']:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def _interval(figure: Mapping[str, Any]) -> str:
    if figure.get("low") is None or figure.get("high") is None:
        return ""
    return f"{figure['low']:.3f} to {figure['high']:.3f}"
