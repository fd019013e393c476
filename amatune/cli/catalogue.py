"""`amatune datasets`, `methods` and `space`: what a search can be asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amatune.cli.options import DATA_DIR, command, path, plain
from amatune.cli.output import make_console, near, say
from amatune.cli.tables import cell, make_table
from amatune.errors import RequestError
from amatune.extras import require_extra
from amatune.wording import count, download_size, memory_size, settings_text, value_text

if TYPE_CHECKING:
    from rich.console import Console

    from amatune.data.dataset import Presence


_ABOUT = "Tell all about this one; folder:PATH, npz:PATH, mvtec:PATH and visa:PATH too."


@command(
    "amatune datasets",
    "amatune datasets cifar10",
    "amatune datasets folder:photos/good",
    "amatune datasets --clear-cache",
)
def datasets(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help=_ABOUT),
    ] = None,
    data_dir: Annotated[Path | None, plain("DIR", DATA_DIR, parser=path)] = None,
    clear_cache: Annotated[
        bool, typer.Option("--clear-cache", help="Remove the kept decoded pictures instead.")
    ] = False,
) -> None:
    """List the data sets that --dataset and --ood accept, and where they are.

    Named sets are looked for in the data folder, and downloaded into it when they are first used.
    Nothing is downloaded or decoded for the list; what is there is verified, as by a search, where
    checksums are published: ODIN's sets have none.

    Of those named by their path it tells what is in there: images, classes, sizes, modes, copies,
    broken files, and what a search would bring them to.
    """
    if clear_cache and name is not None:
        raise RequestError(
            f"--clear-cache stands alone, it removes the pictures of every set; leave {name!r} out"
        )
    if clear_cache:
        _clear_cache()
    elif name is not None:
        _describe(name, data_dir)
    else:
        _list(data_dir)


def _clear_cache() -> None:
    from amatune.data.cache import PictureCache
    from amatune.data.feature_cache import FeatureCache

    cache = PictureCache.default()
    freed = memory_size(cache.clear() + FeatureCache.default().clear())
    say(make_console(), f"{freed} freed in {near(cache.file.parent)}")


def _describe(name: str, data_dir: Path | None) -> None:
    """All that is known of one data set."""
    from amatune.data.catalogue import dataset_info, find_dataset, is_path
    from amatune.data.survey import survey

    console = make_console()
    if is_path(name):
        own = survey(name, data_dir)
        _say_rows(console, {"name": own.name, **own.rows()})
        return
    info, found = dataset_info(name), find_dataset(name, data_dir)
    rows = {
        "name": info.name,
        "what it is": info.summary,
        "images": info.image,
        "train": count(info.train),
        "test": count(info.test),
        "classes": ", ".join(info.classes) or "-",
        "download": "-" if info.download is None else download_size(info.download),
        "licence": info.licence or "-",
        "source": info.url or "-",
        "where": found.state if found.place is None else f"{_state(found)}: {found.place}",
        "lacking": ", ".join(found.files) or "-",
    }
    if found.state in ("built in", "complete"):
        rows["in a search"] = survey(name, data_dir, decode=False).rows()["in a search"]
    _say_rows(console, rows)


def _say_rows(console: "Console", rows: Mapping[str, str]) -> None:
    width = max(map(len, rows)) + 2
    for key, value in rows.items():
        say(console, f"{key + ':':<{width}}{value}")


def _list(data_dir: Path | None) -> None:
    """A line for every data set."""
    from amatune.data.catalogue import find_dataset, list_datasets
    from amatune.data.places import data_folder

    folder = data_folder(data_dir)
    table = make_table("name", "images", "train", "test", "download", "licence", "where")
    for info in list_datasets():
        cells = (
            info.name,
            info.image,
            count(info.train),
            count(info.test),
            "-" if info.download is None else download_size(info.download),
            info.licence or "-",
            _whereabouts(find_dataset(info.name, folder), folder),
        )
        table.add_row(*map(cell, cells))
    console = make_console()
    console.print(table)
    say(console)
    say(console, f"Data folder: {folder}")
    say(console, "What is missing is downloaded there when it is first used.")


def _state(found: "Presence") -> str:
    return found.state if found.verified else "there, unverified"


def _whereabouts(found: "Presence", folder: Path) -> str:
    """A few words on where a data set is, or what becomes of it."""
    if found.place is None:
        return found.state
    if found.by_hand:
        return f"put {', '.join(found.files)} there"
    if found.state != "complete":
        return found.state
    if not found.verified:
        return _state(found)
    place = found.place.relative_to(folder).as_posix()
    return f"complete, in {'the data folder' if place == '.' else place}"


@command("amatune methods")
def methods() -> None:
    """List the detectors that --method accepts, and the presets of each."""
    from amatune.registry import survey_methods

    console = make_console()
    table = make_table("name", "scores", "what it is")
    variants = make_table("method", "preset", "holds fixed")
    found, problems = survey_methods()
    for method in found:
        detector = method.detector
        scores = ", ".join(detector.score_names)
        table.add_row(*map(cell, (method.name, scores, detector.summary)))
        for preset, settings in detector.presets.items():
            held = settings_text(settings) or "nothing: these are the defaults"
            variants.add_row(*map(cell, (method.name, preset, held)))
    console.print(table)
    if variants.row_count:
        say(console)
        console.print(variants)
    for problem in problems:
        say(console, f"warning: {problem}")


@command("amatune space ama")
def space(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="One of `amatune methods`.")],
) -> None:
    """Show what a search of a method varies, and every other setting it has.

    Defaults are the published values, or those of its page in the documentation. `amatune search
    --fix NAME=VALUE` holds a setting at another.
    """
    require_extra("search", "optuna")
    from amatune.registry import find_method
    from amatune.tuning.describe import describe_settings, describe_space

    found = find_method(method)
    console = make_console()
    searched = set()
    table = make_table("setting", "range", "default", "only when")
    for parameter in describe_space(found):
        default = value_text(parameter.default)
        table.add_row(*map(cell, (parameter.name, parameter.range, default, parameter.condition)))
        searched.add(parameter.name)
    console.print(table)
    say(console)
    say(console, "All settings (* searched); change one with --fix NAME=VALUE:")
    say(console)
    table = make_table("", "setting", "default", "value", "meaning")
    for one in describe_settings(found):
        if one.name != "epochs":  # an option of its own
            mark, kind = "*" if one.name in searched else "", one.kind.replace("'", "")
            cells = (mark, one.name, value_text(one.default), kind, one.meaning)
            table.add_row(*map(cell, cells))
    console.print(table)
