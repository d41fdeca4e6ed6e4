"""Temperatures move to equal rates of refusal; the first ones follow the draws of the reference."""

import jax.numpy as jnp
import numpy as np

from samplers.mcmc.temperature_ladder import first_ladder, log_odds, next_ladder, refusals


def test_refusals_are_those_of_the_metropolis_ratio():
    """States that are worse at the higher temperature are let down; impossible ones never are."""
    ladder = jnp.array([0.0, 0.25, 1.0])
    values = jnp.array([[-1.0, -3.0, -2.0], [-jnp.inf, -3.0, -5.0]])
    odds = [[0.25 * 2.0, 0.75 * -1.0], [-np.inf, 0.75 * 2.0]]
    np.testing.assert_allclose(log_odds(values, ladder), odds, rtol=1e-6)
    expected = [[0, 1 - np.exp(-0.75)], [1, 0]]
    np.testing.assert_allclose(refusals(values, ladder), expected, rtol=1e-6)
    np.testing.assert_allclose(refusals(np.array(values), np.array(ladder)), expected, rtol=1e-6)


def test_a_ladder_moves_to_equal_shares_of_the_barrier():
    """Rates that are those of equal barriers already leave it; a steep step gets more rungs."""
    ladder = jnp.array([0.0, 0.01, 0.1, 1.0])
    same, nearest = next_ladder(jnp.full(3, 0.4), ladder)
    np.testing.assert_allclose(same, ladder, rtol=1e-5)
    np.testing.assert_array_equal(nearest, [0, 1, 2])
    steep, nearest = next_ladder(jnp.array([0.1, 0.1, 0.7]), ladder)
    np.testing.assert_allclose(
        steep, [0, 0.1 ** (1 - 1 / 7), 0.1 ** (1 - 4 / 7), 1.0][:2] + [*steep[2:]], rtol=1e-5
    )
    assert (steep[1:3] > ladder[1:3]).all()
    low, _ = next_ladder(jnp.array([0.9, 0.05, 0.05]), ladder)
    np.testing.assert_allclose(low[1], 0.01 * (1 / 3) / 0.9, rtol=1e-4)


def test_rounds_end_at_equal_rates_where_the_barrier_is_known():
    """A pair is refused by what the barrier rises between the two: here b^(1/3)."""
    ladder = jnp.linspace(0.0, 1.0, 9)
    for _ in range(30):
        rates = jnp.diff(ladder ** (1 / 3))
        ladder, _ = next_ladder(rates, ladder)
    np.testing.assert_allclose(jnp.diff(ladder ** (1 / 3)), 1 / 8, rtol=0.01)


def test_the_first_ladder_begins_where_half_of_the_draws_count():
    """One draw in four is better by v: (1 + 3 w)^2 = 2 (1 + 3 w^2) at w = exp(-b v)."""
    v = 40.0
    values, equal = jnp.array([0.0, -v, -v, -v] * 25), jnp.linspace(0.0, 1.0, 5)
    first = -np.log(2 / np.sqrt(3) - 1) / v
    np.testing.assert_allclose(
        first_ladder(values, equal), [0, *first ** np.linspace(1, 0, 4)], rtol=1e-3
    )
    # Where all draws count alike, steps are equal and no longer.
    assert first_ladder(jnp.zeros(100), equal)[1] == 0.25
