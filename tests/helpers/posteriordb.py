"""The twelve reference cases and the rule by which a sampler passes them."""

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
from arviz_stats import ess

from models.programs import POSTERIORDB

FOLDER = Path(__file__).parents[1] / "reference" / "posteriordb"
LIMIT = 4.9
NUM_REFERENCE_DRAWS = 10_000
QUANTILES = {"q05": 0.05, "q50": 0.50, "q95": 0.95}


def cases() -> list[str]:
    """Names of the cases, sorted."""
    return sorted(POSTERIORDB)


def load(case: str) -> tuple[ModuleType, dict, dict[str, dict[str, float]]]:
    """Return the module of a case, the arguments of its model, and the reference by parameter."""
    module = import_module(f"models.programs.{POSTERIORDB[case]}")
    reference = json.loads((FOLDER / f"{case}.json").read_text())["reference"]
    return module, module.data(), reference


def parameter(draws: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Return the draws, ``(chain, draw)``, of a parameter such as ``sigma`` or ``beta[1]``."""
    site, _, index = name.partition("[")
    index = tuple(int(i) - 1 for i in index.rstrip("]").split(",") if i)
    return np.asarray(draws[site], dtype=np.float64)[(..., *index)]


def z_score(values: np.ndarray, truth: float, reference_variance: float | None = None) -> float:
    """Distance of the mean of ``values`` from ``truth`` in standard errors.

    The error combines the Monte Carlo error of this very mean with that of the reference, whose
    draws are nearly independent and have the variance of ``values`` where none is given.
    """
    variance = values.var()
    if reference_variance is None:
        reference_variance = variance
    own = variance / ess(values, method="mean") if variance > 0 else 0.0
    error = np.sqrt(own + reference_variance / NUM_REFERENCE_DRAWS)
    return float((values.mean() - truth) / error) if error > 0 else np.inf


def z_scores(
    draws: dict[str, np.ndarray], reference: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Compare draws with a reference.

    Parameters
    ----------
    draws
        Arrays ``(chain, draw, *event)`` by site.
    reference
        ``mean``, ``sd``, ``q05``, ``q50``, ``q95`` by parameter.

    Returns
    -------
    dict
        By parameter, the signed z-scores of the mean, of the second moment about the reference mean
        and of the frequencies below the three reference quantiles.
    """
    scores = {}
    for name, truth in reference.items():
        x = parameter(draws, name)
        scores[name] = {
            "mean": z_score(x, truth["mean"]),
            "square": z_score((x - truth["mean"]) ** 2, truth["sd"] ** 2),
            **{
                q: z_score((x < truth[q]).astype(float), p, p * (1 - p))
                for q, p in QUANTILES.items()
            },
        }
    return scores


def largest(scores: dict[str, dict[str, float]]) -> tuple[float, str, str]:
    """Return the largest ``|z|`` with its parameter and check; a NaN counts as infinite."""
    flat = [(z, name, check) for name, checks in scores.items() for check, z in checks.items()]
    size = [(abs(z) if np.isfinite(z) else np.inf, name, check) for z, name, check in flat]
    return max(size)
