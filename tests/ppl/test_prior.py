"""A model can be run on its prior alone, with any sampler, with its data or without."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random

import ppl
import samplers
from agreement import Reference, disagreements
from ppl.energy import TargetError
from ppl.sampler import MarkovKernel

pytestmark = pytest.mark.usefixtures("unoptimized")


def model(y=None):
    mean = numpyro.sample("mean", dist.Normal(3, 2))
    rate = numpyro.sample("rate", dist.Gamma(3, 1))
    numpyro.deterministic("ratio", mean / rate)
    with numpyro.plate("row", 3):
        if y is not None:
            numpyro.sample("y", dist.Normal(mean, rate), obs=y)


DATA = np.full(3, 50.0)
WITH_DATA = ppl.from_numpyro(model, DATA)
REFERENCES = {
    "mean": Reference(3, 2, {0.5: 3.0}),
    "rate": Reference(3, np.sqrt(3), {0.05: 0.81769, 0.5: 2.67406}),
}


@pytest.fixture(scope="module")
def without_data():
    with pytest.warns(UserWarning, match="observes nothing: its posterior is its prior"):
        return ppl.from_numpyro(model)


def agrees(draws, **limits):
    draws = draws if draws.log_weights is None else draws.resample(1, 4 * draws.num_samples // 4)
    values = {name: draws[name].reshape(4, -1) for name in REFERENCES}
    return disagreements(values, REFERENCES, **limits)


def test_the_prior_of_a_model_is_a_normalized_target_of_its_own():
    prior = WITH_DATA.prior
    assert {"log_density", "gradient", "sample", "log_normalizer"} <= prior.offers
    assert "log_likelihood" not in prior.offers
    position = WITH_DATA.unconstrain({"mean": 1.0, "rate": 2.0})
    expected = (
        dist.Normal(3, 2).log_prob(1.0) + dist.Gamma(3, 1).log_prob(2.0) + jnp.log(2.0)
    )  # the log-Jacobian of exp
    assert float(prior.log_density(position)) == pytest.approx(float(expected), rel=1e-5)
    assert prior.sample(random.key(0), 5)["mean"].shape == (5,)


@pytest.mark.parametrize(
    "name", ["ExactDraws", "Laplace", pytest.param("NUTS", marks=pytest.mark.slow)]
)
def test_samplers_draw_from_the_prior_of_a_model_with_data(name):
    sampler = getattr(samplers, name)()
    sizes: dict[str, Any] = {} if isinstance(sampler, MarkovKernel) else {"num_samples": 8000}
    draws = ppl.sample(sampler, WITH_DATA.prior, progress=False, **sizes)
    assert agrees(draws) == []
    np.testing.assert_allclose(draws["ratio"], draws["mean"] / draws["rate"], rtol=1e-4)
    if draws.log_evidence is not None:
        assert abs(draws.log_evidence.value) < 5 * draws.log_evidence.std_error


@pytest.mark.slow
def test_the_posterior_is_not_mistaken_for_the_prior():
    draws = ppl.sample(samplers.Laplace(), WITH_DATA, num_samples=8000, progress=False)
    assert agrees(draws) != []


@pytest.mark.parametrize("name", ["ExactDraws", "ImportanceSampling", "MALA"])
def test_samplers_draw_from_a_model_that_observes_nothing(name, without_data):
    sampler = getattr(samplers, name)()
    sizes: dict[str, Any] = {"num_samples": 4000} if name != "ImportanceSampling" else {}
    draws = ppl.sample(sampler, without_data, progress=False, **sizes)
    assert agrees(draws, r_hat=1.03) == []


REQUIRED: dict[str, dict[str, Any]] = {
    "ULA": {"step_size": 0.05},
    "SKROCK": {"step_size": 0.05},
    "AdamLMC": {"step_size": 0.05},
    "MirrorLangevin": {"mirror": samplers.Hyperbolic(1.0), "step_size": 0.05},
}
WALKS = {  # from a prior to a posterior, which a prior alone does not say
    "AIS", "NestedSampling", "ParallelTempering", "PersistentSMC", "TemperedSMC", "WasteFreeSMC",
}  # fmt: skip
OTHERS = {  # positions of another kind, other samplers within, noise to smooth by
    "BackAndForth", "Gibbs", "IndependenceMetropolis", "LogConcaveChain", "SequenceMetropolis",
    "SiteMetropolis", "WalkJumpGibbs",
}  # fmt: skip


def on_any_prior():
    """Names of what needs a density, its gradient or draws, and no more."""
    enough = {"log_density", "gradient", "sample"}
    names = [row.name for row in samplers.table() if set(row.needs) <= enough]
    return [name for name in names if name not in WALKS | OTHERS]


@pytest.mark.slow  # a minute: it compiles every sampler
@pytest.mark.parametrize("name", on_any_prior())
def test_every_sampler_runs_on_a_prior(name):
    cls = getattr(samplers, name)
    sampler = cls(**REQUIRED.get(name, {}))
    sizes: dict[str, Any] = {"num_samples": 50} if not issubclass(cls, ppl.ParticleSampler) else {}
    draws = ppl.sample(sampler, WITH_DATA.prior, progress=False, **sizes)
    assert np.isfinite(draws["mean"]).all()
    assert (draws["rate"] > 0).all()


@pytest.mark.parametrize("name", sorted(WALKS))
def test_walks_from_a_prior_ask_for_what_they_walk_to(name):
    with pytest.raises(TargetError, match=f"{name} .*prior"):
        ppl.sample(getattr(samplers, name)(), WITH_DATA.prior, progress=False)


def test_exact_draws_of_a_model_with_data_are_refused_and_point_to_the_prior():
    with pytest.raises(TargetError, match=r"prior draws sample target\.prior"):
        ppl.sample(samplers.ExactDraws(), WITH_DATA)


def improper():
    scale = numpyro.sample("scale", dist.ImproperUniform(dist.constraints.positive, (), ()))
    numpyro.sample("y", dist.Normal(0, scale), obs=1.0)


def test_an_improper_prior_cannot_be_drawn_from_and_says_which_site():
    target = ppl.from_numpyro(improper)
    assert "sample" not in target.prior.offers
    with pytest.raises(TargetError, match="ExactDraws needs 'sample': site 'scale'"):
        ppl.sample(samplers.ExactDraws(), target.prior)
    with pytest.raises(TargetError, match="draws from the prior: site 'scale'"):
        ppl.sample(samplers.ImportanceSampling(), target)
