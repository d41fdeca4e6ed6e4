"""A posterior in the coordinates of inverse rules: the same numbers for every path and shape."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import gaussian_inverse as g
import ppl
import samplers
from samplers.diffusion.inverse.problem import Problem, require_linear, require_prior

pytestmark = pytest.mark.usefixtures("unoptimized")
X = jnp.array([0.3, 0.1, -0.2, 0.5])


@pytest.mark.parametrize("path", [samplers.EDM(), samplers.VPLinear()])
def test_denoised_values_are_those_of_the_prior_on_any_path(path):
    problem = Problem(g.problem(path))
    level = problem.prior.path.level(jnp.asarray(0.4))
    found = problem.denoise(X, level)
    expected = problem.prior.denoiser(X, level.kappa)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_strength_is_noise_of_another_size():
    target = g.problem()
    stronger = ppl.posterior(target.prior, target.log_likelihood_fn)
    stronger = eqx.tree_at(lambda t: t.strength, stronger, jnp.asarray(4.0))
    problem = Problem(stronger)
    assert float(problem.likelihood.noise_std) == pytest.approx(g.NOISE / 2)
    gap = lambda fn: float(fn(X) - fn(0 * X))
    assert gap(problem.log_likelihood) == pytest.approx(4 * gap(target.log_likelihood), rel=1e-5)


def test_forward_and_adjoint_act_on_directions():
    problem = Problem(g.problem())
    w = jnp.array([1.0, -2.0])
    assert float(jnp.vdot(problem.forward(X), w)) == pytest.approx(
        float(jnp.vdot(X, problem.adjoint(w))), rel=1e-5
    )
    np.testing.assert_allclose(problem.residual(X), g.Y - g.A @ np.asarray(X), rtol=1e-5)
    np.testing.assert_allclose(problem.plus_noise(w, w), w + g.NOISE**2 * w, rtol=1e-6)
    np.testing.assert_array_equal(problem.point(problem.position(X)), X)


def test_what_is_no_posterior_under_a_diffusion_prior_is_refused():
    with pytest.raises(ppl.TargetError, match="DPS samples ppl.posterior.*it has no prior"):
        require_prior(ppl.from_log_density(lambda x: -(x**2), jnp.zeros(())), "DPS")
    plain = ppl.posterior(g.prior(), lambda x: -jnp.sum(x**2))
    with pytest.raises(ppl.TargetError, match="PiGDM uses the structure of a linear observation"):
        require_linear(plain, "PiGDM")
