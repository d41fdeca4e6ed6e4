"""Linnerud's data: twenty men of a fitness club, what they weigh and what they can do.

Weight (pounds), waist (inches), pulse (beats a minute) of each, and how many chin-ups, sit-ups and
jumps he managed. It is small enough for every directed acyclic graph of five of the six to be
scored, and so noisy that many of them are plausible.

Data: as printed in [1], and in scikit-learn as ``load_linnerud``.

References
----------
.. [1] Tenenhaus, "La régression PLS: théorie et pratique", Technip, 1998. Table 1.
"""

import numpy as np

NAMES = ("weight", "waist", "pulse", "chins", "situps", "jumps")

_ROWS = """
191 36 50  5 162  60
189 37 52  2 110  60
193 38 58 12 101 101
162 35 62 12 105  37
189 35 46 13 155  58
182 36 56  4 101  42
211 38 56  8 101  38
167 34 60  6 125  40
176 31 74 15 200  40
154 33 56 17 251 250
169 34 50 17 120  38
166 33 52 13 210 115
154 34 64 14 215 105
247 46 50  1  50  50
193 36 46  6  70  31
202 37 62 12 210 120
176 37 54  4  60  25
157 32 52 11 230  80
156 33 54 15 225  73
138 33 68  2 110  43
"""


def measurements() -> np.ndarray:
    """The twenty rows, columns as in ``NAMES``."""
    return np.array([[float(x) for x in row.split()] for row in _ROWS.strip().splitlines()])


def standardized(*names: str) -> np.ndarray:
    """Columns of mean 0 and variance 1; all of them by default."""
    columns = measurements()[:, [NAMES.index(name) for name in names or NAMES]]
    return (columns - columns.mean(0)) / columns.std(0)
