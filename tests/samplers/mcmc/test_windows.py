"""Windows: their lengths, their memory, what they conclude; and `retune`."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from numpyro import distributions as dist

import ppl
from ppl.sampler import Record
from samplers.mcmc.hmc import HMC, HMCState
from samplers.mcmc.metrics import Diagonal, Identity
from samplers.mcmc.nuts import NUTS
from samplers.mcmc.parallel_tempering import ParallelTempering
from samplers.mcmc.windows import ONE_GRADIENT, WindowWarmUp, start_scales

pytestmark = pytest.mark.usefixtures("unoptimized")

CHAINS = 4
SOMEWHERE = {"a": jnp.ones(CHAINS), "b": jnp.ones((CHAINS, 2))}


def target(scales):
    return ppl.from_log_density(
        lambda x, s: -0.5 * jnp.sum((x["b"] / s) ** 2) - x["a"] ** 2,
        {"a": jnp.zeros(()), "b": jnp.zeros(2)},
        np.asarray(scales, np.float32),
    )


class Info(NamedTuple):
    acceptance_rate: Any


def test_windows_add_up():
    warmup = WindowWarmUp(target_acceptance=0.8)
    for num_steps in [*range(2001), 10_000, 123_457, 10**6]:
        lengths = warmup.windows(num_steps)
        assert sum(lengths) == num_steps
        assert all(length > 0 for length in lengths)
        assert len(lengths) <= 12


def test_windows_are_few_when_warm_up_is_short_and_grow_when_it_is_long():
    warmup = WindowWarmUp(target_acceptance=0.8)
    assert warmup.windows(10) == [10]
    assert warmup.windows(50) == [10, 28, 12]
    assert warmup.windows(1000) == [25, 50, 200, 625, 100]
    often = WindowWarmUp(target_acceptance=0.8, growth=ONE_GRADIENT).windows(1000)
    assert often == [25, 50, 62, 77, 96, 120, 150, 320, 100]


# Memory ---------------------------------------------------------------------------------------


def rows(num_steps, offsets=0.0, seed=0):
    """Draws of independent chains of `target((1, 5))`, and their gradients."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(num_steps, CHAINS)) / np.sqrt(2) + offsets
    b = rng.normal(size=(num_steps, CHAINS, 2)) * [1, 5]
    gradient = {"a": -2 * (a - offsets), "b": -b / np.array([1, 25])}
    return {"a": a, "b": b}, gradient


class Window:
    """A warm-up fed by hand; its parts are compiled once for all tests."""

    def __init__(self):
        self.target = target([1.0, 5.0])
        self.kernel = NUTS().resolve(self.target)
        self.warmup = WindowWarmUp(target_acceptance=0.8)

    @eqx.filter_jit
    def start(self, positions, kernel=None):
        gradients = jax.vmap(jax.grad(self.target.log_density))(positions)
        states = HMCState(positions, jnp.zeros(CHAINS), gradients)
        kernel = self.kernel if kernel is None else kernel
        return self.warmup.init(random.key(0), self.target, kernel, states)

    @eqx.filter_jit
    def feed(self, kernel, adaptation, record, count, window_ends, is_last):
        return self.warmup.end_chunk(
            random.key(0), self.target, kernel, adaptation, None, record, count, window_ends,
            is_last,
        )[:2]  # fmt: skip

    def run(self, positions, gradients, cuts, capacity=64, is_last=False):
        """Kernel at the end of a window that came in chunks of ``cuts`` steps."""
        kernel, adaptation = self.start(jax.tree.map(lambda x: x[0], positions))
        begin = 0
        for cut in cuts:
            first, begin = begin, begin + cut

            def piece(x):
                padded = np.zeros((capacity, *x.shape[1:]), np.float32)
                padded[:cut] = x[first:begin]  # noqa: B023
                return padded

            ends = begin == len(positions["a"])
            record = Record(*(jax.tree.map(piece, t) for t in (positions, {}, gradients)))
            kernel, adaptation = self.feed(
                kernel, adaptation, record, jnp.int32(cut), jnp.bool_(ends),
                jnp.bool_(ends and is_last),
            )  # fmt: skip
        return kernel, adaptation


@pytest.fixture(scope="module")
def window():
    return Window()


