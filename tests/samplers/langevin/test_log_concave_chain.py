"""Once-at-a-time smoothing: known second moments, and masses of modes that MALA does not find."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax.scipy.special import logsumexp

import ppl
from agreement import t_limit, t_scores, z_limit
from chains import NUM_CHECKS
from ppl.energy import Energy
from samplers.langevin import log_concave_chain
from samplers.langevin.log_concave_chain import LogConcaveChain
from samplers.langevin.mala import MALA

MOMENTS = {1: 2.35399, 4: 3.76789, 16: 4.11782, 64: 4.19991}


class Mixture(Energy):
    """Round Gaussians of one width, with their denoiser."""

    means: jax.Array
    log_shares: jax.Array
    sd: jax.Array

    @property
    def template(self):
        return jax.ShapeDtypeStruct(self.means.shape[1:], self.means.dtype)

    def log_density(self, position):
        squares = jnp.sum((position - self.means) ** 2, axis=1)
        return logsumexp(self.log_shares - squares / (2 * self.sd**2))

    def denoise(self, position, sigma):
        variance = self.sd**2 + sigma**2
        squares = jnp.sum((position - self.means) ** 2, axis=1)
        share = jax.nn.softmax(self.log_shares - squares / (2 * variance))
        return (share @ self.means * sigma**2 + self.sd**2 * position) / variance


def mixture(means, shares, sd):
    return Mixture(jnp.asarray(means), jnp.log(jnp.asarray(shares)), jnp.asarray(sd))


TWO = mixture([[-2.0], [2.0]], [0.5, 0.5], 0.5)


def moment(m):
    """E D(Y)^2 of Y = X + 2 eps / sqrt(m), by quadrature."""
    v = 4 / m
    total = 0.25 + v
    density = lambda y, mu: np.exp(-((y - mu) ** 2) / (2 * total)) / np.sqrt(2 * np.pi * total)

    def integrand(y):
        left, right = density(y, -2), density(y, 2)
        mean = 2 * (right - left) / (left + right)
        return (left + right) / 2 * ((mean * v + 0.25 * y) / total) ** 2

    return scipy.integrate.quad(integrand, -12, 12, points=[-2, 0, 2])[0]


def drawn(m, target=TWO, n=4000, **options):
    kernel = LogConcaveChain(2.0, num_measurements=m, **options).resolve(target)
    positions, _ = jax.jit(lambda key: kernel.draw(key, target, n))(jax.random.key(0))
    return np.asarray(positions, np.float64)[:, 0]


def scores_of(x, m):
    """Of the second moment and of the balance of the modes."""
    return np.abs(t_scores(np.stack([x**2, x > 0], axis=1), [MOMENTS[m], 0.5]))


LIMIT = t_limit(NUM_CHECKS, 3999)


@pytest.mark.parametrize("m", [1, 16, *(pytest.param(m, marks=pytest.mark.slow) for m in (4, 64))])
def test_the_second_moment_is_the_known_one(m):
    assert moment(m) == pytest.approx(MOMENTS[m], abs=1e-5)
    x = drawn(m)
    assert (scores_of(x, m) < LIMIT).all()
    # Other numbers of measurements have other moments, and the check can tell.
    others = [other for other in MOMENTS if other != m and min(other, m) < 16]
    assert all(scores_of(x, other)[0] > LIMIT for other in others)


def test_a_mean_as_noisy_as_one_measurement_is_caught(monkeypatch):
    monkeypatch.setattr(log_concave_chain, "noise_of_mean", lambda sigma, t: sigma)
    assert scores_of(drawn(16), 16)[0] > LIMIT


@pytest.mark.parametrize("m", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_the_density_alone_will_do_in_one_dimension(m):
    alone = ppl.from_log_density(TWO.log_density, jnp.zeros(1))
    x = drawn(m, alone, n=1000, num_draws=256)
    assert (scores_of(x, m) < LIMIT).all()
    assert scores_of(x, 5 - m)[0] > LIMIT


def test_a_gaussian_comes_out_with_the_known_variance():
    x = drawn(4, mixture([[0.0]], [1.0], 1.5))
    known = 1.5**4 / (1.5**2 + 1)
    assert abs(t_scores(x**2, known)) < LIMIT


@pytest.mark.usefixtures("unoptimized")
def test_both_masses_where_mala_of_the_same_budget_has_them_wrong():
    """Modes 8 standard deviations apart with the shares 0.3 and 0.7."""
    target, n = mixture([[-4.0, 0.0], [4.0, 0.0]], [0.3, 0.7], 1.0), 512
    kernel = LogConcaveChain(4.0, num_measurements=16)
    draws = ppl.sample(kernel, target, num_samples=n, progress=False)
    limit = z_limit(NUM_CHECKS) * np.sqrt(0.21 / n)
    assert abs((draws["x"][..., 0] > 0).mean() - 0.7) < limit
    budget = draws.num_evaluations[1]
    assert budget == n * 16 * 33
    steps = budget // 64
    mala = ppl.sample(
        MALA(), target, num_chains=64, num_warmup=500, num_samples=steps - 500, progress=False
    )
    assert abs((mala["x"][..., 0] > 0).mean() - 0.7) > limit


@pytest.mark.usefixtures("unoptimized")
def test_positions_of_any_structure_and_evaluations():
    target = ppl.from_log_density(
        lambda p: -0.5 * (p["a"] ** 2 + jnp.sum(p["b"] ** 2)),
        {"a": jnp.zeros(()), "b": jnp.zeros(2)},
    )
    kernel = LogConcaveChain(1.0, num_measurements=2, num_steps=3, num_draws=5)
    draws = ppl.sample(kernel, target, num_samples=64, progress=False)
    assert draws["b"].shape == (1, 64, 2)
    assert draws.num_evaluations == (64 * 2 * 4 * 5, 0)


def test_what_it_cannot_denoise_is_refused():
    wide = ppl.from_log_density(lambda x: -jnp.sum(x**2), jnp.zeros(17))
    with pytest.raises(ppl.TargetError, match=r"fails in 17 dimensions.*denoise\(position"):
        ppl.sample(LogConcaveChain(1.0), wide, progress=False)
    integers = ppl.from_log_density(lambda n: -0.1 * n.sum(), jnp.zeros(3, jnp.int32))
    with pytest.raises(ppl.TargetError, match="must be floating"):
        ppl.sample(LogConcaveChain(1.0), integers, progress=False)
