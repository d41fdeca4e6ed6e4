"""One path of each kind."""

import numpy as np

from samplers.diffusion import paths

PATHS = {
    "VPLinear": paths.VPLinear(),
    "VPCosine": paths.VPCosine(),
    "SubVP": paths.SubVP(),
    "VE": paths.VE(),
    "EDM": paths.EDM(),
    "StraightFlow": paths.StraightFlow(),
    "MeanReverting": paths.MeanReverting(np.array([1.0, -2.0])),
    "PFGM": paths.PFGM(),
}


def times(path, num=50):
    return np.linspace(path.t_min, path.t_max, num)
