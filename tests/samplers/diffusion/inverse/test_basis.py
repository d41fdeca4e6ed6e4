"""A problem along its singular vectors: numbers seen with noise, one by one."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import gaussian_inverse as g
import ppl
import samplers
from models.inverse.operators import FourierSampling
from samplers.diffusion.inverse.basis import Basis, require_basis
from samplers.diffusion.inverse.problem import Problem

pytestmark = pytest.mark.usefixtures("unoptimized")


def test_coordinates_are_seen_with_the_noise_of_their_singular_value():
    basis = Basis(Problem(g.problem()))
    u, values, vt = np.linalg.svd(g.A)
    seen = np.asarray(basis.seen)
    assert seen.tolist() == [True, True, False, False]
    np.testing.assert_allclose(np.asarray(basis.noise)[seen], g.NOISE / values, rtol=1e-5)
    x = np.array([0.3, 0.1, -0.2, 0.5])
    along = np.asarray(basis.coefficients(jnp.asarray(x, jnp.float32)))
    np.testing.assert_allclose(np.abs(along[seen]), np.abs(vt[:2] @ x), rtol=1e-4)
    np.testing.assert_allclose(basis.point(jnp.asarray(along)), x, atol=1e-6)
    # Data minus coordinate is the residual, divided.
    gap = np.asarray(basis.data)[seen] - along[seen]
    np.testing.assert_allclose(np.abs(gap), np.abs(u.T @ (g.Y - g.A @ x)) / values, rtol=1e-4)


def test_an_observation_that_no_position_makes_is_in_the_evidence():
    """A third row, the sum of the others, adds a number whose law is known."""
    matrix = np.vstack([g.A, g.A.sum(0)])
    y = np.append(g.Y, 0.9)
    target = g.problem(matrix=matrix, observation=y)

    basis = Basis(Problem(target))
    x = np.array([0.3, 0.1, -0.2, 0.5])  # log p(y | x) in two ways
    gap = np.asarray(basis.data) - np.asarray(basis.coefficients(jnp.asarray(x)))
    seen = np.asarray(basis.seen)
    noise = np.asarray(basis.noise)[seen]
    along = -0.5 * np.sum((gap[seen] / noise) ** 2) - np.sum(np.log(noise * np.sqrt(2 * np.pi)))
    expected = multivariate_normal.logpdf(y, matrix @ x, g.NOISE**2 * np.eye(3))
    assert along + float(basis.log_constant) == pytest.approx(expected, rel=1e-4)


def test_complex_vectors_and_noise_of_each_entry_are_refused():
    mask = np.ones((2, 2), bool)
    matrix = jnp.asarray(g.A + 1j * g.A)
    likelihood = ppl.LinearGaussian(
        matrix, jnp.zeros(2, matrix.dtype), 0.1, template=jnp.zeros(4, matrix.dtype)
    )
    prior = g.prior()
    with pytest.raises(ppl.TargetError, match="real singular vectors, and those of this operator"):
        require_basis(ppl.posterior(prior, likelihood), "DDRM")
    operator = FourierSampling(mask)  # of real and imaginary parts: its vectors are real
    seen = ppl.LinearGaussian(operator, operator(jnp.zeros((2, 2, 2))), 0.1)
    field = samplers.DiffusionPrior(samplers.EDM(), lambda y, sigma: 0 * y, jnp.zeros((2, 2, 2)))
    require_basis(ppl.posterior(field, seen), "DDRM")
    each = ppl.LinearGaussian(jnp.asarray(g.A, float), jnp.asarray(g.Y), jnp.array([0.1, 0.2]))
    with pytest.raises(ppl.TargetError, match="one noise_std for all.*Divide operator"):
        require_basis(ppl.posterior(prior, each), "DDRM")
