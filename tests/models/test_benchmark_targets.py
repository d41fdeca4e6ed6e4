"""The targets of the papers on learned samplers have the published constants and log Z."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax import random

from agreement import dkw_limit, z_limit
from models.targets import benchmark_mixtures as mixtures
from models.targets.funnel import easy_funnel, hard_funnel
from models.targets.many_well import ManyWell, double_well, many_well, many_well_5

# Mixtures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "modes", "variance"),
    [
        (mixtures.gmm9(), 9, 0.3),
        (mixtures.gmm25(), 25, 0.3),
        (mixtures.gmm40(), 40, math.log1p(math.e) ** 2),
        (mixtures.gmm40_jax(), 40, 1.0),
    ],
    ids=["gmm9", "gmm25", "gmm40", "gmm40_jax"],
)
def test_mixtures_have_their_constants_and_integrate_to_their_normalizer(target, modes, variance):
    assert target.modes.shape == (modes, 2)
    np.testing.assert_allclose(target.sds**2, variance, rtol=1e-6)
    grid = np.linspace(-50, 50, 801 if variance > 0.9 else 1601)
    rows = jax.jit(jax.vmap(jax.vmap(target.log_density)))
    total = 0.0
    for block in np.array_split(grid, 20):
        points = np.stack(np.meshgrid(block, grid, indexing="ij"), -1)
        total += np.exp(np.asarray(rows(jnp.asarray(points, jnp.float32)), np.float64)).sum()
    log_z = np.log(total * (grid[1] - grid[0]) ** 2)
    np.testing.assert_allclose(log_z, target.log_normalizer, atol=2e-6)
    np.testing.assert_allclose(log_z, math.log(2 * math.pi), atol=2e-6)


def test_the_forty_means_are_those_of_their_generators():
    """PyTorch's uniform numbers are the low 24 bits of the Mersenne twister's words."""
    words = np.frombuffer(np.random.RandomState(0).bytes(4 * 80), "<u4")
    torch = ((words & 0xFFFFFF) / 2**24 - 0.5).reshape(40, 2) * 80
    np.testing.assert_allclose(mixtures.TORCH_MEANS, torch, rtol=1e-6)
    for table, partitionable in (
        (mixtures.JAX_MEANS, False),
        (mixtures.JAX_MEANS_PARTITIONABLE, True),
        (mixtures.JAX_MEANS_50, False),
    ):
        with jax.threefry_partitionable(partitionable):
            drawn = 40 * random.uniform(random.PRNGKey(0), table.shape, minval=-1, maxval=1)
        np.testing.assert_allclose(table, drawn, rtol=1e-5)


def test_the_forty_means_have_their_published_checksums():
    assert mixtures.TORCH_MEANS.sum() == pytest.approx(-36.019, abs=1e-3)
    assert mixtures.JAX_MEANS.sum() == pytest.approx(360.1584, abs=1e-3)
    assert mixtures.JAX_MEANS_PARTITIONABLE.sum() == pytest.approx(202.0093, abs=1e-3)
    first, last = mixtures.TORCH_MEANS[0], mixtures.TORCH_MEANS[-1]
    np.testing.assert_allclose(first, [-0.29947, 21.45774], atol=1e-5)
    np.testing.assert_allclose(last, [3.67970, -25.02421], atol=1e-5)
    assert mixtures.gmm40_jax(50).dimension == 50


# Wells ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("make", "log_z"),
    [(many_well, 164.695675), (double_well, 10.293480), (many_well_5, -0.541056)],
    ids=["32", "2", "5"],
)
def test_wells_have_the_published_log_normalizer_and_that_of_quadrature(make, log_z):
    target = make()
    a, b, c = (float(x) for x in target.coefficients)
    density = lambda x: math.exp(-(x**4) + a * x**2 + b * x + c)
    one, _ = scipy.integrate.quad(density, -5, 5, epsabs=0, epsrel=1e-12, points=[-2, 0, 2])
    left, _ = scipy.integrate.quad(density, -5, 0, epsabs=0, epsrel=1e-12, points=[-2])
    whole = target.num_wells * math.log(one) + target.num_gaussians / 2 * math.log(2 * math.pi)
    assert float(target.log_normalizer) == pytest.approx(whole, rel=1e-8)
    assert float(target.log_normalizer) == pytest.approx(log_z, rel=1e-6)
    assert float(target.left_share) == pytest.approx(left / one, rel=1e-8)


def test_the_left_wells_hold_their_published_share_and_the_draws_their_law():
    target, n = many_well(), 20_000
    assert float(target.left_share) == pytest.approx(0.155693, abs=2e-6)
    x = target.sample(random.key(0), n)
    left = np.asarray(target.in_left_well(x))
    assert left.shape == (n, 16)
    error = np.sqrt(0.155693 * (1 - 0.155693) / n)
    assert np.abs(left.mean(axis=0) - 0.155693).max() < z_limit(16) * error
    # Against a law that somebody else integrates; without its tilt it is caught.
    grid = np.linspace(-4, 4, 4001)

    def distance(tilt):
        mass = np.cumsum(np.exp(-(grid**4) + 6 * grid**2 + tilt * grid))
        sorted_x = np.sort(np.asarray(x[:, 3], np.float64))
        at = np.interp(sorted_x, grid, mass / mass[-1])
        steps = np.arange(n + 1) / n
        return max(np.abs(at - steps[1:]).max(), np.abs(at - steps[:-1]).max())

    assert distance(0.5) < dkw_limit(1, n) < distance(0.4)


def test_wells_have_all_their_modes():
    target = many_well_5()
    assert target.modes.shape == (32, 5)
    np.testing.assert_allclose(np.abs(target.modes), 2.0, rtol=1e-6)
    assert len(np.unique(np.asarray(target.modes), axis=0)) == 32
    slopes = jax.jit(jax.vmap(jax.grad(many_well(8).log_density)))(many_well(8).modes)
    np.testing.assert_allclose(slopes, 0, atol=1e-4)


# Funnels --------------------------------------------------------------------------------------


def test_the_two_funnels_differ_in_the_scale_of_v():
    hard, easy = (f().sample(random.key(1), 4000)["v"] for f in (hard_funnel, easy_funnel))
    np.testing.assert_allclose(hard, 3 * easy, rtol=1e-5)
    assert np.std(easy) == pytest.approx(1, abs=4.9 / math.sqrt(8000))
    assert hard_funnel().dimension == easy_funnel().dimension == 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mixtures.gmm40_jax(3), "published for d = 2 and d = 50; got 3"),
        (lambda: many_well(5), "num_dims must be even, at least 2; got 5"),
        (lambda: ManyWell(0, 1), "num_wells must be at least 1, num_gaussians 0; got 0, 1"),
        (lambda: ManyWell(1, 0, quadratic=1.0, tilt=2.0), "a double well has two minima"),
        (lambda: ManyWell(1, 0, quadratic=-1.0, tilt=0.0), "a double well has two minima"),
    ],
)
def test_targets_refuse_what_makes_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
