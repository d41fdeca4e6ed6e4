"""Correctors: annealed, multiplied, guided and tilted priors have their law and their mass."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers as s
import two_modes
from agreement import t_limit
from samplers.diffusion.steering.fk_corrector import CorrectedModel

pytestmark = pytest.mark.usefixtures("unoptimized")

RUNS = 32
LIMIT = t_limit(60, RUNS - 1)
PATHS = {"VP": s.VPLinear(), "VE": s.EDM()}
EXPONENTS = {"annealed": (2.0, 0.0), "product": (1.0, 1.0), "guided": (-1.0, 2.0)}


def target(name, path):
    """The four targets, three of them as products of the same two priors, so with one program."""
    if name == "reward":
        return two_modes.tilted("reward", path)
    return s.compose([two_modes.prior("G1", path), two_modes.prior("G2", path)], EXPONENTS[name])


class Uncorrected(CorrectedModel):
    """The same moves; no weights."""

    def potential(self, before, after, step):
        return (), jnp.zeros(len(after.x))


def scores(name, path, *, corrected=True, n=1000):
    law = target(name, PATHS[path])
    model = s.FKCorrector().resolve(law).on_levels(law)
    if not corrected:
        model = Uncorrected(model.chain, model.rule)
    found = two_modes.runs(random.key(0), model, n, RUNS)
    return np.abs(two_modes.scores(found, two_modes.TILTS[name][2]))


# The four targets -------------------------------------------------------------------------------


def both_paths(*names):
    fast = ("product", "VP"), ("guided", "VP")
    return [
        pytest.param(name, path, marks=() if (name, path) in fast else pytest.mark.slow)
        for name in names
        for path in PATHS
    ]


@pytest.mark.parametrize(("name", "path"), both_paths(*two_modes.TILTS))
def test_draws_and_evidence_are_those_of_the_target(name, path):
    assert np.all(scores(name, path) < LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("name", two_modes.TILTS)
def test_without_the_weights_they_are_not(name):
    assert np.max(scores(name, "VP", corrected=False)[:3]) > 2 * LIMIT


def test_a_single_prior_as_it_is_has_nothing_to_correct():
    law = two_modes.prior(path=PATHS["VE"])
    model = s.FKCorrector(num_steps=5).resolve(law).on_levels(law)
    particles, log_g = model.start(random.key(0), 4)
    np.testing.assert_allclose(log_g, 0.0, atol=1e-6)
    particles, log_g = eqx.filter_jit(model.advance)(random.key(1), particles, model.chain.first)
    np.testing.assert_allclose(log_g, 0.0, atol=1e-4)


def test_the_composed_denoiser_adds_the_scores():
    first, second = (two_modes.prior(name) for name in ("G1", "G2"))
    product = s.compose((first, second), (-1.0, 2.0))
    y = jnp.asarray([0.7])
    score = lambda prior: (prior.denoise(y, 1.5) - y) / 1.5**2
    expected = 2 * score(second) - score(first)
    np.testing.assert_allclose(score(product), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_run_counts_what_each_prior_is_asked():
    law = target("product", PATHS["VP"])
    draws = ppl.sample(s.FKCorrector(num_particles=16, num_steps=5), law, progress=False)
    assert draws["x"].shape == (1, 16, 1)
    assert draws.num_evaluations == (0, 2 * 16 * 6)
    assert draws.log_evidence is not None


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "solver",
    [s.DDIM(eta=0.5), s.Heun(churn=5.0), s.ERSDE(), s.ExactReverse()],
    ids=lambda solver: type(solver).__name__,
)
def test_a_solver_with_other_noise_is_refused(solver):
    law = two_modes.prior()
    with pytest.raises(ValueError, match=r"those of the reverse equation's noise, which .*"):
        ppl.sample(s.FKCorrector(solver=solver), law, progress=False)


@pytest.mark.parametrize(
    "solver",
    [s.DDPM(), s.DDIM(eta=1.0), s.DPMSolverPP(3, tau=1.0)],
    ids=lambda solver: type(solver).__name__,
)
def test_solvers_of_the_reverse_equation_are_not(solver):
    s.FKCorrector(solver=solver).check(two_modes.prior())


@pytest.mark.parametrize(
    ("priors", "exponents", "message"),
    [
        (two_modes.prior, (1.0, 1.0), r"^exponents are 1 numbers, one for each prior"),
        (two_modes.prior, (-1.0,), r"^exponents are 1 numbers, .* with a positive sum"),
        (
            lambda: (two_modes.prior(), s.digits_prior()),
            (1.0, 1.0),
            r"^compose takes priors of the same",
        ),
        (
            lambda: (two_modes.near_one,),
            (1.0,),
            r"^compose takes samplers\.DiffusionPrior, one or more",
        ),
    ],
)
def test_a_product_that_is_none_is_refused(priors, exponents, message):
    with pytest.raises(ppl.TargetError, match=message):
        s.compose(priors(), exponents)
