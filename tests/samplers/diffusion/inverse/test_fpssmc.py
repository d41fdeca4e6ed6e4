"""FPS-SMC on a Gaussian prior, where the Kalman filter knows what it tends to."""

import jax.numpy as jnp
import numpy as np
import pytest

import gaussian_inverse as g
import ppl
import samplers

# Compiling takes longer than running here.
pytestmark = pytest.mark.usefixtures("unoptimized")


def filtered(sampler, *, fresh=True):
    """Mean and covariance over paths and particles, as the particles grow.

    The Kalman filter's mean is affine in the noise of the path: it is followed together with the
    offset of the data.
    """
    kappas, d = sampler.steps.start.kappa, g.D
    noise = g.NOISE**2 * np.eye(2)
    # The pair (mean, offset) is Gaussian over paths; `spread` is the filter's own covariance.
    spread = kappas[0] ** 2 * np.eye(d)
    joint = g.Gaussian(np.zeros(d + 2), np.zeros((d + 2, d + 2)))
    joint.covariance[d:, d:] = kappas[0] ** 2 * g.A @ g.A.T

    def update(joint, spread):
        gain = spread @ g.A.T @ np.linalg.inv(g.A @ spread @ g.A.T + noise)
        matrix = np.eye(d + 2)
        matrix[:d, :d] -= gain @ g.A
        matrix[:d, d:] = gain
        offset = np.append(gain @ g.Y, [0.0, 0.0])
        moved = g.Gaussian(matrix @ joint.mean + offset, matrix @ joint.covariance @ matrix.T)
        return moved, spread - gain @ g.A @ spread

    joint, spread = update(joint, spread)
    for kappa, after in zip(kappas, sampler.steps.end.kappa, strict=True):
        ratio, sd = np.sqrt(1 - 0.85**2) * after / kappa, 0.85 * after
        step = g.IDENTITY.scaled(ratio) + g.denoiser(kappa).scaled(1 - ratio)
        matrix = np.zeros((d + 2, d + 2))
        matrix[:d, :d], matrix[d:, d:] = step.matrix, ratio * np.eye(2)
        covariance = matrix @ joint.covariance @ matrix.T
        covariance[d:, d:] += sd**2 * g.A @ g.A.T
        joint = g.Gaussian(matrix @ joint.mean + np.append(step.offset, [0, 0]), covariance)
        spread = step.matrix @ spread @ step.matrix.T + sd**2 * np.eye(d)
        joint, spread = update(joint, spread)
    between = joint.covariance[:d, :d] if fresh else 0.0
    return g.Gaussian(joint.mean[:d], spread + between)


@pytest.fixture(scope="module")
def target():
    return g.problem()


def test_draws_have_the_law_of_the_filter_over_paths(target):
    sampler = samplers.FPSSMC(num_particles=128, num_steps=15, batch_size=1024)
    draws = ppl.sample(sampler, target, num_samples=1024, progress=False)["x"]
    resolved = sampler.resolve(target)
    assert g.agrees(draws, filtered(resolved))
    assert not g.agrees(draws, filtered(resolved, fresh=False))
    assert not g.agrees(draws, g.posterior())


def test_it_believes_the_data_once_a_step(target):
    """Its spread along the data falls with the number of steps, below that of the posterior."""
    along = lambda law: np.sqrt(np.trace(g.A @ law.covariance @ g.A.T) / 2)
    found = [along(filtered(samplers.FPSSMC(num_steps=n).resolve(target))) for n in (50, 1000)]
    assert found[1] < found[0] < 0.5 * along(g.posterior())


def test_noise_of_zero_and_likelihoods_without_structure_are_refused():
    with pytest.raises(ppl.TargetError, match="FPSSMC needs noise_std > 0"):
        ppl.sample(samplers.FPSSMC(), g.problem(noise=0.0))
    plain = ppl.posterior(g.prior(), lambda x: -jnp.sum(x**2))
    with pytest.raises(ppl.TargetError, match="FPSSMC uses the structure of a linear"):
        ppl.sample(samplers.FPSSMC(), plain)
