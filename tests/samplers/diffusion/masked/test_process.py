"""The masked process: what is masked, in which places tokens are revealed, and which are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from agreement import z_limit
from samplers.diffusion.masked.process import (
    all_masked,
    likeliest,
    num_open,
    random_places,
    reveal,
)
from token_laws import p_value, probabilities, table

pytestmark = pytest.mark.usefixtures("unoptimized")
LIMIT = z_limit(100)
N = 20_000
RIGHT, WRONG = 1e-5, 1e-8
KNOWN = [3, 1, 3, 2]  # 3 is the mask


def test_any_of_the_masked_places_comes_next():
    masked = jnp.array([True, False, True, True, False])
    places = np.asarray(
        jax.vmap(lambda key: random_places(key, masked, 4))(random.split(random.key(0), 3000))
    )
    assert (places[:, 3] == 5).all()  # there are three
    assert (np.sort(places[:, :3], axis=1) == [0, 2, 3]).all()
    orders, counts = np.unique(places, axis=0, return_counts=True)
    assert len(orders) == 6
    assert np.all(np.abs(counts - 500) < LIMIT * np.sqrt(500))


def test_places_beyond_the_end_are_not_revealed():
    log_probs = jnp.log(jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
    tokens = reveal(random.key(0), jnp.full(3, 2), log_probs, jnp.array([1, 3]))
    assert tokens.tolist() == [2, 0, 2]
    assert likeliest(tokens, log_probs).tolist() == [1, 0, 1]


# Tokens that are known ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def infilling():
    return samplers.MaskedPrior(table().unmask, 4, 3).given(KNOWN)


@pytest.fixture(scope="module")
def law():
    """Of the other two tokens, from the table."""
    joint = probabilities(table()).reshape(3, 3, 3, 3)[:, 1, :, 2].ravel()
    return joint / joint.sum()


@pytest.mark.parametrize(
    "sampler",
    [samplers.FirstHitting(), pytest.param(samplers.MaskedAncestral(4096), marks=pytest.mark.slow)],
)
def test_the_other_tokens_have_their_law_given_those_that_are_known(infilling, law, sampler):
    draws = ppl.sample(sampler, infilling, num_samples=N, progress=False)["x"][0]
    assert (draws[:, 1] == 1).all()
    assert (draws[:, 3] == 2).all()
    assert p_value(draws[:, [0, 2]], law) > RIGHT
    # Draws of all tokens, over which the known ones are written, are not of that law.
    written_over = ppl.sample(sampler, table(), num_samples=N, progress=False)["x"][0]
    assert p_value(written_over[:, [0, 2]], law) < WRONG


def test_a_call_for_each_token_that_is_not_known(infilling):
    assert num_open(infilling) == 2
    assert samplers.FirstHitting().resolve(infilling).evaluations(10) == (0, 20)
    assert num_open(table()) == 4
    blank, mask = all_masked(infilling, 2)
    assert (mask, blank.tolist()) == (3, [KNOWN] * 2)


def test_other_known_tokens_compile_nothing(infilling, compilations):
    options = {"num_samples": 4, "progress": False}
    ppl.sample(samplers.FirstHitting(), infilling, **options)
    other = infilling.given([0, 3, 3, 0])
    with compilations() as count:
        draws = ppl.sample(samplers.FirstHitting(), other, **options)
    assert not count.of("_draw")
    assert (draws["x"][0][:, [0, 3]] == 0).all()


def test_the_bound_is_that_of_the_other_tokens(infilling, law):
    log_p = jax.jit(lambda x: infilling.log_density_bound(random.key(0), x))
    assert float(log_p(jnp.array([0, 1, 2, 2]))) == pytest.approx(np.log(law[2]), rel=1e-4)
    assert float(log_p(jnp.array([0, 0, 2, 2]))) == -np.inf


@pytest.mark.slow
def test_steering_fills_in_under_a_reward(infilling, law):
    reward = lambda tokens: 1.5 * (tokens[0] == tokens[2])
    sampler = samplers.MaskedFKSteering(num_particles=N)
    draws = ppl.sample(sampler, ppl.tilt(infilling, reward), progress=False)
    equal = np.arange(3) * 4
    z = 1 + np.expm1(1.5) * law[equal].sum()
    assert abs(draws.log_evidence.value - np.log(z)) < LIMIT * draws.log_evidence.std_error
    assert (draws["x"][0][:, [1, 3]] == [1, 2]).all()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([0, 1, 2], r"one sequence of 4 integers, 3 \(the mask\) where.*int32\[3\]"),
        ([0.0, 1.0, 2.0, 3.0], "one sequence of 4 integers"),
        ([0, 1, 2, 4], r"tokens are 0 to 2, and 3 \(the mask\) where.*got \[0, 1, 2, 4\]"),
    ],
)
def test_tokens_that_are_none_are_refused(tokens, message):
    prior = samplers.MaskedPrior(table().unmask, 4, 3)
    with pytest.raises(ppl.TargetError, match=message):
        prior.given(tokens)
