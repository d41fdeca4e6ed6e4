"""The Stein test: its kernel from its definition, its level and power, and what it cannot see."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from made_draws import make, of_values
from ppl.diagnostics.stein import stein_kernel, stein_test

LEVEL = 0.05


def standard(x):
    return -0.5 * jnp.sum(x**2)


def normal(seed, n=400, d=2):
    return np.random.default_rng(seed).normal(size=(n, d))


def gaussian(d=2):
    return ppl.from_log_density(standard, jnp.zeros(d))


def rejected(sets, target, **options):
    """Share of sets of draws that the test rejects at its level."""
    pvalues = [stein_test(x, target, seed=i, **options).p_value for i, x in enumerate(sets)]
    return float(np.mean(np.array(pvalues) <= LEVEL))


def error(sets):
    return math.sqrt(LEVEL * (1 - LEVEL) / sets)


def test_kernel_is_the_stein_operator_applied_twice(x64):
    def k(x, y):
        return (1 + jnp.sum((x - y) ** 2)) ** -0.5

    def log_density(x):
        return -jnp.sum(x**4) + x[0] * x[1]

    def u(x, y):
        s, t = jax.grad(log_density)(x), jax.grad(log_density)(y)
        trace = jnp.trace(jax.jacobian(jax.grad(k, 0), 1)(x, y))
        return s @ t * k(x, y) + s @ jax.grad(k, 1)(x, y) + t @ jax.grad(k, 0)(x, y) + trace

    x, y = normal(0, 4, 3), normal(1, 5, 3)
    score = jax.vmap(jax.grad(log_density))
    found = stein_kernel(x, np.asarray(score(x)), y, np.asarray(score(y)))
    expected = jax.jit(jax.vmap(lambda a: jax.vmap(lambda b: u(a, b))(y)))(jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_statistic_does_not_depend_on_blocks_or_on_affine_coordinates(monkeypatch):
    x, matrix = normal(0, 300, 2), np.array([[2.0, 0.0], [1.5, 0.3]])

    def moved(z, inverse):
        return standard(inverse @ z)

    one = stein_test(x, gaussian())
    with jax.enable_x64(True):
        other = ppl.from_log_density(moved, jnp.zeros(2), np.linalg.inv(matrix))
        monkeypatch.setattr("ppl.diagnostics.stein.BLOCK", 37)
        two = stein_test(
            x @ np.diag([3.0, 0.1]),
            ppl.from_log_density(moved, jnp.zeros(2), np.diag([1 / 3, 10.0])),
        )
        assert stein_test(x @ matrix.T, other).p_value > LEVEL
    assert two.discrepancy == pytest.approx(one.discrepancy, rel=1e-4)
    assert two.u_statistic == pytest.approx(one.u_statistic, rel=1e-3, abs=1e-6)
    assert two.p_value == one.p_value


def test_exact_draws_are_rejected_at_the_level():
    sets = [normal(seed, 200) for seed in range(200)]
    assert abs(rejected(sets, gaussian(), num_bootstrap=199) - LEVEL) < 3.9 * error(200)


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 3, 10])
def test_three_to_seven_per_cent_of_500_exact_sets_are_rejected(d):
    share = rejected([normal(seed, 500, d) for seed in range(500)], gaussian(d))
    assert 0.03 <= share <= 0.07, share


@pytest.mark.parametrize("scale", [1.1, 0.9])
def test_a_scale_ten_per_cent_off_is_seen_with_2000_draws(scale):
    sets = [scale * normal(seed, 2000, 3) for seed in range(10)]
    assert rejected(sets, gaussian(3), num_bootstrap=99) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 3, 10])
@pytest.mark.parametrize("scale", [1.1, 0.9])
def test_power_is_above_nine_tenths(d, scale):
    sets = [scale * normal(seed, 2000, d) for seed in range(100)]
    assert rejected(sets, gaussian(d), num_bootstrap=199) > 0.9


def autoregression(seed, rho, chains=4, draws=1000, scale=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(chains, draws, 2))
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * x[:, t]
    return scale * x


@pytest.mark.parametrize("rho", [0.7, -0.7])
def test_correlated_draws_keep_the_level(rho):
    sets = [autoregression(seed, rho, 4, 500) for seed in range(100)]
    assert rejected(sets, gaussian(), num_bootstrap=199) < LEVEL + 3.9 * error(100)


def test_correlated_draws_taken_for_independent_would_be_rejected():
    sets = [autoregression(seed, 0.7, 4, 100).reshape(-1, 2) for seed in range(40)]
    assert rejected(sets, gaussian(), num_bootstrap=99) > 0.5


def test_correlated_draws_of_a_wrong_scale_are_seen():
    test = stein_test(autoregression(0, 0.7, 4, 4000, scale=1.2), gaussian())
    assert test.thinned_by > 4
    assert test.p_value < 0.01


def importance(seed, scale, *, right=True):
    x = scale * normal(seed, 600)
    log_weights = -0.5 * (x**2).sum(1) + 0.5 * (x**2).sum(1) / scale**2
    return x, log_weights if right else 0.5 * log_weights


@pytest.mark.parametrize(("right", "low", "high"), [(True, 0.0, 0.11), (False, 0.9, 1.0)])
def test_weights_count(right, low, high):
    pvalues = []
    for seed in range(100):
        x, log_weights = importance(seed, 1.5, right=right)
        test = stein_test(x, gaussian(), log_weights=log_weights, num_bootstrap=199, seed=seed)
        pvalues.append(test.p_value)
    assert low <= np.mean(np.array(pvalues) <= LEVEL) <= high


def two_modes(x):
    return jnp.logaddexp(-0.5 * jnp.sum((x - 10) ** 2), -0.5 * jnp.sum((x + 10) ** 2))


def test_a_missing_far_mode_is_not_seen():
    """The limit that the docstring names: half of the mass is missing, and the test passes it."""
    target = ppl.from_log_density(two_modes, jnp.zeros(2))
    one_mode_only = [10 + normal(seed, 400) for seed in range(60)]
    assert rejected(one_mode_only, target, num_bootstrap=99) < LEVEL + 3.9 * error(60)


def test_draws_bring_target_weights_and_the_structure_of_their_position():
    def log_density(p):
        return -0.5 * jnp.sum(p["mu"] ** 2) - 0.5 * p["tau"] ** 2

    target = ppl.from_log_density(log_density, {"mu": jnp.zeros(3), "tau": jnp.zeros(())})
    good = stein_test(make(target=target))
    wrong = {"mu": np.full((4, 100, 3), 2.0) + normal(0, 400, 3).reshape(4, 100, 3)}
    bad = stein_test(make(wrong | {"tau": normal(1, 400, 1).reshape(4, 100)}, target=target))
    assert good.p_value > LEVEL > bad.p_value
    assert bad.discrepancy > 3 * good.discrepancy
    # Weights that undo nothing are no weights.
    weighted = make(target=target, kind="direct", log_weights=np.zeros((4, 100)))
    assert stein_test(weighted).p_value > LEVEL


def test_too_few_draws_give_no_number_and_say_how_many_are_needed():
    with pytest.raises(ValueError, match="needs 50 effective draws; there are 49"):
        stein_test(normal(0, 49), gaussian())
    slow = np.cumsum(normal(0, 1000, 2), axis=0)[None]
    with pytest.raises(ValueError, match="needs 50 effective draws; there are [0-9]"):
        stein_test(slow, gaussian())
    x, log_weights = normal(0, 400), np.full(400, -np.inf)
    log_weights[:3] = 0
    with pytest.raises(ValueError, match="needs 50 effective draws; there are 3"):
        stein_test(x, gaussian(), log_weights=log_weights)


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ppl.TargetError, match="needs target="):
        stein_test(normal(0))
    with pytest.raises(ppl.TargetError, match="write draws.attach"):
        stein_test(of_values({"x": normal(0)[None]}))
    with pytest.raises(ppl.TargetError, match="should have shape"):
        stein_test(normal(0, d=3), gaussian(2))
    with pytest.raises(ValueError, match="were resampled|test the draws they came from"):
        stein_test(make().resample(0, 100))
    with pytest.raises(ValueError, match="leading axes .1, 400. of the draws; got .1, 3."):
        stein_test(normal(0), gaussian(), log_weights=np.zeros(3))
    with pytest.raises(ppl.TargetError, match="needs the target's score"):
        stein_test(normal(0), ppl.from_samples(normal(1)))
    edge = ppl.from_log_density(lambda x: jnp.sum(jnp.sqrt(x)), jnp.zeros(2))
    with pytest.raises(ValueError, match="not finite at [0-9]+ of 400 draws"):
        stein_test(normal(0), edge)
