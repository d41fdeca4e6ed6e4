"""A table of rows that is no method's."""

import numpy as np

from samplers.diffusion.paths import Level
from samplers.diffusion.tables import Rows


def random_rows(num=6, registers=2, history=3, num_noises=1):
    """A table that means nothing, with an entry everywhere."""
    rng = np.random.default_rng(0)
    level = Level(*np.abs(rng.normal(size=(5, num))) + 0.5)
    shape = (num, registers)
    return Rows(
        np.arange(num, dtype=np.int32), np.arange(1, num + 1, dtype=np.int32), level,
        rng.normal(size=(num, 2)), rng.uniform(0.5, 1, (num, 1)),
        rng.normal(size=(*shape, registers)) / 2, rng.normal(size=(*shape, history)) / 3,
        rng.normal(size=(*shape, num_noises)),
    )  # fmt: skip
