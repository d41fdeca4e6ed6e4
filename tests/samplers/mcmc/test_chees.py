"""ChEES leaves targets invariant, finds the best trajectory length, and asks for many chains."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from agreement import Reference, disagreements
from chains import agrees, banana, gaussian, scores
from posteriordb import LIMIT, largest, load, z_scores
from samplers.mcmc import chees
from samplers.mcmc.chees import criterion_slope

pytestmark = pytest.mark.usefixtures("unoptimized")

BEST = 2.2467  # the first root of tan(2 T) = 2 T: the best T for a round Gaussian, h uniform


def test_chees_leaves_a_gaussian_and_a_banana_invariant():
    kernel = samplers.ChEES(metric=samplers.Identity())
    assert agrees(scores(eqx_at(kernel, 0.5, 1.5), gaussian([1.0, 0.6], 0.5)))
    assert agrees(scores(eqx_at(kernel, 0.2, 1.0), banana()))


def eqx_at(kernel, step_size, length):
    return type(kernel)(
        metric=kernel.metric, step_size=step_size, trajectory_length=length, max_num_steps=50
    )


def test_a_kernel_that_accepts_everything_is_caught(monkeypatch):
    from blackjax.mcmc import hmc

    monkeypatch.setattr(hmc, "static_binomial_sampling", _always)
    right = hmc.build_kernel

    def broken(integrator, threshold):
        def proposal(*args, **options):
            return hmc.hmc_proposal(*args, **options, sample_proposal=_always)

        return right(integrator, threshold, proposal)

    monkeypatch.setattr(chees.hmc, "build_kernel", broken)
    kernel = eqx_at(samplers.ChEES(metric=samplers.Identity()), 0.8, 1.5)
    assert not agrees(scores(kernel, gaussian([1.0, 0.6], 0.5), variant="no test"))


def _always(rng_key, log_ratio, current, proposed):
    del rng_key, current
    rate = jnp.clip(jnp.exp(log_ratio), max=1)
    return proposed, (jnp.ones((), bool), rate, None)


def round_target(d):
    return ppl.from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(d))


@eqx.filter_jit
def slopes(kernel, target, length, num_chains=4000):
    """Mean gradient of the criterion over one round of h, chains in equilibrium."""
    kernel = eqx.tree_at(lambda k: k.trajectory_length, kernel, length)
    x = random.normal(random.key(0), (num_chains, 5))

    def one(h):
        keys = random.split(random.fold_in(random.key(1), h), num_chains)
        states = jax.vmap(kernel.init, (0, None, 0))(keys, target, x)
        states = states._replace(steps=jnp.full(num_chains, h))
        _, info = jax.vmap(kernel.step, (0, None, 0))(keys, target, states)
        return criterion_slope(kernel, info.trajectory, info.acceptance_rate)

    return jnp.mean(jax.lax.map(one, jnp.arange(15)))


def test_the_slope_changes_sign_at_the_best_length_of_a_round_gaussian():
    target = round_target(5)
    kernel = samplers.ChEES(metric=samplers.Identity(), step_size=0.05).resolve(target)
    below, above = (slopes(kernel, target, jnp.asarray(t)) for t in (BEST - 0.5, BEST + 0.5))
    assert below > 0.3
    assert above < -0.3


SCALES = np.array([1.0, 0.01, 100.0, 1.0, 5.0])
MEAN = np.array([0.5, 0.0, 30.0, -1.0, 2.0])
TARGET = ppl.from_log_density(
    lambda x, m, s: -0.5 * jnp.sum(((x - m) / s) ** 2), jnp.zeros(5), MEAN, SCALES
)


@pytest.fixture(scope="module")
def draws():
    return ppl.sample(samplers.ChEES(), TARGET, num_warmup=600, num_samples=200, progress=False)


@pytest.mark.slow
def test_warm_up_finds_the_length_and_the_draws_are_right(draws):
    assert draws.num_chains == 64
    assert 0.6 * BEST < float(draws.sampler.trajectory_length) < 1.6 * BEST
    values = {f"x{i}": draws["x"][..., i] for i in range(5)}
    truth = {f"x{i}": Reference(MEAN[i], SCALES[i], {0.5: MEAN[i]}) for i in range(5)}
    # With 200 draws R-hat itself scatters by a few thousandths.
    assert disagreements(values, truth, r_hat=1.03) == []
    assert "trajectory" not in draws.stats


def test_all_chains_take_as_many_steps(draws):
    assert np.all(np.ptp(draws.stats["n_steps"], axis=0) == 0)
    assert len(np.unique(draws.stats["n_steps"])) > 1


def test_new_data_compile_nothing(draws, compilations):
    other = ppl.from_log_density(TARGET.fn, jnp.zeros(5), MEAN + 1, SCALES * 2)
    with compilations() as count:
        ppl.sample(samplers.ChEES(), other, num_warmup=600, num_samples=200, progress=False)
    assert count.compiled == []


def test_few_chains_are_refused_with_what_to_write(draws):
    with pytest.raises(ValueError, match=r"at least; got num_chains=4\. Write num_chains=64"):
        ppl.sample(samplers.ChEES(), TARGET, num_chains=4)
    few = ppl.sample(
        draws.sampler, TARGET, num_chains=2, num_warmup=0, num_samples=5, progress=False
    )
    assert few["x"].shape == (2, 5, 5)


@pytest.mark.slow
def test_eight_schools_agrees_with_its_reference():
    module, data, reference = load("eight_schools-eight_schools_noncentered")
    target = ppl.from_numpyro(module.model, **data)
    draws = ppl.sample(samplers.ChEES(), target, num_samples=500, progress=False)
    z, name, check = largest(z_scores(draws.values, reference))
    assert z < LIMIT, (name, check)
