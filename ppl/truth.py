"""What the answers of samplers are held against: exact draws, a long run, or known values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import random
from jaxtyping import Float, PRNGKeyArray, PyTree

from ppl import about
from ppl.diagnostics.agreement import Pool, Yardstick, known, scalars_of
from ppl.diagnostics.energy_distance import energy_distance
from ppl.diagnostics.sliced_wasserstein import sliced_wasserstein
from ppl.draws import Draws, Run
from ppl.energy import TargetError
from ppl.same_target import require_same_target
from ppl.standing import SHOWN, evenly, flat, log_densities


@dataclass(frozen=True)
class Truth:
    """The yardstick, and what else is known of the target.

    Attributes
    ----------
    label
        Where it comes from, in words.
    yardstick
        Moments and quantiles.
    rows
        Draws of the reference, twice as many as distances take; None where only values are known.
    points
        Flat positions of the reference and the log-density there, or None.
    log_normalizer
        Known log Z, or None.
    """

    label: str
    yardstick: Yardstick
    rows: Float[np.ndarray, "n e"] | None = None
    points: tuple[Float[np.ndarray, "m d"], Float[np.ndarray, " m"]] | None = None
    log_normalizer: float | None = None

    def distances(self, rows: Float[np.ndarray, "n e"] | None = None) -> tuple[float, float]:
        """Energy and sliced Wasserstein distance of rows to the reference, scaled by its sd.

        Without rows: those of two halves of the reference, below which nothing can be told apart.
        """
        if self.rows is None:
            return float("nan"), float("nan")
        sd = np.where(self.yardstick.sd > 0, self.yardstick.sd, 1.0)
        x, y = (self.rows[1::2] if rows is None else rows) / sd, self.rows[::2] / sd
        if min(len(x), len(y)) < 10 or not np.isfinite(x).all():
            return float("nan"), float("nan")
        return energy_distance(x, y), sliced_wasserstein(x, y)


def truth_of(target: Any, reference: Any, rng_key: PRNGKeyArray, num_draws: int) -> Truth | None:
    """Truth of what a user gives as ``reference=``; None where there is none.

    Raises
    ------
    TargetError
        For draws of another target.
    ValueError
        For values that do not fit the target, or anything else.
    """
    offers = target.offers
    log_normalizer = float(target.log_normalizer) if "log_normalizer" in offers else None
    if reference is None:
        if not offers_exact_draws(target):
            return None
        reference, label = exact_draws(target, rng_key, num_draws), "exact draws of the target"
    elif isinstance(reference, Draws):
        label = f"draws of {reference.run.sampler_name}"
        require_same_target(
            {"the comparison": _made(target, _zeros(target, 2), "none"), "reference=": reference}
        )
    elif isinstance(reference, Mapping):
        yardstick = known(reference, _made(target, _zeros(target, 2), "none"))
        return Truth("values given", yardstick, log_normalizer=log_normalizer)
    else:
        raise ValueError(
            "reference must be draws, or values by name, such as {'mu': 4.4, 'tau': (3.6, 3.2)}; "
            f"got {reference!r}"
        )
    pool, generator = Pool([reference]), np.random.default_rng(1)
    rows = evenly(pool.x.reshape(-1, pool.x.shape[2]), pool.log_weights, generator, 2 * SHOWN)
    # Chains are in order: neighbors, of which one goes into each half, depend on each other.
    rows = generator.permutation(rows)
    yardstick = pool.yardstick()
    labels, _ = scalars_of(_made(target, _zeros(target, 2), "none"))
    if len(labels) == len(yardstick.labels):  # entries that one of the two has no names for
        yardstick = yardstick._replace(labels=labels)
    if "gradient" not in offers:
        return Truth(label, yardstick, rows, None, log_normalizer)
    places = flat(reference.positions)
    log_weights = None if reference.log_weights is None else reference.pooled_log_weights()
    points = evenly(places.reshape(-1, places.shape[2]), log_weights, generator)
    found = (points, log_densities(target, points[None])[0])
    return Truth(label, yardstick, rows, found, log_normalizer)


def offers_exact_draws(target: Any) -> bool:
    """Whether ``target.sample`` draws from the target: that of a model with data is the prior."""
    return "sample" in target.offers and "log_likelihood" not in target.offers


def exact_draws(target: Any, rng_key: PRNGKeyArray, num: int) -> Draws:
    """Independent, exact draws of a target that offers them."""
    positions = target.sample(rng_key, num)
    return _made(target, jax.tree.map(lambda x: np.asarray(x)[None], positions), "exact draws")


def _zeros(target: Any, num: int) -> PyTree:
    return jax.tree.map(lambda s: np.zeros((1, num, *s.shape), s.dtype), target.template)


def _made(target: Any, positions: PyTree, name: str) -> Draws:
    num = jax.tree.leaves(positions)[0].shape[1]
    run = Run(
        sampler=name,
        sampler_name=name,
        exactness="exact",
        kind="direct",
        target=about.describe_target(target),
        rng_key=about.key_data(random.key(0)),
        num_chains=1,
        num_samples=num,
        num_warmup=0,
        thin=1,
    )
    return Draws(positions, target=target, sampler=None, stats={}, run=run)


def require_exact(target: Any) -> None:
    """Raise unless the target can be drawn from."""
    if not offers_exact_draws(target):
        raise TargetError(
            "this target cannot be drawn from, so a reference needs two unrelated samplers: "
            "ppl.reference(target, {'NUTS': samplers.NUTS(), 'MALA': samplers.MALA()})"
        )
