"""Adjoint sampling: its fixed point on a Gaussian is known, its weights are exact."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy.special import expit

import ppl
from models.targets.benchmark_mixtures import gmm40_jax
from models.targets.gaussian_mixture import GaussianMixture
from models.targets.phi4 import Phi4
from samplers.networks import MLP
from samplers.trajectory import replay
from samplers.trajectory.adjoint import AdjointSampling
from samplers.trajectory.control import Control
from samplers.trajectory.matching import Ends

pytestmark = pytest.mark.usefixtures("unoptimized")
SOFT = GaussianMixture([[1.5, 1.5], [1.5, -1.5], [-1.5, 1.5], [-1.5, -1.5]])
LOG_Z = float(SOFT.log_normalizer)
SMALL = AdjointSampling(
    num_steps=6, num_updates=30, num_paths=64, every=10, batch=64, capacity=128,
    network=partial(MLP, width=8, depth=1),
)  # fmt: skip


R, S, STEP = 0.7, 2.0, 3
RHO = S**2 / R**2 - 1
NORMAL = ppl.from_log_density(lambda x: -0.5 * jnp.vdot(x, x) / R**2, jnp.zeros(1))


def nothing(num_dims):
    """A control before training."""
    network = partial(MLP, width=2, depth=1)
    return (Control(random.key(0), network, num_dims, None, jnp.float32),)


@eqx.filter_jit
def residuals(sampler, *of_path):
    return jax.vmap(sampler._residual, (None, None, None, 0, None, 0))(0, *of_path)


def of_a_gaussian(rho, width=R, reach=100.0):
    """States on the way to N(0, width^2), labels of the control, and its optimal slope.

    The target is N(0, R^2). With v = h(t) / h(1), x_t = v x_1 + noise of variance s^2 v (1 - v),
    and E[x_1 | x_t] = k x_t; the mean label given x_t is s (1 / s^2 - 1 / R^2) k x_t.
    """
    sampler = AdjointSampling(scale=S, num_steps=6, reach=reach)
    bridge = sampler.kernels(NORMAL, nothing(1))
    v = float(bridge.shares[STEP])
    x1 = width * random.normal(random.key(1), (40_000, 1))
    noise = random.normal(random.key(2), x1.shape)
    residual = residuals(
        sampler, bridge, jnp.array([rho]), Ends(0 * x1, x1, -x1 / R**2), jnp.int32(STEP), noise
    )
    length = 6 * float(bridge.shares[STEP + 1] - v)
    x = np.asarray(v * x1 + S * np.sqrt(v * (1 - v)) * noise)[:, 0]
    k = v * R**2 / (v**2 * R**2 + S**2 * v * (1 - v))
    label = -np.asarray(residual)[:, 0] / np.sqrt(length)
    return x, label, S * (1 / S**2 - 1 / R**2) * k


@pytest.mark.parametrize("rho", [0.0, 3.0])
def test_the_optimal_control_of_a_gaussian_has_no_residual_on_average(rho):
    x, label, slope = of_a_gaussian(rho)
    for times in (1.0, 1.1):
        left = (label - times * slope * x) * x
        assert (abs(left.mean()) < 4.9 * left.std() / 200) == (times == 1)


@pytest.mark.parametrize("width", [R, S], ids=["trained", "far"])
def test_a_label_as_stiff_as_the_mode_is_the_optimal_control_without_noise(width):
    """Also where ends are those of the source: there f alone points beyond the target."""
    x, label, slope = of_a_gaussian(RHO, width)
    np.testing.assert_allclose(label, slope * x, rtol=1e-4, atol=1e-4)
    x, label, slope = of_a_gaussian(0.0, width)
    assert (label - slope * x).std() > (slope * x).std()


def test_stiffness_is_the_curvature_at_most_ends():
    wide = ppl.from_log_density(
        lambda x: -0.5 * jnp.sum(x**2 / jnp.array([R, 1.0, 4.0]) ** 2), jnp.zeros(3)
    )
    sampler = AdjointSampling(scale=S, num_steps=6)
    bridge = sampler.kernels(wide, nothing(3))
    x1 = random.normal(random.key(1), (16, 3))
    ends = Ends(0 * x1, x1, -x1 / jnp.array([R, 1.0, 4.0]) ** 2)
    good = jnp.arange(16) > 0
    ends = ends._replace(gradient=ends.gradient.at[0].set(jnp.nan))
    found = eqx.filter_jit(sampler._stiffness)(random.key(2), bridge, ends, good)
    np.testing.assert_allclose(found, [RHO, S**2 - 1, 0], rtol=1e-3)


def test_far_gradients_are_cut_by_coordinate_and_the_cut_is_named():
    label = np.abs(of_a_gaussian(0.0, reach=2.0)[1])
    assert label.max() == pytest.approx(2.0)
    assert 0.3 < (label < 1.99).mean() < 0.7
    sampler = AdjointSampling()
    assert sampler.notes({"clipped": np.zeros(8)}) == []
    (note,) = sampler.notes({"clipped": np.array([0.0, 0.5])})
    assert "50% of the ends" in note
    assert "reach=3 scales" in note


def drawn_of(sampler, ends):
    power = sampler._power(ends)
    return replay.draw(random.key(1), ends, 4000, lambda b: power * b.log_reward)[0]


@pytest.mark.parametrize("kept", [0.5, 1.0])
def test_what_the_buffer_has_of_a_mode_is_weighed_by_its_paths(kept):
    """A third of the ends are of one of two modes, and their weights say a half."""
    rare = jnp.arange(126) % 3 == 0
    ends = replay.empty(jax.ShapeDtypeStruct((), bool), 128, jnp.float32)
    ends = replay.insert(ends, rare, jnp.where(rare, jnp.log(2.0), 0.0), jnp.ones(126, bool))
    drawn = eqx.filter_jit(drawn_of)(AdjointSampling(kept=kept), ends)
    share = 0.5 if kept < 1 else 1 / 3  # all alike: nothing brings back what is rare
    assert float(drawn.mean()) == pytest.approx(share, abs=4.9 * 0.5 / 4000**0.5)


@pytest.fixture(scope="module")
def draws():
    return ppl.sample(SMALL, SOFT, num_samples=4096, progress=False)


@pytest.mark.slow
def test_training_pays_for_its_simulations_alone(draws):
    assert draws.num_evaluations == (3 * 64 * 2 + 4096, 3 * 64 * 2)
    assert np.isfinite(draws.history["loss"]).all()
    assert not draws.history["diverging"].any()


@pytest.mark.slow  # as those of ASBS, which has the same training, do in the gate
def test_weights_obey_the_bounded_identity(draws):
    exact = SOFT.sample(random.key(1), 4096)
    back = eqx.filter_jit(lambda s, x: s.log_weights(random.key(2), SOFT, x))(draws.sampler, exact)
    forward = draws.log_weights.ravel()
    for shift in (0.0, 0.3):
        a, b = expit(forward + shift - LOG_Z), expit(LOG_Z - np.asarray(back) - shift)
        z = (a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 4096)
        assert (abs(z) < 4.9) == (shift == 0)


class Loud(AdjointSampling):
    """By the gradient alone."""

    def _stiffness(self, rng_key, kernels, ends, good):
        return jnp.zeros_like(ends.x1[0])


@pytest.mark.slow
@pytest.mark.parametrize(("make", "reach"), [(AdjointSampling, 3.0), (Loud, 1e6)])
def test_forty_modes_in_50_dimensions_do_not_explode(make, reach):
    """Means lie within 40; by the gradient alone, with no end to its reach, paths go to 10^5."""
    sampler = make(scale=25.0, num_updates=300, reach=reach)
    draws = ppl.sample(sampler, gmm40_jax(50), num_samples=512, progress=False)
    x, w = np.asarray(draws["x"]), draws.log_weights
    print(f"\nfarthest {np.abs(x).max():.3g}, mean of w {w.mean():.4g}")
    stays = np.isfinite(w).all() and np.abs(x).max() < 250 and w.mean() > -1e5
    assert stays == (make is AdjointSampling)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0.2, 1.0])
def test_both_signs_of_a_field_on_16_sites_are_kept(kept):
    """Two keys had 0.505 and 0.532 of one sign. Of 64 sites one sign is lost."""
    target = Phi4(num_rows=4, num_columns=4, kappa=0.3)
    sampler = AdjointSampling(scale=2.0, num_updates=800, kept=kept)
    draws = ppl.sample(sampler, target, num_samples=2048, progress=False)
    m = np.asarray(target.magnetization(jnp.asarray(draws["x"][0])))
    w = draws.log_weights.ravel()
    ess = ppl.weights.ess(w) / w.size
    print(f"\n{(m > 0).mean():.3f} of the draws are positive, mean size {np.abs(m).mean():.2f}")
    # Where ends are drawn all alike, the field is half as large, and weights even it out no more.
    assert (abs((m > 0).mean() - 0.5) < 0.1 and ess > 0.1) == (kept < 1)


def test_a_buffer_smaller_than_a_simulation_is_refused():
    with pytest.raises(ValueError, match="the buffer holds 10 ends, fewer than the 256 paths"):
        ppl.sample(AdjointSampling(capacity=10), SOFT, progress=False)
