"""First-hitting draws have the law of the masked process, and ancestral ones in the limit.

Truths are tables of all sequences, and sums over all orders.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import random

import ppl
import samplers
from token_laws import counts, one_by_one, p_value, probabilities, table

pytestmark = pytest.mark.usefixtures("unoptimized")
N = 20_000
RIGHT, WRONG = 1e-5, 1e-8


class Inconsistent(eqx.Module):
    """Conditional laws that belong to no joint law: each order has a law of its own."""

    weights: jax.Array

    def __call__(self, tokens):
        seen = jnp.einsum("it,itm->m", jax.nn.one_hot(tokens, 4), self.weights)
        return 2 * jnp.sin(seen).reshape(3, 3)


def inconsistent():
    return samplers.MaskedPrior(Inconsistent(2 * random.normal(random.key(3), (3, 4, 9))), 3, 3)


@eqx.filter_jit
def drawn(sampler, target, seed=0):
    return sampler.resolve(target).draw(random.key(seed), target, N)[0]


@pytest.fixture(scope="module")
def first_hitting():
    return np.asarray(drawn(samplers.FirstHitting(), table()))


def test_first_hitting_has_the_law_of_the_table(first_hitting):
    assert p_value(first_hitting, probabilities(table())) > RIGHT


def test_it_has_the_law_of_ancestral_sampling_in_many_steps(first_hitting):
    ancestral = drawn(samplers.MaskedAncestral(num_steps=4096), table(), 1)
    assert p_value(ancestral, probabilities(table())) > RIGHT
    both = np.stack([counts(first_hitting, 3), counts(ancestral, 3)])
    assert scipy.stats.chi2_contingency(both[:, both.min(0) > 4]).pvalue > RIGHT


def test_several_tokens_at_once_are_another_law(first_hitting):
    law = probabilities(table())
    parallel = drawn(samplers.FirstHitting(tokens_per_call=3), table())
    assert p_value(parallel, law) < WRONG
    both = np.stack([counts(first_hitting, 3), counts(parallel, 3)])
    assert scipy.stats.chi2_contingency(both[:, both.min(0) > 4]).pvalue < WRONG


@pytest.mark.slow
def test_few_steps_are_another_law():
    few = drawn(samplers.MaskedAncestral(num_steps=4), table())
    assert p_value(few, probabilities(table())) < WRONG


def test_of_a_network_that_is_no_joint_law_it_draws_in_random_order():
    prior = inconsistent()
    tokens = drawn(samplers.FirstHitting(), prior)
    assert p_value(tokens, one_by_one(prior.unmask, 3, 3)) > RIGHT
    assert p_value(tokens, one_by_one(prior.unmask, 3, 3, [(0, 1, 2)])) < WRONG


def test_cached_calls_give_the_draws_of_as_many_steps_bit_for_bit():
    cached, every = (
        eqx.filter_jit(samplers.MaskedAncestral(num_steps=16, cached=cached).draw)(
            random.key(0), table(), 64
        )[0]
        for cached in (True, False)
    )
    np.testing.assert_array_equal(cached, every)


# What it costs ----------------------------------------------------------------------------------


class Counted(eqx.Module):
    """A prior that counts the sequences it is called with."""

    calls: list = eqx.field(static=True)
    length: int = eqx.field(static=True)

    @property
    def template(self):
        return jax.ShapeDtypeStruct((self.length,), jnp.dtype("int32"))

    def unmask(self, tokens):
        jax.debug.callback(lambda _: self.calls.append(1), tokens[0])
        # Each token likes to be that of the place before.
        before = jnp.roll(tokens, 1)
        return jax.nn.log_softmax(2.0 * jax.nn.one_hot(before, 4))


def calls(sampler, length, n=1):
    target = Counted([], length)
    tokens, _ = jax.jit(lambda key: sampler.draw(key, target, n))(random.key(0))
    jax.effects_barrier()
    assert tokens.shape == (n, length)
    assert (tokens < 4).all()
    return len(target.calls) / n


@pytest.mark.parametrize(
    ("length", "num_steps"), [(16, 256), pytest.param(256, 4096, marks=pytest.mark.slow)]
)
def test_it_takes_a_tenth_of_the_calls_and_hardly_more_than_cached_ones(length, num_steps):
    steps = samplers.MaskedAncestral(num_steps=num_steps)
    uncached = samplers.MaskedAncestral(num_steps=num_steps, cached=False)
    first, cached = calls(samplers.FirstHitting(), length), calls(steps, length)
    every = calls(uncached, length)
    print(first, cached, every)
    assert (first, every) == (length, num_steps)
    assert every >= 10 * first
    assert first <= 1.15 * cached
    assert abs(cached - steps.num_calls(length)) < 6 * np.sqrt(length**2 / 2 / num_steps)


def test_num_evaluations_are_calls():
    spent = lambda sampler: sampler.resolve(table()).evaluations(256)
    assert spent(samplers.FirstHitting()) == (0, 256 * 4)
    assert spent(samplers.FirstHitting(tokens_per_call=3)) == (0, 256 * 2)
    mean = 8 * (1 - (7 / 8) ** 4)
    assert spent(samplers.MaskedAncestral(num_steps=8)) == (0, int(np.ceil(256 * mean)))
    assert spent(samplers.MaskedAncestral(num_steps=8, cached=False)) == (0, 256 * 8)


# Refusals ---------------------------------------------------------------------------------------


def test_a_target_that_does_not_unmask_is_refused():
    target = ppl.from_log_density(lambda x: -jnp.sum(x**2.0), jnp.zeros(2))
    for sampler in (samplers.FirstHitting(), samplers.MaskedAncestral()):
        with pytest.raises(ValueError, match=r"samplers\.MaskedPrior\(network, length, num_tok"):
            ppl.sample(sampler, target, progress=False)


class Broken(ppl.energy.Energy):
    template: jax.ShapeDtypeStruct
    rows: int = eqx.field(static=True)

    @property
    def offers(self):
        return frozenset({"unmask"})

    def log_density(self, position):
        return jnp.zeros(())

    def unmask(self, tokens):
        return jnp.zeros((self.rows, 3))


def test_positions_that_are_no_tokens_are_refused():
    floats = Broken(jax.ShapeDtypeStruct((4,), jnp.float32), 4)
    with pytest.raises(ValueError, match=r"integers of shape \(length,\); .* float32\[4\]"):
        ppl.sample(samplers.FirstHitting(), floats, progress=False)


def test_rows_that_are_not_one_for_each_place_are_refused():
    short = Broken(jax.ShapeDtypeStruct((4,), jnp.int32), 3)
    with pytest.raises(ValueError, match=r"\(length, num_tokens\) = \(4, ...\).* got \(3, 3\)"):
        ppl.sample(samplers.MaskedAncestral(), short, progress=False)


def test_more_tokens_at_a_call_than_there_are_is_refused():
    with pytest.raises(ValueError, match="at most the length of a sequence, 4; got 5"):
        ppl.sample(samplers.FirstHitting(tokens_per_call=5), table(), progress=False)


def test_what_is_exact_says_so():
    assert samplers.FirstHitting.exactness == "exact"
    assert samplers.FirstHitting().exactness == "exact"
    assert samplers.FirstHitting(tokens_per_call=2).exactness == "biased"
