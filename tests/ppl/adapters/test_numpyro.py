"""Our kernels inside NumPyro's MCMC: right answers, every way of running chains, clear refusals."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

import samplers
from agreement import Reference, disagreements
from ppl.adapters import NumPyroKernel

pytestmark = pytest.mark.usefixtures("unoptimized")

Y = np.array([1.1, 0.3, 2.0, 1.4], np.float32)


def model(y):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    numpyro.deterministic("doubled", 2 * mu)
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def truth(y):
    precision = 0.25 + len(y)
    return Reference(float(y.sum() / precision), precision**-0.5)


def mcmc(kernel, num_chains=4, chain_method="vectorized", **options):
    sizes = {"num_warmup": 300, "num_samples": 2000} | options
    return MCMC(
        kernel, num_chains=num_chains, chain_method=chain_method, progress_bar=False, **sizes
    )


def agrees(run, y=Y):
    mu = np.asarray(run.get_samples(group_by_chain=True)["mu"])
    return not disagreements({"mu": mu}, {"mu": truth(y)}, r_hat=1.02)


@pytest.mark.parametrize(
    ("kernel", "chain_method"),
    [
        pytest.param(samplers.MALA(), "vectorized", id="MALA, vectorized"),
        pytest.param(samplers.RandomWalk(), "sequential", id="random walk, sequential"),
        pytest.param(samplers.NUTS(), "vectorized", id="NUTS, vectorized", marks=pytest.mark.slow),
    ],
)
def test_results_are_the_closed_form(kernel, chain_method):
    run = mcmc(NumPyroKernel(kernel, model), chain_method=chain_method)
    run.run(jax.random.key(0), Y, extra_fields=("info.acceptance_rate",))
    assert agrees(run)
    samples = run.get_samples(group_by_chain=True)
    np.testing.assert_allclose(samples["doubled"], 2 * samples["mu"], rtol=1e-6)
    extra = run.get_extra_fields(group_by_chain=True)
    assert extra["diverging"].shape == (4, 2000)
    # Warm-up has tuned: an untuned MALA or walk accepts nearly everything.
    assert 0.2 < float(extra["info.acceptance_rate"].mean()) < 0.95
    run.print_summary()


class Broken(samplers.MALA):
    """Thinks the target is twice as narrow."""

    def step(self, rng_key, target, state):
        state, info = super().step(rng_key, target, state)
        return state._replace(position=jax.tree.map(lambda x: 0.9 * x, state.position)), info


def test_a_broken_kernel_would_not_pass():
    run = mcmc(NumPyroKernel(Broken(), model))
    run.run(jax.random.key(0), Y)
    assert not agrees(run)


def test_one_chain_and_raw_keys_will_do():
    run = mcmc(NumPyroKernel(samplers.MALA(), model), num_chains=1, num_samples=4000)
    run.run(jax.random.PRNGKey(3), Y)
    halves = np.asarray(run.get_samples()["mu"]).reshape(2, 2000)
    assert not disagreements({"mu": halves}, {"mu": truth(Y)}, r_hat=1.02)


def test_new_data_of_a_run_count_with_traced_arguments_too():
    run = mcmc(NumPyroKernel(samplers.MALA(), model), jit_model_args=True)
    for y in (Y, Y + 5):
        run.run(jax.random.key(1), y)
        assert agrees(run, y)


def test_a_run_goes_on_from_its_last_state():
    run = mcmc(NumPyroKernel(samplers.MALA(), model))
    run.run(jax.random.key(2), Y)
    first = run.get_samples()["mu"]
    run.post_warmup_state = run.last_state
    run.run(jax.random.key(3), Y)
    assert agrees(run)
    assert not np.allclose(first, run.get_samples()["mu"])


def test_warm_up_apart_from_the_run():
    run = mcmc(NumPyroKernel(samplers.MALA(), model))
    run.warmup(jax.random.key(2), Y)
    run.run(jax.random.key(3), Y)
    mu = np.asarray(run.get_samples(group_by_chain=True)["mu"])
    assert (np.diff(mu[:, :50]) != 0).any(axis=1).all()
    assert agrees(run)


def potential(z):
    return 0.5 * jnp.sum((z["x"] - 3) ** 2)


def test_a_potential_will_do_with_starts():
    run = mcmc(NumPyroKernel(samplers.MALA(), potential_fn=potential))
    run.run(jax.random.key(0), init_params={"x": jnp.zeros((4, 2))})
    x = np.asarray(run.get_samples(group_by_chain=True)["x"])
    reference = {f"x{i}": Reference(3.0, 1.0) for i in range(2)}
    assert not disagreements({f"x{i}": x[:, :, i] for i in range(2)}, reference, r_hat=1.02)


def test_kernels_can_be_pickled_after_a_run():
    kernel = NumPyroKernel(samplers.MALA(), model)
    mcmc(kernel, num_samples=10, num_warmup=10).run(jax.random.key(0), Y)
    again = pickle.loads(pickle.dumps(kernel))
    assert again.kernel.step_size == kernel.kernel.step_size


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="got ImportanceSampling. Other samplers run with ppl.samp"):
        NumPyroKernel(samplers.ImportanceSampling(), model)
    with pytest.raises(ValueError, match="either model= or potential_fn="):
        NumPyroKernel(samplers.MALA())
    with pytest.raises(ValueError, match="init_params=...., with a leading chain axis"):
        mcmc(NumPyroKernel(samplers.MALA(), potential_fn=potential)).run(jax.random.key(0))
    traced = MCMC(
        NumPyroKernel(samplers.MALA(), model), num_warmup=5, num_samples=5, num_chains=2,
        chain_method=jax.vmap, progress_bar=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match='write chain_method="vectorized"'):
        traced.run(jax.random.key(0), Y)
