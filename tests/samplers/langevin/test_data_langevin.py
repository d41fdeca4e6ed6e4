"""Two modes whose weights the score has wrong: the data bring them, a start elsewhere does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
from agreement import t_limit, t_scores, z_limit
from chains import NUM_CHECKS
from samplers.langevin import data_langevin
from samplers.langevin.data_langevin import DataLangevin

pytestmark = pytest.mark.usefixtures("unoptimized")

ROWS, DRAWS, STEP = 2000, 4096, 0.01


def data():
    """A fifth of the rows about -6, the others about 6; variance 1."""
    key_side, key_noise = random.split(random.key(0))
    side = jnp.where(random.uniform(key_side, (ROWS, 1)) < 0.8, 6.0, -6.0)
    return side + random.normal(key_noise, (ROWS, 1))


def score(x):
    """Of the mixture with equal weights: right within the modes."""
    return 6 * jnp.tanh(6 * x) - x


SAMPLER = DataLangevin(score, STEP, num_steps=500)


def drawn():
    draw = lambda key: SAMPLER.draw(key, ppl.from_samples(data()), DRAWS)
    return np.asarray(jax.jit(draw)(random.key(1))[0], np.float64)[:, 0]


def score_of_the_share(x):
    share = float((data() > 0).mean())
    return abs((x > 0).mean() - share) / np.sqrt(share * (1 - share) / DRAWS)


def test_the_modes_have_the_weights_of_the_data_and_their_own_variance():
    x = drawn()
    assert score_of_the_share(x) < z_limit(NUM_CHECKS)
    within = np.abs(x) - 6
    # An Euler step leaves 1 / (1 - h / 2) of a variance of 1.
    found = t_scores(np.stack([within, within**2], axis=1), [0, 1 / (1 - STEP / 2)])
    assert (np.abs(found) < t_limit(NUM_CHECKS, DRAWS - 1)).all()


def test_starts_that_are_not_the_data_lose_the_weights(monkeypatch):
    def elsewhere(rng_key, target, n):
        return random.normal(rng_key, (n, 1))

    monkeypatch.setattr(data_langevin, "starts", elsewhere)
    x = drawn()
    assert abs((x > 0).mean() - 0.5) < 0.05
    assert score_of_the_share(x) > z_limit(NUM_CHECKS)


def test_draws_of_named_rows_and_what_they_cost():
    rows = {"a": np.zeros(20, np.float32), "b": np.ones((20, 2), np.float32)}
    sampler = DataLangevin(lambda p: jax.tree.map(jnp.negative, p), 0.1, num_steps=7)
    draws = ppl.sample(sampler, ppl.from_samples(rows), num_samples=30, progress=False)
    assert draws["b"].shape == (1, 30, 2)
    assert draws.num_evaluations == (0, 7 * 32)


def test_a_path_that_explodes_stops_where_it_was_finite():
    sampler = DataLangevin(lambda x: x**3, 1.0, num_steps=30)
    target = ppl.from_samples(np.full((5, 1), 10.0, np.float32))
    assert np.isfinite(sampler.draw(random.key(0), target, 8)[0]).all()


def test_what_it_cannot_use_is_refused():
    counts = ppl.from_samples(np.arange(6).reshape(3, 2))
    density = ppl.from_log_density(lambda x: -(x @ x), jnp.zeros(1))
    for sampler, target, message in [
        (SAMPLER, counts, r"must be floating.*int32\[2\]"),
        (SAMPLER, density, "DataLangevin needs 'data'"),
        (DataLangevin(jnp.sum, 0.1), ppl.from_samples(data()), "shaped like the row"),
    ]:
        with pytest.raises(ppl.TargetError, match=message):
            ppl.sample(sampler, target, progress=False)
    with pytest.raises(ValueError, match="score must be a function"):
        DataLangevin(3.0, 0.1)
