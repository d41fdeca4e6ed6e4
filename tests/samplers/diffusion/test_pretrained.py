"""The priors that ship are small, load without pickle, and know their images."""

import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from models.inverse.deconvolution import CAMERA
from samplers.diffusion import pretrained

ROOT = Path(__file__).parents[3]
FILES = sorted((Path(pretrained.__file__).parent / "data").glob("*.npz"))


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(ROOT / "docs"))
    yield
    sys.path.remove(str(ROOT / "docs"))


@pytest.fixture(scope="module")
def script(scripts):
    import train_digits_prior

    return train_digits_prior


@pytest.fixture(scope="module")
def prior():
    return samplers.digits_prior()


def test_the_files_are_small_and_hold_no_pickle():
    assert [file.stem for file in FILES] == ["crops", "digits"]
    for file in FILES:
        assert file.stat().st_size < 1_000_000
        table = np.load(file, allow_pickle=False)
        assert all(np.isfinite(table[name]).all() for name in table.files)


def test_held_out_digits_are_denoised_far_better_than_by_a_gaussian(prior, script):
    """The least that linear shrinkage of each pixel leaves, at three levels of noise."""
    (train, _), (held_out, _) = script.digits()
    for sigma, share in ((0.2, 0.8), (0.5, 0.6), (1.0, 0.6)):
        noise = np.random.default_rng(0).normal(size=held_out.shape)
        noisy = jnp.asarray(held_out + sigma * noise, jnp.float32)
        found = jax.jit(jax.vmap(lambda y, s=sigma: prior.denoise(y, s)))(noisy)
        mean, variance = train.mean(0), train.var(0)
        linear = mean + variance / (variance + sigma**2) * (noisy - mean)
        error, other = (np.mean((x - held_out) ** 2) for x in (found, linear))
        assert error < share * other
        shuffled = np.random.default_rng(1).permutation(held_out.ravel()).reshape(held_out.shape)
        lost = jax.jit(jax.vmap(prior.denoise, (0, None)))(shuffled + sigma * noise, sigma)
        assert np.mean((lost - shuffled) ** 2) > error  # and scrambled images are not


def test_draws_are_grey_values_of_an_image(prior):
    solver = samplers.DiffusionSampler(samplers.DPMSolverPP(order=2), num_steps=25)
    draws = np.asarray(solver.on(prior.path).draw(random.key(0), prior, 32)[0])
    assert draws.shape == (32, 8, 8)
    assert np.mean(np.abs(draws) < 1.2) > 0.98
    assert draws[:, :, 0].mean() < -0.95  # the left edge is empty


def test_a_photograph_is_denoised_far_better_than_by_a_gaussian(unoptimized):
    """One of those it was trained on, at a quarter of the scale."""
    image = 2 * np.load(CAMERA) - 1
    corners = [(i, j) for i in (0, 32) for j in (0, 32)]
    crops = np.stack([image[i : i + 32, j : j + 32] for i, j in corners]).astype(np.float32)
    denoise = jax.jit(jax.vmap(samplers.crops_prior().denoise, (0, None)))
    rng = np.random.default_rng(0)
    for sigma, share in ((0.25, 0.6), (0.5, 0.5)):
        noisy = crops + sigma * rng.normal(size=crops.shape).astype(np.float32)
        mean, variance = crops.mean((1, 2), keepdims=True), crops.var((1, 2), keepdims=True)
        shrunk = mean + variance / (variance + sigma**2) * (noisy - mean)
        error, other = (np.mean((x - crops) ** 2) for x in (denoise(noisy, sigma), shrunk))
        assert error < share * other, (error, other)
        scrambled = rng.permuted(crops.reshape(4, -1), axis=1).reshape(crops.shape)
        lost = denoise(scrambled + (noisy - crops), sigma)
        assert np.mean((lost - scrambled) ** 2) > other  # and scrambled images are not


@pytest.mark.slow
def test_draws_of_crops_have_the_statistics_of_photographs(scripts):
    pytest.importorskip("skimage")
    import train_crops_prior as script

    train, held_out = (
        script.crops(9000, held_out=False, seed=0),
        script.crops(495, held_out=True, seed=1),
    )
    prior = samplers.crops_prior()
    draws = ppl.sample(script.SOLVER, prior, num_samples=495, progress=False)
    found = script.judge(np.asarray(draws["x"][0]), train, held_out)
    assert found["pixels within [-1.1, 1.1]"] > 0.98
    floor = found["that of crops it has seen"]
    assert found["energy distance to held-out crops"] < 1.5 * floor
    print(found)
    assert np.all(np.abs(np.log(found["power over that of the data, by frequency"])) < 0.45)
    near, held_out_near = found["nearest of the data"], found["nearest of it to held-out crops"]
    assert near[0] > held_out_near[0]  # not memorized
    left = script.left_of_noise(prior, train, held_out[:99])
    assert all(share < 0.95 for share in left.values())


def test_other_weights_are_refused(prior):
    with pytest.raises(ValueError, match=r"weights have the shapes .*; this network has"):
        pretrained.filled(
            pretrained.denoiser(samplers.MLP, (8, 8), pretrained.DIGITS), [jnp.zeros(3)]
        )
    assert not eqx.tree_equal(prior.denoiser.mean, jnp.zeros((8, 8)))


@pytest.mark.slow  # 30 seconds
def test_draws_are_digits_as_often_as_they_should_be_and_not_those_of_the_data(prior, script):
    draws = ppl.sample(script.SOLVER, prior, num_samples=2048, progress=False)
    found = script.judge(np.asarray(draws["x"][0]))
    print(found)
    assert found["largest score of a label"] < 4.9
    assert found["energy distance over floor"] < 1.5
    near, held_out = found["nearest of the data"], found["that of held-out digits"]
    np.testing.assert_allclose(near, held_out, rtol=0.15)
    assert near[0] > 0.95 * held_out[0]  # not memorized
    # Both classifiers of real digits, that which stops early and that which was trained to its end.
    assert min(found["surer than 0.9"]) > 0.9
    # Scrambled digits, and the mean of two, are not digits to them.
    images = np.asarray(draws["x"][0])
    blurred = script.judge((images + images[::-1]) / 2)
    assert max(blurred["surer than 0.9"]) < 0.9
