"""Gibbs leaves targets invariant and draws discrete sites from their exact conditionals."""

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from scipy.special import logsumexp

import ppl
import samplers
from agreement import Reference, disagreements, z_limit
from chains import Known, agrees, scores
from ppl.energy import TargetError
from samplers.mcmc import gibbs
from samplers.mcmc.gibbs import Gibbs

pytestmark = pytest.mark.usefixtures("unoptimized")

COVARIANCE = np.array([[1.0, 0.8], [0.8, 1.5]])


def quadratic(p, precision):
    x = jnp.stack([p["a"], p["b"]])
    return -0.5 * x @ precision @ x


TEMPLATE = {"a": jnp.zeros(()), "b": jnp.zeros(())}
PAIR = ppl.from_log_density(quadratic, TEMPLATE, np.linalg.inv(COVARIANCE))


def known():
    def sample(key, n):
        x = random.normal(key, (n, 2)) @ np.linalg.cholesky(COVARIANCE).T
        return {"a": x[:, 0], "b": x[:, 1]}

    def functions(p):
        a, b = p["a"], p["b"]
        return jnp.stack([a, b, a * a, b * b, a * b])

    return Known(PAIR, sample, functions, np.array([0, 0, 1, 1.5, 0.8]))


def blocks():
    return Gibbs({"a": samplers.RandomWalk(step_size=1.0), "b": samplers.MALA(step_size=0.5)})


def test_a_scan_leaves_a_gaussian_invariant():
    assert agrees(scores(blocks(), known()))


def test_a_conditional_on_stale_values_is_caught(monkeypatch):
    """Each block sees the others where they do not stand."""
    right = gibbs.conditional

    def stale(target, position, names):
        shifted = {
            n: x if n in names or not hasattr(x, "at") else 0.5 * x for n, x in position.items()
        }
        return right(target, shifted, names)

    monkeypatch.setattr(gibbs, "conditional", stale)
    assert not agrees(scores(blocks(), known(), variant="stale"))


def fit(kernel, target, **sizes):
    return ppl.sample(kernel, target, progress=False, **sizes)


@pytest.fixture(scope="module")
def pair():
    kernel = Gibbs({"a": samplers.RandomWalk(), "b": samplers.HMC()})
    return fit(kernel, PAIR, num_samples=2000)


def test_each_block_is_tuned_by_its_own_warm_up(pair):
    truth = {"a": Reference(0, 1), "b": Reference(0, np.sqrt(1.5))}
    assert disagreements(pair.values, truth, r_hat=1.02, ess=300) == []
    walk, hmc = pair.stats["block_acceptance"].mean(axis=(0, 1))
    assert walk == pytest.approx(0.44, abs=0.08)
    assert hmc > 0.7
    spread = np.sqrt(1.5 - 0.8**2)  # of b given a
    step = pair.sampler.kernels[1].metric.scale(jnp.ones(1))
    assert float(step[0]) == pytest.approx(spread, rel=0.6)


def test_new_data_compile_nothing(pair, compilations):
    other = ppl.from_log_density(quadratic, TEMPLATE, 2 * np.linalg.inv(COVARIANCE))
    kernel = Gibbs({"a": samplers.RandomWalk(), "b": samplers.HMC()})
    with compilations() as count:
        fit(kernel, other, num_samples=2000)
    assert count.compiled == []


# Discrete sites -------------------------------------------------------------------------------

Y = np.array([-2.0, -0.5, 0.3, 1.0, 2.5])
LOW, HIGH, GRID = -1.0, 1.5, np.linspace(1e-4, 1 - 1e-4, 4001)


def mixture(y):
    weight = numpyro.sample("weight", dist.Beta(2, 2))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(weight))
        numpyro.sample("y", dist.Normal(jnp.where(z == 1, HIGH, LOW), 1.0), obs=y)


def enumerated():
    """Exact means of z and of the weight, by summing over all assignments."""
    log_y = np.stack([-0.5 * (Y - LOW) ** 2, -0.5 * (Y - HIGH) ** 2])
    total, z_mean, w_mean = [], [], []
    for z in product((0, 1), repeat=len(Y)):
        ones = sum(z)
        # Beta(2, 2) integrates the weight out.
        log_prior = np.log(
            np.trapezoid(GRID ** (1 + ones) * (1 - GRID) ** (1 + len(Y) - ones), GRID)
        )
        total.append(log_prior + sum(log_y[k, i] for i, k in enumerate(z)))
        z_mean.append(z)
        w_mean.append((2 + ones) / (4 + len(Y)))
    share = np.exp(np.array(total) - logsumexp(total))
    return share @ np.array(z_mean, float), share @ np.array(w_mean)


