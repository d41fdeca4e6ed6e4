"""Methods that move in a way of their own: each has the exact law of its own formulas.

As in `test_guided`: under a Gaussian prior DDRM, DAPS, PnP-DM and STSL are affine, and the law of
their draws is known. The twins are laws with one mistake in them, which the draws refute.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import gaussian_inverse as g
import ppl
import samplers
import toy_mixture
from samplers.diffusion.inverse.problem import Problem

# Compiling takes longer than running here.
pytestmark = pytest.mark.usefixtures("unoptimized")

N = 8192
U, VALUES, VT = np.linalg.svd(g.A)  # VT is square: the last two coordinates are not seen


def levels(sampler):
    """kappa of the start and of the end of each move."""
    return zip(
        sampler.steps.start.kappa, sampler.steps.end.kappa, sampler.steps.inside.kappa, strict=True
    )


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
    for kappa, after, _ in levels(sampler):
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


def given(variance, tau):
    """Mean, as an affine map, and covariance of ``N(x, variance I)`` given the data."""
    gain = variance * g.A.T @ np.linalg.inv(variance * g.A @ g.A.T + tau**2 * np.eye(2))
    mean = g.IDENTITY + g.linear(gain).after(g.residual(g.IDENTITY))
    return mean, variance * (np.eye(g.D) - gain @ g.A)


def daps(sampler, tau=g.NOISE, v=None, *, fresh=True):
    law = g.start(sampler.steps.start.kappa[0])
    for kappa, after, inner in levels(sampler):
        flow = g.IDENTITY
        for now, then in zip(inner, np.append(inner[1:], 0.0), strict=True):
            ratio = then / now
            euler = g.IDENTITY.scaled(ratio) + g.denoiser(now).scaled(1 - ratio)
            flow = euler.after(flow)
        variance = kappa**2 if v is None else kappa**2 * v / (kappa**2 + v)
        mean, covariance = given(variance, tau)
        noise = fresh * covariance + after**2 * np.eye(g.D)
        law = g.push(law, mean.after(flow), noise)
    return law


def pnpdm(sampler, noise=g.NOISE, *, ancestral=True):
    law = g.start(sampler.steps.start.kappa[0])
    for kappa, _, inner in levels(sampler):
        mean, covariance = given(kappa**2, noise)
        law = g.push(law, mean, covariance)
        for now, then in zip(inner, np.append(inner[1:], 0.0), strict=True):
            ratio = (then / now) ** 2
            step = g.IDENTITY.scaled(ratio) + g.denoiser(now).scaled(1 - ratio)
            law = g.push(law, step, ancestral * then**2 * (1 - ratio) * np.eye(g.D))
    return law


def stsl(sampler, factor=1.0, num=2):
    law = g.start(sampler.steps.start.kappa[0])
    for kappa, after, _ in levels(sampler):
        denoised, ratio = g.denoiser(kappa), (after / kappa) ** 2
        gain = factor * denoised.matrix.T @ g.A.T / g.NOISE**2 * (kappa**2 - after**2) / num
        uphill = g.IDENTITY + g.linear(gain).after(g.residual(denoised))
        guided = g.IDENTITY
        for _ in range(num):
            guided = uphill.after(guided)
        step = g.IDENTITY.scaled(ratio - 1) + denoised.scaled(1 - ratio) + guided
        law = g.push(law, step, after**2 * (1 - ratio) * np.eye(g.D))
    return law


FIXED = {"rho_max": 0.5, "rho_min": 0.5, "num_steps": 30, "batch_size": N}
MOVES = {
    "DDRM": (
        samplers.DDRM(num_steps=12, eta_data=0.9, batch_size=N),
        lambda s: ddrm(s, eta_data=0.9),
        {"other eta": lambda s: ddrm(s, 0.5, 0.9), "all data": ddrm,
         "data lost below": lambda s: ddrm(s, eta_data=0.9, keep_below=False)},
    ),
    "DAPS": (
        samplers.DAPS(num_steps=12, num_ode_steps=3, batch_size=N),
        daps,
        {"its mean only": lambda s: daps(s, fresh=False), "tau": lambda s: daps(s, 0.2)},
    ),
    "DAPS, narrow": (
        samplers.DAPS(tau=0.2, data_variance=1.0, num_steps=12, num_ode_steps=3, batch_size=N),
        lambda s: daps(s, 0.2, 1.0),
        {"r = kappa": lambda s: daps(s, 0.2), "noise of the data": lambda s: daps(s, v=1.0)},
    ),
    "PnPDM": (
        samplers.PnPDM(**FIXED, num_inner_steps=8),
        pnpdm,
        {"flow": lambda s: pnpdm(s, ancestral=False), "noise": lambda s: pnpdm(s, 0.4)},
    ),
    "STSL": (
        samplers.STSL(num_steps=150, num_gradients=2, batch_size=N),
        stsl,
        {"half": lambda s: stsl(s, 0.5), "more": lambda s: stsl(s, 1.3)},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def target():
    return g.problem()


@pytest.mark.parametrize("name", MOVES)
def test_draws_have_the_law_of_the_moves_and_not_of_their_twins(name, target):
    sampler, law, twins = MOVES[name]
    draws = ppl.sample(sampler, target, num_samples=N, progress=False)
    resolved = sampler.resolve(target)
    assert g.agrees(draws["x"], law(resolved))
    for twin, wrong in twins.items():
        assert not g.agrees(draws["x"], wrong(resolved)), twin


def test_pnpdm_of_fixed_rho_tends_to_the_posterior_under_more_noise(target):
    """Noise of covariance ``noise^2 I + rho^2 A A'``: nearer as the inner steps get smaller."""
    truth, errors = g.posterior(extra=0.25), []
    for num in (10, 40, 160):
        law = pnpdm(samplers.PnPDM(**FIXED, num_inner_steps=num).resolve(target))
        assert g.bias(law, truth)[0] < 0.01
        errors.append(np.max(np.abs(law.covariance / truth.covariance - 1)))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert abs(g.bias(law, truth)[1] - 1) < 0.02
    # That of the true noise is another law, and so is that of a rho too large.
    for other in (g.posterior(), g.posterior(extra=0.5)):
        assert np.max(np.abs(law.covariance / other.covariance - 1)) > 0.1


