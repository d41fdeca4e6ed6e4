"""A region of high density that one set of draws has missed: found, and not imagined."""

import numpy as np
import pytest

from ppl.diagnostics.missed import MATERIAL, missed_share, nearest


def log_normal(x):
    return -0.5 * (x**2).sum(axis=-1)


def two_modes(x, apart, share=0.5):
    """Log-density of a mixture of two standard normals."""
    far = np.zeros(x.shape[-1])
    far[0] = apart
    return np.logaddexp(np.log(1 - share) + log_normal(x), np.log(share) + log_normal(x - far))


def chains(seed, d, rho=0.0, num=4, n=250):
    noise = np.random.default_rng(seed).normal(size=(num, n, d))
    x = noise.copy()
    for t in range(1, n):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return x


def mixture(seed, d, apart, share=0.5, n=1000):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, d))
    x[: int(share * n), 0] += apart
    return x


@pytest.mark.parametrize("d", [1, 2, 10, 50])
@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_draws_of_one_law_miss_nothing(d, rho):
    for seed in range(3):
        x, y = chains(seed, d, rho), chains(100 + seed, d)[:, :250].reshape(-1, d)
        share, _ = missed_share(x, log_normal(x), y, log_normal(y))
        assert share < MATERIAL / 2


@pytest.mark.parametrize(("d", "apart"), [(1, 8.0), (2, 8.0), (10, 12.0), (50, 25.0)])
def test_a_missed_mode_is_found_with_its_share_and_its_place(d, apart):
    x, y = chains(1, d), mixture(2, d, apart, share=0.3)
    share, middle = missed_share(x, two_modes(x, apart, 0.3), y, two_modes(y, apart, 0.3))
    assert abs(share - 0.3) < 0.06
    assert abs(middle[0] - apart) < 0.5
    # Whoever has seen both has missed nothing of what the other has seen.
    halves = np.stack([mixture(seed, d, apart, share=0.3, n=500) for seed in (3, 4)])
    share, _ = missed_share(
        halves, two_modes(halves, apart, 0.3), x.reshape(-1, d), two_modes(x, apart, 0.3).ravel()
    )
    assert share < MATERIAL


def test_a_law_that_is_too_wide_is_no_witness():
    x, y = chains(1, 2), 3 * np.random.default_rng(2).normal(size=(1000, 2))
    share, _ = missed_share(x, log_normal(x), y, log_normal(y))
    assert share < MATERIAL


def test_one_chain_is_held_against_its_own_half():
    x, y = chains(1, 2, num=1, n=1000), mixture(2, 2, 9.0)
    share, _ = missed_share(x, two_modes(x, 9.0), y, two_modes(y, 9.0))
    assert share > 0.4


def test_nearest_is_the_least_distance():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(300, 3)), generator.normal(size=(70, 3))
    expected = np.linalg.norm(x[:, None] - y[None], axis=-1).min(axis=1)
    np.testing.assert_allclose(nearest(x, y), expected, atol=1e-6)
