"""Targets: values against closed form, Jacobians once, data traced, clear refusals."""

import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random
from jax.scipy import stats
from numpyro.distributions import constraints

import ppl
from ppl.energy import TargetError


def normal(x, scale):
    return -0.5 * jnp.sum((x / scale) ** 2)


def test_energy_is_minus_log_density():
    x = jnp.array([1.0, 2.0])
    density = ppl.from_log_density(normal, x, 3.0)
    energy = ppl.from_energy(lambda x, s: -normal(x, s), x, 3.0)
    assert density.log_density(x) == energy.log_density(x)


def test_support_adds_the_log_jacobian_once():
    gamma = ppl.from_log_density(
        lambda p: stats.gamma.logpdf(p["tau"], 3.0) + stats.beta.logpdf(p["share"], 2.0, 3.0),
        {"tau": jnp.ones(()), "share": jnp.ones(())},
        support={"tau": constraints.positive, "share": constraints.unit_interval},
    )
    grid = jnp.linspace(-12.0, 8.0, 401)
    over_share = jax.vmap(lambda a, b: gamma.log_density({"tau": a, "share": b}), (None, 0))
    log_p = jax.jit(jax.vmap(over_share, (0, None)))(grid, grid)
    step = grid[1] - grid[0]
    # A density on the unconstrained plane integrates to one only with the Jacobian.
    assert np.isclose(jnp.exp(log_p).sum() * step**2, 1.0, atol=1e-3)


def test_a_dropped_jacobian_is_seen_by_that_integral():
    grid = jnp.linspace(-12.0, 8.0, 401)
    log_p = jax.vmap(lambda z: stats.gamma.logpdf(jnp.exp(z), 3.0))(grid)
    assert not np.isclose(jnp.exp(log_p).sum() * (grid[1] - grid[0]), 1.0, atol=0.05)


def test_simplex_template_is_one_shorter_and_round_trips():
    target = ppl.from_log_density(
        lambda p: jnp.sum(jnp.log(p)), jnp.ones(4) / 4, support=constraints.simplex
    )
    assert target.template.shape == (3,)
    z = jnp.array([0.3, -1.0, 0.7])
    assert np.isclose(target.constrain(z).sum(), 1.0)
    assert np.allclose(target.unconstrain(target.constrain(z)), z, atol=1e-5)


def test_names_follow_the_keys():
    target = ppl.from_log_density(
        lambda p: -jnp.sum(p["a"]["b"] ** 2) - p["c"][0] ** 2 - p["c"][1] ** 2,
        {"a": {"b": jnp.zeros(2)}, "c": (jnp.zeros(()), jnp.zeros(()))},
    )
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape), target.template)
    assert list(target.outputs(zeros)) == ["a.b", "c.x0", "c.x1"]
    bare = ppl.from_log_density(lambda x: -(x**2), jnp.zeros(()))
    assert list(bare.outputs(jnp.zeros(()))) == ["x"]


def test_two_parts_of_one_name_are_refused():
    with pytest.raises(TargetError, match="called 'a.b'"):
        ppl.from_log_density(
            lambda p: p["a"]["b"] + p["a.b"], {"a": {"b": 0.0}, "a.b": 0.0}
        ).outputs({"a": {"b": jnp.zeros(())}, "a.b": jnp.zeros(())})


def test_new_data_neither_traces_nor_compiles(compilations):
    @eqx.filter_jit
    def evaluate(target, x):
        return target.log_density(x)

    x = jnp.ones(2)
    targets = [
        ppl.from_log_density(lambda x, y, s: -jnp.sum((x - y) ** 2) / s, x, y, s)
        for y, s in (([1, 2], 1.0), ([3, 4], 2.0))
    ]
    # One function object: a lambda made anew would be another program.
    targets[1] = eqx.tree_at(lambda t: t.fn, targets[1], targets[0].fn)
    evaluate(targets[0], x)
    with compilations() as count:
        value = evaluate(targets[1], x)
    assert (count.traces, count.compilations) == (0, 0)
    assert np.isclose(value, -(4 + 9) / 2)


def test_ints_are_static_and_floats_are_traced():
    target = ppl.from_log_density(lambda x, n, s: -(x**2) * n * s, jnp.zeros(()), 3, 2.0)
    assert target.data[0] == 3
    assert isinstance(target.data[1], jax.Array)


def test_integers_too_large_for_the_device_are_refused():
    with pytest.raises(TargetError, match="integer 4294967296, which int32 cannot"):
        ppl.from_log_density(lambda x, n: -x, jnp.zeros(()), np.array([1, 2**32]))


def test_distribution_is_normalized_and_its_draws_fit_it():
    target = ppl.from_distribution(dist.Gamma(3.0, 2.0))
    draws = jax.jit(lambda k: jax.vmap(target.constrain)(target.sample(k, 20_000)))(random.key(0))
    # sd of the mean: sqrt(3/4/20000); 4.9 s.e. for a suite of about a hundred checks
    assert abs(float(draws.mean()) - 1.5) < 4.9 * np.sqrt(0.75 / 20_000)
    grid = jnp.linspace(-12.0, 5.0, 2001)
    total = jnp.exp(jax.jit(jax.vmap(target.log_density))(grid)).sum() * (grid[1] - grid[0])
    assert np.isclose(total, 1.0, atol=1e-3)


def test_posterior_sees_the_user_s_space():
    target = ppl.posterior(dist.LogNormal(0.0, 1.0), lambda x, y: -0.5 * (y - x) ** 2, 2.0)
    z = jnp.array(0.4)
    expected = stats.norm.logpdf(z) - 0.5 * (2.0 - jnp.exp(z)) ** 2
    assert np.isclose(target.log_density(z), expected, rtol=1e-5)
    prior, likelihood = target.log_parts(z)
    assert np.isclose(prior + likelihood, expected, rtol=1e-5)


