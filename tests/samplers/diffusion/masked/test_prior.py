"""What a masked prior says of a sequence, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from agreement import t_limit, t_scores, z_limit
from ppl.weights import log_mean_exp
from samplers.diffusion.masked.orders import along_orders
from samplers.diffusion.masked.training import masked_loss, spread
from token_laws import one_by_one, probabilities, table

pytestmark = pytest.mark.usefixtures("unoptimized")
TOKENS = jnp.array([0, 2, 1, 1])
LIMIT = z_limit(100)


def test_every_order_gives_the_probability_of_a_joint_law():
    values = jax.jit(along_orders, static_argnums=3)(random.key(0), table(), TOKENS, 5)
    truth = table().log_density(TOKENS) - table().log_normalizer
    np.testing.assert_allclose(values, truth, rtol=1e-5)


class Uneven:
    """Logits that depend on the tokens seen, and belong to no joint law."""

    def __init__(self):
        self.rows = np.asarray(2 * random.normal(random.key(0), (3, 4, 9)))

    def __call__(self, tokens):
        return 2 * jnp.sin(jnp.einsum("it,itm->m", jax.nn.one_hot(tokens, 4), self.rows)).reshape(
            3, 3
        )


@pytest.fixture(scope="module")
def uneven():
    prior = samplers.MaskedPrior(Uneven(), 3, 3)
    return prior, np.log(one_by_one(prior.unmask, 3, 3)).reshape(3, 3, 3)


def test_the_bound_of_one_order_is_below_and_of_many_rises_to_the_truth(uneven):
    prior, truth = uneven
    tokens = jnp.array([0, 2, 1])
    values = jax.jit(lambda key: along_orders(key, prior, tokens, 6000))(random.key(0))
    values = np.asarray(values, np.float64)
    # The probabilities themselves are unbiased, their logarithms are not.
    scores = t_scores(np.exp(values), np.exp(truth[0, 2, 1]))
    assert abs(scores) < t_limit(100, 5999)
    assert t_scores(values, truth[0, 2, 1]) < -t_limit(100, 5999)
    assert values.mean() < float(log_mean_exp(values)) == pytest.approx(truth[0, 2, 1], abs=0.05)
    one = jax.jit(lambda key: prior.log_density_bound(key, tokens))(random.key(1))
    assert values.min() - 1e-5 <= float(one) <= values.max() + 1e-5


def test_the_loss_of_training_is_the_bound_in_the_mean():
    @jax.jit
    def losses(key):
        number = spread(key, 20_000, 4)
        loss = jax.vmap(masked_loss, (0, None, None, 0))
        return loss(random.split(key, 20_000), table(), TOKENS, number), number

    values, number = (np.asarray(x, np.float64) for x in losses(random.key(0)))
    truth = -np.log(probabilities(table()).reshape((3,) * 4)[tuple(TOKENS)])
    assert abs(t_scores(values, truth)) < LIMIT
    # Without the weight of each number of masks it would be something else.
    assert abs(t_scores(values * number / 4, truth)) > LIMIT


def test_numbers_of_masks_are_uniform():
    number = np.asarray(
        jax.jit(jax.vmap(lambda k: spread(k, 7, 5)))(random.split(random.key(0), 3000))
    )
    shares = np.bincount(number.ravel(), minlength=6)[1:] / number.size
    assert number.min() == 1
    assert number.max() == 5
    assert np.all(np.abs(shares - 0.2) < LIMIT * np.sqrt(0.16 / number.size))


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (None, "network must be a function of the tokens; got None"),
        (lambda x, t: jnp.zeros((4, 3)), r"takes the tokens alone, \(length,\) = \(4,\), and no t"),
        (lambda x: jnp.zeros((3, 4)), r"shape \(length, num_tokens\) = \(4, 3\); got \(3, 4\)"),
        (lambda x: jnp.zeros((4, 4)), r"got \(4, 4\). The mask has no column: it is never drawn"),
        (lambda x: jnp.zeros((3, 3))[x], r"the network must know the mask, token 3 \(an embedding"),
    ],
)
def test_a_network_that_is_none_is_refused(network, message):
    if network is not None and "know the mask" in message:
        network = lambda x: jnp.zeros((3, 3)).at[x].get(mode="fill", fill_value=jnp.nan)
    with pytest.raises(ppl.energy.TargetError, match=message):
        samplers.MaskedPrior(network, 4, 3)


@pytest.mark.parametrize("size", [0, True, 2.5])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(ppl.energy.TargetError, match="num_tokens must be an integer, at least 1"):
        samplers.MaskedPrior(lambda x: x, 4, size)


def test_a_masked_prior_has_no_density_and_says_what_it_has(uneven):
    prior, _ = uneven
    with pytest.raises(ppl.energy.TargetError, match="log_density_bound"):
        ppl.sample(samplers.RandomWalk(), prior, progress=False)
    with pytest.raises(ppl.energy.TargetError, match="a sum over all orders"):
        prior.log_density(jnp.zeros(3, jnp.int32))
    assert jax.eval_shape(lambda key: prior.sample(key, 5), random.key(0)).shape == (5, 3)
