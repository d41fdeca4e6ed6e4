"""The verdict: right on runs whose worth is known, and in words that help."""

import math

import numpy as np
import pytest

import ppl
from made_draws import make, of_values
from ppl.diagnostics import findings
from ppl.diagnostics.convergence import judge


def normal(chains: int = 4, draws: int = 400, width: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(chains, draws, width))


def text(draws) -> str:
    verdict = judge(draws)
    return "\n".join([verdict.headline, *verdict.reasons, *verdict.advice])


def shifted_chain():
    x = normal()
    x[0] += 4
    return of_values({"x": x})


def slow_chains():
    return of_values({"x": np.cumsum(normal(width=1), axis=1)})


def late_warmup():
    x = normal(draws=1000)
    x[:, :400] += np.linspace(20, 0, 400)[None, :, None] * np.array([1, -1, 1, 2])[:, None, None]
    return of_values({"x": x}, num_warmup=10)


def stuck_chain():
    x = normal()
    x[2] = x[2, 0]
    return of_values({"x": x})


def few_effective():
    x, rng = normal(draws=1000, width=1), np.random.default_rng(3)
    for t in range(1, 1000):
        x[:, t] = 0.95 * x[:, t - 1] + math.sqrt(1 - 0.95**2) * rng.normal(size=(4, 1))
    return of_values({"x": x})


def divergent(share: float):
    x = normal()
    diverging = x[:, :, 0] < np.quantile(x[:, :, 0], share)
    return of_values({"x": x}, stats={"diverging": diverging, "energy": normal(width=1)[:, :, 0]})


def low_energy_fraction():
    energy = np.cumsum(normal(width=1)[:, :, 0], axis=1)
    return of_values({"x": normal()}, stats={"energy": energy})


def weighted(scale: float, draws: int = 4000, **fields):
    """Draws of N(0, scale^2), weighted for N(0, 1)."""
    x = scale * normal(1, draws, 1)
    log_weights = (-0.5 * x**2 + 0.5 * (x / scale) ** 2)[:, :, 0]
    fields = {"kind": "direct", "sampler_name": "ImportanceSampler"} | fields
    return of_values({"x": x}, log_weights=log_weights, **fields)


def dead():
    return of_values({"x": normal()}, kind="direct", log_weights=np.full((4, 400), -math.inf))


def partly_nan():
    log_weights = np.zeros((4, 400))
    log_weights[:, :40] = math.nan
    return of_values({"x": normal()}, kind="direct", log_weights=log_weights)


def runs(spread: float):
    x = normal(4, 200) + spread * np.arange(4)[:, None, None]
    return of_values({"x": x}, kind="particle", log_weights=np.zeros((4, 200)))


