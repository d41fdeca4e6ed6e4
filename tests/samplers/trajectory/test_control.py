"""Both gradients of reverse KL, where the control sees that of the target, against quadrature.

Two steps in one dimension: E -w is a sum over a grid of all noise, and its gradient by what is
learned, in some directions, a difference of such sums, for which no program is differentiated.
"""

from dataclasses import replace
from itertools import product

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

import ppl
from samplers.trajectory.cmcd import CMCD
from samplers.trajectory.control import Control
from samplers.trajectory.dds import DDS
from samplers.trajectory.dis import DIS
from samplers.trajectory.kernels import Paths, forward_paths, score
from samplers.trajectory.objectives import ReverseKL, VarGrad, log_weights
from samplers.trajectory.pis import PIS, Bridge

pytestmark = pytest.mark.usefixtures("unoptimized", "x64")


class Bent(eqx.Module):
    """A network of six numbers."""

    numbers: Array

    def __init__(self, rng_key, shape, *, dtype=None):
        self.numbers = 0.3 * random.normal(rng_key, (6,), dtype)

    def __call__(self, x, t):
        a, b, c, d, e, f = self.numbers
        return a * jnp.tanh(b * x + c * t + d) + e * x + f * t


NUM_BATCHES, NUM_DIRECTIONS, STEP = 50, 6, 1e-4
NODES = np.linspace(-6, 6, 25)
SMALL = {"num_steps": 2, "num_paths": 4000, "scale": 1.0, "network": Bent}
SAMPLERS = {
    "PIS": PIS(**SMALL),
    "DDS": DDS(duration=2.0, **SMALL),
    "DIS": DIS(fastest=1.0, **SMALL),
    "CMCD": CMCD(step_size=0.1, **SMALL),
}


def two_modes():
    log_density = lambda x: jnp.sum(jnp.logaddexp(-((x - 1) ** 2), 0.5 - (x + 1) ** 2))
    return ppl.from_log_density(log_density, jnp.zeros(1))


def learned(sampler, target):
    """What is learned as a vector, moved off its start; kernels of such a vector; parameters."""
    parameters = sampler.init(random.key(0), target).parameters
    arrays, rest = eqx.partition(parameters.kernels, eqx.is_inexact_array)
    vector, unravel = ravel_pytree(arrays)
    vector = vector + 0.1 * random.normal(random.key(1), vector.shape)
    remade = lambda v: eqx.combine(unravel(v), rest)
    kernels_of = lambda v: sampler.kernels(sampler._reward(target), remade(v))
    return vector, kernels_of, parameters._replace(kernels=remade(vector))


def divergence(kernels):
    """E -w."""
    z, p = NODES, np.exp(-(NODES**2) / 2)
    start, *noises = jnp.stack(jnp.meshgrid(z, z, z), -1).reshape(-1, 3).T[..., None]
    probability = jnp.stack(jnp.meshgrid(p, p, p), -1).prod(-1).ravel() / p.sum() ** 3
    look_at = jax.vmap(kernels.reward.with_gradient)
    states = [jnp.zeros_like(start) if isinstance(kernels, Bridge) else kernels.scale * start]
    looks = [look_at(states[0])]
    for n, noise in zip(jnp.arange(2), noises, strict=True):
        here = states[-1], jax.vmap(kernels.control, (None, 0, 0))(n, states[-1], looks[-1])
        law = jax.vmap(kernels.forward, (None, 0, 0, 0))(n, *here, looks[-1])
        states.append(law.mean + law.sd[:, None] * noise)
        looks.append(look_at(states[-1]))
    paths = Paths(jnp.stack(states), jax.tree.map(lambda *x: jnp.stack(x), *looks), looks[-1])
    return -probability @ log_weights(score(kernels, paths))


def gradients(sampler):
    """In some directions: by quadrature, and of batches as training has them."""
    target = two_modes()
    vector, kernels_of, parameters = learned(sampler, target)

    def along(move):
        there, back = (divergence(kernels_of(vector + sign * move)) for sign in (STEP, -STEP))
        return (there - back) / (2 * STEP)

    def of_batch(key):
        if sampler.objective.through_states:
            made = lambda v: forward_paths(key, kernels_of(v), sampler.num_paths, through=True)[1]
            return jax.grad(lambda v: sampler.objective(made(v)))(vector)
        made, reward = kernels_of(vector), sampler._reward(target)
        paths = forward_paths(key, made, sampler.num_paths)
        return ravel_pytree(sampler._off_policy(reward, made, parameters, *paths)[1].kernels)[0]

    keys = random.split(random.key(2), NUM_BATCHES)
    moves = random.normal(random.key(3), (NUM_DIRECTIONS, len(vector)))
    exact = jax.jit(lambda: lax.map(along, moves))()
    found = jax.jit(lambda: lax.map(of_batch, keys))()
    return np.asarray(exact), np.asarray(found @ moves.T)


def off(sampler):
    """How far their mean is from that by quadrature, in standard errors, at most."""
    exact, found = gradients(sampler)
    error = found.std(0, ddof=1) / NUM_BATCHES**0.5 + 1e-5
    return np.max(np.abs(found.mean(0) - exact) / error)


@pytest.mark.parametrize(
    ("name", "reparametrized"),
    [
        ("DDS", False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in product(SAMPLERS, (False, True))
            if case != ("DDS", False)
        ),
    ],
)
def test_the_gradient_is_that_of_reverse_kl(name, reparametrized):
    objective = ReverseKL(reparametrized=True) if reparametrized else ReverseKL()
    assert off(replace(SAMPLERS[name], objective=objective)) < 4.9


def test_one_that_stops_at_the_push_is_not(monkeypatch):
    inside = Control.__call__
    stopped = lambda self, x, t, push: inside(self, x, t, lax.stop_gradient(push))
    monkeypatch.setattr(Control, "__call__", stopped)
    assert off(replace(SAMPLERS["DDS"], objective=ReverseKL(reparametrized=True))) > 4.9


def test_lengths_of_steps_are_not_learned_from_given_paths():
    """By the log-variance; all else of CMCD is."""
    sampler = replace(SAMPLERS["CMCD"], objective=VarGrad())
    vector, kernels_of, _ = learned(sampler, two_modes())

    @jax.jit
    @jax.grad
    def gradient(v):
        kernels = kernels_of(v)
        return sampler.objective(score(kernels, forward_paths(random.key(0), kernels, 100)[0]))

    found = np.asarray(gradient(vector))
    assert found[-1] == 0  # of the fields the length is the last
    assert np.all(found[:-1] != 0)
