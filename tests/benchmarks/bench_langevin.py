"""MALA and Barker against BlackJAX's kernels: the same step size and metric, after one warm-up."""

from functools import cache

import blackjax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random

import paired
import peers
import ppl
from samplers.langevin.barker import Barker
from samplers.langevin.mala import MALA
from samplers.mcmc.metrics import Dense, Identity

NUM_CHAINS, NUM_STEPS = 4, 20_000

# BlackJAX's MALA knows no metric: both run in the coordinates that our warm-up has made round,
# where the metric is the identity and one step size means the same.
KERNELS = {"MALA": MALA, "Barker": Barker}


def log_density(z, factor, precision):
    """The rotated Gaussian in z, x = A z."""
    return peers.quadratic(factor @ z, precision)


@cache
def tuned(name):
    """Our kernel after its own warm-up on the rotated Gaussian."""
    draws = ppl.sample(
        KERNELS[name](metric=Dense()),
        peers.rotated_gaussian(),
        0,
        10,
        NUM_CHAINS,
        2000,
        progress=False,
    )
    return draws.sampler


@cache
def target_of(name):
    """What both kernels run on."""
    factor = jax.vmap(tuned(name).metric.scale, 1, 1)(jnp.eye(peers.DIM))
    return ppl.from_log_density(
        log_density, jnp.zeros(peers.DIM), factor, peers.rotated_precision()
    )


def chains(step, starts, key, num_steps):
    """Positions (chain, step, d) of vmapped chains; the same loop for both sides."""

    def one(states, t):
        keys = random.split(random.fold_in(key, t), NUM_CHAINS)
        states = jax.vmap(step)(keys, states)
        return states, states.position

    _, positions = lax.scan(one, starts, jnp.arange(num_steps))
    return {"x": jnp.swapaxes(positions, 0, 1)}


@eqx.filter_jit
def run_ours(kernel, target, key, num_steps):
    start = jnp.zeros((NUM_CHAINS, peers.DIM))
    states = jax.vmap(kernel.init, (None, None, 0))(key, target, start)
    step = lambda key, state: kernel.step(key, target, state)[0]
    return chains(step, states, key, num_steps)


@eqx.filter_jit
def run_peer(name, step_size, target, key, num_steps):
    make = {"MALA": blackjax.mala, "Barker": blackjax.barker}[name]
    kernel = make(target.log_density, step_size)
    states = jax.vmap(kernel.init)(jnp.zeros((NUM_CHAINS, peers.DIM)))
    return chains(lambda key, state: kernel.step(key, state)[0], states, key, num_steps)


def sides(name, num_steps=NUM_STEPS):
    """Our run and the peer's, as functions of the key."""
    step_size, target = tuned(name).step_size, target_of(name)
    kernel = KERNELS[name](step_size, metric=Identity()).resolve(target)
    ours = lambda i: run_ours(kernel, target, random.key(i), num_steps)
    peer = lambda i: run_peer(name, step_size, target, random.key(i), num_steps)
    return ours, peer


@pytest.mark.parametrize("name", KERNELS)
def test_effective_draws_per_gradient_are_those_of_blackjax(name):
    """Each step of either costs one gradient, so that it is the ratio of effective draws."""
    ours, peer = sides(name)
    ratios = [typical_ess(ours(2 * i)) / typical_ess(peer(2 * i + 1)) for i in range(4)]
    ratio = np.exp(np.mean(np.log(ratios)))
    print(f"\n{name}: effective draws per gradient, ours to BlackJAX's: {ratio:.3f} {ratios}")
    assert 0.9 < ratio < 1.1


def typical_ess(draws):
    """Mean bulk-ESS over the coordinates: that of a single one is too noisy for a comparison."""
    x = np.asarray(draws["x"], np.float64)
    return np.mean([peers.ess(x[..., i]) for i in range(x.shape[-1])])


@pytest.mark.parametrize("name", KERNELS)
def test_steps_are_not_slower_than_blackjax(name):
    """Wall time of the same loop around either kernel."""
    figures = paired.alternate(*sides(name), label=f"{name}, runs of {NUM_STEPS} steps")
    assert figures.lower >= 0.95