RUNS = {
    "good chains": (lambda: of_values({"x": normal()}), "good", "Converged"),
    "many good scalars": (lambda: of_values({"x": normal(width=300)}), "good", "Converged"),
    "chains in two modes": (
        shifted_chain,
        "bad",
        "2 clusters: chains 1, 2, 3 around x[.*; chain 0 around x[",
    ),
    "slow chains": (slow_chains, "bad", "R-hat is up to"),
    "chains sampled too early": (late_warmup, "bad", "longer warm-up (num_warmup was 10)"),
    "a stuck chain": (stuck_chain, "bad", "Chain 2 never moved"),
    "too few effective draws": (few_effective, "caution", "Too few effective draws.*times as many"),
    "some divergences": (lambda: divergent(0.01), "caution", "16 divergent trajectories"),
    "many divergences": (lambda: divergent(0.1), "bad", "concentrate where x[0] is low"),
    "low energy fraction": (low_energy_fraction, "caution", "E-BFMI is 0.0"),
    "one chain": (lambda: of_values({"x": normal(1)}), "caution", "cannot be known"),
    "one chain that drifts": (
        lambda: of_values({"x": normal(1) + np.linspace(0, 3, 400)[None, :, None]}),
        "bad",
        "disagree (its two halves)",
    ),
    "a biased chain": (
        lambda: of_values({"x": normal()}, exactness="biased", sampler_name="ULA"),
        "caution",
        "Converged, to something near the target: ULA is biased",
    ),
    "too few draws": (lambda: of_values({"x": normal(4, 30)}), "unknown", "50 draws in each chain"),
    "nothing varies": (
        lambda: make(normal(), values={"x": np.ones((4, 400))}),
        "unknown",
        "No value varies",
    ),
    "good weights": (lambda: weighted(1.5), "good", "Reliable"),
    "equal weights": (lambda: weighted(1.0), "good", "Reliable"),
    "a proposal too narrow": (lambda: weighted(0.2), "bad", "k-hat is"),
    "few weighted draws": (lambda: weighted(2.0, draws=120), "bad", "are worth"),
    "no weight at all": (dead, "bad", "None of 1600 draws has weight"),
    "weights that are NaN": (partly_nan, "bad", "160 of 1600 log weights are NaN"),
    "hardly any draw": (lambda: weighted(1.5, draws=10), "unknown", "25 draws are needed"),
    "exact independent draws": (
        lambda: of_values({"x": normal()}, kind="direct"),
        "good",
        "Reliable",
    ),
    "draws of a biased network": (
        lambda: of_values({"x": normal()}, kind="learned", exactness="biased"),
        "caution",
        "Not certified",
    ),
    "a biased network with weights": (
        lambda: weighted(1.5, kind="learned", exactness="biased"),
        "good",
        "weights correct for it",
    ),
    "training that failed": (
        lambda: weighted(1.5, kind="learned", history={"loss": np.array([[1.0, math.nan]])}),
        "bad",
        "training loss was not finite",
    ),
    "runs that agree": (lambda: runs(0.0), "good", "Reliable"),
    "runs that disagree": (lambda: runs(3.0), "bad", "The runs disagree"),
    "copies of few particles": (
        lambda: of_values(
            {"x": np.repeat(normal(4, 4), 100, axis=1)},
            kind="particle",
            log_weights=np.zeros((4, 400)),
        ),
        "bad",
        "Only 1% of the particles differ",
    ),
    "resampled draws": (
        lambda: of_values({"x": normal()}).resample(0, 400),
        "unknown",
        "Judge the draws they came from",
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_verdict_is_right_on(name):
    build, status, words = RUNS[name]
    draws = build()
    verdict = judge(draws)
    assert verdict.status == status, verdict
    for part in words.split(".*"):
        assert part in text(draws)


def test_a_good_run_is_called_good_whatever_the_seed():
    verdicts = [judge(of_values({"x": normal(seed=seed, width=10)})).status for seed in range(20)]
    assert verdicts == ["good"] * 20


def test_weighted_draws_are_never_judged_by_rhat():
    for draws in (weighted(1.5), runs(0.0)):
        assert not any("hat" in name and name != "khat" for name in judge(draws).table.index)
        assert "R-hat" not in text(draws)


def test_chains_in_different_modes_are_not_told_to_run_longer():
    assert "times as many draws" not in text(shifted_chain())


def test_too_few_draws_give_no_numbers():
    verdict = judge(of_values({"x": normal(4, 30)}))
    assert len(verdict.table) == 0


def test_table_says_what_was_wanted_and_where_it_failed():
    row = judge(shifted_chain()).table.loc["r_hat"]
    assert row["wanted"] == "< 1.01"
    assert not row["passed"]
    assert row["where"].startswith("x[")


def test_a_value_that_is_not_finite_is_named():
    broken = normal()
    broken[1, 5, 0] = math.nan
    verdict = judge(of_values({"x": normal(), "log_odds": broken}))
    assert verdict.status == "caution"
    assert "log_odds is not finite in 1 number" in verdict.reasons[0]


def test_constants_among_values_are_no_fault():
    draws = of_values({"x": normal(), "one": np.ones((4, 400, 2))})
    assert judge(draws).status == "good"


def test_proposals_outside_the_support_are_no_divergences():
    diverging = np.random.default_rng(0).random((4, 400)) < 0.3
    draws = of_values({"x": normal()}, stats={"diverging": diverging}, sampler_name="RandomWalk")
    assert judge(draws).status == "good"
    assert "29% of the proposals had no finite density" in text(draws)


def test_reaching_the_largest_tree_depth_is_a_matter_of_speed():
    reached = np.ones((4, 400), bool)
    draws = of_values({"x": normal()}, stats={"reached_max_treedepth": reached})
    assert judge(draws).status == "good"
    assert "a matter of speed, not of truth" in text(draws)


def test_proposals_that_are_never_accepted_are_seen():
    rate = np.full((4, 400), 0.01)
    assert "Only 1.0% of the proposals" in text(
        of_values({"x": normal()}, stats={"acceptance_rate": rate})
    )


def test_an_uncertain_evidence_says_what_it_can_tell_apart():
    draws = weighted(1.5, log_evidence=ppl.Estimate(0.0, 2.0))
    assert judge(draws).status == "good"
    assert "log evidence is uncertain by 2" in text(draws)


def test_an_interrupted_run_says_so():
    assert "The run was interrupted" in text(of_values({"x": normal()}, stopped="interrupted"))


def test_very_many_scalars_are_judged_by_evenly_spaced_ones(monkeypatch):
    monkeypatch.setattr(findings, "MAX_SCALARS", 10)
    x = normal(width=40)
    x[0, :, 8] += 5
    verdict = judge(of_values({"x": x}))
    assert verdict.status == "bad"
    assert verdict.table.loc["r_hat", "where"] == "x[8]"
    assert "Judged by 10 scalars, every 4th" in verdict.reasons[-1]


@pytest.mark.parametrize("kind", ["markov", "particle", "direct", "learned"])
def test_no_draws_cannot_be_judged(kind):
    draws = of_values({"x": normal(4, 0)}, kind=kind)
    assert judge(draws).status == "unknown"
