"""Published settings, shortened to what a processor does in a minute; the docs have the figures."""

import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from models.targets.benchmark_mixtures import gmm25
from samplers.trajectory.objectives import TrajectoryBalance
from samplers.trajectory.pis import PIS
from samplers.trajectory.replay import LocalSearch, Replay

pytestmark = pytest.mark.slow


def test_all_of_25_modes_are_found_by_exploration_and_search():
    """The settings of arXiv:2402.05098, in 1,000 updates; 40 seconds."""
    target = gmm25()
    sampler = PIS(
        objective=TrajectoryBalance(), exploration=0.3, scale=5.0,
        replay=Replay(capacity=20_000, local_search=LocalSearch()),
    )  # fmt: skip
    draws = ppl.sample(sampler, target, num_samples=10_240, progress=False)
    log_weights = draws.log_weights.ravel()
    shares = ppl.weights.probabilities(log_weights)
    masses = np.bincount(
        np.asarray(target.component(jnp.asarray(draws["x"][0]))), shares, minlength=25
    )
    error = draws.log_evidence.value - float(target.log_normalizer)
    ess = ppl.weights.ess(log_weights) / log_weights.size
    print(f"\nlog Z off by {error:.4f}, ESS {ess:.2f}, masses times 25 {(25 * masses).round(2)}")
    assert abs(error) < 0.05
    assert (masses > 0.01).all()
