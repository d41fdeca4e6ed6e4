"""Hallucination filter: draws between the modes, told by how their denoised values waver.

    H = mean over the last k calls of |D(x_i) - mean D|^2 / d                        ([1], eq. 6)

A smooth network fills the gap between modes that lie apart: some draws land where no data are [1].
On the way there the denoised value wavers between the modes to the end, while for other draws it
has settled long before. H is large for the former; the share of draws with the largest H is left
out. Where a network is so smooth that it joins the modes, nothing wavers and H tells nothing. What
is kept is a selection: it has fewer draws of the rare and the wide as well, so that it is biased
even where the prior was exact.

References
----------
.. [1] Aithal, Maini, Lipton and Kolter, "Understanding hallucinations in diffusion models through
   mode interpolation", NeurIPS 2024, arXiv:2406.09358.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ppl.energy import Position
from samplers.diffusion.integrate import integrate
from samplers.diffusion.prior import DiffusionPrior
from samplers.diffusion.sampler import DiffusionSampler


def wavering(denoised: Float[Array, "rows n ..."], last: int = 10) -> Float[Array, " n"]:
    """H of each draw, from the denoised values of all rows of a run."""
    if not 2 <= last <= len(denoised):
        raise ValueError(
            f"last must lie between 2 and the {len(denoised)} rows of the run; got {last}"
        )
    tail = denoised[-last:].reshape(last, denoised.shape[1], -1)
    return jnp.mean(jnp.var(tail, axis=0), axis=1)


def draw_with_wavering(
    rng_key: PRNGKeyArray,
    prior: DiffusionPrior,
    n: int,
    *,
    sampler: DiffusionSampler | None = None,
    last: int = 10,
) -> tuple[Position, Float[Array, " n"]]:
    """``n`` draws of a prior and H of each; the draws are those of ``sampler`` with this key.

    ``sampler`` is the prior's own by default; the calls are those of its solver.
    """
    chosen: Any = prior.sampler if sampler is None else sampler.on(prior.path)
    key_start, key_steps = random.split(rng_key)
    levels, rows = chosen.table
    noise = prior.noise(key_start, n)
    x = jnp.asarray(levels.sigma[0], noise.dtype) * noise
    state, _, trace = integrate(key_steps, prior.denoised, x, rows, rule=chosen.rule, trace=True)
    assert trace is not None
    y = prior.center + state.x / jnp.asarray(levels.alpha[-1], noise.dtype)
    return jax.vmap(prior.position)(y), wavering(trace[1], last)


def steadiest(values: Any, share: float = 0.96) -> Bool[np.ndarray, " n"]:
    """Which draws to keep: this share of them, those of the smallest H."""
    if not 0 < share <= 1:
        raise ValueError(f"share must be a number above 0 and at most 1; got {share}")
    values = np.asarray(values)
    keep = np.zeros(len(values), bool)
    keep[np.argsort(values, kind="stable")[: int(np.ceil(share * len(values)))]] = True
    return keep
