"""Every exact Markov kernel leaves the joint law of parameters and data alone; a broken twin not.

The twins see a likelihood of another power: each is the kernel of a wrong posterior. The wrong
kernels of right posteriors (no Jacobian, no turn, no ratio) are in the kernels' own tests, which
also hold those kernels to exact draws for many steps.
"""

from pathlib import Path

import numpy as np
import pytest

import samplers
from agreement import z_limit
from chains import NUM_CHECKS
from gaussian_proposal import GaussianProposal
from invariance import gaussian_prior, joint_scores, laplace_prior
from ppl.sampler import MarkovKernel

# Compiling takes longer than running here.
pytestmark = pytest.mark.usefixtures("unoptimized")

IDENTITY, HYPERBOLIC = samplers.Identity(), samplers.Hyperbolic(1.0)
KERNELS = {
    "NUTS": samplers.NUTS(step_size=0.5, metric=IDENTITY, max_tree_depth=3),
    "HMC": samplers.HMC(step_size=0.3, metric=IDENTITY, num_steps=3),
    "AdjustedMCLMC": samplers.AdjustedMCLMC(),
    "ChEES": samplers.ChEES(step_size=0.3),
    "MEADS": samplers.MEADS(metric=IDENTITY, step_size=0.4, damping=0.5),
    "MALA": samplers.MALA(step_size=0.15, metric=IDENTITY),
    "Barker": samplers.Barker(step_size=0.6, metric=IDENTITY),
    "UnderdampedLangevin": samplers.UnderdampedLangevin(0.5, IDENTITY),
    "UnderdampedLangevin, OBABO": samplers.UnderdampedLangevin(0.5, IDENTITY, splitting="OBABO"),
    "ProximalMALA": samplers.ProximalMALA(step_size=0.15),
    "BregmanLangevin": samplers.BregmanLangevin(HYPERBOLIC, 0.15),
    "BregmanLangevin, left": samplers.BregmanLangevin(HYPERBOLIC, 0.15, side="left"),
    "RandomWalk": samplers.RandomWalk(step_size=0.7),
    "IndependenceMetropolis": samplers.IndependenceMetropolis(GaussianProposal()),
    "GibbsianPolarSlice": samplers.GibbsianPolarSlice(width=1.0),
    "EllipticalSlice": samplers.EllipticalSlice(),
    "ParallelTempering": samplers.ParallelTempering(move=samplers.MALA(0.15, IDENTITY)),
}
# On spaces of their own: what is enumerated, or drawn jointly, is in these tests.
ELSEWHERE = {
    "BackAndForth": "gflownet/test_back_and_forth.py",
    "Gibbs": "mcmc/test_gibbs.py",
    "SequenceMetropolis": "mcmc/test_sequence_metropolis.py",
    "SiteMetropolis": "mcmc/test_site_metropolis.py",
    "WalkJumpGibbs": "langevin/test_walk_jump_gibbs.py",
    "ConditionalSMC": "smc/test_conditional.py",
    "ParticleMetropolis": "smc/test_particle_metropolis.py",
}
LIMIT = z_limit(NUM_CHECKS)


def scores(name: str, **options: float) -> np.ndarray:
    kernel = KERNELS[name]
    proximal = "proximal_map" in kernel.needs
    return joint_scores(kernel, laplace_prior if proximal else gaussian_prior, **options)


@pytest.mark.parametrize("name", KERNELS)
def test_the_joint_law_of_parameters_and_data_stays(name):
    assert (scores(name) < LIMIT).all()


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_of_another_posterior_is_caught(name):
    assert not (scores(name, power=0.7) < LIMIT).all()


def test_every_exact_kernel_is_held_to_it():
    exact = {
        row.name
        for row in samplers.table()
        if row.exactness == "exact" and issubclass(getattr(samplers, row.name), MarkovKernel)
    }
    assert {name.partition(",")[0] for name in KERNELS} | set(ELSEWHERE) == exact
    for path in ELSEWHERE.values():
        assert (Path(__file__).parent / "samplers" / path).exists()
