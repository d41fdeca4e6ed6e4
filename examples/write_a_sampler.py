"""
Write a sampler in 30 lines
===========================

A published method is a short file: what it keeps (its state), what it tells (its info), and one
step. Chains, warm-up by burning in, checkpoints, evaluation counts, the report and the command line
come with the contract. Here it is elliptical slice sampling [1]_, which has no step size at all.

.. [1] I. Murray, R. P. Adams, D. J. C. MacKay, "Elliptical slice sampling", AISTATS, 2010,
   arXiv:1001.0175. Figure 2.
"""

# %%
# A Gaussian prior N(0, I) and a likelihood L: draw an ellipse through the position x and a prior
# draw v, x' = x cos(a) + v sin(a); draw a height below L(x); shrink the bracket of the angle toward
# x until L(x') is above the height. Every loop ends, as x itself is above.
#
# A sampler is an Equinox module; ``needs`` says what a target must offer, and a target that does
# not is refused before anything is compiled.

import os
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import ppl
from ppl.sampler import MarkovKernel


class State(NamedTuple):
    position: jax.Array
    log_likelihood: jax.Array


class Info(NamedTuple):
    num_shrinks: jax.Array
    num_evaluations: jax.Array  # log-densities, gradients


class EllipticalSlice(MarkovKernel):
    needs: ClassVar[frozenset[str]] = frozenset({"log_likelihood"})
    exactness: ClassVar[str] = "exact"
    fixed_length: ClassVar[bool] = False  # steps differ in length: data sets run one by one

    def init(self, rng_key, target, position):
        return State(position, target.log_likelihood(position))

    def step(self, rng_key, target, state):
        key_ellipse, key_height, key_angle, key_shrink = jax.random.split(rng_key, 4)
        v = jax.random.normal(key_ellipse, state.position.shape)
        height = state.log_likelihood + jnp.log(jax.random.uniform(key_height))
        first = jax.random.uniform(key_angle, maxval=2 * jnp.pi)

        def propose(angle):
            position = state.position * jnp.cos(angle) + v * jnp.sin(angle)
            return State(position, target.log_likelihood(position))

        def shrink(loop):
            i, angle, low, high, _ = loop
            low, high = jnp.where(angle < 0, angle, low), jnp.where(angle < 0, high, angle)
            key = jax.random.fold_in(key_shrink, i)
            angle = jax.random.uniform(key, minval=low, maxval=high)
            return i + 1, angle, low, high, propose(angle)

        start = (jnp.int32(0), first, first - 2 * jnp.pi, first, propose(first))
        i, _, _, _, new = jax.lax.while_loop(
            lambda loop: ~(loop[-1].log_likelihood > height), shrink, start
        )
        return new, Info(i, jnp.stack([i + 1, jnp.zeros_like(i)]))


# %%
# A target it fits: a normal prior, and one noisy sum of ten numbers. ``ppl.posterior`` keeps prior
# and likelihood apart, which is what this sampler needs.

d, noise, y = 10, 0.5, 4.0
prior = ppl.from_distribution(dist.Normal(jnp.zeros(d), 1).to_event(1))
target = ppl.posterior(prior, lambda x, y: -0.5 * ((x.sum() - y) / noise) ** 2, y)

short = os.environ.get("SMOKE") == "1"
draws = ppl.sample(
    EllipticalSlice(),
    target,
    rng_key=0,
    num_warmup=100,
    num_samples=500 if short else 5000,
    progress=False,
)
print(draws.summary().head(3).to_string(float_format="{:.3g}".format))
print(f"{draws.stats['num_shrinks'].mean():.1f} shrinks a step")

# %%
# The posterior is Gaussian, so the answer is known: the sum has mean d y / (d + noise^2).

total = draws["x"].sum(-1)
error = np.sqrt(d * noise**2 / (d + noise**2)) / np.sqrt(total.size / 10)
print(f"mean of the sum: {total.mean():.3f} +- {error:.3f}; known: {d * y / (d + noise**2):.3f}")
