"""A diffusion prior: every kind of function is the same law; what is none is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import toy_mixture
from models.targets.gaussian_mixture import GaussianMixture
from ppl.energy import TargetError
from samplers.diffusion import conversions
from samplers.diffusion.conversions import (
    PredictsDenoised,
    PredictsNoise,
    PredictsScore,
    PredictsV,
    PredictsVelocity,
)
from samplers.diffusion.paths import EDM, VE, MeanReverting, StraightFlow, VPLinear
from samplers.diffusion.prior import DiffusionPrior
from samplers.diffusion.sampler import DiffusionSampler
from samplers.direct import ExactDraws

KINDS = [PredictsDenoised, PredictsNoise, PredictsScore, PredictsV, PredictsVelocity]
VECTOR = jnp.zeros(2)


def mixture():
    return GaussianMixture([[1.0, 0.0], [-1.0, 0.5]], 0.3, [0.3, 0.7])


def network(path, kind, target):
    """What a perfectly trained network of this kind returns."""

    def fn(x, t):
        level = path.level(t)
        denoised = target.denoise(x / level.alpha, level.kappa)
        return kind(fn).output(denoised, x, level)

    return kind(fn)


def test_the_denoiser_of_a_mixture_is_the_score_of_its_noisy_law(x64):
    """Tweedie: D = y + sigma^2 grad log p_sigma(y)."""
    target, y, sigma = mixture(), jnp.array([0.4, -0.2]), 0.7
    wide = GaussianMixture(target.means, jnp.sqrt(target.sds**2 + sigma**2), [0.3, 0.7])
    expected = y + sigma**2 * jax.grad(wide.log_density)(y)
    np.testing.assert_allclose(target.denoise(y, sigma), expected, rtol=1e-10)
    # Far out, where all shares underflow, the nearest component has it.
    far = target.denoise(jnp.array([60.0, 0.0]), 0.1)
    np.testing.assert_allclose(far, 1.0 + np.array([59.0, 0.0]) * 0.9 - [0.0, 1.0], rtol=1e-6)


def test_components_of_different_widths_are_shared_by_their_density(x64):
    target = GaussianMixture([[0.0, 0.0], [1.0, 1.0]], [0.2, 1.0], [0.4, 0.6])
    draws = np.asarray(target.sample(random.key(0), 400_000))
    y, sigma = np.array([0.5, 0.3]), 0.5
    weights = np.exp(-np.sum((y - draws) ** 2, axis=1) / (2 * sigma**2))
    estimate = weights @ draws / weights.sum()
    spread = np.sqrt((weights**2) @ (draws - estimate) ** 2) / weights.sum()
    assert np.all(np.abs(target.denoise(jnp.array(y), sigma) - estimate) < 4.9 * spread)


@pytest.mark.parametrize(
    "path", [VPLinear(), VE(), StraightFlow(), EDM()], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_function_is_the_same_denoiser(path, kind, x64):
    target = mixture()
    prior = DiffusionPrior(path, network(path, kind, target), target.template)
    y = jnp.array([0.4, -0.2])
    for sigma in (0.05, 1.0, 20.0):
        np.testing.assert_allclose(prior.denoise(y, sigma), target.denoise(y, sigma), rtol=1e-6)


def test_a_mean_reverting_path_moves_the_data_and_nothing_else(x64):
    target, mean = mixture(), jnp.array([3.0, -2.0])
    plain = DiffusionPrior(MeanReverting(mean), target.denoise, target.template)
    path = MeanReverting(mean)

    def fn(x, t):
        level = path.level(t)
        return target.denoise(mean + (x - mean) / level.alpha, level.kappa)

    trained = DiffusionPrior(path, PredictsDenoised(fn), target.template)
    y = jnp.array([0.4, -0.2])
    for prior in (plain, trained):
        np.testing.assert_allclose(prior.denoise(y, 0.3), target.denoise(y, 0.3), rtol=1e-8)
    draws = [np.asarray(prior.sample(random.key(0), 500)) for prior in (plain, trained)]
    np.testing.assert_allclose(*draws, rtol=1e-6)
    assert abs(draws[0].mean(0)[1] - 0.35) < 0.1


def test_positions_may_be_trees_and_may_be_images():
    target = mixture()

    def fn(position, sigma):
        denoised = target.denoise(jnp.stack([position["a"], position["b"][0]]), sigma)
        return {"a": denoised[0], "b": denoised[1:]}

    tree = DiffusionPrior(EDM(), fn, {"a": jnp.zeros(()), "b": jnp.zeros(1)})
    image = DiffusionPrior(
        EDM(), lambda x, s: target.denoise(x.ravel(), s).reshape(2, 1), jnp.zeros((2, 1))
    )
    flat = DiffusionPrior(EDM(), target.denoise, target.template)
    draws = [prior.sample(random.key(0), 20) for prior in (tree, image, flat)]
    np.testing.assert_allclose(draws[1][..., 0], draws[2], rtol=1e-5)
    assert draws[0]["b"].shape == (20, 1)
    both = np.stack([draws[0]["a"], draws[0]["b"][:, 0]], axis=1)
    np.testing.assert_allclose(both, draws[2], rtol=1e-5)


# Conditions -----------------------------------------------------------------------------------


def conditional(conditions=2):
    """Noise with a mode a class; without a class, both."""
    target = mixture()

    def denoiser(y, sigma, condition):
        if condition is None:
            return target.denoise(y, sigma)
        shrink = target.sds[0] ** 2 / (target.sds[0] ** 2 + sigma**2)
        mean = target.means[condition]
        return mean + shrink * (y - mean)

    return DiffusionPrior(EDM(), denoiser, target.template, conditions=conditions)


def test_a_condition_draws_from_its_own_law_and_none_from_all():
    prior = conditional(("right", "left"))
    right = prior.given("right").sample(random.key(0), 200)
    assert np.all(right[:, 0] > -0.5)
    both = prior.sample(random.key(0), 200)
    assert 0.1 < np.mean(both[:, 0] > 0) < 0.5


def test_guidance_extrapolates_and_is_traced(compilations):
    prior, y = conditional(), jnp.array([0.1, 0.2])
    without, given = prior.denoise(y, 1.0), prior.given(1).denoise(y, 1.0)
    guided = prior.given(1, guidance=3.0).denoise(y, 1.0)
    np.testing.assert_allclose(guided, without + 3.0 * (given - without), rtol=1e-5)
    np.testing.assert_allclose(prior.given(1, guidance=1.0).denoise(y, 1.0), given, rtol=1e-5)
    denoise = eqx.filter_jit(lambda prior: prior.denoise(y, 1.0))
    denoise(prior.given(1, guidance=3.0))
    with compilations() as count:
        denoise(prior.given(0, guidance=2.0))
    assert "<lambda>" not in count.traced


def test_an_unknown_condition_is_refused():
    with pytest.raises(TargetError, match="unknown condition 7; this prior knows the classes 0 to"):
        conditional().given(7)
    with pytest.raises(TargetError, match="unknown condition 'up'; this prior knows right, left"):
        conditional(("right", "left")).given("up")
    with pytest.raises(TargetError, match="takes no condition; got 1. Declare"):
        DiffusionPrior(EDM(), mixture().denoise, VECTOR).given(1)
    embedded = DiffusionPrior(
        EDM(), lambda y, s, c: 0 * y if c is None else 0 * y + jnp.sum(c), VECTOR,
        conditions=jnp.zeros(3),
    )  # fmt: skip
    with pytest.raises(TargetError, match=r"does not fit: expected \{x: float32\[3\]\}"):
        embedded.given(jnp.zeros(4))


# As a target ----------------------------------------------------------------------------------


def test_it_is_a_prior_of_posteriors_and_tilts():
    prior = DiffusionPrior(EDM(), mixture().denoise, VECTOR)
    for target in (
        ppl.posterior(prior, lambda x, y: -jnp.sum((x - y) ** 2), jnp.ones(2)),
        ppl.tilt(prior, lambda x: x[0]),
    ):
        assert target.offers == {"denoise", "log_likelihood"}
    assert prior.offers == {"denoise"}
    with pytest.raises(TargetError, match="density=samplers.ProbabilityFlow"):
        prior.log_density(VECTOR)
    with pytest.raises(TargetError, match="are a solver's, not exact"):
        ppl.sample(ExactDraws(), prior)


def test_the_toy_s_denoiser_is_the_same_in_numpy():
    rng = np.random.default_rng(0)
    for kappa in (0.05, 1.0, 10.0):
        y = kappa * rng.normal(size=(5, 2))
        jax_says = jax.vmap(toy_mixture.denoise, (0, None))(jnp.array(y), kappa)
        np.testing.assert_allclose(jax_says, toy_mixture.denoise_many(y, kappa), rtol=2e-3)


# What is none ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("denoiser", "message"),
    [
        (lambda y, s: y[:1], r"returns \{x: float32\[1\]\}. It is called with one position at a"),
        (lambda y, s: {"a": y}, r"must return a position like the template \{x: float32\[2\]\}"),
        (lambda y, s: y.astype(jnp.float16), r"it returns \{x: float16\[2\]\}"),
        (lambda y: y, r"failed on \(position, noise level\)"),
        (lambda y, s: y @ jnp.ones(3), r"failed on \(position, noise level\) = \(\{x: float32"),
        (3.0, r"denoiser must be a function denoiser\(y, sigma\)"),
    ],
)
def test_a_denoiser_of_the_wrong_shape_or_dtype_is_refused(denoiser, message):
    with pytest.raises(TargetError, match=message):
        DiffusionPrior(EDM(), denoiser, VECTOR)


def test_a_path_is_asked_for():
    with pytest.raises(TargetError, match="the first argument is a noise path"):
        DiffusionPrior(mixture().denoise, EDM(), VECTOR)


@pytest.mark.parametrize(
    "path", [VPLinear(), EDM(), StraightFlow()], ids=lambda p: type(p).__name__
)
def test_noise_announced_as_data_is_detected_at_the_highest_noise(path):
    noise = network(path, PredictsNoise, mixture())
    with pytest.raises(TargetError, match=r"returns the noise, not the data.*PredictsNoise\(fn\)"):
        DiffusionPrior(path, PredictsDenoised(noise.fn), VECTOR)
    data = network(path, PredictsDenoised, mixture())
    with pytest.raises(TargetError, match=r"do not follow the noise .*PredictsDenoised\(fn\)"):
        DiffusionPrior(path, PredictsNoise(data.fn), VECTOR)


def test_wide_data_whose_denoiser_happens_to_have_slope_one_are_no_noise():
    # c^2 k / (c^2 + k^2) = 1 at the highest level, for data of sd c: no noise has it at half of it.
    target = GaussianMixture([[0.0, 0.0]], 9.0, None)
    path = EDM(t_max=81.0)
    DiffusionPrior(path, network(path, PredictsDenoised, target), VECTOR)


def test_all_kinds_are_there():
    found = {
        name for name, value in vars(conversions).items() if name.startswith("Predicts") and value
    }
    assert found == {kind.__name__ for kind in KINDS}


def test_a_sampler_needs_a_diffusion_prior():
    posterior = ppl.tilt(DiffusionPrior(EDM(), mixture().denoise, VECTOR), lambda x: x[0])
    with pytest.raises(TargetError, match="needs a sampler that steers"):
        ppl.sample(DiffusionSampler(), posterior)
    with pytest.raises(TargetError, match=r"DiffusionPrior\(samplers.EDM\(\), target.denoise"):
        ppl.sample(DiffusionSampler(), mixture())
