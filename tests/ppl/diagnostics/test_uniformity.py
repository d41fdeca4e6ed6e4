import numpy as np
import pytest
from scipy import stats

from agreement import z_limit
from ppl.diagnostics.uniformity import band, points, uniformity

RUNS = 3000


def scaled(spread, shift=0.0):
    return lambda generator, size: stats.norm.cdf(generator.normal(shift, spread, size))


def leaves(u, level):
    lower, upper = band(len(u), level)
    share = np.searchsorted(np.sort(u), points(len(u)), side="right") / len(u)
    return bool(((share < lower) | (share > upper)).any())


@pytest.mark.parametrize("size", [50, 200])
@pytest.mark.parametrize("level", [0.05, 0.2])
def test_band_holds_simultaneously_at_its_level(size, level):
    """Just so: below the level by no more than counts are coarse, and never above it."""
    generator = np.random.default_rng(size)
    outside = np.array([leaves(generator.uniform(size=size), level) for _ in range(RUNS)])
    error = np.sqrt(level * (1 - level) / RUNS)
    limit = z_limit(8) * error
    assert outside.mean() < level + limit
    assert outside.mean() > 0.75 * level - limit
    # A twin: the pointwise band, which forgets that there are many points.
    twin = [
        (abs(np.searchsorted(np.sort(u), points(size), side="right") - size * points(size))
         > stats.norm.isf(level / 2) * np.sqrt(size * points(size) * (1 - points(size)))).any()
        for u in generator.uniform(size=(200, size))
    ]  # fmt: skip
    assert np.mean(twin) > level + limit


def test_band_of_two_numbers_by_hand():
    """Points: 1/2. Counts 0, 1, 2 have probabilities 1/4, 1/2, 1/4."""
    lower, upper = band(2, 0.5)
    np.testing.assert_array_equal([*lower, *upper], [0.5, 0.5])
    lower, upper = band(2, 0.4)
    np.testing.assert_array_equal([*lower, *upper], [0.0, 1.0])


def test_p_values_are_at_most_their_level():
    u = np.random.default_rng(0).uniform(size=(RUNS, 50))
    p_values = np.array([uniformity(row).p_value for row in u])
    for level in (0.01, 0.1):
        found, error = np.mean(p_values <= level), np.sqrt(level * (1 - level) / RUNS)
        assert found < level + z_limit(2) * error
        assert found > 0.4 * level  # Bonferroni between three correlated tests costs this much


@pytest.mark.parametrize(
    ("draw", "shift", "spread"),
    [
        (scaled(1.0, 0.6), 1, 0),
        (scaled(1.0, -0.6), -1, 0),
        (scaled(1.5), 0, 1),
        (scaled(0.6), 0, -1),
    ],
)
def test_shift_and_spread_say_which_way_the_numbers_are_off(draw, shift, spread):
    found = [uniformity(draw(np.random.default_rng(i), 200)) for i in range(10)]
    assert all(test.p_value < 1e-3 for test in found)
    if shift:
        assert all(np.sign(test.shift) == shift for test in found)
    if spread:
        assert all(np.sign(test.spread - 1) == spread for test in found)
        assert np.mean([test.reason == "spread" for test in found]) > 0.8


def test_the_band_sees_what_moments_do_not():
    """Mean and mean square of the normal scores are right; two numbers in five lie in one place."""

    def draw(generator, size):
        place = stats.norm.cdf(np.where(generator.uniform(size=size) < 0.5, 1.0, -1.0))
        return np.where(generator.uniform(size=size) < 0.4, place, generator.uniform(size=size))

    found = [uniformity(draw(np.random.default_rng(i), 300)) for i in range(10)]
    assert all(test.p_value < 1e-3 and test.reason == "band" for test in found)


def test_numbers_that_are_no_fractions_are_refused():
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        uniformity(np.array([0.2, 1.0]))
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        uniformity(np.zeros(0))