@pytest.mark.parametrize("num_steps", [60, 300], ids=["remembered whole", "longer than the memory"])
def test_a_window_gives_the_same_bits_however_it_is_cut(window, num_steps):
    data = rows(num_steps)
    cuts = [[60] * (num_steps // 60), [1, 50, 9] * (num_steps // 60), [20] * (num_steps // 20)]
    first, *others = (window.run(*data, cut) for cut in cuts)
    for other in others:
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_metric_at_the_end_of_a_window_is_that_of_its_draws(window):
    kernel, adaptation = window.run(*rows(60), [60])
    factor = np.asarray(kernel.metric.factor)
    np.testing.assert_allclose(factor @ factor.T, np.diag([0.5, 1.0, 25.0]), atol=0.1)
    assert int(adaptation.window) == 1
    assert int(adaptation.steps) == 0


def test_the_first_third_of_a_window_is_not_used(window):
    positions, gradients = rows(60)
    wild = jax.tree.map(lambda x: np.concatenate([1e4 * x[:20], x[20:]]), (positions, gradients))
    usual, after_wild = window.run(positions, gradients, [60])[0], window.run(*wild, [60])[0]
    np.testing.assert_array_equal(usual.metric.factor, after_wild.metric.factor)


def test_chains_that_sit_apart_do_not_widen_the_metric(window):
    """Four modes of equal shape: the metric is that of one mode, not of their distance."""
    offsets = np.array([-900.0, -300.0, 300.0, 900.0])
    together, apart = (
        np.asarray(window.run(*data, [60])[0].metric.factor)
        for data in (rows(60), rows(60, offsets))
    )
    np.testing.assert_allclose(apart @ apart.T, together @ together.T, rtol=1e-3, atol=1e-3)


def test_the_last_window_settles_the_averaged_step_size_and_leaves_the_metric(window):
    positions, gradients = rows(60)
    before, _ = window.start(jax.tree.map(lambda x: x[0], positions))
    kernel, adaptation = window.run(positions, gradients, [60], is_last=True)
    np.testing.assert_array_equal(kernel.metric.factor, before.metric.factor)
    assert not bool(kernel.brief)
    np.testing.assert_allclose(np.exp(adaptation.averaging.log_step_size), kernel.step_size)


def test_trajectories_are_kept_short_during_the_first_windows(window):
    positions, gradients = rows(60)
    kernel, adaptation = window.start(jax.tree.map(lambda x: x[0], positions))
    brief = [bool(kernel.brief)]
    padded = jax.tree.map(
        lambda x: np.concatenate([x, x[:4]]).astype(np.float32), (positions, gradients)
    )
    record = Record(padded[0], {}, padded[1])
    for _ in range(3):
        kernel, adaptation = window.feed(
            kernel, adaptation, record, jnp.int32(60), jnp.bool_(True), jnp.bool_(False)
        )
        brief.append(bool(kernel.brief))
    assert brief == [True, True, False, False]


def test_a_metric_that_does_not_learn_remembers_nothing_and_still_gets_a_step_size(window):
    kernel = eqx.tree_at(lambda k: k.metric, window.kernel, Identity())
    begun, adaptation = window.start(SOMEWHERE, kernel)
    assert adaptation.positions is None
    assert adaptation.gradients is None
    positions, gradients = (jax.tree.map(lambda x: x.astype(np.float32), t) for t in rows(60))
    record = Record(positions, {}, gradients)
    ends = jnp.int32(60), jnp.bool_(True), jnp.bool_(False)
    kernel, adaptation = window.feed(begun, adaptation, record, *ends)
    assert int(adaptation.window) == 1
    np.testing.assert_allclose(kernel.step_size, 3**-0.25, rtol=1e-6)  # anew, of the dimension


def test_the_kernels_of_all_temperatures_remember_no_more_than_one_by_itself():
    wide = ppl.from_distribution(dist.Normal(0, 1).expand((1600,)).to_event())
    tempering = ParallelTempering(9, move=HMC(metric=Diagonal()), reference=wide)
    own = HMC().warmup(wide).most_numbers
    assert tempering.warmup(wide).of_move.most_numbers == own // 8


# Step size ------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [1e-5, 1.0, 1e5])
def test_dual_averaging_finds_the_acceptance_asked_for_from_any_start(window, start):
    """A made-up chain whose acceptance falls with the step: 0.8 belongs to 0.223."""
    kernel = eqx.tree_at(lambda k: k.step_size, window.kernel, jnp.float32(start))
    kernel, adaptation = window.start(SOMEWHERE, kernel)

    @jax.jit
    def run(kernel, adaptation):
        def one(carry, _):
            rate = jnp.exp(-carry[0].step_size)
            return window.warmup.step(*carry, Info(jnp.full(CHAINS, rate))), None

        return jax.lax.scan(one, (kernel, adaptation), length=500)[0]

    _, adaptation = run(kernel, adaptation)
    np.testing.assert_allclose(
        np.exp(adaptation.averaging.log_step_size_avg), -np.log(0.8), rtol=0.15
    )


def test_a_chain_whose_acceptance_is_nan_counts_as_rejecting(window):
    kernel, adaptation = window.start(SOMEWHERE)
    rates = jnp.array([0.9, jnp.nan, 0.9, 0.9])
    with_nan, _ = window.warmup.step(kernel, adaptation, Info(rates))
    with_zero, _ = window.warmup.step(kernel, adaptation, Info(jnp.nan_to_num(rates)))
    np.testing.assert_array_equal(with_nan.step_size, with_zero.step_size)
    assert np.isfinite(with_nan.step_size)


def test_the_first_metric_follows_the_gradients_at_the_start():
    scales = np.array([1e-2, 1.0, 100.0])
    positions = random.normal(random.key(0), (64, 3)) * scales
    np.testing.assert_allclose(start_scales(positions, -positions / scales**2), scales, rtol=0.1)
    one = start_scales(jnp.ones((1, 3)), -jnp.ones((1, 3)) / scales**2)
    np.testing.assert_allclose(one, scales, rtol=1e-5)
    flat = start_scales(positions, jnp.zeros((64, 3)))
    assert np.all(np.isfinite(flat))
    assert np.all(flat > 0)


def test_a_metric_from_the_user_is_where_warm_up_starts():
    easy = target([1.0, 5.0])
    kernel = HMC(metric=Diagonal([1.0, 2.0, 3.0]), step_size=0.3).resolve(easy)
    states = HMCState(SOMEWHERE, jnp.zeros(CHAINS), SOMEWHERE)
    started, _ = kernel.warmup(easy).init(random.key(0), easy, kernel, states)
    np.testing.assert_allclose(started.metric.scales, [1.0, 2.0, 3.0])
    np.testing.assert_allclose(started.step_size, 0.3)


# Retuning ---------------------------------------------------------------------------------------


retune = eqx.filter_jit(lambda kernel, *args: kernel.retune(*args))


@pytest.mark.parametrize("kernel", [NUTS(step_size=0.5), HMC(step_size=0.5, metric=Diagonal())])
def test_retune_takes_the_covariance_of_weighted_particles_and_keeps_shapes(kernel):
    """Particles of a wide law with the weights of a narrow one: the narrow one's covariance."""
    kernel = kernel.resolve(target([1.0, 5.0]))
    scales = np.array([0.5, 1.0, 5.0])
    x = 2 * random.normal(random.key(0), (20_000, 3)) * scales
    particles = {"a": x[:, 0], "b": x[:, 1:]}
    log_weights = -3 / 8 * jnp.sum((x / scales) ** 2, axis=1) + 100.0
    tuned = retune(kernel, particles, log_weights, None)
    square = jax.vmap(tuned.metric.scale)(jnp.eye(3))
    np.testing.assert_allclose(square.T @ square, np.diag(scales**2), rtol=0.1, atol=0.15)
    np.testing.assert_array_equal(tuned.step_size, kernel.step_size)
    for old, new in zip(jax.tree.leaves(kernel), jax.tree.leaves(tuned), strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)


def test_with_gradients_few_particles_tell_a_gaussian_and_those_without_weight_do_not_count():
    kernel = NUTS(step_size=0.5).resolve(target([1.0, 5.0]))
    factor = jnp.array([[0.5, 0.0, 0.0], [1.0, 1.0, 0.0], [-2.0, 3.0, 4.0]])
    x = random.normal(random.key(0), (12, 3)) @ factor.T
    gradients = -jnp.linalg.solve(factor @ factor.T, x.T).T

    def tree(x):
        return {"a": x[:, 0], "b": x[:, 1:]}

    lost = jnp.zeros(12).at[5].set(-jnp.inf)
    x, gradients = (tree(rows.at[5].set(jnp.nan)) for rows in (x, gradients))
    tuned = retune(kernel, x, lost, None, gradients)
    square = jax.vmap(tuned.metric.scale)(jnp.eye(3))
    np.testing.assert_allclose(square.T @ square, factor @ factor.T, atol=0.3)
    alone = retune(kernel, x, lost, None)
    square = jax.vmap(alone.metric.scale)(jnp.eye(3))
    assert np.abs(square.T @ square - factor @ factor.T).max() > 1


def test_retune_shortens_steps_that_were_rejected_and_lengthens_easy_ones():
    kernel = NUTS(step_size=0.5).resolve(target([1.0, 5.0]))
    particles = {"a": jnp.arange(9.0), "b": random.normal(random.key(0), (9, 2))}
    sizes = [
        float(retune(kernel, particles, jnp.zeros(9), Info(jnp.full(9, rate))).step_size)
        for rate in (0.1, 0.8, 1.0, jnp.nan)
    ]
    assert sizes[0] < 0.5 < sizes[2]
    np.testing.assert_allclose(sizes[1], 0.5, rtol=1e-6)
    assert sizes[3] < sizes[0]
