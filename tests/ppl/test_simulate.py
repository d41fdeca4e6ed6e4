"""Data drawn from a model, and the model given them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers

import ppl
from agreement import z_limit
from ppl.energy import TargetError
from ppl.simulate import observed_arguments, replicate_batch, simulate_batch

pytestmark = pytest.mark.usefixtures("unoptimized")

KEYS = random.split(random.key(0), 4)


def normal(y, scale):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, scale), obs=y)


def simulated(model, *args, keys=KEYS):
    program = ppl.from_numpyro(model, *args)
    positions, stack = simulate_batch(program, keys)
    return program, positions, stack


def test_new_data_take_the_place_of_the_argument():
    program, positions, stack = simulated(normal, jnp.zeros(3), jnp.array([1.0, 2.0, 3.0]))
    first, second = stack[0], stack[1]
    assert not np.array_equal(first.args[0], second.args[0])
    np.testing.assert_array_equal(first.args[1], program.args[1])
    position = {"mu": positions["mu"][0]}
    # The density is that of a model built of these data.
    again = ppl.from_numpyro(normal, first.args[0], program.args[1])
    np.testing.assert_allclose(first.log_density(position), again.log_density(position), rtol=1e-6)


def test_a_simulation_depends_on_its_own_key_alone():
    _, few, _ = simulated(normal, jnp.zeros(3), 1.0, keys=KEYS[:2])
    _, many, _ = simulated(normal, jnp.zeros(3), 1.0)
    np.testing.assert_array_equal(few["mu"], many["mu"][:2])


def test_positions_and_data_follow_their_joint_law():
    """y_1 | mu and mu: variances 1 and 2, covariance 1; in standard errors."""
    keys = random.split(random.key(1), 4000)
    _, positions, stack = simulated(normal, jnp.zeros(2), 1.0, keys=keys)
    mu, y = np.asarray(positions["mu"]), np.asarray(stack.stacked.args[0])
    products = np.stack([mu**2, y[:, 0] ** 2, mu * y[:, 0], y[:, 0] * y[:, 1], mu, y[:, 1]])
    truth = np.array([1, 2, 1, 1, 0, 0])
    scores = (products.mean(1) - truth) / (products.std(1) / np.sqrt(len(keys)))
    assert np.abs(scores).max() < z_limit(6)
    # A twin: data that belong to other draws.
    product = np.roll(mu, 1) * y[:, 0]
    assert abs(product.mean() - 1) / (product.std() / np.sqrt(len(keys))) > z_limit(6)


def test_a_prior_computed_from_the_data_is_computed_from_the_new_ones():
    def centered(y):
        mu = numpyro.sample("mu", dist.Normal(jnp.mean(y), 1.0))
        numpyro.sample("y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=y)

    _, _, stack = simulated(centered, jnp.full(3, 50.0))
    y = stack[2].args[0]
    log_prior, _ = stack[2].log_parts({"mu": jnp.mean(y)})
    np.testing.assert_allclose(log_prior, dist.Normal(0, 1).log_prob(0.0), rtol=1e-5)


def test_two_sites_that_observe_one_array_are_given_one_array():
    def twice(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        for name in ("a", "b"):
            numpyro.sample(name, dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=y)

    program, _, stack = simulated(twice, jnp.zeros(3))
    assert observed_arguments(program) == {"a": 0, "b": 0}
    new = stack[1].observed_data
    np.testing.assert_array_equal(new["a"], new["b"])


def test_an_autoregression_is_simulated_given_its_observed_lags():
    def lags(y):
        phi = numpyro.sample("phi", dist.Normal(0.0, 1.0))
        before = jnp.concatenate([jnp.zeros(1), y[:-1]])
        numpyro.sample("y", dist.Normal(phi * before, 1.0).to_event(1), obs=y)

    y = jnp.array([100.0, 200.0, 300.0])
    program, positions, stack = simulated(lags, y)
    assert observed_arguments(program) == {}
    target = stack[3]
    np.testing.assert_array_equal(target.args[0], y)
    new = target.observed_data["y"]
    phi = positions["phi"][3]
    assert np.abs(new - phi * np.array([0.0, 100.0, 200.0])).max() < 6
    expected = dist.Normal(phi * jnp.array([0.0, 100.0, 200.0]), 1.0).log_prob(new).sum()
    np.testing.assert_allclose(target.log_likelihood({"phi": phi}), expected, rtol=1e-5)


def test_data_that_are_computed_before_they_are_observed_are_replaced_at_their_site():
    def logs(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("log_y", dist.Normal(mu, 1.0).expand([2]).to_event(1), obs=jnp.log(y))

    _, positions, stack = simulated(logs, jnp.ones(2))
    new = np.asarray(stack[0].observed_data["log_y"])
    assert not np.array_equal(new, np.zeros(2))
    expected = dist.Normal(positions["mu"][0], 1.0).log_prob(new).sum()
    likelihood = stack[0].log_likelihood({"mu": positions["mu"][0]})
    np.testing.assert_allclose(likelihood, expected, rtol=1e-5)


def test_counts_masks_plates_dependent_supports_and_deterministic_sites():
    def rich(y, count, mask):
        low = numpyro.sample("low", dist.Normal(0.0, 1.0))
        high = numpyro.sample("high", dist.Uniform(low, low + 2.0))
        numpyro.deterministic("middle", (low + high) / 2)
        with numpyro.plate("row", len(y)):
            rate = numpyro.sample("rate", dist.Gamma(2.0, 2.0))
            numpyro.sample("count", dist.Poisson(rate), obs=count)
            with handlers.mask(mask=mask):
                numpyro.sample("y", dist.Normal(high, 1.0), obs=y)

    count = np.zeros(3, np.float32)  # counts as floats, as a table may hold them
    mask = jnp.array([True, False, True])
    program, positions, stack = simulated(rich, jnp.array([0.0, jnp.nan, 0.0]), count, mask)
    assert stack.stacked.args[1].dtype == jnp.float32
    for i in (0, 3):
        target, position = stack[i], jax.tree.map(lambda x: x[i], positions)  # noqa: B023
        values = target.constrain(position)
        assert values["low"] < values["high"] < values["low"] + 2
        assert np.isfinite(target.log_density(position))
        assert np.array_equal(target.args[1], np.round(target.args[1]))
        np.testing.assert_array_equal(target.args[2], mask)
    assert program.offers == stack[0].offers


def test_discrete_latent_sites_are_drawn_and_summed_out():
    pytest.importorskip("funsor")

    def mixture(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
        with numpyro.plate("row", len(y)):
            z = numpyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            numpyro.sample("y", dist.Normal(mu + 50.0 * z, 1.0), obs=y)

    _, positions, stack = simulated(mixture, jnp.zeros(20))
    y, mu = np.asarray(stack[0].args[0]), positions["mu"][0]
    assert {int(z) for z in np.round((y - mu) / 50)} == {0, 1}
    assert np.isfinite(stack[0].log_density({"mu": mu}))


def test_an_exact_draw_is_the_truth_of_a_target_without_data():
    positions, stack = simulate_batch(ppl.from_distribution(dist.Gamma(2.0, 3.0)), KEYS)
    assert positions.shape == (4,)
    np.testing.assert_allclose(
        stack[1].log_density(positions[1]),
        ppl.from_distribution(dist.Gamma(2.0, 3.0)).log_density(positions[1]),
        rtol=1e-6,
    )


def test_no_target_of_a_stack_compiles_anything_of_its_own(compilations):
    _, _, stack = simulated(normal, jnp.zeros(3), 1.0)
    first = stack[0].args[0]
    with compilations() as count:
        others = [stack[i].args[0] for i in (1, 2, 3)]
    assert count.compilations == 0
    assert not any(np.array_equal(first, other) for other in others)
    np.testing.assert_array_equal(others[1], np.asarray(stack.stacked.args[0])[2])


# Replications ---------------------------------------------------------------------------------


def test_a_replication_is_added_to_the_data():
    y = jnp.array([1.0, -1.0])
    program = ppl.from_numpyro(normal, y, 1.0)
    truths = {"mu": jnp.array([0.3, 5.0])}
    stack = replicate_batch(program, truths, KEYS[:2])
    target, position = stack[1], {"mu": jnp.asarray(0.5)}
    new = target.replica.args[0]
    assert abs(float(jnp.mean(new)) - 5.0) < 4
    expected = (
        dist.Normal(0, 1).log_prob(0.5)
        + dist.Normal(0.5, 1).log_prob(y).sum()
        + dist.Normal(0.5, 1).log_prob(new).sum()
    )
    np.testing.assert_allclose(target.log_density(position), expected, rtol=1e-5)
    np.testing.assert_allclose(sum(target.log_parts(position)), expected, rtol=1e-5)


# A user's own ---------------------------------------------------------------------------------


class Own:
    """``x ~ N(0, 1)``, ``y | x ~ N(x, 1)``, written without NumPyro."""

    @staticmethod
    def fn(x, y):
        return -0.5 * (x**2 + (y - x) ** 2)

    def simulate(self, rng_key):
        x, noise = random.normal(rng_key, (2,))
        return x, ppl.from_log_density(self.fn, jnp.zeros(()), x + noise)


def test_an_object_that_simulates_gives_positions_and_targets():
    positions, stack = simulate_batch(Own(), KEYS)
    y = stack.stacked.data[0]
    np.testing.assert_allclose(
        stack[2].log_density(positions[2]), Own.fn(positions[2], y[2]), rtol=1e-6
    )


class Closing(Own):
    def simulate(self, rng_key):
        x, noise = random.normal(rng_key, (2,))
        return x, ppl.from_log_density(lambda z: self.fn(z, x + noise), jnp.zeros(()))


class Wrong(Own):
    def simulate(self, rng_key):
        return random.normal(rng_key), 3.0


class Failing(Own):
    def simulate(self, rng_key):
        raise ValueError("no data today")


@pytest.mark.parametrize(
    ("simulator", "message"),
    [
        (Closing(), r"closes over simulated data.*from_log_density\(fn, template, y\)"),
        (Wrong(), r"must return \(position, target\).*got \(.*, float\)"),
        (Failing(), "simulate.* fails: ValueError: no data today"),
    ],
)
def test_a_simulator_that_cannot_be_used_is_refused(simulator, message):
    with pytest.raises(TargetError, match=message):
        simulate_batch(simulator, KEYS)


def test_data_without_a_place_in_the_fitted_model_are_refused():
    def generator(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("log_y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=jnp.log(y))

    def fitted(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=y)

    from ppl.simulate import Generated

    programs = (ppl.from_numpyro(model, jnp.ones(3)) for model in (fitted, generator))
    with pytest.raises(TargetError, match="'log_y' have no place in model fitted"):
        simulate_batch(Generated(*programs), KEYS)  # pyright: ignore[reportCallIssue]
