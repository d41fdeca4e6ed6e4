"""LOO against the closed form of a conjugate model, and what it says when it cannot be computed."""

import warnings

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats

import ppl
from made_draws import make, of_values
from ppl.diagnostics.loo import loo

DATA = np.random.default_rng(3).normal(1.0, 1.0, 40).astype(np.float32)


def model(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    with numpyro.plate("N", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def law(y):
    precision = 0.01 + len(y)
    return y.sum() / precision, precision**-0.5


def posterior_draws(y=DATA, **fields):
    mean, sd = law(y)
    mu = mean + sd * np.random.default_rng(0).normal(size=(4, 500))
    return make({"mu": mu.astype(np.float32)}, target=ppl.from_numpyro(model, y), **fields)


def exact():
    """``log p(y_i | y_-i)`` of every observation."""
    laws = [law(np.delete(DATA, i)) for i in range(len(DATA))]
    return [
        scipy.stats.norm(mean, np.sqrt(1 + sd**2)).logpdf(y)
        for y, (mean, sd) in zip(DATA, laws, strict=True)
    ]


def test_loo_is_that_of_the_conjugate_model():
    found = loo(posterior_draws())
    np.testing.assert_allclose(found.elpd_i, exact(), atol=0.03)
    assert found.elpd == pytest.approx(sum(exact()), abs=0.05)
    assert float(found.pareto_k.max()) < 0.7
    # The broken twin: without leaving anything out the fit looks better.
    mean, sd = law(DATA)
    in_sample = scipy.stats.norm(mean, np.sqrt(1 + sd**2)).logpdf(DATA).sum()
    assert abs(in_sample - sum(exact())) > 0.5


def test_an_observation_that_decides_alone_has_a_high_khat():
    with pytest.warns(UserWarning, match="Pareto"):
        found = loo(posterior_draws(np.append(DATA[:3], np.float32(30.0))))
    assert int(np.argmax(found.pareto_k.to_numpy())) == 3


def test_only_the_log_likelihood_is_computed():
    draws = posterior_draws()
    loo(draws)
    ((_, cached),) = ((k, v) for k, v in draws.cache.items() if k[0] == "groups")
    assert list(cached) == ["pointwise_log_likelihood"]


def two_sites(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    with numpyro.plate("N", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)
        numpyro.sample("z", dist.Normal(-mu, 1), obs=-y)


def test_sites_are_chosen_when_there_are_several():
    draws = make({"mu": posterior_draws()["mu"]}, target=ppl.from_numpyro(two_sites, DATA))
    with pytest.raises(ValueError, match="several observed sites, y, z: write site="):
        loo(draws)
    with pytest.raises(ValueError, match="no observed site 'mu'; there are y, z"):
        loo(draws, "mu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert loo(draws, "y").elpd == pytest.approx(loo(draws, "z").elpd)


def test_draws_loaded_from_a_file_have_their_log_likelihood(tmp_path):
    draws = posterior_draws()
    draws.save(tmp_path / "draws.nc")
    assert loo(ppl.load(tmp_path / "draws.nc")).elpd == pytest.approx(loo(draws).elpd, rel=1e-6)


def test_what_has_no_likelihood_is_refused():
    with pytest.raises(ppl.TargetError, match="log-likelihood of every observation.*from_numpyro"):
        loo(make())
    with pytest.raises(ppl.TargetError, match="write draws.attach"):
        loo(of_values({"x": np.zeros((4, 500))}))
    with pytest.raises(ValueError, match="LOO needs 100 draws; there are 80"):
        loo(of_values({"x": np.zeros((4, 20))}))
