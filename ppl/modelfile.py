"""Models, targets and samplers that the user of the command line names.

Everything wrong with a user's input is an `InputError` whose message is meant to be read without a
traceback: what was given, what was expected, what to write instead.
"""

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ppl.datafile import InputError, read_data

OPTIONS = ("num_samples", "num_chains", "num_warmup", "thin", "rng_key")  # of ppl.sample
NEIGHBORS = ("samplers", "models")  # the library's packages whose names users' files may have


@contextlib.contextmanager
def input_errors(*others: type[Exception]) -> Iterator[None]:
    """What the library refuses is the user's to mend: its message is enough."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, *others) as error:
        raise InputError(str(error)) from error


# Objects by name ------------------------------------------------------------------------------


def load_object(spec: str) -> tuple[Any, ModuleType]:
    """Object called ``file.py:name`` or ``package.module:name``, and its module.

    The folder of a file, or the current one, goes to the front of ``sys.path``, as Python does
    for a script: a model file may import its neighbors.
    """
    place, colon, name = spec.rpartition(":")
    if not (colon and place and name):
        raise InputError(
            f"{spec!r} names no object: write file.py:name or package.module:name, "
            "such as model.py:model"
        )
    module = _file(Path(place)) if place.endswith(".py") else _importable(place)
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if _is_own(key, value, module)]
        hint = "" if place.endswith(".py") else _file_hint(place, name)
        raise InputError(f"{place} has no {name!r}; {nearest(name, own)}{hint}")
    return getattr(module, name), module


def _is_own(name: str, value: Any, module: ModuleType) -> bool:
    """Whether a name is one that the module defines, not one that it imports."""
    if name.startswith("_") or inspect.ismodule(value):
        return False
    defined = inspect.isclass(value) or inspect.isroutine(value)
    return not defined or value.__module__ == module.__name__


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"there is no file {path} (looked for {path.resolve()})")
    _in_front(path.resolve().parent)
    name = f"_ppl_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _guarded(f"{path} failed on import", lambda: spec.loader.exec_module(module), path.resolve())  # pyright: ignore
    return module


def _importable(place: str) -> ModuleType:
    _in_front(Path.cwd())

    def load() -> ModuleType:
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise
            raise InputError(
                f"there is no module {error.name!r} to import{_file_hint(place, 'name')}"
            ) from error

    return _guarded(f"{place} failed on import", load)


def _file_hint(place: str, name: str) -> str:
    """Where the user may have meant a file: `models:model` with a models.py in the folder."""
    path = Path(*place.split(".")).with_suffix(".py")
    return f". For the file {path} write {path}:{name}" if path.is_file() else ""


def _in_front(folder: Path) -> None:
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry != str(folder))]


def _guarded[T](what: str, load: Callable[[], T], file: Path | None = None) -> T:
    """Turn whatever a user's module raises on import into one sentence with its line."""
    try:
        return load()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if file is not None and f.filename == str(file)]
        at = f", line {lines[-1]}" if lines else ""
        hidden = str(getattr(error, "name", None) or "").partition(".")[0]
        note = ""
        if isinstance(error, ImportError) and hidden in NEIGHBORS:
            note = (
                f". Here {hidden!r} is the library's package: a file or folder of your own with "
                "that name needs another one"
            )
        raise InputError(f"{what}{at}: {type(error).__name__}: {error}{note}") from error


def nearest(name: str, names: Iterable[str]) -> str:
    """``did you mean 'NUTS'? There are HMC, NUTS, ...``; the nearest name first."""
    names = list(names)
    if not names:
        return "there are none to choose from"
    lower = {other.lower(): other for other in reversed(names)}
    close = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.55)
    listed = ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
    if close:
        return f"did you mean {lower[close[0]]!r}? There are: {listed}"
    return f"there are: {listed}"


# Data and model -------------------------------------------------------------------------------


def match(model: Callable, data: Mapping[str, Any], source: str) -> tuple[list, dict[str, Any]]:
    """Positional and named arguments of the model from data of the same names.

    Raises
    ------
    InputError
        When a name is missing or unknown; the message lists the model's and the data's names.
    """
    kinds = inspect.Parameter
    parameters = [
        p
        for p in inspect.signature(model).parameters.values()
        if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    ]
    takes_any = any(
        p.kind is kinds.VAR_KEYWORD for p in inspect.signature(model).parameters.values()
    )
    names = [p.name for p in parameters]
    missing = [p.name for p in parameters if p.default is kinds.empty and p.name not in data]
    unknown = [] if takes_any else [name for name in data if name not in names]
    if missing or unknown:
        called = getattr(model, "__name__", type(model).__name__)
        wrong = [f"missing: {', '.join(missing)}"] if missing else []
        wrong += [f"unknown: {', '.join(unknown)}"] if unknown else []
        raise InputError(
            f"the data do not match the model's arguments; {'; '.join(wrong)}. "
            f"{called} takes: {', '.join(names) or 'nothing'}. "
            f"{source} has: {', '.join(data) or 'nothing'}"
        )
    given = [p for p in parameters if p.name in data]
    args = [data[p.name] for p in given if p.kind is kinds.POSITIONAL_ONLY]
    named = {p.name: data[p.name] for p in given if p.kind is not kinds.POSITIONAL_ONLY}
    return args, named | {name: data[name] for name in data if takes_any and name not in names}


