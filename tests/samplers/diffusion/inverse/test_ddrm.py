"""DDRM: the law of its moves under a Gaussian prior, where they are affine."""

import jax.numpy as jnp
import numpy as np
import pytest

import gaussian_inverse as g
import ppl
import samplers

# Compiling takes longer than running here.
pytestmark = pytest.mark.usefixtures("unoptimized")

U, VALUES, VT = np.linalg.svd(g.A)  # VT is square: the last two coordinates are not seen


def ddrm(sampler, eta=0.85, eta_data=1.0, *, keep_below=True):
    s = np.append(VALUES, [0.0, 0.0])
    seen = s > 0
    divisor = np.where(seen, s, 1.0)
    d, r = np.append(U.T @ g.Y, [0.0, 0.0]) / divisor, np.where(seen, g.NOISE / divisor, np.inf)
    first = sampler.steps.start.kappa[0]
    known = seen & (first >= r)
    law = g.Gaussian(
        VT.T @ np.where(known, d, 0), VT.T @ np.diag(first**2 - np.where(known, r, 0) ** 2) @ VT
    )
    for kappa, after, _ in g.levels_of(sampler):
        h = g.linear(VT).after(g.denoiser(kappa))
        kept = np.sqrt(1 - eta**2) * after
        above, below = seen & (after >= r), seen & (after < r)
        blind = ~seen
        # z' = a h + b V'z + c, with noise of standard deviation sd, in each coordinate.
        near = keep_below * kept / np.where(seen, r, 1.0)
        a = np.select([above, below], [np.full(4, 1 - eta_data), 1 - near], 1 - kept / kappa)
        b = blind * kept / kappa
        c = np.select([above, below], [eta_data * d, near * d], 0.0)
        sd = np.select(
            [above, below | blind],
            [
                np.sqrt(np.maximum(after**2 - eta_data**2 * np.where(seen, r, 0) ** 2, 0)),
                np.full(4, eta * after),
            ],
        )
        step = g.linear(VT.T @ np.diag(a)).after(h) + g.linear(VT.T @ np.diag(b) @ VT)
        step = step + g.constant(VT.T @ c)
        law = g.push(law, step, VT.T @ np.diag(sd**2) @ VT)
    return law


@pytest.fixture(scope="module")
def target():
    return g.problem()


def test_draws_have_its_law_and_not_that_of_its_twins(target):
    twins = {
        "other eta": lambda s: ddrm(s, 0.5, 0.9),
        "all data": ddrm,
        "data lost below": lambda s: ddrm(s, eta_data=0.9, keep_below=False),
    }
    sampler = samplers.DDRM(num_steps=12, eta_data=0.9, batch_size=g.N)
    g.check_law(sampler, target, lambda s: ddrm(s, eta_data=0.9), twins)


def test_it_takes_noiseless_data():
    posterior = g.problem(noise=0.0)
    x = ppl.sample(samplers.DDRM(num_steps=20), posterior, num_samples=4, progress=False)["x"][0]
    # The last step is the denoised value of the smallest noise of the path.
    np.testing.assert_allclose(x @ g.A.T, np.broadcast_to(g.Y, (4, 2)), atol=0.2)


def test_it_names_what_its_operator_lacks():
    matrix = jnp.asarray(g.A, float)
    likelihood = ppl.LinearGaussian(
        lambda x: matrix @ x, jnp.asarray(g.Y), 0.3, template=jnp.zeros(4)
    )
    with pytest.raises(ppl.TargetError, match="DDRM works in the singular vectors.*has none"):
        ppl.sample(samplers.DDRM(), ppl.posterior(g.prior(), likelihood))
    many = ppl.LinearGaussian(matrix, jnp.asarray(g.Y), jnp.array([0.3, 0.4]))
    with pytest.raises(ppl.TargetError, match="DDRM works in.*takes one noise_std"):
        ppl.sample(samplers.DDRM(), ppl.posterior(g.prior(), many))