def test_tilt_scales_the_reward_only():
    prior = dist.Normal(0.0, 1.0)
    one = ppl.tilt(prior, lambda x: x, strength=1.0).log_density(jnp.array(0.5))
    three = ppl.tilt(prior, lambda x: x, strength=3.0).log_density(jnp.array(0.5))
    assert np.isclose(three - one, 2 * 0.5)


def test_posterior_of_a_prior_without_density_refuses_it():
    class Implicit(eqx.Module):
        template: jax.ShapeDtypeStruct

        def sample(self, rng_key, n):
            return random.normal(rng_key, (n,))

    target = ppl.posterior(Implicit(jax.ShapeDtypeStruct((), jnp.float32)), lambda x: -(x**2))
    assert "log_density" not in target.offers
    assert "can only be sampled" in target.refuse("log_density")


def test_tempered_path_meets_both_ends_and_survives_infinite_ones():
    reference = ppl.from_distribution(dist.Normal(0.0, 2.0))
    target = ppl.from_log_density(lambda x: jnp.where(x > 0, -x, -jnp.inf), jnp.zeros(()))
    x = jnp.array(-1.0)
    start = ppl.tempered(reference, target, 0.0).log_density(x)
    assert np.isclose(start, reference.log_density(x))
    assert ppl.tempered(reference, target, 0.5).log_density(x) == -jnp.inf
    x = jnp.array(1.0)
    middle = ppl.tempered(reference, target, 0.5).log_density(x)
    assert np.isclose(middle, 0.5 * reference.log_density(x) - 0.5)
    gradient = jax.grad(ppl.tempered(reference, target, 0.0).log_density)(jnp.array(-1.0))
    assert np.isfinite(gradient)


def test_product_and_tempered_add_the_jacobian_once():
    def expert(rate):
        return ppl.from_log_density(
            lambda x, rate: -rate * x, jnp.ones(()), rate, support=constraints.positive
        )

    z = jnp.array(0.3)
    both = ppl.product(expert(1.0), expert(2.0)).log_density(z)
    assert np.isclose(both, -3.0 * jnp.exp(z) + z, rtol=1e-5)
    half = ppl.tempered(expert(1.0), expert(2.0), 0.5).log_density(z)
    assert np.isclose(half, -1.5 * jnp.exp(z) + z, rtol=1e-5)


def test_other_supports_are_not_multiplied():
    free = ppl.from_log_density(lambda x: -(x**2), jnp.ones(()))
    positive = ppl.from_log_density(lambda x: -(x**2), jnp.ones(()), support=constraints.positive)
    with pytest.raises(TargetError, match="different supports"):
        ppl.product(free, positive)


def test_stack_gives_back_each_target_and_refuses_misfits():
    def fn(x, y):
        return -jnp.sum(x**2) * jnp.sum(y)

    make = lambda y: ppl.from_log_density(fn, jnp.zeros(2), y)  # noqa: E731
    stack = ppl.stack([make([1.0, 2.0]), make([3.0, 4.0])])
    assert len(stack) == 2
    assert np.allclose(stack[1].data[0], [3.0, 4.0])
    with pytest.raises(TargetError, match=r"float32\[3\]"):
        ppl.stack([make([1.0, 2.0]), make([1.0, 2.0, 3.0])])
    other = ppl.from_log_density(lambda x, y: -jnp.sum(x), jnp.zeros(2), [1.0, 2.0])
    with pytest.raises(TargetError, match="static argument"):
        ppl.stack([make([1.0, 2.0]), other])


@pytest.mark.parametrize(
    ("fn", "template", "message"),
    [
        (lambda x: x, jnp.zeros(3), r"shape \(3,\)"),
        (lambda x: jnp.int32(1), jnp.zeros(3), "int32"),
        ({"fn": 1}.get, jnp.zeros(3), "fails on a position"),
        (lambda x: x["mu"], jnp.zeros(3), "fails on a position"),
        (lambda x: 0.0 if x > 0 else 1.0, jnp.zeros(()), "jnp.where"),
        (lambda x: x, "abc", "pytree of arrays"),
        (lambda x: x, {}, "no arrays"),
    ],
)
def test_a_density_that_cannot_be_one_is_refused(fn, template, message):
    with pytest.raises(TargetError, match=message):
        ppl.from_log_density(fn, template)


def test_support_of_another_structure_is_refused():
    with pytest.raises(TargetError, match="shaped like the template"):
        ppl.from_log_density(lambda p: p["a"], {"a": jnp.zeros(())}, support=constraints.positive)
    with pytest.raises(TargetError, match="constraints.real"):
        ppl.from_log_density(lambda p: p["a"], {"a": jnp.zeros(())}, support={"a": "positive"})


def test_samples_have_rows_but_no_density():
    target = ppl.from_samples(np.arange(12.0).reshape(6, 2))
    assert target.num_data == 6
    assert target.template.shape == (2,)
    with pytest.raises(TargetError, match="no log-density"):
        target.log_density(jnp.zeros(2))
    with pytest.raises(TargetError, match="leading axis"):
        ppl.from_samples({"a": np.zeros(3), "b": np.zeros(4)})


def test_float64_targets_stay_float64(x64):
    target = ppl.from_log_density(normal, jnp.zeros(2), 3.0)
    assert target.log_density(jnp.ones(2)).dtype == jnp.float64


def test_numpyro_is_whole_after_arviz_was_imported_first():
    """It was not: ``numpyro.factor`` raised an AttributeError from then on."""
    code = "import arviz_stats.base, ppl.energy, numpyro; numpyro.distributions.distribution.Unit"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
