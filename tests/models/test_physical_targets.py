"""Particles, lattices and the Cox process: densities and log Z against sums and integrals."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
from arviz_stats.base import array_stats
from jax import random

import ppl
import samplers
from agreement import z_limit
from models.targets import log_gaussian_cox as cox
from models.targets.ising import Ising
from models.targets.particles import DoubleWellParticles, LennardJones
from models.targets.phi4 import Phi4

pytestmark = pytest.mark.usefixtures("unoptimized")

# Particles ------------------------------------------------------------------------------------


def dw4(x):
    """Energy in plain NumPy, pair by pair."""
    total = 0.0
    for i, j in itertools.combinations(range(4), 2):
        r = np.linalg.norm(x[i] - x[j])
        total += 0.9 * (r - 4) ** 4 - 4 * (r - 4) ** 2
    return total


def lj13(x):
    total = 0.5 * np.sum((x - x.mean(axis=0)) ** 2)
    for i, j in itertools.permutations(range(13), 2):
        r = np.linalg.norm(x[i] - x[j])
        total += r**-12 - 2 * r**-6
    return total


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("make", "energy"), [(DoubleWellParticles, dw4), (LennardJones, lj13)], ids=["4", "13"]
)
def test_particles_have_the_energy_of_their_pairs(make, energy):
    target = make()
    z = 1.5 * random.normal(random.key(0), target.template.shape)
    x = np.asarray(target.constrain(z))
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(target.unconstrain(jnp.asarray(x)), z, atol=1e-12)
    assert np.sum(x**2) == pytest.approx(float(jnp.sum(z**2)))  # volumes are kept
    assert float(target.log_density(z)) == pytest.approx(-energy(x), rel=1e-10)
    assert float(target.log_jacobian(z)) == 0
    # Turned, mirrored, renumbered: the same.
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(x.shape[1],) * 2))[0]
    other = target.unconstrain(jnp.asarray(x[::-1] @ turned))
    assert float(target.log_density(other)) == pytest.approx(-energy(x), rel=1e-8)


@pytest.mark.usefixtures("x64")
def test_thirteen_particles_have_the_known_lowest_energy():
    phi = (1 + math.sqrt(5)) / 2
    corners = [(0, a, b * phi) for a in (-1, 1) for b in (-1, 1)]
    corners = [np.roll(corner, k) for corner in corners for k in range(3)]
    shell = np.concatenate([[np.zeros(3)], corners]) / math.sqrt(1 + phi**2)
    target = LennardJones(pair_weight=0.5, oscillator=0.0)
    energy = jax.jit(lambda radius: -target.log_density(target.unconstrain(radius * shell)))
    best = scipy.optimize.minimize_scalar(energy, bracket=(0.9, 1.0))
    assert best.fun == pytest.approx(-44.326801, abs=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("make", "surface", "pair"),
    [
        (
            DoubleWellParticles,
            lambda r: 2 * math.pi * r,
            lambda r: 0.9 * (r - 4) ** 4 - 4 * (r - 4) ** 2,
        ),
        (
            LennardJones,
            lambda r: 4 * math.pi * r**2,
            lambda r: 2 * r**-12 - 4 * r**-6 + r**2 / 4,
        ),
    ],
    ids=["double well", "Lennard-Jones"],
)
def test_two_particles_have_the_integral_of_their_distance(make, surface, pair):
    """z = r / sqrt(2) in d dimensions, integrated over a grid; r by quadrature."""
    target = make(num_particles=2)
    density = lambda z: surface(z) * math.exp(-pair(math.sqrt(2) * z))
    exact, _ = scipy.integrate.quad(density, 0.3, 7, epsrel=1e-10)
    ticks = np.linspace(-7, 7, 241 if target.num_space == 2 else 121)
    points = np.stack(np.meshgrid(*[ticks] * target.num_space, indexing="ij"), -1)
    points = jnp.asarray(points.reshape(-1, 1, target.num_space))
    log_density = jax.jit(jax.vmap(target.log_density))(points)
    cell = (ticks[1] - ticks[0]) ** target.num_space
    total = np.exp(np.nan_to_num(log_density, nan=-np.inf)).sum() * cell
    assert total == pytest.approx(exact, rel=1e-3)


def test_double_well_particles_have_a_gradient_where_all_of_them_meet():
    target = DoubleWellParticles()
    assert jnp.isfinite(jax.jit(jax.grad(target.log_density))(jnp.zeros((3, 2)))).all()


# Lattices -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_phi4_has_the_action_of_its_sites():
    target = Phi4(3, 4, kappa=0.3, lam=0.05)
    phi = np.random.default_rng(0).normal(size=(3, 4))
    action = 0.0
    for i, j in itertools.product(range(3), range(4)):
        neighbors = phi[(i + 1) % 3, j] + phi[i, (j + 1) % 4]
        action += -2 * 0.3 * phi[i, j] * neighbors
        action += (1 - 2 * 0.05) * phi[i, j] ** 2 + 0.05 * phi[i, j] ** 4
    assert float(target.log_density(jnp.asarray(phi))) == pytest.approx(-action, rel=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_ring_of_phi4_is_a_product_of_transfer_matrices():
    """log Z of 1 by 3 sites by the trace, beside the integral of the density over a grid."""
    kappa, lam = 0.4, 0.3
    ticks = np.linspace(-4, 4, 61)
    cell = ticks[1] - ticks[0]
    # With one row, the neighbor along the other axis is the site itself.
    alone = (1 - 2 * lam - 2 * kappa) * ticks**2 + lam * ticks**4
    bond = 2 * kappa * np.outer(ticks, ticks) - (alone[:, None] + alone) / 2
    exact = np.trace(np.linalg.matrix_power(np.exp(bond) * cell, 3))
    points = np.stack(np.meshgrid(*[ticks] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    log_density = jax.jit(jax.vmap(Phi4(1, 3, kappa, lam).log_density))(jnp.asarray(points))
    assert np.exp(log_density).sum() * cell**3 == pytest.approx(exact, rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kappa", "expected", "known_to"),
    [(0.2, 0.1474, 4e-4), (0.3, 2.0870, 5e-5), (0.5, 4.8298, 5e-5)],
)
def test_phi4_has_its_known_magnetization(kappa, expected, known_to):
    """The first is by Metropolis moves of single sites, the others are published."""
    target = Phi4(kappa=kappa)
    draws = ppl.sample(samplers.NUTS(), target, rng_key=0, num_samples=4000, progress=False)
    m = np.abs(np.asarray(target.magnetization(jnp.asarray(draws["x"])), np.float64))
    error = m.std() / math.sqrt(float(array_stats.ess(m, method="mean")))
    assert abs(m.mean() - expected) < z_limit(3) * math.hypot(error, known_to)
    assert error < 0.02


def states(num_sites):
    return jnp.asarray(list(itertools.product([0, 1], repeat=num_sites)), jnp.int32)


@pytest.mark.parametrize("coupling", [0.1, 0.3, -0.2])
def test_ising_log_normalizer_is_the_sum_over_all_states(coupling):
    target = Ising(3, coupling)
    every = states(9)
    log_density = np.asarray(jax.jit(jax.vmap(target.log_density))(every), np.float64)
    spins = 2 * np.asarray(every) - 1
    sites = np.arange(9).reshape(3, 3)
    J = np.zeros((9, 9))
    for axis in (0, 1):
        J[sites, np.roll(sites, -1, axis)] = J[np.roll(sites, -1, axis), sites] = coupling
    np.testing.assert_allclose(log_density, np.einsum("ni,ij,nj->n", spins, J, spins), atol=1e-5)
    log_z = np.log(np.exp(log_density).sum())
    np.testing.assert_allclose(target.log_normalizer, log_z, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_ising_log_normalizer_of_a_large_lattice_is_kaufmans():
    """Free energy of a torus in closed form (Kaufman 1949), K = 2 coupling."""
    side, K = 10, 0.6
    gamma = [
        math.acosh(
            math.cosh(2 * K) / math.tanh(2 * K) - math.cos(math.pi * r / side)
        ) if r else 2 * K + math.log(math.tanh(K))
        for r in range(2 * side)
    ]  # fmt: skip
    odd, even = np.array(gamma[1::2]) * side / 2, np.array(gamma[0::2]) * side / 2
    terms = [np.prod(2 * f(x)) for x in (odd, even) for f in (np.cosh, np.sinh)]
    log_z = side**2 / 2 * math.log(2 * math.sinh(2 * K)) + math.log(sum(terms) / 2)
    assert float(Ising(side, K / 2).log_normalizer) == pytest.approx(log_z, rel=1e-10)


def test_ising_draws_have_the_frequencies_of_all_states():
    n = 50_000
    exact, wrong = (
        np.exp(np.asarray(jax.jit(jax.vmap(Ising(3, c).log_density))(states(9)), np.float64))
        for c in (0.15, 0.16)
    )
    x = np.asarray(Ising(3, 0.15).sample(random.key(0), n))
    counts = np.bincount(x @ 2 ** np.arange(8, -1, -1), minlength=512)

    def largest(weights):
        shares = weights / weights.sum()
        return np.abs(counts - n * shares) / np.sqrt(n * shares * (1 - shares))

    assert largest(exact).max() < z_limit(512)
    assert largest(wrong).max() > z_limit(512)


# The Cox process ------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_cox_log_evidence_of_four_cells_is_an_integral():
    """On 2 by 2 cells, with its covariance, by quadrature in four dimensions."""
    target = cox.log_gaussian_cox(np.array([[3, 2], [0, 1]]))
    mean = np.full(4, math.log(126) - 1.91 / 2)
    r = np.array([[0, 1, 1, 2**0.5], [1, 0, 2**0.5, 1], [1, 2**0.5, 0, 1], [2**0.5, 1, 1, 0]])
    np.testing.assert_allclose(target.prior.distribution.covariance_matrix,
                               1.91 * np.exp(-r * 33 / 2), rtol=1e-10)  # fmt: skip
    f = mean + 0.7
    expected = np.array([3, 2, 0, 1]) @ f - np.exp(f).sum() / 4
    assert float(target.log_likelihood(jnp.asarray(f))) == pytest.approx(expected)
    # Cells this far apart are independent to 1e-7, so that log Z is a sum of integrals.
    log_z = 0.0
    for count in (3, 2, 0, 1):
        density = lambda f, y=count: math.exp(
            y * f - math.exp(f) / 4 - (f - mean[0]) ** 2 / 2 / 1.91
        ) / math.sqrt(2 * math.pi * 1.91)  # fmt: skip
        log_z += math.log(scipy.integrate.quad(density, -8, 12, epsrel=1e-10)[0])
    ticks = np.linspace(-4, 6.4, 27)
    points = jnp.asarray(np.stack(np.meshgrid(*[ticks] * 4, indexing="ij"), -1).reshape(-1, 4))
    log_density = np.asarray(jax.jit(jax.vmap(target.log_density))(points))
    top = log_density.max()
    total = top + math.log(np.exp(log_density - top).sum() * (ticks[1] - ticks[0]) ** 4)
    assert total == pytest.approx(log_z, abs=1e-5)


@pytest.mark.usefixtures("x64")
def test_whitened_the_cox_process_has_the_same_density_of_another_position():
    """Up to the log-determinant of the factor; not with the factor on the other side."""
    counts = np.random.default_rng(0).poisson(2.0, (12, 12))
    plain, whitened = (cox.log_gaussian_cox(counts, whitened=w) for w in (False, True))
    factor = np.linalg.cholesky(cox.covariance(12))
    z, of_plain = np.random.default_rng(1).normal(size=144), eqx.filter_jit(plain.log_density)
    expected = float(eqx.filter_jit(whitened.log_density)(z))
    of = lambda f: float(of_plain(f)) + np.linalg.slogdet(factor)[1]
    assert of(cox.intensities(z, factor)) == pytest.approx(expected, abs=1e-8)
    assert of(cox.intensities(z, factor.T)) != pytest.approx(expected, abs=1.0)


@pytest.mark.slow
def test_tempering_finds_the_log_evidence_of_sixteen_cells():
    """To 0.01. Cells of so small a grid are independent to 0.0003: log Z is a sum of integrals.

    Weighted draws of Laplace's Gaussian do not: where a cell has few points its left tail is that
    of the prior, and too wide for the weights to have a variance.
    """
    counts = np.random.default_rng(2).poisson(4.0, (4, 4))
    target = cox.log_gaussian_cox(counts, whitened=True)
    f, of_f = np.linspace(-8, 12, 4001), scipy.stats.norm(cox.MEAN, cox.VARIANCE**0.5)
    log_density = counts.reshape(-1, 1) * f - np.exp(f) / 16 + of_f.logpdf(f)
    log_z = np.log(np.exp(log_density).sum(1) * (f[1] - f[0])).sum()
    draws = ppl.sample(samplers.TemperedSMC(2048), target, 0, num_chains=16, progress=False)
    off, error = draws.log_evidence.value - log_z, draws.log_evidence.std_error
    print(f"\nlog Z off by {off:.4f}, error {error:.4f}")
    assert error < 0.015
    assert abs(off) < 4.9 * error
    # Without the variance of the prior in one cell.
    assert abs(off + 0.5 * math.log(1.91)) > 4.9 * error


def test_the_synthetic_counts_are_of_1600_cells_and_their_posterior_is_usable():
    target = cox.log_gaussian_cox()
    assert cox.synthetic_counts().shape == (40, 40)
    assert cox.synthetic_counts().sum() == 113
    f = target.prior.sample(random.key(0), 2)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(target.log_density)))(f)
    assert jnp.isfinite(value).all()
    assert jnp.isfinite(slope).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ising(2), "side must be an integer from 3 to 12"),
        (lambda: Phi4(0), "num_rows must be an integer, at least 1; got 0"),
        (lambda: DoubleWellParticles(1), "num_particles must be an integer, at least 2; got 1"),
        (lambda: LennardJones(pair_weight=0), "pair_weight must be a positive number; got 0"),
        (lambda: cox.log_gaussian_cox(np.ones(4)), "counts are a square table"),
        (lambda: cox.log_gaussian_cox(-np.ones((2, 2))), "counts are a square table"),
    ],
)
def test_targets_refuse_what_makes_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
