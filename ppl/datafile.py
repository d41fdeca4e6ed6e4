"""Data files of the command line: values by name from JSON, CSV and NPZ."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class InputError(ValueError):
    """Input of the command line that cannot be used: the message is all that is shown."""


def read_data(files: Sequence[str | Path]) -> dict[str, Any]:
    """Values by name from JSON, CSV or NPZ files; a name may stand in one file only.

    JSON: an object; lists of numbers become arrays, ints stay ints. CSV: a header; columns become
    arrays. NPZ: arrays; those without axes become numbers.
    """
    found: dict[str, Any] = {}
    for file in files:
        path = Path(file)
        readers = {".json": _read_json, ".csv": _read_csv, ".npz": _read_npz}
        if path.suffix.lower() not in readers:
            raise InputError(f"data come from .json, .csv or .npz files; got {path}")
        if not path.is_file():
            raise InputError(f"there is no data file {path} (looked for {path.resolve()})")
        try:
            values = readers[path.suffix.lower()](path)
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no UTF-8 text: {error}") from error
        if twice := sorted(set(found) & set(values)):
            raise InputError(f"{path} gives {', '.join(twice)} again: each name in one file only")
        found |= values
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(
            f"{path} holds a {type(values).__name__}; expected an object with one entry for each "
            'argument of the model, such as {"y": [1.0, 2.0]}'
        )
    return {name: _arrays(value, f"{name!r} in {path}") for name, value in values.items()}


def _arrays(value: Any, what: str) -> Any:
    if isinstance(value, dict):
        return {key: _arrays(entry, f"{key!r} of {what}") for key, entry in value.items()}
    if not isinstance(value, list):
        return value
    if not value:
        return np.zeros(0)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{what} is a ragged list: rows of a table have equal length") from error
    if array.dtype.kind not in "biuf":
        if array.dtype.kind == "O" and any(entry is None for entry in array.flat):
            raise InputError(f"{what} holds null; write NaN, or leave the rows out")
        raise InputError(f"{what} is a list of other things than numbers; encode them as numbers")
    return array


def _read_csv(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise InputError(f"{path} is empty; expected a header and rows")
    header, body = [name.strip() for name in rows[0]], rows[1:]
    if len(set(header)) < len(header) or not all(header):
        raise InputError(f"{path}: columns need names, each its own; got {', '.join(header)}")
    for number, row in enumerate(body, 1):
        if len(row) != len(header):
            raise InputError(
                f"{path}: row {number} has {len(row)} cells where the header has {len(header)}"
            )
    return {name: _column([r[i] for r in body], name, path) for i, name in enumerate(header)}


def _column(cells: list[str], name: str, path: Path) -> np.ndarray:
    cells = [cell.strip() for cell in cells]
    truths = {"true": True, "false": False}
    if cells and all(cell.lower() in truths for cell in cells):
        return np.asarray([truths[cell.lower()] for cell in cells])
    for kind in (int, float):
        try:
            return np.asarray([kind(cell) for cell in cells], kind)
        except (ValueError, OverflowError):
            continue

    def is_number(cell: str) -> bool:
        try:
            float(cell)
        except ValueError:
            return False
        return True

    row, cell = next((i, cell) for i, cell in enumerate(cells, 1) if not is_number(cell))
    raise InputError(
        f"{path}: column {name!r} has {cell!r} in row {row}, which is no number; "
        + ("write nan, or leave the row out" if not cell else "encode text as integers")
    )


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is no NPZ file of plain arrays: {error}") from error
    return {name: x.item() if x.ndim == 0 else x for name, x in arrays.items()}
