"""ASBS: the Schroedinger bridge between Gaussians is known, its weights are exact."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy.special import expit

import ppl
from models.targets.gaussian_mixture import GaussianMixture
from samplers.networks import MLP
from samplers.trajectory.asbs import ASBS, CONTROL, CORRECTOR
from samplers.trajectory.matching import Ends

pytestmark = pytest.mark.usefixtures("unoptimized")
SOFT = GaussianMixture([[1.5, 1.5], [1.5, -1.5], [-1.5, 1.5], [-1.5, -1.5]])
LOG_Z = float(SOFT.log_normalizer)
SMALL = ASBS(
    num_steps=6, num_updates=40, num_paths=64, every=10, batch=64, capacity=128,
    network=partial(MLP, width=8, depth=1),
)  # fmt: skip

# Between N(0, s0^2) and N(0, r^2), with Brownian motion of variance s^2 in between, the ends of the
# Schroedinger bridge have the covariance c that solves c^2 + s^2 c = s0^2 r^2.
R, S, S0 = 0.7, 0.7, 1.0
C = (np.sqrt(S**4 + 4 * S0**2 * R**2) - S**2) / 2
NARROW = ppl.from_log_density(lambda x, m: -0.5 * jnp.sum((x - m) ** 2) / R**2, jnp.zeros(1), 0.0)


class Linear(eqx.Module):
    """What a network would have learned: ``slopes[n] x``."""

    slopes: jax.Array

    def __call__(self, x, t, gradient):
        return self.slopes[jnp.round(t * (len(self.slopes) - 1)).astype(int)] * x


def moments(cov01):
    """Slopes of E[x_0 | x_t] and of u at all states of the bridge with this covariance of ends."""
    v = np.asarray(ASBS(num_steps=6).shares(jnp.float32))
    var = (1 - v) ** 2 * S0**2 + v**2 * R**2 + 2 * v * (1 - v) * cov01 + S**2 * v * (1 - v)
    began = ((1 - v) * S0**2 + v * cov01) / var
    ended = ((1 - v) * cov01 + v * R**2) / var
    a = 1 / R**2 - (1 - cov01 / R**2) / S**2  # label: -a s x_1
    return began, -S * a * ended


def exact_bridge(*, corrected=True):
    """The Schroedinger bridge itself, in place of what is learned; or with all paths from 0."""
    began, drift = moments(C)
    began = began * corrected
    sampler = ASBS(scale=S0, noise=S / S0, num_steps=6, reach=100.0)
    v = np.asarray(sampler.shares(jnp.float32))
    unit = np.sqrt(S0**2 + S**2)
    brownian = S0**2 / (S0**2 + S**2 * v)
    learned = (
        Linear(jnp.asarray(unit * drift)),
        Linear(jnp.asarray((began - brownian) * unit / S0)),
    )
    return sampler, sampler.kernels(NARROW, learned)


def scores_of(cov01, n=3, rho=0.0, **options):
    """Means of residual times state, control and corrector, in standard errors."""
    sampler, bridge = exact_bridge(**options)
    size = 40_000
    x0 = S0 * random.normal(random.key(1), (size, 1))
    left = R**2 - cov01**2 / S0**2
    x1 = cov01 / S0**2 * x0 + np.sqrt(left) * random.normal(random.key(2), (size, 1))
    noise = random.normal(random.key(3), (size, 1))
    v = float(bridge.shares[n])
    x = (1 - v) * x0 + v * x1 + S * np.sqrt(v * (1 - v)) * noise
    ends, found = Ends(x0, x1, -x1 / R**2), []
    for part in (CONTROL, CORRECTOR):
        one = lambda e, z, part=part: sampler._residual(
            part, bridge, jnp.array([rho]), e, jnp.int32(n), z
        )
        product = np.asarray(jax.vmap(one)(ends, noise)[:, :1] * x)
        found.append(abs(product.mean()) / (product.std() / size**0.5))
    return found


def test_the_schrodinger_bridge_of_gaussians_is_the_fixed_point_of_both_regressions():
    assert max(scores_of(C)) < 4.9
    assert max(scores_of(C, rho=3.0)) < 4.9  # and of labels that are mixed with the bridge's
    # The drift is also grad log phi, by the other road.
    a = 1 / R**2 - (1 - C / R**2) / S**2
    v = np.asarray(ASBS(num_steps=6).shares(jnp.float32))
    np.testing.assert_allclose(moments(C)[1], -S * a / (1 + a * S**2 * (1 - v)), rtol=1e-4)


def test_ends_and_correctors_as_those_of_a_point_are_caught():
    assert scores_of(0.0)[CORRECTOR] > 4.9
    assert scores_of(C, corrected=False)[CONTROL] > 4.9


@pytest.fixture(scope="module")
def draws():
    return ppl.sample(SMALL, SOFT, num_samples=4096, progress=False)


def test_weights_obey_the_bounded_identity(draws):
    assert not draws.history["diverging"].any()
    exact = SOFT.sample(random.key(1), 4096)
    back = eqx.filter_jit(lambda s, x: s.log_weights(random.key(2), SOFT, x))(draws.sampler, exact)
    forward = draws.log_weights.ravel()
    for shift in (0.0, 0.3):
        a, b = expit(forward + shift - LOG_Z), expit(LOG_Z - np.asarray(back) - shift)
        z = (a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 4096)
        assert (abs(z) < 4.9) == (shift == 0)


@pytest.mark.slow  # 10 seconds
def test_control_and_corrector_take_turns(draws):
    """Forty updates are four turns of ten, each from a simulation of its own."""
    assert draws.num_evaluations == (4 * 64 * 2 + 4096, 4 * 64 * 2)
    first = SMALL.init(random.key(0), SOFT)
    step = eqx.filter_jit(lambda key, state: SMALL.step(key, SOFT, state)[0])
    after = step(random.key(1), first)
    later = step(random.key(2), after._replace(updates=jnp.int32(10)))
    moved = lambda a, b: [
        not eqx.tree_equal(x, y) for x, y in zip(a.learned, b.learned, strict=True)
    ]
    assert moved(first, after) == [True, False]
    assert moved(after, later) == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize("corrects", [True, False])
def test_what_is_learned_is_the_schrodinger_bridge(corrects, monkeypatch):
    """Without corrector matching a target off the centre is missed."""
    if not corrects:
        still = lambda self, part, *of: (residual(self, part, *of) if part == CONTROL
                                         else 0 * residual(self, part, *of))  # fmt: skip
        residual = ASBS.residual
        monkeypatch.setattr(ASBS, "residual", still)
    sampler = ASBS(
        num_steps=30, num_updates=2001 - corrects, scale=S0, noise=S / S0, every=25,
        network=partial(MLP, width=16, depth=1),
    )  # fmt: skip
    target = eqx.tree_at(lambda t: t.data, NARROW, (1.5,))
    draws = ppl.sample(sampler, target, num_samples=100, progress=False)
    from samplers.trajectory.kernels import forward_paths

    @eqx.filter_jit
    def ends(trained):
        kernels = sampler.kernels(target, trained.state.learned)
        states = forward_paths(random.key(4), kernels, 40_000)[0].states
        return states[0, :, 0], states[-1, :, 0]

    x0, x1 = map(np.asarray, ends(draws.sampler))
    found = np.array([x1.mean(), x1.var(), np.cov(x0, x1)[0, 1]])
    print(f"\nmean, variance and covariance {found.round(3)}, bridge 1.5, {R**2:.3f}, {C:.3f}")
    assert (np.abs(found - [1.5, R**2, C]).max() < 0.03) == corrects
