"""Particle Markov chains and NUTS find one posterior of a real return series."""

import numpy as np
import pytest

import ppl
import samplers
from models.programs import stochastic_volatility as sv

RETURNS = sv.data()["returns"][150:280]
DAYS = (0, 60, 129)


def means(draws, path):
    """Mean and its Monte Carlo error, of parameters and of some days' log-variances."""
    table = draws.summary(["mu", "phi", "sigma", path])
    names = ["mu", "phi", "sigma", *(f"{path}[{day}]" for day in DAYS)]
    return table.loc[names, "mean"].to_numpy(), table.loc[names, "mcse_mean"].to_numpy()


@pytest.mark.slow  # 40 seconds
def test_particle_metropolis_and_nuts_agree_on_a_real_return_series():
    program = ppl.from_numpyro(sv.model, RETURNS)
    chains = ppl.sample(
        samplers.NUTS(target_acceptance=0.95), program, num_samples=4000, progress=False
    )
    target = ppl.StateSpacePosterior(sv.parameters, sv.state_space, RETURNS)
    kernel = samplers.ParticleMetropolis(num_particles=40)
    particles = ppl.sample(kernel, target, num_samples=10_000, progress=False)
    (ours, error), (theirs, other) = means(particles, "x"), means(chains, "h")
    assert (np.abs(ours - theirs) < 4.9 * np.hypot(error, other)).all()
    # The errors are small enough to tell.
    assert (error < 0.1 * np.array([0.35, 0.1, 0.15, 1, 1, 1])).all()