@cache
def mixed():
    return ppl.from_numpyro_mixed(mixture, Y)


@pytest.fixture(scope="module")
def assigned():
    return fit(Gibbs({"weight": samplers.RandomWalk()}), mixed(), num_samples=2000)


def beyond(draws):
    z_truth, w_truth = enumerated()
    truth = {f"z{i}": Reference(p, np.sqrt(p * (1 - p))) for i, p in enumerate(z_truth)}
    values = {f"z{i}": draws["z"][..., i] for i in range(len(Y))}
    found = disagreements(values, truth, r_hat=1.02, ess=300)
    weight = draws["weight"]
    error = weight.std() / np.sqrt(300)
    return found + (["weight"] if abs(weight.mean() - w_truth) > z_limit(10) * error else [])


def test_assignments_of_a_mixture_are_those_of_exact_enumeration(assigned):
    assert beyond(assigned) == []
    assert assigned["z"].dtype.kind == "i"
    assert assigned["z"].shape == (4, 2000, 5)


def test_elements_of_a_plate_are_drawn_at_once_and_always_accepted(assigned):
    assert mixed().separable == {"z"}
    np.testing.assert_allclose(assigned.stats["block_acceptance"][..., -1], 1, atol=1e-4)
    spent = assigned.run.evaluations["sample"][0] / (4 * 2000)
    assert spent == 3 + 3  # the walk and its two refreshments; two values and a test


def test_conditionals_that_forget_the_prior_are_caught(monkeypatch):
    """With the test switched off, or it would mend them."""

    def wrong(target, name, position):
        z = position[name]
        return -0.5 * (Y - jnp.where(z == 1, HIGH, LOW)) ** 2 + 1.5 * z

    monkeypatch.setattr(type(mixed()), "log_density_by_element", wrong)
    monkeypatch.setattr(gibbs, "accept", lambda key, ratio, new, old: (new, jnp.ones(()), True))
    # Another number of chains: else the program compiled before would run.
    draws = fit(Gibbs({"weight": samplers.RandomWalk()}), mixed(), num_samples=2000, num_chains=5)
    assert beyond(draws) != []


@pytest.mark.slow
def test_wrong_conditionals_are_mended_by_the_test(monkeypatch):
    def wrong(target, name, position):
        z = position[name]
        return -0.5 * (Y - jnp.where(z == 1, HIGH, LOW)) ** 2 + 0.5 * z

    monkeypatch.setattr(type(mixed()), "log_density_by_element", wrong)
    draws = fit(Gibbs({"weight": samplers.RandomWalk()}), mixed(), num_samples=2000, num_chains=6)
    assert beyond(draws) == []
    assert draws.stats["block_acceptance"][..., -1].mean() < 0.99


def chained(y):
    """Neighbors depend on each other: elements cannot be drawn at once."""
    level = numpyro.sample("level", dist.Normal(0, 1))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Categorical(probs=jnp.ones(3) / 3))
    numpyro.factor("smooth", -1.0 * jnp.sum((z[1:] != z[:-1]).astype(float)))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(z - 1.0 + level, 1.0), obs=y)


@pytest.mark.slow
def test_elements_that_depend_on_each_other_are_drawn_one_by_one():
    y = np.array([-1.0, 0.5, 1.0])
    target = ppl.from_numpyro_mixed(chained, y)
    assert target.separable == frozenset()
    draws = fit(Gibbs({"level": samplers.RandomWalk()}), target, num_samples=2000)
    total, states = [], []
    for z in product(range(3), repeat=3):
        residual = y - (np.array(z) - 1.0)
        # The level is integrated out: covariance I + 1 1'.
        covariance = np.eye(3) + 1
        smooth = -float(np.sum(np.diff(z) != 0))
        total.append(smooth - 0.5 * residual @ np.linalg.solve(covariance, residual))
        states.append(z)
    share = np.exp(np.array(total) - logsumexp(total))
    for k in range(3):
        for i in range(3):
            p = share @ (np.array(states)[:, i] == k)
            hits = (draws["z"][..., i] == k).astype(float)
            assert (
                disagreements(
                    {"p": hits}, {"p": Reference(p, np.sqrt(p * (1 - p)))}, r_hat=1.02, ess=200
                )
                == []
            )


