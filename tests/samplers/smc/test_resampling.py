"""Resampling: each scheme copies as often as the weights say, and nothing that has no weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from agreement import z_limit
from samplers.smc.resampling import SCHEMES

pytestmark = pytest.mark.usefixtures("unoptimized")

NAMES = sorted(SCHEMES)
SIZE, REPEATS = 7, 4000
LOG_WEIGHTS = np.log([0.31, 0.02, 0.15, 0.22, 0.001, 0.11, 0.189]).astype(np.float32) - 800
SHARES = np.exp(LOG_WEIGHTS.astype(float) - LOG_WEIGHTS.max())
SHARES /= SHARES.sum()


def counts(scheme, log_weights, n, repeats=REPEATS):
    """Copies of each particle, one row for each repetition."""

    def once(key):
        indices = scheme(key, jnp.asarray(log_weights), n)
        return jnp.zeros(len(log_weights), jnp.int32).at[indices].add(1)

    return np.asarray(jax.jit(jax.vmap(once))(random.split(random.key(3), repeats)))


def scores(copies, expected):
    error = copies.std(axis=0, ddof=1) / np.sqrt(len(copies))
    difference = copies.mean(axis=0) - expected
    # An expectation that is whole up to rounding is met in every repetition.
    return np.where(np.abs(difference) < 1e-4, 0, difference / np.maximum(error, 1e-12))


@pytest.fixture(scope="module", params=[SIZE, 20], ids=lambda n: f"n={n}")
def copies(request):
    n = request.param
    return n, {name: counts(SCHEMES[name], LOG_WEIGHTS, n) for name in NAMES}


LIMIT = z_limit(len(NAMES) * 2 * SIZE)


@pytest.mark.parametrize("name", NAMES)
def test_the_expected_number_of_copies_is_n_times_the_weight(copies, name):
    n, found = copies
    assert (found[name].sum(axis=1) == n).all()
    assert np.abs(scores(found[name], n * SHARES)).max() < LIMIT


def test_copies_by_rounded_weights_are_caught():
    """Floor and fill up with the best: what a resampler without randomness would do."""
    n = 20
    wrong = np.floor(n * SHARES)
    wrong[0] += n - wrong.sum()
    noise = np.random.default_rng(0).integers(-1, 2, (REPEATS, SIZE))
    assert np.abs(scores(wrong + noise, n * SHARES)).max() > LIMIT


def test_tempered_weights_are_caught():
    flat = counts(SCHEMES["stratified"], 0.9 * LOG_WEIGHTS, 20)
    assert np.abs(scores(flat, 20 * SHARES)).max() > LIMIT


@pytest.mark.parametrize("name", ["systematic", "ssp"])
def test_no_particle_is_further_than_one_copy_from_its_share(copies, name):
    n, found = copies
    assert (found[name] >= np.floor(n * SHARES)).all()
    assert (found[name] <= np.ceil(n * SHARES)).all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"multinomial"}))
def test_a_mean_over_the_copies_is_less_noisy_than_with_independent_ones(copies, name):
    n, found = copies
    values = np.arange(SIZE)
    noise = {k: (c @ values / n).var() for k, c in found.items()}
    assert noise[name] < noise["multinomial"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dead", [-np.inf, np.nan, np.inf])
def test_a_particle_without_weight_is_never_copied(name, dead):
    log_weights = np.array([dead, -3.0, dead, -2.0, dead, dead, 4.0, dead], np.float32)
    found = counts(SCHEMES[name], log_weights, 50, repeats=300)
    assert (found[:, ~np.isfinite(log_weights)] == 0).all()
    assert (found.sum(axis=1) == 50).all()


@pytest.mark.parametrize("name", NAMES)
def test_rounding_does_not_wake_the_dead(name, monkeypatch):
    """Uniforms at the ends of [0, 1), and many weights whose sum in single precision is not 1."""
    log_weights = np.full(3001, -np.log(3001), np.float32)
    log_weights[[0, -2, -1]] = -np.inf
    ends = (0.0, np.nextafter(np.float32(1), np.float32(0)))
    for u in ends:
        monkeypatch.setattr(
            random, "uniform", lambda key, shape, dtype, u=u: jnp.full(shape, u, dtype)
        )
        indices = np.asarray(SCHEMES[name](random.key(0), jnp.asarray(log_weights), 3001))
        assert np.isfinite(log_weights[indices]).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_particle_with_all_the_weight_is_all_there_is(name):
    log_weights = jnp.array([-jnp.inf, -jnp.inf, 7.0, -jnp.inf])
    np.testing.assert_array_equal(SCHEMES[name](random.key(0), log_weights, 6), 2)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"multinomial", "stratified"}))
def test_equal_weights_copy_each_once(name):
    indices = SCHEMES[name](random.key(0), jnp.full(1000, -5.0), 1000)
    np.testing.assert_array_equal(np.sort(indices), np.arange(1000))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dead", [-np.inf, np.nan])
def test_without_any_weight_all_go_on_as_they_are(name, dead):
    indices = SCHEMES[name](random.key(0), jnp.full(4, dead), 6)
    np.testing.assert_array_equal(indices, [0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("strict_promotion")
def test_precision_and_index_type_hold_under_strict_promotion(name):
    for dtype in (jnp.float32, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            log_weights = jnp.zeros(5, dtype)
            found = jax.eval_shape(
                lambda key, w: SCHEMES[name](key, w, 5), random.key(0), log_weights
            )
            assert found == jax.ShapeDtypeStruct((5,), jnp.int32)
