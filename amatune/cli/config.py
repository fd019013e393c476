"""`--config FILE`: options from a YAML or JSON file, such as the `run.json` of an earlier run.

The file takes the place of the options' defaults: what is given on the command line wins. Its keys
are the names of the options, with `-` or `_`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amatune.cli.options import Assignment, path, setting
from amatune.errors import RequestError, did_you_mean
from amatune.files import read_text

if TYPE_CHECKING:
    from amatune.tuning.options import SearchOptions

MOST_BYTES = {"YAML": 2**18, "JSON": 2**27}  # a run.json lists the images of its problem
MOST_LEVELS = 20  # of a YAML file

_UsageError: type[Any] = typer.BadParameter.mro()[1]
# As `FIXING` of `amatune.tuning.options`, which takes long to import.
_FIXING = ("preset", "fix", "width", "tile", "tile_overlap")
_Scalar = str | int | float
OF_RUN = "amatune.of_run"  # of a context: whether its file is the record of a run


def read_config(context: typer.Context, file: Path | None) -> Path | None:
    """Make the options of a file the defaults of a command.

    Raises `RequestError` for a file that cannot be read, unknown keys and wrong values.
    """
    if file is None:
        return None
    contents = _contents(file)
    options = {key_of(option): option for option in context.command.params}
    if isinstance(contents.get("request"), Mapping):
        values = _of_run(file, context.command.name or "")
        context.meta[OF_RUN] = True
    else:
        values = _checked(file, contents, options)
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        try:
            defaults[str(options[key].name)] = options[key].process_value(context, value)
        except _UsageError as error:
            raise RequestError(f"{file}: {key}: {error.message}") from None
    context.default_map = defaults
    return file


Config = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        metavar="FILE",
        callback=read_config,
        is_eager=True,
        help="Options from YAML or JSON, or the run.json of an earlier run; those given here win.",
    ),
]


def given(context: typer.Context, *, but_for: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a command's parameters that were given, on the command line or in its file.

    Settings held fixed are one mapping, `fix`, in which those of the command line win by name.
    """
    sources = {name: _source(context, name) for name in context.params if name not in but_for}
    values = {name: context.params[name] for name, source in sources.items() if source}
    values |= {"fix": assigned(values["fix"])} if "fix" in values else {}
    here = {name: values[name] for name in _FIXING if sources.get(name) == "COMMANDLINE"}
    file = context.default_map or {}
    there = {name: file[name] for name in _FIXING if name in file}
    if here and there:
        from amatune.runs.request import SearchRequest
        from amatune.several import joined
        from amatune.tuning.options import fixed_settings

        if "fix" in there:
            there["fix"] = assigned(there["fix"])
        method = joined(values.get("method") or [SearchRequest.method])
        held = [fixed_settings(method, **one) for one in (there, here)]
        values = {key: value for key, value in values.items() if key not in _FIXING}
        values["fix"] = {**held[0], **held[1]}
    return values


