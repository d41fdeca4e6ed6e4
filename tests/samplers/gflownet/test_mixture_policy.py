"""What a mixture says of a prefix is what Bayes' rule says, and its flows balance."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from models.environments.bit_sequences import BitSequences
from models.environments.hypergrid import Hypergrid
from models.environments.sequences import Sequences
from samplers.gflownet.paths import forward_and_told
from samplers.gflownet.policies import masked
from samplers.gflownet.scores import score
from samplers.trajectory.objectives import DetailedBalance, log_weights

pytestmark = pytest.mark.usefixtures("unoptimized")
LETTERS, LENGTH = 3, 4
ENVIRONMENT = Sequences(lambda x: jnp.zeros(()), num_letters=LETTERS, length=LENGTH)


@pytest.fixture(scope="module")
def mixture():
    """Five components, of unequal shares."""
    policy = samplers.MixturePolicy(num_components=5, spread=1.5)
    start = policy.start(random.key(0), ENVIRONMENT)
    return eqx.tree_at(lambda p: p.shares, start, random.normal(random.key(1), (5,)))


def law(mixture, prefix):
    """Probability that a string of the mixture begins like this, by hand in double precision."""
    p = np.exp(np.asarray(mixture.theta, float))
    p /= p.sum(2, keepdims=True)
    shares = np.exp(np.asarray(mixture.shares, float))
    each = np.prod([p[t, :, letter] for t, letter in enumerate(prefix)] or [1.0], axis=0)
    return float((shares / shares.sum() * each).sum())


def test_the_next_letter_is_that_of_the_mixture(mixture):
    said = eqx.filter_jit(lambda s: mixture(ENVIRONMENT, s))
    for prefix in ([], [2], [0, 1], [1, 1, 0]):
        state = jnp.array(prefix + [-1] * (LENGTH - len(prefix)), jnp.int32)
        found = said(state)
        log_p = masked(found.forward, ENVIRONMENT.forward_mask(state))[:LETTERS]
        expected = [law(mixture, [*prefix, a]) / law(mixture, prefix) for a in range(LETTERS)]
        np.testing.assert_allclose(np.exp(log_p), expected, rtol=1e-4)
        assert np.exp(found.log_flow) == pytest.approx(law(mixture, prefix), rel=1e-4)
        # A twin whose components keep their shares, whatever has been written.
        if prefix:
            p = jax.nn.softmax(mixture.theta[len(prefix)])
            assert np.abs(jax.nn.softmax(mixture.shares) @ p - np.array(expected)).max() > 0.01


def test_its_flows_balance_wherever_building_goes_on(mixture):
    """On strings whose reward is the mixture's own law nothing is left, weights nor imbalance."""
    environment = Sequences(
        lambda x, theta, shares: jax.nn.logsumexp(
            jax.nn.log_softmax(shares)
            + jax.nn.log_softmax(theta)[jnp.arange(LENGTH), :, x].sum(0)
        ),
        mixture.theta, mixture.shares, num_letters=LETTERS, length=LENGTH,
    )  # fmt: skip
    backward = samplers.UniformBackward()

    @eqx.filter_jit
    def scored(mixture):
        paths, tells = forward_and_told(random.key(2), environment, mixture, backward, 50)
        log_reward = jax.vmap(environment.log_density)(paths.objects)
        return score(environment, mixture, backward, paths, log_reward, tells)

    scores = scored(mixture)
    np.testing.assert_allclose(log_weights(scores), 0.0, atol=1e-4)
    assert DetailedBalance()(scores) < 1e-8
    assert DetailedBalance()(scores._replace(log_flow=2 * scores.log_flow)) > 0.1


def test_bits_of_a_word_are_independent_where_features_are_bits():
    words = BitSequences(jnp.zeros((1, 4), jnp.int32), word=2)
    policy = samplers.MixturePolicy(num_components=1).start(random.key(0), words)
    p = np.exp(policy.log_letters(words))[:, 0]  # of 00, 01, 10, 11
    np.testing.assert_allclose(p[:, 0] * p[:, 3], p[:, 1] * p[:, 2], rtol=1e-5)
    odds = np.log(p[:, 2] / p[:, 0])  # of the first bit
    np.testing.assert_allclose(odds, 2 * policy.theta[:, 0, 0], rtol=1e-4)


def test_where_sequences_may_stop_their_laws_are_laws(mixture):
    environment = Sequences(lambda x: jnp.zeros(()), num_letters=LETTERS, length=LENGTH, shortest=2)
    stops = random.normal(random.key(3), mixture.stops.shape)
    policy = eqx.tree_at(lambda p: p.stops, mixture, stops)
    for prefix, legal in (([0], 3), ([0, 2], 4), ([0, 2, 1], 4)):
        state = jnp.array(prefix + [-1] * (LENGTH - len(prefix)), jnp.int32)
        p = np.exp(policy(environment, state).forward)
        assert p.sum() == pytest.approx(1, rel=1e-5)
        assert (p > 1e-6).sum() == legal


def test_what_is_not_written_from_the_left_is_refused():
    gflownet = samplers.GFlowNet(policy=samplers.MixturePolicy())
    with pytest.raises(ppl.TargetError, match="MixturePolicy writes sequences from the left"):
        ppl.sample(gflownet, Hypergrid(), progress=False)
    with pytest.raises(ValueError, match="spread must be"):
        samplers.MixturePolicy(spread=0)
