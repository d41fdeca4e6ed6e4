"""What holds on a CPU holds on a GPU: the same laws, memory that stays flat, the same resumption.

These run where JAX finds a GPU and are skipped elsewhere. The other tests hold there as well.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random

import posteriordb
import ppl
import samplers
from samplers.mcmc.nuts import NUTS
from samplers.mcmc.random_walk import RandomWalk

pytestmark = pytest.mark.gpu
LIMIT = 4.9


def test_arrays_are_on_the_gpu():
    assert jnp.zeros(1).devices() == {jax.devices("gpu")[0]}


@pytest.mark.parametrize("case", ["eight_schools-eight_schools_noncentered", "sblrc-blr"])
def test_nuts_agrees_with_the_reference(case):
    module, data, reference = posteriordb.load(case)
    draws = ppl.sample(NUTS(), ppl.from_numpyro(module.model, **data), 1, progress=False)
    assert posteriordb.largest(posteriordb.z_scores(draws.values, reference))[0] < LIMIT


def test_a_matrix_product_keeps_the_digits_of_float32():
    """Tensor cores round float32 to ten bits: a whitened direction would lose its scale."""
    d, condition = 100, 1e4
    scales = jnp.geomspace(1.0, condition**0.5, d)
    rotation = jnp.linalg.qr(random.normal(random.key(0), (d, d)))[0]

    def log_density(x, rotation, scales):
        return -0.5 * jnp.sum((rotation.T @ x / scales) ** 2)

    target = ppl.from_log_density(log_density, jnp.zeros(d), rotation, scales)
    draws = ppl.sample(NUTS(), target, 1, progress=False)
    whitened = (draws["x"].reshape(-1, d) @ np.asarray(rotation)) / np.asarray(scales)
    assert draws.summary()["r_hat"].max() < 1.02
    assert np.all(np.abs(whitened.mean(0)) < 0.1)
    assert np.all(np.abs(whitened.std(0) - 1) < 0.1)


def test_the_evidence_is_that_of_the_closed_form():
    # Prior N(0, I_8), likelihood exp(-|x - 3|^2 / 0.2).
    truth = 8 * (0.5 * np.log(0.1 / 1.1) - 9 / 2.2)
    target = ppl.posterior(
        dist.Normal(jnp.zeros(8), 1.0).to_event(1), lambda x: -jnp.sum((x - 3.0) ** 2) / 0.2
    )
    sampler = samplers.TemperedSMC(num_particles=4096)
    runs = ppl.sample(sampler, target, 0, num_chains=16, progress=False)
    estimate = runs.log_evidence
    assert abs(estimate.value - truth) < LIMIT * max(estimate.std_error, 1e-3)


def test_both_tempered_modes_keep_their_masses():
    def log_ratio(x):
        near = jax.scipy.stats.norm.logpdf(x, 2.5, 0.7).sum() + jnp.log(0.7)
        far = jax.scipy.stats.norm.logpdf(x, -2.5, 0.7).sum() + jnp.log(0.3)
        return jnp.logaddexp(near, far) - jax.scipy.stats.norm.logpdf(x, 0, 3).sum()

    target = ppl.posterior(dist.Normal(jnp.zeros(10), 3.0).to_event(1), log_ratio)
    draws = ppl.sample(
        samplers.TemperedSMC(num_particles=4096), target, 0, num_chains=16, progress=False
    )
    weights = np.exp(draws.log_weights - draws.log_weights.max(1, keepdims=True))
    minor = np.sum(weights * (draws["x"].mean(-1) < 0), 1) / weights.sum(1)
    assert abs(minor.mean() - 0.3) < LIMIT * minor.std(ddof=1) / np.sqrt(len(minor))


def test_a_solver_gives_what_it_gives_on_the_cpu():
    sampler = samplers.DiffusionSampler(samplers.DPMSolverPP(order=2), num_steps=15)

    def drawn(device):
        with jax.default_device(jax.devices(device)[0]):
            return ppl.sample(sampler, samplers.digits_prior(), 3, num_samples=64, progress=False)

    gpu, cpu = drawn("gpu")["x"], drawn("cpu")["x"]
    assert np.median(np.abs(gpu - cpu)) < 1e-3
    assert np.mean(np.abs(gpu - cpu) > 0.05) < 0.02


def test_device_memory_is_flat_in_the_number_of_draws():
    target = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(50))
    device = jax.devices("gpu")[0]

    def most(num_samples):
        seen = []

        def watch(_):
            seen.append(device.memory_stats()["bytes_in_use"])
            return False

        ppl.sample(
            RandomWalk(step_size=0.3), target, 0, num_samples, 4, 0, until=watch, progress=False
        )
        return max(seen)

    most(1_000)
    assert most(100_000) <= most(1_000) * 1.05


def test_a_run_that_stopped_goes_on_to_the_same_draws(tmp_path):
    target = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(5))
    whole = ppl.sample(NUTS(), target, 4, 600, 4, 300, progress=False)
    ppl.sample(NUTS(), target, 4, 200, 4, 300, progress=False, checkpoint=tmp_path / "run")
    resumed = ppl.sample(
        NUTS(), target, 4, 600, 4, 300, progress=False, checkpoint=tmp_path / "run"
    )
    assert np.array_equal(whole["x"], resumed["x"])
