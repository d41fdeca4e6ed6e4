"""Reads the data that ship with the programs."""

import json
from pathlib import Path

import numpy as np


def read(file: str) -> dict[str, np.ndarray | int | float]:
    """Read the arguments of a program from ``models/programs/data``.

    Parameters
    ----------
    file
        Name of a ``.json`` file (lists become arrays, numbers stay numbers) or of an ``.npz`` file.

    Returns
    -------
    dict
        The values by argument name.
    """
    path = Path(__file__).parent / "data" / file
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return dict(arrays)
    values = json.loads(path.read_text())
    return {name: np.asarray(v) if isinstance(v, list) else v for name, v in values.items()}
