"""What is said of the particles of a population."""

import jax.numpy as jnp
import numpy as np
import pytest

import made_draws
from ppl.diagnostics.findings import Measure
from ppl.diagnostics.weighted_findings import of_population
from ppl.energy import from_log_density


@pytest.mark.parametrize(("dtype", "said"), [(np.float32, True), (np.int32, False)])
def test_equal_particles_are_copies_where_values_are_continuous_and_only_there(dtype, said):
    tokens = np.random.default_rng(0).integers(2, size=(1, 200, 3)).astype(dtype)
    target = from_log_density(lambda x: 0.0 * jnp.sum(x), jnp.zeros(3, dtype))
    draws = made_draws.make(
        tokens, target=target, kind="particle", num_chains=1, num_samples=200, sampler_name="SMC"
    )
    measures: list[Measure] = []
    found = [finding.reason for finding in of_population(draws, measures)]
    assert any("4% of the particles differ" in text for text in found) == said
    assert ("distinct particles" in {measure.name for measure in measures}) == said


@pytest.mark.parametrize("resampled", [False, True])
def test_particles_share_ancestors_only_where_some_step_resampled(resampled):
    x = np.random.default_rng(0).normal(size=(1, 200, 3)).astype(np.float32)
    draws = made_draws.make(
        x, target=from_log_density(lambda x: 0.0 * jnp.sum(x), jnp.zeros(3)),
        kind="particle", num_chains=1, num_samples=200, sampler_name="SVDD",
        history={"resampled": np.array([[False, resampled]])},
    )  # fmt: skip
    found = [finding.reason for finding in of_population(draws, [])]
    assert any("share ancestors" in text for text in found) == resampled
