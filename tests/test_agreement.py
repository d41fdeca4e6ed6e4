"""The limits against their published values, the scores against their law, and what they catch."""

import numpy as np
import pytest
import scipy.stats

from agreement import (
    Reference,
    disagreements,
    dkw_limit,
    t_limit,
    t_scores,
    z_limit,
    z_scores,
)

LEVELS = (0.05, 0.5, 0.95)


def exact(law) -> Reference:
    return Reference(law.mean(), law.std(), {p: law.ppf(p) for p in LEVELS})


NORMAL = exact(scipy.stats.norm())


def autoregressive(rng, shape, correlation):
    """Stationary chains with standard normal margins."""
    noise = rng.standard_normal(shape)
    x = np.empty(shape)
    x[..., 0] = noise[..., 0]
    for t in range(1, shape[-1]):
        x[..., t] = correlation * x[..., t - 1] + np.sqrt(1 - correlation**2) * noise[..., t]
    return x


@pytest.mark.parametrize(("num_checks", "limit"), [(100, 4.89), (1000, 5.33)])
def test_z_limit_is_the_family_formula(num_checks, limit):
    assert z_limit(num_checks) == pytest.approx(limit, abs=0.005)


@pytest.mark.parametrize(
    ("num_checks", "runs", "limit"),
    [(100, 16, 7.90), (100, 32, 6.07), (100, 64, 5.42), (1000, 32, 6.89), (1000, 64, 6.02)],
)
def test_t_limit_is_the_family_formula(num_checks, runs, limit):
    assert t_limit(num_checks, runs - 1) == pytest.approx(limit, abs=0.005)


def test_dkw_limit_is_the_family_formula():
    assert dkw_limit(1, 2000, rate=1e-6) == pytest.approx(0.060, abs=5e-4)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_scores_of_right_draws_are_standard_normal(correlation):
    rng = np.random.default_rng(1)
    chains = autoregressive(rng, (150, 4, 500), correlation)
    scores = [z_scores(x, NORMAL) for x in chains]
    for statistic in scores[0]:
        z = np.array([score[statistic] for score in scores])
        # 150 independent scores: the mean has error 0.08, the sd 0.06, and an ESS bias on top.
        assert abs(z.mean()) < 0.35, statistic
        assert 0.75 < z.std() < 1.3, statistic


def test_the_error_of_an_estimated_reference_is_counted():
    """Reference and draws of equal size: without its error the scores would spread by sqrt(2)."""
    rng = np.random.default_rng(2)
    scores = []
    for _ in range(150):
        known = rng.standard_normal(4000)
        quantiles = dict(zip(LEVELS, np.quantile(known, LEVELS), strict=True))
        reference = Reference(known.mean(), known.std(), quantiles, num_draws=4000)
        scores.append(z_scores(rng.standard_normal((4, 1000)), reference))
    for statistic in scores[0]:
        assert 0.75 < np.std([score[statistic] for score in scores]) < 1.25, statistic


def test_heavy_tails_pass_where_a_guessed_error_of_the_sd_fails():
    """A skewed law of kurtosis far above 3: right draws must pass, and the shortcut must not."""
    law = scipy.stats.lognorm(1.0)
    rng = np.random.default_rng(3)
    guessed = []
    for _ in range(50):
        x = law.rvs((4, 1000), random_state=rng)
        assert abs(z_scores(x, exact(law))["q0.95"]) < z_limit(200)
        guessed.append((x.std() - law.std()) / (law.std() / np.sqrt(2 * x.size)))
    assert np.max(np.abs(guessed)) > z_limit(50)


@pytest.mark.parametrize(
    ("mutant", "statistic"),
    [
        (lambda x: x + 0.2, "mean"),
        (lambda x: 1.1 * x, "square"),
        (lambda x: np.where(x < -1.2, -1.2, x), "q0.05"),
        (lambda x: np.minimum(x, 1.6), "q0.95"),
        (lambda x: np.where(x > 10, x, np.nan), "mean"),
    ],
    ids=["shifted", "10 % too wide", "no lower tail", "no upper tail", "all NaN"],
)
def test_wrong_draws_are_named(mutant, statistic):
    right = np.random.default_rng(4).standard_normal((4, 5000))
    assert disagreements({"x": right}, {"x": NORMAL}) == []
    found = disagreements({"x": mutant(right)}, {"x": NORMAL})
    assert any(line.startswith(f"x: z of the {statistic} is") for line in found)


def test_a_stuck_chain_is_named_by_its_r_hat():
    x = np.random.default_rng(5).standard_normal((4, 1000))
    x[0] = x[0, 0]
    assert any("R-hat" in line for line in disagreements({"x": x}, {"x": NORMAL}))


def test_too_few_effective_draws_are_named():
    x = np.random.default_rng(6).standard_normal((4, 60))
    found = disagreements({"x": x}, {"x": NORMAL}, r_hat=2.0)
    assert any("effective sample size" in line for line in found)


def test_a_shared_rate_widens_the_limit():
    x = np.random.default_rng(7).standard_normal((4, 1000))
    x += 0.08 - x.mean()  # five standard errors
    assert disagreements({"x": x}, {"x": NORMAL})
    assert disagreements({"x": x}, {"x": NORMAL}, num_checks=10**9) == []


def test_scores_refuse_draws_that_are_not_one_scalar():
    with pytest.raises(ValueError, match=r"\(chain, draw\); got \(4, 10, 2\)"):
        z_scores(np.zeros((4, 10, 2)), NORMAL)


def test_posteriordb_entries_become_references():
    entry = {"mean": 1.0, "sd": 2.0, "q05": -2.0, "q50": 1.1, "q95": 4.0}
    assert Reference.from_posteriordb(entry) == Reference(
        1.0, 2.0, {0.05: -2.0, 0.5: 1.1, 0.95: 4.0}, 10_000
    )


def test_t_scores_follow_student():
    rng = np.random.default_rng(8)
    scores = t_scores(rng.normal(3.0, 2.0, (16, 2000)), 3.0)
    assert scores.shape == (2000,)
    assert scipy.stats.kstest(scores, scipy.stats.t(15).cdf).statistic < dkw_limit(1, 2000)
