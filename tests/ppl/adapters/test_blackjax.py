"""BlackJAX algorithms of the user's own: right answers, no compilation anew, clear refusals."""

from typing import NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from agreement import Reference, disagreements
from ppl.adapters import BlackJAX

pytestmark = pytest.mark.usefixtures("unoptimized")


def log_density(p, mean):
    return -0.5 * jnp.sum((p["x"] - mean) ** 2)


def target(mean=1.0):
    return ppl.from_log_density(log_density, {"x": jnp.zeros(2)}, mean)


def mala(log_density, step_size):
    return blackjax.mala(log_density, step_size)


def hmc(log_density, step_size, scales, num_integration_steps):
    return blackjax.hmc(log_density, step_size, scales, num_integration_steps)


def nuts(log_density, step_size):
    return blackjax.nuts(log_density, step_size, jnp.ones(2))


def walk(log_density, sigma):
    return blackjax.additive_step_random_walk(
        log_density, blackjax.mcmc.random_walk.normal(sigma * jnp.ones(2))
    )


def mclmc(log_density, step_size):
    return blackjax.mclmc(log_density, L=1.0, step_size=step_size)


def too_wide(log_density, step_size):
    """The broken twin: a density of its own."""
    return blackjax.mala(lambda x: 0.8 * log_density(x), step_size)


KERNELS = {
    "MALA": BlackJAX(mala, step_size=0.8),
    "HMC": BlackJAX(hmc, step_size=0.5, scales=np.ones(2), num_integration_steps=4),
    "NUTS": BlackJAX(nuts, step_size=0.8),
    "random walk": BlackJAX(walk, sigma=1.2, gradient=False),
    "MCLMC": BlackJAX(mclmc, step_size=0.3, exactness="biased"),
}


def run(kernel, mean=1.0, **options):
    sizes = {"num_samples": 6000, "num_warmup": 200} | options
    return ppl.sample(kernel, target(mean), rng_key=0, progress=False, **sizes)


def wrong(draws, mean=1.0):
    values = {f"x{i}": draws["x"][:, :, i] for i in range(2)}
    return disagreements(values, {name: Reference(mean, 1.0) for name in values})


@pytest.mark.parametrize("name", KERNELS)
def test_results_are_the_closed_form(name):
    draws = run(KERNELS[name])
    assert wrong(draws) == []
    assert draws.stats["lp"].shape == (4, 6000)


def test_a_broken_algorithm_would_not_pass():
    assert wrong(run(BlackJAX(too_wide, step_size=0.8)))


def test_info_is_reported_under_our_names_and_evaluations_counted():
    draws = run(KERNELS["HMC"], num_samples=100, num_warmup=0)
    assert {"acceptance_rate", "diverging", "n_steps", "energy"} <= set(draws.stats)
    assert draws.run.evaluations["sample"] == [4 * 4 * 100] * 2
    assert (
        run(KERNELS["MALA"], num_samples=100, num_warmup=0).run.evaluations["sample"] == [400] * 2
    )


def test_new_data_and_parameters_compile_nothing(compilations):
    sizes = {"num_samples": 100, "num_warmup": 10}
    run(BlackJAX(mala, step_size=0.8), **sizes)
    with compilations() as count:
        draws = run(BlackJAX(mala, step_size=0.5), mean=4.0, **sizes)
    # Shapes are looked at once more, before the run; the program is the old one.
    assert count.compilations == 0
    assert abs(draws["x"].mean() - 4) < 1


def test_the_claim_is_the_users():
    assert KERNELS["MALA"].exactness == "exact"
    assert run(KERNELS["MCLMC"], num_samples=60).run.exactness == "biased"
    assert "gradient" not in KERNELS["random walk"].needs


class Population(NamedTuple):
    particles: jax.Array


class Swarm(NamedTuple):
    init: object
    step: object


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="takes a function that builds.*already holds its own dens"):
        BlackJAX(blackjax.mala(lambda x: -jnp.sum(x**2), 0.1))
    with pytest.raises(ValueError, match="exactness must be"):
        BlackJAX(mala, step_size=0.1, exactness="sure")
    with pytest.raises(TypeError, match="SamplingAlgorithm, with init and step; got float without"):
        run(BlackJAX(lambda log_density: 1.0))
    swarm = Swarm(lambda position, key: Population(position["x"]), lambda key, state: state)
    with pytest.raises(
        ppl.TargetError, match="needs a field position .* got Population with parti"
    ):
        run(BlackJAX(lambda log_density: swarm))
    discrete = ppl.from_log_density(lambda k: -1.0 * k, jnp.zeros((), int))
    with pytest.raises(ppl.TargetError, match="needs 'gradient'"):
        ppl.sample(KERNELS["MALA"], discrete)
