"""Moves: how many there are, what they say of themselves, and particles that do not count."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
from ppl.sampler import MarkovKernel
from samplers.langevin.mala import MALA
from samplers.mcmc.metrics import Dense, Diagonal
from samplers.mcmc.random_walk import RandomWalk
from samplers.smc.moves import enough, move, retuned

pytestmark = pytest.mark.usefixtures("unoptimized")

N = 20_000
TARGET = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
START = random.normal(random.key(0), (N, 2))
EQUAL = jnp.zeros(N)


class State(NamedTuple):
    position: Any


class Info(NamedTuple):
    acceptance_rate: Any
    diverging: Any
    num_evaluations: Any


class Autoregression(MarkovKernel):
    """Leaves the standard normal invariant; correlation ``rho`` between steps."""

    needs = frozenset({"log_density"})
    exactness = "exact"

    rho: Any
    scale: Any

    def init(self, rng_key, target, position):
        return State(position)

    def step(self, rng_key, target, state):
        noise = random.normal(rng_key, state.position.shape)
        new = self.rho * state.position + jnp.sqrt(1 - self.rho**2) * self.scale * noise
        zero = jnp.zeros((), bool)
        return State(new), Info(jnp.asarray(0.7), zero, jnp.array([1, 0], jnp.int32))


run = eqx.filter_jit(move)


def moved(rho, fewest=1, most=50, positions=START, log_weights=EQUAL, scale=(1.0, 1.0), count=True):
    kernel = Autoregression(jnp.asarray(rho), jnp.asarray(scale))
    return run(
        random.key(1), kernel, TARGET, positions, log_weights, jnp.asarray(fewest),
        jnp.asarray(most), count=jnp.asarray(count),
    )  # fmt: skip


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 0.95])
def test_moves_go_on_while_they_pay(rho):
    """The rule at the jumps that are known, 1 - rho^k."""
    found = moved(rho)
    jumps, moves = 1 - rho ** np.arange(51.0), np.arange(1, 51)
    poor, no_more = np.diff(jumps) < jumps[1:] / (2 * moves), rho**moves < 1 / (2 * (moves + 1))
    k = 1 + np.argmax(poor | no_more)
    assert abs(found.num_moves - k) <= 0.2 * k  # gains are small there, and seen with noise
    np.testing.assert_allclose(found.jump, jumps[found.num_moves], atol=0.02)


def test_the_moves_that_paid_are_all_but_a_last_one_that_did_not():
    assert enough(moved(0.0)) == moved(0.0).num_moves == 1
    # Half of the variance is that between modes: the second move shows that one would do.
    within = moved(0.0)._replace(num_moves=jnp.int32(2), jump=jnp.asarray(0.5))
    assert enough(within) == 1


def test_moves_that_are_not_counted_are_as_many_as_told():
    assert moved(0.95, fewest=3, count=False).num_moves == 3


def test_the_number_of_moves_is_within_its_bounds():
    assert moved(0.0, fewest=5).num_moves == 5
    assert moved(0.95, most=3).num_moves == 3


def test_a_coordinate_that_stands_still_is_measured_in_its_own_units():
    still = START.at[:, 1].set(2.0)
    found = moved(0.0, positions=still, scale=(1.0, 0.0), fewest=1, most=1)
    # The second coordinate has no variance; it falls from 2 to 0: (0 - 2)^2 / 2 in units of 1.
    np.testing.assert_allclose(found.jump, (1 + 2) / 2, rtol=0.03)


def test_moves_report_what_the_kernel_says():
    found = moved(0.5, 3, 3)
    np.testing.assert_allclose(found.acceptance_rate, 0.7, rtol=1e-5)
    # The state costs a log-density, each move another one.
    np.testing.assert_array_equal(found.num_evaluations, [4 * N, 0])
    assert found.num_diverging == 0


def test_particles_without_weight_do_not_count():
    half = jnp.where(jnp.arange(N) < N // 2, 0.0, -jnp.inf)
    lost = START.at[N // 2 :].set(jnp.nan)
    found = moved(0.5, 2, 2, positions=lost, log_weights=half)
    np.testing.assert_allclose(found.jump, 0.75, atol=0.02)
    np.testing.assert_allclose(found.acceptance_rate, 0.7, rtol=1e-5)


def test_with_tuning_the_kernel_follows_the_particles():
    walk = RandomWalk(step_size=0.01).resolve(TARGET)
    found = run(random.key(2), walk, TARGET, START[:500], EQUAL[:500], 1, 100, tune=True)
    assert found.kernel.step_size > 0.1
    assert 0.1 < found.acceptance_rate < 0.5
    alone = run(random.key(2), walk, TARGET, START[:500], EQUAL[:500], 1, 100)
    assert alone.kernel.step_size == walk.step_size


def test_metrics_are_learnt_from_the_gradients_of_the_states_as_well(monkeypatch):
    """Which tell a Gaussian almost exactly, where 40 particles in six dimensions are far off."""
    factor = jnp.tril(0.5 * random.normal(random.key(3), (6, 6))) + jnp.eye(6)
    precision = jnp.linalg.inv(factor @ factor.T)
    target = ppl.from_log_density(lambda x, P: -x @ P @ x / 2, jnp.zeros(6), precision)
    x = random.normal(random.key(4), (40, 6)) @ factor.T
    kernel = MALA(metric=Dense()).resolve(target)
    found = eqx.filter_jit(move)(random.key(5), kernel, target, x, jnp.zeros(40), 1, 1, tune=True)
    root = jnp.linalg.solve(factor, found.kernel.metric.factor)
    np.testing.assert_allclose(root @ root.T, jnp.eye(6), atol=0.1)
    monkeypatch.setattr(MALA, "watch", lambda kernel, state: ())
    args = random.key(5), kernel, target, x, jnp.zeros(40), 1, 1
    alone = eqx.filter_jit(lambda *args: move(*args, tune=True))(*args)
    root = jnp.linalg.solve(factor, alone.kernel.metric.factor)
    assert jnp.abs(root @ root.T - jnp.eye(6)).max() > 0.3


@pytest.mark.parametrize("kernel", [MALA(metric=Diagonal()), RandomWalk()])
def test_moves_that_know_the_densities_save_those_of_the_start(kernel):
    kernel, x, args = kernel.resolve(TARGET), START[:101], (EQUAL[:101], 1, 1)
    plain = run(random.key(2), kernel, TARGET, x, *args, tune=True)
    log_densities, gradients = jax.vmap(jax.value_and_grad(TARGET.log_density))(x)
    gradients = gradients if "gradient" in kernel.needs else None
    known = log_densities, gradients
    found = run(random.key(2), kernel, TARGET, x, *args, tune=True, densities=known)
    np.testing.assert_allclose(found.positions, plain.positions, rtol=1e-5)
    saved = np.array([101, 101 if "gradient" in kernel.needs else 0])
    np.testing.assert_array_equal(plain.num_evaluations - found.num_evaluations, saved)
    ends = jax.vmap(jax.value_and_grad(TARGET.log_density))(found.positions)
    np.testing.assert_allclose(found.densities[0], ends[0], rtol=1e-4)
    if gradients is not None:
        np.testing.assert_allclose(found.densities[1], ends[1], rtol=1e-4)


def test_a_tuned_kernel_keeps_its_precision():
    walk = RandomWalk(step_size=jnp.float32(0.5)).resolve(TARGET)
    with jax.enable_x64(True):
        arrays = retuned(walk, START.astype(jnp.float64), EQUAL.astype(jnp.float64), None)
        assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(arrays) if x.ndim)
