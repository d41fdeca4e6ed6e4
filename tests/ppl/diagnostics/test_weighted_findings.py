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


@pytest.mark.parametrize(
    ("kind", "said"),
    [("direct", "heavier tails"), ("learned", "Train longer"), ("particle", "More particles")],
)
def test_what_to_do_about_a_heavy_tail_depends_on_what_made_the_weights(kind, said):
    rng = np.random.default_rng(0)
    tails = rng.pareto(0.7, size=(1, 400))
    draws = made_draws.make(
        rng.normal(size=(1, 400, 2)), log_weights=np.log(tails), kind=kind,
        num_chains=1, num_samples=400,
        target=from_log_density(lambda x: -jnp.sum(x**2), jnp.zeros(2)),
    )  # fmt: skip
    heavy = [each for each in of_population(draws, []) if "heavy tail" in each.reason]
    assert len(heavy) == 1
    assert said in heavy[0].advice
