"""Draws made by hand, so that what they should show is known."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from ppl.draws import Draws, Run
from ppl.energy import from_log_density


def run(**changes: Any) -> Run:
    fields = {
        "sampler": "NUTS(step_size=0.4)",
        "sampler_name": "NUTS",
        "exactness": "exact",
        "kind": "markov",
        "target": "a log density",
        "rng_key": {"data": [0, 7], "impl": "threefry2x32"},
        "num_chains": 4,
        "num_samples": 100,
        "num_warmup": 1000,
        "thin": 1,
        "seconds": {"start": 0.5, "warmup": 1.0, "sample": 2.0, "compile": 1.5},
        "evaluations": {"warmup": [10, 10], "sample": [20, 20]},
    }
    return Run(**fields | changes)


def log_density(position: dict, scale: Any) -> Any:
    return -0.5 * jnp.sum((position["mu"] / scale) ** 2) - position["tau"]


def target(scale: float = 1.0) -> Any:
    """Two values, one of them positive."""
    return from_log_density(
        log_density,
        {"mu": jnp.zeros(3), "tau": jnp.zeros(())},
        scale,
        support={"mu": constraints.real, "tau": constraints.positive},
    )


def positions(seed: int = 0, chains: int = 4, draws: int = 100) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "mu": rng.normal(size=(chains, draws, 3)).astype(np.float32),
        "tau": rng.normal(size=(chains, draws)).astype(np.float32),
    }


def make(where: Any = None, /, **fields: Any) -> Draws:
    """Draws at given positions; ``fields`` go to `Draws`, those of a run to `Run`."""
    where = positions() if where is None else where
    own = {"target", "sampler", "stats", "log_weights", "log_evidence", "num_evaluations"}
    own |= {"history", "values", "groups"}
    parts = {name: fields.pop(name) for name in list(fields) if name in own}
    defaults = {"target": target(), "sampler": None, "stats": {}, "num_evaluations": (30, 30)}
    return Draws(where, run=run(**fields), **defaults | parts)


def of_values(values: dict[str, np.ndarray], **fields: Any) -> Draws:
    """Draws whose positions are their values."""
    return make(values, values=values, target=None, **fields)