def spins(p, coupling):
    s = 2.0 * p["s"] - 1
    return coupling * jnp.sum(s[1:] * s[:-1])


def test_a_density_of_ones_own_on_integers_is_sampled():
    """A chain of five spins: neighbors agree with probability ``1 / (1 + exp(-2 J))``."""
    target = ppl.from_log_density(spins, {"s": jnp.zeros(5, int)}, 0.4)
    draws = fit(
        Gibbs({}, num_states={"s": 2}), target, init={"s": np.zeros(5, int)}, num_samples=2000
    )
    agree = (draws["s"][..., 1:] == draws["s"][..., :-1]).astype(float)
    p = 1 / (1 + np.exp(-0.8))
    truth = {f"{i}": Reference(p, np.sqrt(p * (1 - p))) for i in range(4)}
    assert disagreements({f"{i}": agree[..., i] for i in range(4)}, truth) == []


# Refusals -------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_with_what_to_write():
    walk = samplers.RandomWalk()
    cases = [
        (Gibbs({"a": walk}), PAIR, r"site 'b' is in no block .* 'b': samplers\.NUTS"),
        (Gibbs({"a": walk, "c": walk}), PAIR, "no site 'c'"),
        (Gibbs({"a": walk, ("a", "b"): walk}), PAIR, "site 'a' is in two blocks"),
        (Gibbs({"a": walk}), ppl.from_log_density(lambda x: -x @ x, jnp.zeros(2)), "a dict"),
        (
            Gibbs({}),
            ppl.from_log_density(spins, {"s": jnp.zeros(5, int)}, 0.4),
            "num_states={'s': 2}",
        ),
        (Gibbs({("weight", "z"): samplers.NUTS()}), mixed(), "needs 'gradient'"),
    ]
    for kernel, target, message in cases:
        with pytest.raises(TargetError, match=message):
            fit(kernel, target)
    with pytest.raises(ValueError, match="ULA is biased"):
        Gibbs({"a": samplers.ULA(step_size=0.1)})
    with pytest.raises(ValueError, match="takes a Markov kernel for each block"):
        Gibbs({"a": samplers.Laplace()})


def test_other_samplers_refuse_a_mixed_target_and_name_gibbs():
    with pytest.raises(TargetError, match=r"'z' of model mixture are discrete.*samplers\.Gibbs"):
        fit(samplers.NUTS(), mixed())


def counts(y):
    rate = numpyro.sample("rate", dist.HalfNormal(1))
    n = numpyro.sample("n", dist.Poisson(3.0))
    numpyro.sample("y", dist.Normal(n * rate, 1.0), obs=y)


def test_models_without_finite_discrete_sites_are_refused():
    with pytest.raises(TargetError, match="'n' of model counts has no finite list of values"):
        ppl.from_numpyro_mixed(counts, 1.0)

    def plain(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)), 1), obs=y)

    with pytest.raises(TargetError, match=r"no discrete latent site; write ppl\.from_numpyro"):
        ppl.from_numpyro_mixed(plain, 1.0)


def test_a_model_whose_latent_sites_are_all_discrete_is_refused():
    def coin(y):
        side = numpyro.sample("side", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(1.0 * side, 1.0), obs=y)

    with pytest.raises(
        TargetError, match=r"all latent sites of model coin are discrete \('side'\)"
    ):
        ppl.from_numpyro_mixed(coin, 1.0)


@pytest.mark.slow
def test_the_density_is_the_joint_one_and_the_prior_can_be_drawn():
    z = jnp.array([0, 1, 1, 0, 1])
    position = {"weight": jnp.zeros(()), "z": z}
    expected = (
        dist.Beta(2, 2).log_prob(0.5)
        + jnp.log(0.25)
        + 5 * jnp.log(0.5)
        + dist.Normal(jnp.where(z == 1, HIGH, LOW), 1.0).log_prob(Y).sum()
    )
    assert float(mixed().log_density(position)) == pytest.approx(float(expected), rel=1e-5)
    drawn = fit(samplers.ExactDraws(), mixed().prior, num_samples=4000)
    assert abs(drawn["z"].mean() - 0.5) < 5 * np.sqrt(0.05 / 4000 + 0.25 / 20000)
    assert jax.tree.structure(drawn.positions) == jax.tree.structure(mixed().template)