def beside_a_run(context: typer.Context, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a search, without what the record of a run in its file cannot mean.

    With `resume` the record stands for its run, unless another is named: what it tried first is
    there. A method that learns in one pass has no use for the budget of another's run.
    """
    if not context.meta.get(OF_RUN):
        return options
    dropped: tuple[str, ...] = ()
    if options.get("resume"):
        options = {"name": str(context.params["config"].resolve().parent), **options}
        dropped = ("enqueue",)
    elif is_given(context, "method"):
        from amatune.several import joined
        from amatune.tuning.options import learns_in_one_pass

        if learns_in_one_pass(joined(options["method"])):
            dropped = ("steps", "epochs")
    return {k: v for k, v in options.items() if k not in dropped or is_given(context, k)}


def assigned(assignments: Sequence[Assignment]) -> dict[str, Any]:
    """Settings by name. Raises `RequestError` for a name that is there twice."""
    fixed: dict[str, Any] = {}
    for one in assignments:
        if one.name in fixed:
            raise RequestError(f"--fix gives {one.name!r} twice; give it one value")
        fixed[one.name] = one.value
    return fixed


def is_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter is on the command line."""
    return _source(context, name) == "COMMANDLINE"


def _source(context: typer.Context, name: str) -> str:
    """Where a parameter's value was given; empty for its default."""
    source = context.get_parameter_source(name)
    return source.name if source and source.name in ("COMMANDLINE", "DEFAULT_MAP") else ""


def key_of(option: Any) -> str:
    """What a parameter is called in a file: its long name, without the dashes."""
    long = [text for text in option.opts if text.startswith("--")]
    return str(long[0][2:] if long else option.name)


# --- options in a file ----------------------------------------------------------------------------


def _checked(file: Path, contents: Mapping[Any, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The values by the names of the options, each of the shape that its option reads."""
    known = [key for key in options if key != "config"]
    found: dict[str, Any] = {}
    for written, value in contents.items():
        key = str(written).replace("_", "-")
        if key not in known:
            raise RequestError(
                f"{file}: there is no option {written!r}; {did_you_mean(key, known)}"
            )
        if key in found:
            raise RequestError(f"{file}: {key} is there twice; give it one value")
        found[key] = None if value is None else _shaped(file, key, value, options[key])
    return {key: value for key, value in found.items() if value is not None}


def _shaped(file: Path, key: str, value: Any, option: Any) -> Any:
    if getattr(option, "is_flag", False):
        if not isinstance(value, bool):
            raise RequestError(f"{file}: {key} must be true or false, got {_told(value)}")
        return value
    if key == "fix" and isinstance(value, Mapping):
        return [_fixed(file, *pair) for pair in value.items()]
    if key == "space" and isinstance(value, Mapping):
        return {"json": dict(value)}
    if not option.multiple:
        return _text(file, key, value)
    return [
        one if key == "enqueue" and isinstance(one, Mapping) else _text(file, key, one)
        for one in (value if isinstance(value, list) else [value])
    ]


def _text(file: Path, key: str, value: Any) -> str:
    """A value as it would stand on the command line."""
    if isinstance(value, bool | Mapping | list) or value is None:
        raise RequestError(f"{file}: {key} cannot be {_told(value)}; give a text or a number")
    return str(value)


def _fixed(file: Path, key: Any, value: Any) -> Assignment:
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(one, _Scalar) or one is None for one in parts):
        raise RequestError(f"{file}: fix: {key} cannot be {_told(value)}")
    read = [setting(one) if isinstance(one, str) else one for one in parts]
    return Assignment(str(key), read if isinstance(value, list) else read[0])


def _told(value: Any) -> str:
    """A wrong value in a few words, however large it is."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return json.dumps(value) if isinstance(value, bool) else repr(value)[:60]


# --- the options of an earlier run ----------------------------------------------------------------


def _of_run(file: Path, command: str) -> dict[str, Any]:
    """The options that an earlier run was searched with; for `best`, the run itself."""
    from amatune.runs.record import RunRecord
    from amatune.several import JOINT
    from amatune.tuning.first_trials import asked_first
    from amatune.tuning.options import options_of

    record = RunRecord.parse(_read(file), file)
    if command != "search":
        return {"run": str(file.resolve().parent)}
    options: SearchOptions = options_of(record.request)
    values = {key.replace("_", "-"): value for key, value in options.items() if value is not None}
    values["method"] = str(options["method"]).split(JOINT)
    values["fix"] = [Assignment(key, value) for key, value in options["fix"].items()]
    if wanted := asked_first(record):
        values["enqueue"] = [dict(settings) for settings in wanted]
    return values


# --- reading --------------------------------------------------------------------------------------


def _contents(file: Path) -> Mapping[Any, Any]:
    """What a file holds by key. Raises `RequestError` when that cannot be told."""
    text = _read(file)
    try:
        contents = _json(text) if file.suffix == ".json" else _yaml(text)
        for one in _texts(contents):
            if "\0" in one:
                raise ValueError("a zero byte is in no text")
            if re.search("[\ud800-\udfff]", one):
                raise ValueError("half of a surrogate pair is no text")
    except (ValueError, RecursionError) as error:
        raise RequestError(f"cannot read the options in {file}: {error}") from None
    if not isinstance(contents, Mapping):
        raise RequestError(f"{file} must hold options by name, got {_told(contents)}")
    return contents


def _read(file: Path) -> str:
    return read_text(
        file, "the options in", MOST_BYTES["JSON" if file.suffix == ".json" else "YAML"]
    )


def _json(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_repeated(key for key, _ in pairs)
        return dict(pairs)

    return json.loads(text, object_pairs_hook=once)


def _yaml(text: str) -> Any:
    """YAML that is no deeper than options are, without aliases: a few lines of them can make more
    than memory holds."""
    import yaml

    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("aliases such as *name are not read here")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_LEVELS:
                raise ValueError(f"it is nested more than {MOST_LEVELS} levels deep")
        whole: Any = yaml.compose(text, yaml.SafeLoader)
        if isinstance(whole, yaml.MappingNode):
            _refuse_repeated(str(key.value) for key, _ in whole.value)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}"
        told = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ValueError(f"it is not YAML: {told}{place}") from None


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from (*_texts(key), *_texts(one))
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _refuse_repeated(keys: Iterable[str]) -> None:
    seen = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"{key!r} is there twice")
        seen.add(key)