def load_target(spec: str, files: Sequence[str | Path] = ()) -> tuple[Any, str]:
    """Target made of a NumPyro model (or a target that the file has made), and where data are from.

    Where no data file is given, the ``data()`` of the model's own module is used. The module's
    ``dims`` and ``coords`` name the axes of its sites; ``coords`` belong to its own data.
    """
    from ppl.energy import Energy
    from ppl.program import from_numpyro

    model, module = load_object(spec)
    if isinstance(model, Energy):
        if files:
            raise InputError(f"{spec} is a target that holds its data: it takes no --data")
        return model, ""
    if not callable(model) or isinstance(model, type):
        raise InputError(
            f"{spec} is {'a class' if isinstance(model, type) else f'{model!r}'}; expected a "
            "NumPyro model (a function) or a target made by ppl.from_log_density and the like"
        )
    own = getattr(module, "data", None)
    labels = {"dims": getattr(module, "dims", None)}
    if files:
        data, source = read_data(files), " and ".join(str(file) for file in files)
    elif callable(own):
        source = f"data() of {spec.rpartition(':')[0]}"
        data = _guarded(f"{source} failed", own, Path(module.__file__ or ""))
        if not isinstance(data, Mapping):
            raise InputError(f"{source} gives {type(data).__name__}; expected a dict by argument")
        labels["coords"] = getattr(module, "coords", None)
    else:
        data, source = {}, "no data file was given, and --data"
    args, named = match(model, data, source)
    target = from_numpyro(model, *args, **named)
    if any(labels.values()):
        target = target.with_coords(**labels)
    return target, source if data else ""


# Samplers by name -----------------------------------------------------------------------------


def table() -> list[Any]:
    """Rows of the table of methods."""
    return list(importlib.import_module("samplers").table())


def sampler_class(name: str) -> Any:
    """Sampler class called ``NUTS``, as in the table, or ``file.py:Class`` of the user's own."""
    from ppl.sampler import Sampler

    if ":" in name:
        found, _ = load_object(name)
        if not (isinstance(found, type) and issubclass(found, Sampler)):
            raise InputError(
                f"{name} is no sampler class (one that derives from ppl.MarkovKernel ...)"
            )
        return found
    names, library = [row.name for row in table()], importlib.import_module("samplers")
    if name in names:
        return getattr(library, name)
    try:
        getattr(library, name)
    except AttributeError as error:  # it knows other names of a method
        _, _, known_as = str(error).partition("that method is samplers.")
        near = f"that method is {known_as}" if known_as else nearest(name, names)
    else:
        near = nearest(name, names)
    raise InputError(f"there is no sampler {name!r}; {near}")


def make_sampler(cls: Any, fields: Mapping[str, Any]) -> Any:
    """Sampler with these fields; what it refuses is an `InputError`."""
    required = [n for n, p in fields_of(cls).items() if p.default is inspect.Parameter.empty]
    if missing := [name for name in required if name not in fields]:
        raise InputError(
            f"{cls.__name__} needs {', '.join(missing)}: add "
            + " ".join(f"--set {name}=..." for name in missing)
        )
    with input_errors():
        return cls(**fields)


def fields_of(cls: Any) -> dict[str, inspect.Parameter]:
    """Fields of a sampler that its user may set."""
    return dict(inspect.signature(cls).parameters)


def split_settings(options: Any, cls: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of the sampler, options of `ppl.sample`: a name that is both means the sampler's."""
    fields, sizes = {}, {}
    known = fields_of(cls)
    for name, value in parse_settings(options.set).items():
        if name in known:
            fields[name] = value
        elif name in OPTIONS:
            sizes[name] = value
        else:
            raise InputError(
                f"--set {name}: neither {cls.__name__} nor ppl.sample has it; "
                f"{nearest(name, [*known, *OPTIONS])}"
            )
    for name, value in (
        ("rng_key", options.seed),
        ("num_chains", options.chains),
        ("num_samples", options.samples),
        ("num_warmup", options.warmup),
    ):
        if value is not None and name in sizes:
            raise InputError(f"{name} is given twice: by --set and by an option of its own")
        if value is not None:
            sizes[name] = value
    return fields, sizes


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Values by name of ``NAME=VALUE`` strings."""
    result: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not (equals and name and text):
            raise InputError(f"--set takes NAME=VALUE, such as num_warmup=500; got {setting!r}")
        if name in result:
            raise InputError(f"--set gives {name} twice")
        result[name] = _value(name, text)
    return result


def _value(name: str, text: str) -> Any:
    """Number, list, ``true``, ``false``, ``none``, or what ``package.module:name`` names.

    A class is called without arguments.
    """
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for parse in (json.loads, float):  # .5, 1. and inf are no JSON
        with contextlib.suppress(ValueError):
            return parse(text)
    if ":" in text:
        found, _ = load_object(text)
        return found() if isinstance(found, type) else found
    raise InputError(
        f"--set {name}={text}: a value is a number, a list of numbers, true, false, none, or an "
        "object to import, such as samplers:Diagonal"
    )
