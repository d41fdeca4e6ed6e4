"""Bregman-Moreau Langevin: MYULA where all is quadratic, known laws, and exact with its test."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import random

import ppl
import samplers
from agreement import t_limit, t_scores
from chains import NUM_CHECKS, Known, agrees, run, scores
from samplers.langevin import bregman
from samplers.langevin.bregman import BregmanLangevin, envelope_gradient
from samplers.langevin.myula import MYULA

NUM_CHAINS = 256
LIMIT = t_limit(NUM_CHECKS, NUM_CHAINS - 1)
FLAT = ppl.from_log_density(lambda x: 0.0 * jnp.sum(x), jnp.zeros(20))
HYPERBOLIC, EUCLIDEAN = samplers.Hyperbolic(1.0), samplers.Euclidean()


def laplace(rates: Any = 1.0) -> Any:
    return ppl.composite(FLAT, samplers.L1(rates))


# The quadratic case ---------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_where_all_is_quadratic_it_is_myula_step_by_step(side):
    smooth = ppl.from_log_density(
        lambda p: -jnp.sum(jnp.cosh(p["a"])) - p["b"] ** 4, {"a": jnp.zeros(2), "b": jnp.zeros(())}
    )
    target = ppl.composite(smooth, {"a": samplers.L1(2.0), "b": None})
    ours = BregmanLangevin(EUCLIDEAN, 0.05, side=side, metropolis=False)
    theirs, start = MYULA(step_size=0.05), {"a": jnp.array([0.7, -2.0]), "b": jnp.array(0.1)}

    @jax.jit
    def both(key):
        def one(states, t):
            key_step = random.fold_in(key, t)
            mine, _ = ours.step(key_step, target, states[0])
            # The same noise: ours keeps a key for its test.
            other, _ = theirs.step(random.split(key_step)[0], target, states[1])
            return (mine, other), (mine.position, other.position)

        states = (ours.init(key, target, start), theirs.init(key, target, start))
        return jax.lax.scan(one, states, jnp.arange(200))[1]

    mine, other = both(random.key(0))
    for part in mine:
        np.testing.assert_allclose(mine[part], other[part], rtol=1e-5, atol=1e-5)
        assert np.std(mine[part]) > 0.1


# The laws without the test --------------------------------------------------------------------


@cache
def chain_law(h: float, smoothing: float, side: str, *, euclidean: bool = False, size: int = 1200):
    """Grid, uniform in the image, and the law of the steps on exp(-|x|): a fixed point."""
    geometry = EUCLIDEAN if euclidean else HYPERBOLIC
    with jax.enable_x64(True):
        end = np.arcsinh(22.0)
        image = np.linspace(-end, end, size)
        grid = np.sinh(image)
        one = ppl.composite(
            ppl.from_log_density(lambda x: 0.0 * jnp.sum(x), jnp.zeros(1)), samplers.L1(1.0)
        )
        pull = lambda x: envelope_gradient(geometry, one, x, jnp.asarray(smoothing), side)
        drift = -np.asarray(jax.vmap(pull)(jnp.asarray(grid)[:, None]))[:, 0]
    heat = 4 * h / np.hypot(grid, 1)[:, None]
    moves = np.exp(-((image[None] - (image + h * drift)[:, None]) ** 2) / heat)
    moves /= moves.sum(1, keepdims=True)
    system = np.vstack([moves.T - np.eye(size), np.ones(size)])[1:]
    law = np.linalg.solve(system, np.eye(size)[-1])
    return grid, law, np.array([np.abs(grid) @ law, grid**2 @ law])


def law_scores(side: str, truth: np.ndarray, variant: str = "right") -> np.ndarray:
    """Scores of ``|x|`` and ``x^2`` from draws of the law."""
    grid, law, _ = chain_law(0.1, 1.0, side)
    rng = np.random.default_rng(0)
    p = np.maximum(law, 0)
    starts = jnp.asarray(rng.choice(grid, p=p / p.sum(), size=(NUM_CHAINS, 20)), jnp.float32)
    kernel = BregmanLangevin(HYPERBOLIC, 0.1, 1.0, side=side, metropolis=False)
    positions, _ = run(kernel, laplace(), random.key(0), starts, 300, variant)
    x = np.abs(np.asarray(positions, np.float64))
    return np.abs(t_scores(np.stack([x, x**2], axis=-1).mean(axis=(0, 2)), truth))


@pytest.mark.parametrize(
    ("side", "other"), [("left", "right"), pytest.param("right", "left", marks=pytest.mark.slow)]
)
def test_without_the_test_the_law_is_that_of_the_steps_on_this_side(side, other):
    assert (law_scores(side, chain_law(0.1, 1.0, side)[2]) < LIMIT).all()
    assert (law_scores(side, chain_law(0.1, 1.0, other)[2]) > LIMIT).all()


def test_both_biases_are_of_first_order():
    """Steps and smoothing, halved together, halve the bias: 11 and 24 per cent at first."""
    for side in ("left", "right"):
        bias = [chain_law(h, 4 * h, side)[2] / [1, 2] - 1 for h in (0.05, 0.025, 0.0125)]
        assert (bias[0] > 0.1).all()
        np.testing.assert_allclose(np.diff(np.log2(bias), axis=0), -1, atol=0.25)


RATES = np.arange(1.0, 21.0)


@pytest.mark.parametrize("rate", [1.0, 5.0, 20.0])
def test_the_anisotropic_laplace_density_is_met_within_five_per_cent(rate):
    """With smoothing 1e-3 and steps of 5e-4, quadratic psi, and phi of the scale 1 / rate.

    In units of its scale, a coordinate has steps of ``rate h`` and a smoothing of ``rate^2 lam``.
    """
    found = chain_law(5e-4 * rate, 1e-3 * rate**2, "right", euclidean=True, size=1500)[2]
    assert (np.abs(found / [1, 2] - 1) < 0.05).all()


@pytest.mark.slow  # 15 seconds
def test_chains_on_the_anisotropic_laplace_density_are_within_five_per_cent():
    """From stratified draws, which have the moments already that slow coordinates are to keep."""
    n, rng = 4096, np.random.default_rng(0)
    strata = scipy.stats.laplace.ppf((np.arange(n) + 0.5) / n)
    starts = jnp.asarray(np.stack([rng.permutation(strata) for _ in RATES], axis=1) / RATES)
    kernel = BregmanLangevin(
        samplers.Hyperbolic(1 / RATES), 5e-4, 1e-3, geometry=EUCLIDEAN, metropolis=False
    )
    positions, infos = run(kernel, laplace(RATES), random.key(1), starts, 800)
    assert not infos.diverging.any()
    x = np.abs(np.asarray(positions, np.float64))[200::20]
    np.testing.assert_allclose(x.mean((0, 1)) * RATES, 1, atol=0.05)
    np.testing.assert_allclose((x**2).mean((0, 1)) * RATES**2, 2, atol=0.1)


# Exact with the test --------------------------------------------------------------------------


@cache
def anisotropic() -> Known:
    """Means and variances of 20 Laplace densities, in units of their scale."""

    def functions(x):
        return jnp.concatenate([x * RATES, jnp.abs(x) * RATES, (x * RATES) ** 2])

    truth = np.concatenate([np.zeros(20), np.ones(20), 2 * np.ones(20)])
    sample = lambda key, n: random.laplace(key, (n, 20)) / RATES
    return Known(laplace(RATES), sample, functions, truth)


KERNELS = {
    "right": BregmanLangevin(samplers.Hyperbolic(1 / RATES), 0.02),
    "left": BregmanLangevin(samplers.Hyperbolic(1 / RATES), 0.02, side="left"),
    "quadratic psi": BregmanLangevin(samplers.Hyperbolic(1 / RATES), 0.02, 1e-3, EUCLIDEAN),
}


@pytest.mark.parametrize(
    "name", ["right", "quadratic psi", pytest.param("left", marks=pytest.mark.slow)]
)
@pytest.mark.usefixtures("unoptimized")
def test_with_the_test_the_anisotropic_laplace_density_is_left_invariant(name):
    assert agrees(scores(KERNELS[name], anisotropic()))


@pytest.mark.usefixtures("unoptimized")
def test_a_proposal_without_its_jacobian_is_caught(monkeypatch):
    monkeypatch.setattr(bregman, "log_jacobian", lambda maps, position: jnp.zeros(()))
    assert not agrees(scores(KERNELS["right"], anisotropic(), variant="no Jacobian"))


@pytest.mark.usefixtures("unoptimized")
def test_accepting_everything_is_caught(monkeypatch):
    right = bregman.accept

    def always(rng_key, log_ratio, proposed, current):
        return right(rng_key, jnp.zeros(()), proposed, current)

    monkeypatch.setattr(bregman, "accept", always)
    assert not agrees(scores(KERNELS["right"], anisotropic(), variant="always"))


@pytest.mark.usefixtures("unoptimized")
def test_inside_a_wall_it_is_exact_too():
    """A half-normal density, and one that a barrier keeps inside before any test."""
    smooth = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    functions = lambda x: jnp.concatenate([x, x**2])
    truth = np.concatenate([np.sqrt(2 / np.pi) * np.ones(2), np.ones(2)])
    sample = lambda key, n: jnp.abs(random.normal(key, (n, 2)))
    target = ppl.composite(smooth, samplers.Box(lower=0.0))
    for kernel in (
        BregmanLangevin(HYPERBOLIC, 0.3),
        BregmanLangevin(samplers.LogBarrier(), 0.05, geometry=EUCLIDEAN),
    ):
        assert agrees(scores(kernel, Known(target, sample, functions, truth)))


@pytest.mark.usefixtures("unoptimized")
def test_warm_up_reaches_the_acceptance_it_is_asked_for():
    kernel = BregmanLangevin(samplers.Hyperbolic(1 / RATES))
    draws = ppl.sample(kernel, laplace(RATES), rng_key=0, num_samples=500, progress=False)
    assert abs(np.mean(draws.stats["acceptance_rate"]) - 0.574) < 0.1
    assert draws.run.exactness == "exact"


def test_retuning_follows_the_acceptance():
    kernel = BregmanLangevin(HYPERBOLIC, 0.1)
    info = bregman.BregmanLangevinInfo(
        jnp.array([0.9, 0.7]), jnp.ones(2, bool), jnp.zeros(2, bool), jnp.ones((2, 2), jnp.int32)
    )
    retuned = kernel.retune(jnp.zeros((2, 3)), jnp.zeros(2), info)
    np.testing.assert_allclose(retuned.step_size, 0.1 * np.exp(0.8 - 0.574), rtol=1e-5)


# Claims and refusals --------------------------------------------------------------------------


def test_the_claim_is_that_of_the_instance():
    assert BregmanLangevin.exactness == BregmanLangevin(EUCLIDEAN).exactness == "exact"
    assert BregmanLangevin(EUCLIDEAN, 0.1, metropolis=False).exactness == "biased"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": "both"}, "side must be 'left' or 'right'; got 'both'"),
        ({"metropolis": "yes"}, "metropolis must be True or False; got 'yes'"),
        ({"metropolis": False}, "step_size must be given where metropolis=False"),
        ({"step_size": 0.0}, "step_size must be a positive number; got 0"),
        ({"geometry": "l2"}, "geometry must be a mirror map such as"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        BregmanLangevin(EUCLIDEAN, **options)


def test_targets_and_maps_that_do_not_go_together_are_refused():
    nuclear = ppl.composite(
        ppl.from_log_density(lambda x: -jnp.sum(x**2), jnp.zeros((2, 2))), samplers.NuclearNorm()
    )
    barrier = samplers.LogBarrier()
    for kernel, target, message in [
        (BregmanLangevin(EUCLIDEAN), FLAT, r"needs 'proximal_map'.*ppl\.composite\("),
        (BregmanLangevin(HYPERBOLIC), nuclear, "Hyperbolic has no Bregman proximal map of Nuclear"),
        (BregmanLangevin(barrier), laplace(), "LogBarrier has no Bregman proximal map of L1"),
        (BregmanLangevin(EUCLIDEAN, geometry={"a": EUCLIDEAN}), laplace(), r"\(geometry=\): give"),
        (BregmanLangevin(barrier, geometry=EUCLIDEAN), laplace(), "jittered starts"),
    ]:
        with pytest.raises(ppl.TargetError, match=message):
            ppl.sample(kernel, target, progress=False)
