"""Masked diffusion learns the law of its data, and refuses what is no set of sequences."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from token_laws import one_by_one, p_value, probabilities, table

pytestmark = pytest.mark.usefixtures("unoptimized")
SMALL = partial(samplers.MaskedTransformer, width=16, depth=1, num_heads=2)


class Pairs(eqx.Module):
    """Logits linear in the tokens that are seen: quick to compile."""

    weights: jax.Array

    def __init__(self, rng_key, length, num_tokens):
        self.weights = jnp.zeros((length, num_tokens + 1, length, num_tokens))

    def __call__(self, tokens):
        seen = jax.nn.one_hot(tokens, self.weights.shape[1])
        return jnp.einsum("it,itjm->jm", seen, self.weights)


@pytest.mark.slow
def test_it_learns_the_law_of_its_data():
    data = table(3).sample(random.key(0), 20_000)
    sampler = samplers.MaskedDiffusion(network=SMALL, num_updates=1500, learning_rate=1e-2)
    draws = ppl.sample(sampler, ppl.from_samples(data), num_samples=2048, progress=False)
    law = probabilities(table(3))
    learned = one_by_one(draws.sampler.prior.unmask, 3, 3)
    p = law.reshape(3, 3, 3)
    sides = [p.sum(tuple(j for j in range(3) if j != i)) for i in range(3)]
    independent = np.einsum("i,j,k->ijk", *sides).ravel()
    distance = lambda other: np.abs(other - law).sum() / 2
    print(distance(learned), distance(independent))
    assert distance(learned) < 0.06
    assert distance(independent) > 0.15  # what places by themselves would give
    assert p_value(draws["x"][0], learned) > 1e-5


def test_the_trained_prior_is_a_target_that_is_saved_and_read(tmp_path):
    data = np.asarray(table().sample(random.key(0), 50))
    sampler = samplers.MaskedDiffusion(network=Pairs, num_updates=3, num_rows=8)
    target = ppl.from_samples(data)
    draws = ppl.sample(sampler, target, num_samples=8, progress=False)
    prior = draws.sampler.prior
    assert isinstance(prior, samplers.MaskedPrior)
    assert "unmask" in prior.offers
    assert draws.num_evaluations == (0, 3 * 8 + 16 * 4)
    draws.sampler.save(tmp_path / "masked.eqx")
    again = ppl.load_sampler(tmp_path / "masked.eqx", sampler.untrained(target))
    blank = jnp.full(4, 3, jnp.int32)
    np.testing.assert_array_equal(again.prior.unmask(blank), prior.unmask(blank))
    draws.save(tmp_path / "draws.nc")
    np.testing.assert_array_equal(ppl.load(tmp_path / "draws.nc")["x"], draws["x"])


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (np.zeros((5, 4)), {}, r"integers of shape \(row, length\); a row of these data is .*floa"),
        (np.eye(3, dtype=int)[[[0, 1]]], {}, r"From one-hot rows: rows.argmax\(-1\)"),
        (np.array([[0, -1]]), {}, "integers from 0 on; the data hold -1 to 0"),
        (np.array([[0, 3]]), {"num_tokens": 3}, r"from 0 on to 2 \(num_tokens\); the data hold 0 "),
    ],
)
def test_rows_that_are_no_tokens_are_refused(rows, options, message):
    with pytest.raises(ppl.energy.TargetError, match=message):
        ppl.sample(samplers.MaskedDiffusion(**options), ppl.from_samples(rows), progress=False)


def test_a_network_of_other_shapes_is_refused():
    wrong = lambda key, length, num_tokens: lambda tokens: jnp.zeros((length, num_tokens + 1))
    sampler = samplers.MaskedDiffusion(network=wrong)
    with pytest.raises(ppl.energy.TargetError, match="The mask has no column"):
        ppl.sample(sampler, ppl.from_samples(np.array([[0, 1, 2]])), progress=False)
    many = samplers.MaskedDiffusion(network=Pairs, solver=samplers.FirstHitting(tokens_per_call=4))
    with pytest.raises(ValueError, match="at most the length of a sequence, 3; got 4"):
        ppl.sample(many, ppl.from_samples(np.array([[0, 1, 2]])), progress=False)
