"""Reflow: a flow retrained on the pairs of noise and data that it makes itself runs straight.

    x_t = (1 - t) x_0 + t eps,    u(x, t) = E[eps - x_0 | x_t = x]                     ([1], eq. 1)
    S = int_0^1 E |(eps - x_0) - u(x_t, t)|^2 dt    along the paths of the flow        ([1], eq. 4)

A flow learned from data and independent noise has curved paths. `couple` follows them from noise to
data; `DenoisingDiffusion` with ``noise`` learns the flow of these pairs, whose ends have the same
laws, whose transport costs no more, and whose paths are straighter: S tends to zero, and few steps
do. Biased as the training is, and errors of the first flow stay.

References
----------
.. [1] Liu, Gong and Liu, "Flow straight and fast: learning to generate and transfer data with
   rectified flow", ICLR 2023, arXiv:2209.03003. Algorithm 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ppl.energy import Position, TargetError
from samplers.diffusion.integrate import integrate
from samplers.diffusion.paths import StraightFlow
from samplers.diffusion.prior import DiffusionPrior
from samplers.diffusion.sampler import DiffusionSampler
from samplers.diffusion.schedules import TimeUniform


def couple(
    rng_key: PRNGKeyArray, prior: DiffusionPrior, n: int, *, num_steps: int = 100
) -> tuple[Position, Position]:
    """``n`` pairs (noise, data) of a flow, by Euler's method in t.

    Raises
    ------
    TargetError
        For a prior that is not on `StraightFlow`.
    """
    noise, data, _ = _paths(rng_key, prior, n, num_steps)
    return jax.vmap(prior.position)(noise), jax.vmap(prior.position)(data)


def straightness(
    rng_key: PRNGKeyArray, prior: DiffusionPrior, n: int, *, num_steps: int = 100
) -> Float[Array, ""]:
    """S above, a sum over coordinates: zero for paths that are straight and evenly run.

    Raises
    ------
    TargetError
        For a prior that is not on `StraightFlow`.
    """
    noise, data, (t, velocity) = _paths(rng_key, prior, n, num_steps)
    off = jnp.sum(((noise - data) - velocity).reshape(len(t), n, -1) ** 2, axis=2)
    return jnp.trapezoid(jnp.mean(off, axis=1)[::-1], t[::-1])


def _paths(rng_key: PRNGKeyArray, prior: DiffusionPrior, n: int, num_steps: int) -> Any:
    """Both ends, and times and velocities in between."""
    if not isinstance(prior.path, StraightFlow):
        raise TargetError(
            f"reflow is for priors on StraightFlow; this one is on {type(prior.path).__name__}"
        )
    solver = DiffusionSampler(schedule=TimeUniform(), num_steps=num_steps).on(prior.path)
    assert solver.table is not None
    levels, rows = solver.table
    noise = prior.noise(rng_key, n)
    x = jnp.asarray(levels.sigma[0], noise.dtype) * noise
    state, _, trace = integrate(rng_key, prior.denoised, x, rows, trace=True)
    assert trace is not None
    t = jnp.asarray(rows.level.t, noise.dtype)
    points, denoised = trace
    # u = (x - D) / t on this path.
    velocity = (points - denoised) / t.reshape(-1, *(1,) * noise.ndim)
    return noise, state.x, (t, velocity)