def test_pnpdm_tends_to_the_posterior_as_rho_falls(target):
    biases = []
    for rho in (0.8, 0.4, 0.1):
        options = {"rho_min": rho, "num_steps": 150, "num_inner_steps": 100}
        law = pnpdm(samplers.PnPDM(**options).resolve(target))
        biases.append(np.max(np.abs(law.covariance / g.posterior().covariance - 1)))
    assert biases[0] > 2 * biases[1] > 4 * biases[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DAPS", "PnPDM"])
def test_langevin_steps_stand_in_for_the_exact_draw(name):
    """A likelihood without structure gives nearly the draws of the same one with it."""
    likelihood = g.problem().log_likelihood_fn
    plain = ppl.posterior(g.prior(), lambda x: likelihood(x))
    options = {"num_steps": 8, "batch_size": 2048, "step_size": 1e-2, "num_langevin_steps": 300}
    if name == "DAPS":
        sampler = samplers.DAPS(**options, schedule=lambda p, n: np.geomspace(0.5, 0.2, n))
        law = daps(sampler.resolve(plain))
    else:
        sampler = samplers.PnPDM(**options, rho_max=0.5, rho_min=0.5)
        law = pnpdm(sampler.resolve(plain))
    draws = np.asarray(ppl.sample(sampler, plain, num_samples=2048, progress=False)["x"][0])
    mean, ratio = g.bias(g.Gaussian(draws.mean(0), np.cov(draws.T)), law)
    assert mean < 0.15
    assert abs(ratio - 1) < 0.1


def test_the_probe_of_stsl_is_that_of_the_trace_of_the_second_order():
    """Averaged over probes, the bound has the trace of A Cov A' in it."""
    prior = samplers.DiffusionPrior(samplers.EDM(), toy_mixture.denoise, jnp.zeros(2))
    matrix = jnp.array([[1.0, 0.5]])
    likelihood = ppl.LinearGaussian(matrix, jnp.array([0.3]), 0.4)
    problem = Problem(ppl.posterior(prior, likelihood))
    level = prior.path.level(jnp.asarray(0.7))
    z = jnp.array([0.4, -0.3])

    def exact(z, sign):
        jacobian = jax.jacfwd(lambda z: problem.denoise(z, level))(z)
        trace = 0.7**2 * jnp.trace(matrix @ jacobian @ matrix.T) / 0.4**2
        return problem.log_likelihood(problem.denoise(z, level)) + sign * trace / 2

    sampler = samplers.STSL()
    signs = jnp.array([[1.0, 1.0], [1.0, -1.0]])  # all there are, up to the sign of both
    bound = lambda z: sum(sampler.bound(problem, z, level, probe) for probe in signs) / 2
    found, right = jax.jit(jax.grad(bound))(z), jax.jit(jax.grad(exact))
    np.testing.assert_allclose(found, right(z, -1.0), rtol=1e-4)
    for sign in (0.0, 1.0, -2.0):
        assert np.max(np.abs(found - right(z, sign))) > 0.05


def test_red_diff_is_adam_on_its_two_terms(target):
    """Three moves, in NumPy; the twin has another weight."""
    sampler = samplers.REDDiff(strength=0.4, num_steps=5).resolve(target)
    problem = Problem(target)
    rows = jax.tree.map(lambda x: jnp.asarray(x, float), sampler.steps)
    state = sampler.begin(random.key(0), problem, jax.tree.map(lambda x: x[0], rows))
    ridge = g.A.T @ np.linalg.solve(g.A @ g.A.T + g.NOISE**2 * np.eye(2), g.Y)
    np.testing.assert_allclose(state.mu, ridge, rtol=1e-4)

    def descend(strength):
        mu, first, second = ridge, 0.0, 0.0
        for t in range(1, 4):
            kappa = sampler.steps.start.kappa[t - 1]
            z = mu + kappa * np.asarray(random.normal(random.key(t), (g.D,)))
            denoiser = g.denoiser(kappa)
            gradient = strength * (mu - denoiser.matrix @ z - denoiser.offset)
            gradient = gradient - g.A.T @ (g.Y - g.A @ mu) / g.NOISE**2
            first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
            mean, square = first / (1 - 0.9**t), second / (1 - 0.99**t)
            mu = mu - 0.1 * mean / (np.sqrt(square) + 1e-8)
        return mu

    for t in range(1, 4):
        row = jax.tree.map(lambda x: x[t - 1], rows)  # noqa: B023
        state = sampler.move(random.key(t), problem, state, row)
    np.testing.assert_allclose(state.mu, descend(0.4), atol=1e-4)
    assert np.max(np.abs(state.mu - descend(0.5))) > 1e-3


def test_red_diff_has_no_spread_to_speak_of(target):
    draws = ppl.sample(samplers.REDDiff(), target, num_samples=64, progress=False)["x"][0]
    sds = np.sqrt(np.diag(g.posterior().covariance))
    assert np.mean(draws.std(0) / sds) < 0.8


def test_ddrm_takes_noiseless_data():
    posterior = g.problem(noise=0.0)
    x = ppl.sample(samplers.DDRM(num_steps=20), posterior, num_samples=4, progress=False)["x"][0]
    # The last step is the denoised value of the smallest noise of the path.
    np.testing.assert_allclose(x @ g.A.T, np.broadcast_to(g.Y, (4, 2)), atol=0.2)


def test_ddrm_names_what_its_operator_lacks():
    matrix = jnp.asarray(g.A, float)
    likelihood = ppl.LinearGaussian(
        lambda x: matrix @ x, jnp.asarray(g.Y), 0.3, template=jnp.zeros(4)
    )
    with pytest.raises(ppl.TargetError, match="DDRM works in the singular vectors.*has none"):
        ppl.sample(samplers.DDRM(), ppl.posterior(g.prior(), likelihood))
    many = ppl.LinearGaussian(matrix, jnp.asarray(g.Y), jnp.array([0.3, 0.4]))
    with pytest.raises(ppl.TargetError, match="DDRM works in.*takes one noise_std"):
        ppl.sample(samplers.DDRM(), ppl.posterior(g.prior(), many))


@pytest.mark.parametrize("name", ["DAPS", "PnPDM", "REDDiff", "STSL"])
def test_noise_of_zero_is_refused(name):
    with pytest.raises(ppl.TargetError, match=f"{name} needs noise_std > 0"):
        ppl.sample(getattr(samplers, name)(), g.problem(noise=0.0))


def test_a_tau_needs_a_linear_observation():
    plain = ppl.posterior(g.prior(), lambda x: -jnp.sum(x**2))
    with pytest.raises(ppl.TargetError, match=r"DAPS\(tau=...\) uses the structure of a linear"):
        ppl.sample(samplers.DAPS(tau=0.1), plain)


def test_levels_off_the_path_are_refused(target):
    with pytest.raises(ValueError, match="noise goes from 20 to 0.02.*rho_max=30"):
        ppl.sample(samplers.PnPDM(rho_max=30.0), target)
    with pytest.raises(ValueError, match="DAPS adds noise, and the noises of two levels of PFGM"):
        ppl.sample(samplers.DAPS(), g.problem(samplers.PFGM()))
    with pytest.raises(ValueError, match="num_steps must be an integer, at least 2; got 1"):
        ppl.sample(samplers.DDRM(num_steps=1), target)


def test_problems_that_differ_in_data_share_one_program(compilations):
    problems = [g.problem(noise=noise, observation=y) for noise, y in ((0.3, g.Y), (0.5, 2 * g.Y))]
    options = {"num_samples": 8, "progress": False}
    ppl.sample(samplers.DAPS(num_steps=5), problems[0], **options)
    with compilations() as count:
        ppl.sample_batch(samplers.DAPS(num_steps=5), ppl.stack(problems), **options)
        other = samplers.DAPS(num_steps=5, schedule=samplers.LogSNRUniform())
        ppl.sample(other, problems[1], **options)
    assert "_draw" not in count.compiled
