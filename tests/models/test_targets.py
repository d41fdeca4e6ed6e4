"""Synthetic targets: their log Z, exact draws and modes are those of their densities."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree

from agreement import dkw_limit, z_limit
from models.targets.bimodal import bimodal
from models.targets.funnel import Funnel
from models.targets.gaussian import Gaussian
from models.targets.gaussian_mixture import GaussianMixture
from models.targets.ill_conditioned import IllConditionedGaussian
from models.targets.many_well import ManyWell

pytestmark = pytest.mark.usefixtures("unoptimized")

TARGETS = {
    "gaussian": Gaussian(7),
    "ill-conditioned": IllConditionedGaussian(6, 1e4),
    "funnel": Funnel(),
    "bimodal": bimodal(3, sds=(1.0, 0.3)),
    "many wells": ManyWell(2, 1),
    "mixture": GaussianMixture([[0.0, 0.0], [3.0, 1.0], [-2.0, 4.0]], [1.0, 0.5, 2.0], [1, 2, 3]),
}
DIMENSIONS = {
    "gaussian": 7,
    "ill-conditioned": 6,
    "funnel": 10,
    "bimodal": 3,
    "many wells": 3,
    "mixture": 2,
}
DRAWS = 20_000

each = pytest.mark.parametrize("name", TARGETS)


def closed_form(name, x):
    """Log-density of the same law, normalized, written by somebody else."""
    target = TARGETS[name]
    match target:
        case Gaussian():
            return dist.Normal(0, 1).log_prob(x).sum(-1)
        case IllConditionedGaussian():
            cov = np.asarray(target.covariance, np.float64)
            return scipy.stats.multivariate_normal(np.zeros(len(cov)), cov).logpdf(np.asarray(x))
        case Funnel():
            below = dist.Normal(0, jnp.exp(x["v"] / 2)[:, None]).log_prob(x["x"]).sum(-1)
            return dist.Normal(0, 3).log_prob(x["v"]) + below
        case ManyWell():
            wells = -(x[:, :2] ** 4) + 6 * x[:, :2] ** 2 + x[:, :2] / 2 - np.log(11784.509265)
            return wells.sum(-1) + dist.Normal(0, 1).log_prob(x[:, 2])
        case _:
            parts = dist.Normal(target.means, target.sds[:, None]).to_event(1)
            mixing = dist.Categorical(logits=target.log_shares)
            return dist.MixtureSameFamily(mixing, parts).log_prob(x)


@each
def test_log_normalizer_makes_the_density_that_of_the_law(name):
    target = TARGETS[name]
    x = target.sample(jax.random.key(1), 200)
    normalized = jax.jit(jax.vmap(target.log_density))(x) - target.log_normalizer
    np.testing.assert_allclose(normalized, closed_form(name, x), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    "target",
    [Gaussian(2), IllConditionedGaussian(2, 100.0), bimodal(2, 4.0), TARGETS["mixture"]],
    ids=["gaussian", "ill-conditioned", "bimodal", "mixture"],
)
def test_log_normalizer_is_the_integral(target):
    grid = np.linspace(-14, 16, 751)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    log_density = jax.jit(jax.vmap(target.log_density))(jnp.asarray(points, jnp.float32))
    total = np.exp(np.asarray(log_density, np.float64)).sum() * (grid[1] - grid[0]) ** 2
    np.testing.assert_allclose(np.log(total), target.log_normalizer, atol=1e-4)


def test_log_normalizer_of_the_funnel_is_the_integral():
    target = Funnel(2, scale=1.5)
    v, u = np.linspace(-10, 10, 201), np.linspace(-9, 9, 201)
    points = np.stack(np.meshgrid(v, u, indexing="ij"), -1).reshape(-1, 2)
    x = points[:, 1] * np.exp(points[:, 0] / 2)  # the width of each slice taken out
    position = {"v": jnp.asarray(points[:, 0]), "x": jnp.asarray(x)[:, None]}
    log_density = np.asarray(jax.jit(jax.vmap(target.log_density))(position), np.float64)
    cell = (v[1] - v[0]) * (u[1] - u[0])
    total = np.exp(log_density + points[:, 0] / 2).sum() * cell
    np.testing.assert_allclose(np.log(total), target.log_normalizer, atol=1e-4)


def stein_scores(target, x):
    """Scores of ``E[x_i d log pi / d x_i] = -1`` and ``E[d log pi / d x_i] = 0``."""
    flat = lambda t: ravel_pytree(t)[0]
    both = jax.jit(jax.vmap(lambda x: (flat(x), flat(jax.grad(target.log_density)(x)))))(x)
    rows, slopes = (np.asarray(values, np.float64) for values in both)
    checks = np.concatenate([rows * slopes + 1, slopes], axis=1)
    return checks.mean(axis=0) / (checks.std(axis=0, ddof=1) / np.sqrt(len(checks)))


@each
def test_exact_draws_satisfy_the_identities_of_the_density(name):
    target = TARGETS[name]
    x = target.sample(jax.random.key(2), DRAWS)
    scores = stein_scores(target, x)
    assert np.abs(scores).max() < z_limit(len(scores) * len(TARGETS))
    # Draws that are 20 % too wide are not those of the density.
    wide = jax.tree.map(lambda leaf: 1.2 * leaf, x)
    assert np.abs(stein_scores(target, wide)).max() > z_limit(len(scores) * len(TARGETS))


def test_funnel_draws_have_their_marginal_and_their_conditional_laws():
    x = TARGETS["funnel"].sample(jax.random.key(3), DRAWS)
    whitened = (x["x"] * jnp.exp(-x["v"] / 2)[:, None])[:, 0]
    for values, law in ((x["v"], scipy.stats.norm(0, 3)), (whitened, scipy.stats.norm(0, 1))):
        distance = scipy.stats.kstest(np.asarray(values), law.cdf).statistic
        assert distance < dkw_limit(2, DRAWS)
    broken = (x["x"] * jnp.exp(-x["v"])[:, None])[:, 0]
    assert scipy.stats.kstest(np.asarray(broken), "norm").statistic > dkw_limit(2, DRAWS)


@pytest.mark.parametrize("name", ["bimodal", "mixture"])
def test_modes_have_their_shares(name):
    target = TARGETS[name]
    x = target.sample(jax.random.key(4), DRAWS)
    shares = np.exp(np.asarray(target.log_shares))
    if name == "bimodal":  # far apart: each draw belongs to one mode
        found = np.bincount(target.component(x), minlength=2) / DRAWS
        error = np.sqrt(shares * (1 - shares) / DRAWS)
        assert (np.abs(found - shares) < z_limit(2) * error).all()
        assert abs(found[0] - 1 / 2) > z_limit(2) * error[0]
    mean = np.asarray(x, np.float64).mean(axis=0)
    error = np.asarray(x).std(axis=0) / np.sqrt(DRAWS)
    expected = shares @ np.asarray(target.means)
    assert (np.abs(mean - expected) < z_limit(len(mean)) * error).all()


@pytest.mark.parametrize("name", ["gaussian", "ill-conditioned", "funnel", "bimodal", "many wells"])
def test_the_density_is_highest_at_its_modes(name):
    target = TARGETS[name]
    flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], target.modes))
    log_density = jax.jit(lambda row: target.log_density(unravel(row)))
    np.testing.assert_allclose(jax.jit(jax.grad(log_density))(flat), np.zeros(len(flat)), atol=1e-3)
    steps = 1e-2 * jnp.concatenate([jnp.eye(len(flat)), -jnp.eye(len(flat))])
    if name != "funnel":  # whose mode is so narrow that no float32 step stays on it
        around = jax.jit(jax.vmap(lambda step: log_density(flat + step)))(steps)
        assert (around < log_density(flat)).all()


@each
def test_targets_say_what_they_offer(name):
    target = TARGETS[name]
    assert target.dimension == DIMENSIONS[name]
    assert target.offers >= {"log_density", "gradient", "sample", "log_normalizer"}
    one = jax.tree.map(lambda leaf: leaf.shape[1:], target.sample(jax.random.key(0), 3))
    assert one == jax.tree.map(lambda leaf: leaf.shape, target.template)


def test_ill_conditioned_has_the_condition_number_asked_for():
    target = IllConditionedGaussian(5, 400.0)
    eigenvalues = np.linalg.eigvalsh(np.asarray(target.covariance, np.float64))
    np.testing.assert_allclose(eigenvalues[-1] / eigenvalues[0], 400, rtol=1e-3)
    off = np.asarray(target.covariance) - np.diag(np.diag(np.asarray(target.covariance)))
    assert np.abs(off).max() > 0.01


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(0), "num_dims must be an integer, at least 1; got 0"),
        (lambda: IllConditionedGaussian(1), "num_dims must be at least 2; got 1"),
        (lambda: IllConditionedGaussian(3, 0.5), "condition_number must be at least 1; got 0.5"),
        (lambda: Funnel(1), "num_dims must be an integer, at least 2; got 1"),
        (lambda: Funnel(scale=-1.0), "scale must be a positive number; got -1"),
        (lambda: bimodal(weight=1), "weight must be a number between 0 and 1; got 1"),
        (lambda: GaussianMixture([0.0, 1.0]), r"means have the shape \(components, d\)"),
    ],
)
def test_targets_refuse_what_makes_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
