"""`ppl.compare`: equal budgets, right before fast, and words that say why.

What is known of the rankings, before anything runs (`CASES`, all slow ones but two):

- Gaussian, d = 50: gradients between independent draws grow as d^(1/4) for trajectories, d^(1/3)
  for Langevin proposals, d for a random walk: NUTS, then MALA, then the walk.
- Ill-conditioned, d = 20, condition number 10^4, rotated: a dense metric makes it round. Without
  one a trajectory needs about 100 steps, a Langevin chain 10^4, a random walk more: only NUTS with
  a metric is fast, NUTS without one is right and far slower, the others are not there in time.
- Funnel, d = 20, scale 1 (the width of the conditional law runs over a factor of 50): of the
  samplers with one step size the one with trajectories comes first, as on the Gaussian. On Neal's
  own funnel (d = 10, scale 3) none of them is right in this budget, and none may be recommended.
- Bimodal: two modes 12 sd apart. What starts near one of them never leaves it: only importance
  sampling from a prior that covers both is right, however slow it is.
- Mixture of four modes 5 sd apart: proposals that see all modes at once beat a random walk that
  jumps between them, and that beats gradients, which lead back to the nearest mode.
- Hierarchy, thirty rats, 65 parameters, centered: NUTS is right; a random walk does not get there,
  and importance sampling from the prior has no weights to speak of.
"""

import math
from dataclasses import replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
import samplers
from models.programs import rats
from models.targets.bimodal import bimodal
from models.targets.funnel import Funnel
from models.targets.gaussian import Gaussian
from models.targets.gaussian_mixture import GaussianMixture
from models.targets.ill_conditioned import IllConditionedGaussian
from ppl import recommendation as rules
from ppl import trial as trials
from ppl.sampler import DirectSampler, Exactness
from ppl.standing import Standing
from ppl.trial import Contestant, Trial
from ppl.truth import exact_draws, truth_of
from report_pages import Page

pytestmark = pytest.mark.usefixtures("unoptimized")

QUIET: dict[str, Any] = {"progress": False}
BUDGET = 10_000


def with_prior(target, scale):
    """The same law, written as a posterior, for samplers that start from a prior."""
    prior = dist.Normal(0.0, scale).expand([target.dimension]).to_event(1)
    return ppl.posterior(prior, lambda x: target.log_density(x) - prior.log_prob(x))


@pytest.fixture(scope="module")
def gaussian():
    """MALA, a walk, and ULA with a step so long that its variance is 1 / (1 - 0.8 / 2)."""
    entered = {
        "MALA": samplers.MALA(),
        "walk": samplers.RandomWalk(),
        "ULA": samplers.ULA(step_size=0.8),
        "prior": samplers.ImportanceSampling(),
    }
    return ppl.compare(Gaussian(20), entered, budget=BUDGET, **QUIET)


@pytest.fixture(scope="module")
def two_modes():
    """Without a reference: only the samplers themselves can say who is right."""
    target = with_prior(bimodal(), 10.0)
    entered = {"MALA": samplers.MALA(), "prior": samplers.ImportanceSampling()}
    return ppl.compare(target, entered, budget=BUDGET, **QUIET)


# Ranking --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_langevin_beats_the_walk_on_a_gaussian(gaussian):
    found = gaussian.recommendation
    assert found.sampler == "MALA"
    assert found.tied == ("MALA",)
    assert list(gaussian.table.index[:2]) == ["MALA", "walk"]
    assert "agree with the reference (exact draws of the target)" in found.why
    assert "right, but" in found.against["walk"]
    assert "slower" in found.against["walk"]


def test_a_biased_sampler_is_not_right_however_fast(gaussian):
    row = gaussian.table.loc["ULA"]
    assert not row["right"]
    assert row["ess_min_per_1000"] > gaussian.table.loc["MALA", "ess_min_per_1000"]
    assert "its answer is not the reference's" in row["why"]
    assert row["bias"] > 0.1
    # With a step that biases it by less than the tolerance it is right.
    mild = {"ULA": samplers.ULA(step_size=0.05), "MALA": samplers.MALA()}
    again = ppl.compare(Gaussian(20), mild, budget=BUDGET, num_seeds=2, **QUIET)
    assert again.table.loc["ULA", "right"]


def test_a_missed_mode_loses_without_any_reference(two_modes):
    assert two_modes.recommendation.sampler == "prior"
    mala = two_modes.table.loc["MALA"]
    # Its own diagnostics see nothing, and it is faster.
    assert mala["r_hat"] < 1.01
    assert mala["ess_min_per_1000"] > two_modes.table.loc["prior", "ess_min_per_1000"]
    assert "it has missed a region that prior found" in mala["why"]


@pytest.mark.slow
def test_a_missed_mode_loses_against_a_reference_and_shows_in_the_distances():
    target = with_prior(bimodal(), 10.0)
    entered = {"MALA": samplers.MALA(), "prior": samplers.ImportanceSampling()}
    reference = exact_draws(bimodal(), jax.random.key(1), 5000)
    found = ppl.compare(target, entered, 1, 20_000, reference=reference, num_seeds=2, **QUIET)
    assert found.recommendation.sampler == "prior"
    mala, prior = found.table.loc["MALA"], found.table.loc["prior"]
    assert "region that holds 6" in mala["why"]  # two thirds
    assert mala["energy_distance"] > 100 * prior["energy_distance"]
    assert mala["bias"] > 1 > prior["bias"]


# Budgets --------------------------------------------------------------------------------------


def test_the_budget_is_spent_and_not_exceeded(gaussian):
    for name, runs in gaussian.draws.items():
        for draws in runs:
            spent = max(draws.num_evaluations)
            assert spent <= BUDGET
            assert spent > BUDGET - 2 * draws.num_chains, name
            assert draws.run.evaluations["sample"][0] == draws.num_chains * draws.num_samples
    assert (gaussian.table["evaluations"].dropna() <= BUDGET).all()


def test_trajectories_of_varying_length_are_cut_where_the_budget_ends():
    from made_draws import make

    steps = np.array([[1, 3, 7, 1, 1], [3, 3, 1, 1, 3]])
    draws = make(
        {"mu": np.zeros((2, 5, 3)), "tau": np.zeros((2, 5))},
        stats={"n_steps": steps},
        num_evaluations=(58, 58),
        evaluations={"start": [4, 4], "warmup": [6, 6], "sample": [48, 48]},
    )
    # Two evaluations a step, the two chains together.
    np.testing.assert_allclose(trials.cost_by_row(draws), [8, 12, 16, 4, 8])
    cut = trials.first(draws, 3)
    assert cut.num_samples == cut.run.num_samples == 3
    assert cut.num_evaluations == (46, 46)
    assert cut.run.evaluations["sample"] == [36, 36]
    assert cut.run.seconds["sample"] == pytest.approx(0.6 * draws.run.seconds["sample"])


def test_nothing_compiles_between_seeds(compilations):
    target = Gaussian(3)
    for sampler in (samplers.MALA(), samplers.GaussianVI(num_updates=50), samplers.ExactDraws()):
        entered = Contestant(sampler, target, ppl.evaluations(8000), 4)
        entered.prepare(jax.random.key(9))
        assert not entered.run(jax.random.key(0)).failure
        with compilations() as count:
            later = [entered.run(jax.random.key(seed)) for seed in (1, 2)]
        assert not any(each.failure for each in later)
        assert count.compiled == []


def test_every_sampler_gets_the_same_keys_and_the_same_key_the_same_table(gaussian):
    again = ppl.compare(
        Gaussian(20), {"walk": samplers.RandomWalk()}, budget=BUDGET, num_seeds=2, **QUIET
    )
    for a, b in zip(again.draws["walk"], gaussian.draws["walk"], strict=False):
        np.testing.assert_array_equal(a["x"], b["x"])
    first, second = again.draws["walk"]
    assert (first["x"][:, -1] != second["x"][:, -1]).all()


@pytest.mark.slow
def test_seconds_are_a_budget_too():
    entered = {"MALA": samplers.MALA(), "exact": samplers.ExactDraws()}
    found = ppl.compare(Gaussian(3), entered, 0, ppl.elapsed(0.5), num_seeds=2, **QUIET)
    assert found.per == "second"
    assert "per second" in found.recommendation.why
    assert (found.table["evaluations"]["MALA"] > 0).all()
    assert found.table["failures"].sum() == 0


def test_training_counts_and_a_budget_below_it_fails_in_words():
    vi = samplers.GaussianVI(
        num_updates=100
    )  # 1,600 evaluations, a first look, and 1,024 for a batch
    enough = Contestant(vi, Gaussian(2), ppl.evaluations(6000), 4).run(jax.random.key(0))
    assert enough.evaluations == 1600 + 16 + 4 * 1024
    assert enough.draws is not None
    assert enough.draws.run.kind == "learned"
    short = Contestant(vi, Gaussian(2), ppl.evaluations(2500), 4).run(jax.random.key(0))
    assert short.draws is None
    assert "too small: training spent 1,616 evaluations of it" in short.failure


def test_particles_run_until_the_budget_is_spent_at_least_once():
    target = with_prior(Gaussian(2), 2.0)
    sampler = samplers.ImportanceSampling(num_particles=500)
    run = Contestant(sampler, target, ppl.evaluations(1700), 4).run(jax.random.key(0))
    assert run.draws is not None
    assert (run.draws.num_chains, run.evaluations) == (3, 1500)
    assert run.draws.log_evidence is not None
    assert run.draws.log_evidence.value == pytest.approx(math.log(2 * math.pi), abs=0.3)
    once = Contestant(sampler, target, ppl.evaluations(300), 4).run(jax.random.key(0))
    assert once.draws is not None
    assert once.draws.num_chains == 1
    assert once.notes == ("one run cost 500 evaluations, more than the budget",)


# Failures are rows ----------------------------------------------------------------------------


class Broken(DirectSampler):
    """Fails in the way it is told to."""

    exactness: ClassVar[Exactness] = "exact"
    value: float | None = None

    def draw(self, rng_key, target, n):
        if self.value is None:
            raise RuntimeError("a file  of\nmine is missing")
        return jnp.full((n, 3), self.value), None

    def evaluations(self, n):
        return n, 0


def test_one_samplers_failure_is_a_row_with_its_reason():
    entered = {
        "raises": Broken(),
        "nan": Broken(value=math.nan),
        "refused": samplers.ImportanceSampling(),
        "exact": samplers.ExactDraws(),
    }
    found = ppl.compare(Gaussian(3), entered, budget=4000, num_seeds=2, **QUIET)
    why, table = found.table["why"], found.table
    assert "RuntimeError: a file of mine is missing" in why["raises"]
    assert "every draw is NaN or infinite" in why["nan"]
    assert "ImportanceSampling needs 'log_likelihood'" in why["refused"]
    assert table["failures"].to_dict() == {"exact": 0, "raises": 2, "nan": 2, "refused": 2}
    assert found.recommendation.sampler == "exact"
    assert "independent and cost no evaluations" in found.recommendation.why


def test_nobody_is_recommended_when_nobody_is_right():
    # A slow walk: 40 steps a chain after its warm-up, from starts that are far apart.
    entered = {"walk": samplers.RandomWalk(), "constant": Broken(value=1.0)}
    found = ppl.compare(
        IllConditionedGaussian(3, 1e6), entered, budget=2000, num_seeds=2, num_warmup=100, **QUIET
    )
    assert found.recommendation.sampler is None
    assert not found.table["right"].any()
    assert str(found.recommendation).startswith("None of the samplers can be recommended")
    assert found.recommendation.advice


def test_interrupting_ends_the_comparison(monkeypatch):
    real = trials.sample

    def interrupted(*args, **options):
        draws = real(*args, **options)
        return trials.rebuilt(draws, run=replace(draws.run, stopped="interrupted"))

    monkeypatch.setattr(trials, "sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ppl.compare(Gaussian(3), {"exact": samplers.ExactDraws()}, budget=4000, **QUIET)


# The rules ------------------------------------------------------------------------------------


def standing(name, *runs, sampler=None):
    return Standing(name, sampler or samplers.ExactDraws(), [Trial(r, 1000, 1.0) for r in runs])


def exact(seed, num=2000):
    return exact_draws(Gaussian(2), jax.random.key(seed), num)


def test_samplers_within_the_noise_are_tied():
    found = rules.recommend(
        [standing("a", exact(0), exact(1)), standing("b", exact(2), exact(3))],
        {}, "pass", by_seconds=False,
    )  # fmt: skip
    assert set(found.tied) == {"a", "b"}
    assert "b is as good within the noise" in found.why
    slow = standing("slow", exact(4, 200), exact(5, 200))
    found = rules.recommend([standing("a", exact(0), exact(1)), slow], {}, "x", by_seconds=False)
    assert found.tied == ("a",)
    assert found.against["slow"] == "right, but 10 times slower"


def test_draws_that_are_not_finite_or_do_not_move_are_not_right():
    places = [np.array(exact(seed).positions) for seed in (0, 1)]
    places[0][0, 3, 1] = np.nan
    places[1][:, :, 1] = 0.0
    broken = trials.rebuilt(exact(0), positions=places[0])
    chains = trials.rebuilt(exact(1), positions=places[1], run=replace(exact(1).run, kind="markov"))
    entered = [standing("nan", broken), standing("still", chains), standing("fine", exact(2))]
    reasons = rules.among_themselves(entered, 0.1)
    assert reasons["nan"] == "0.05% of its draws are not finite"
    assert "it has missed a region that" in reasons["still"]
    truth = truth_of(Gaussian(2), None, jax.random.key(5), 2000)
    reasons = rules.against_reference(entered, truth.yardstick, truth.points, None, 0.1)
    assert set(reasons) == {"nan", "still"}
    assert "of x[1], is off by" in reasons["still"]


def test_two_that_disagree_are_both_out_and_a_lone_dissenter_is():
    shifted = exact(9)
    shifted = trials.rebuilt(shifted, positions=shifted.positions + np.float32(0.4))
    two = [standing("a", exact(0)), standing("off", shifted)]
    reasons = rules.among_themselves(two, 0.1)
    assert set(reasons) == {"a", "off"}
    assert "nothing says who is right" in reasons["a"]
    three = rules.among_themselves([*two, standing("b", exact(1))], 0.1)
    assert set(three) == {"off"}
    assert "it disagrees with a and b, who agree with each other" in three["off"]
    # Without the shift nobody is out.
    fair = [standing(name, exact(seed)) for seed, name in enumerate("abc")]
    assert rules.among_themselves(fair, 0.1) == {}


def test_a_biased_sampler_needs_an_exact_one_that_agrees():
    ula = samplers.ULA(step_size=0.1)
    alone = rules.among_themselves([standing("ULA", exact(0), sampler=ula)], 0.1)
    assert "there is no exact sampler to hold it against" in alone["ULA"]
    pair = [standing("ULA", exact(0), sampler=ula), standing("exact", exact(1))]
    assert rules.among_themselves(pair, 0.1) == {}


def test_a_low_evidence_betrays_missed_mass():
    from ppl.weights import Estimate

    def with_evidence(seed, value):
        return trials.rebuilt(exact(seed), log_evidence=Estimate(value, 0.01))

    both = [standing("low", with_evidence(0, 1.0)), standing("high", with_evidence(1, 1.7))]
    reasons = rules.among_themselves(both, 0.1)
    assert list(reasons) == ["low"]
    assert "its log Z is 0.70 below that of high" in reasons["low"]
    equal = [standing("low", with_evidence(0, 1.69)), standing("high", with_evidence(1, 1.7))]
    assert rules.among_themselves(equal, 0.1) == {}


# Against a reference --------------------------------------------------------------------------


def test_intervals_of_a_right_sampler_cover_and_those_of_a_wrong_one_do_not(gaussian):
    table = gaussian.table
    assert table.loc["MALA", "coverage"] > 0.85
    assert table.loc["ULA", "coverage"] < 0.7
    assert table.loc["MALA", "z"] < 5 < table.loc["ULA", "z"]
    assert table.loc["ULA", "sliced_wasserstein"] > table.loc["MALA", "sliced_wasserstein"]
    assert table.loc["ULA", "energy_distance"] > table.loc["MALA", "energy_distance"]


def test_a_known_log_z_convicts_a_sampler_that_has_it_wrong():
    class OffTarget(Gaussian):
        """Claims a log Z that is 1 too large."""

        @property
        def log_normalizer(self):
            return Gaussian(2).log_normalizer + 1

    vi = {"VI": samplers.GaussianVI(num_updates=300, learning_rate=0.05)}
    right = ppl.compare(Gaussian(2), vi, budget=BUDGET, num_seeds=2, **QUIET)
    assert right.recommendation.sampler == "VI"
    off = ppl.compare(OffTarget(num_dims=2), vi, budget=BUDGET, num_seeds=2, **QUIET)
    assert "its log Z is off by -1.0" in off.table.loc["VI", "why"]


def test_values_by_name_are_a_reference():
    entered = {"exact": samplers.ExactDraws()}
    options: dict[str, Any] = {"budget": 4000, "num_seeds": 1, **QUIET}
    good = ppl.compare(Gaussian(2), entered, reference={"x": (np.zeros(2), np.ones(2))}, **options)
    assert good.recommendation.sampler == "exact"
    assert good.truth.label == "values given"
    bad = ppl.compare(Gaussian(2), entered, reference={"x": np.full(2, 0.3)}, **options)
    assert bad.recommendation.sampler is None
    assert "its mean, of x[" in bad.table.loc["exact", "why"]


# Bad input ------------------------------------------------------------------------------------

MALA = {"MALA": samplers.MALA()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 1000}, r"a budget of 1,000 evaluations is smaller than one warm-up: 100 steps "
         r"of 4 chains cost about 400, .* Write budget=1,600 or more"),
        ({"budget": 1000, "num_warmup": 300}, "smaller than one warm-up: 300 steps of 4 chains "
         "cost 1,200 at least"),
        ({"budget": 0}, r"budget must be a number of evaluations, ppl.evaluations\(n\)"),
        ({"budget": 1e5}, "budget must be a number of evaluations"),
        ({"budget": "10 s"}, r"ppl.elapsed\(seconds\); got '10 s'"),
        ({"samplers": {}}, "samplers must be a mapping with one sampler at least"),
        ({"samplers": [samplers.MALA()]}, "samplers must be a mapping"),
        ({"samplers": {"MALA": samplers.MALA}}, r"'MALA' is no sampler: .*; pass MALA\(\)"),
        (lambda: {"samplers": {"a": exact(0)}}, r"'a' is a set .* ppl.report\({name: draws"),
        ({"target": lambda x: x}, "function is no target"),
        ({"target": ppl.from_samples(np.zeros((5, 2)))}, "compare needs a density"),
        ({"tolerance": 0}, "tolerance must be positive, in standard deviations; got 0"),
        ({"num_seeds": 0}, "num_seeds must be an integer, at least 1; got 0"),
        ({"reference": {"y": 0.0}}, "reference='y': the draws have no such value; there are x"),
        ({"reference": {"x": 0.0}}, r"its mean should have the shape \(2,\); got \(\)"),
        ({"reference": 3}, "reference must be draws, or values by name"),
        (lambda: {"reference": exact_draws(Gaussian(3), jax.random.key(0), 100)},
         r"draws of two different targets: .* other shapes \(\(2,\) and \(3,\)\)"),
        (lambda: {"reference": exact_draws(bimodal(), jax.random.key(0), 100)},
         "draws of two different targets: .* other densities or other data"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_runs(change, message):
    change = change() if callable(change) else change
    arguments: dict[str, Any] = {"target": Gaussian(2), "samplers": MALA} | change
    with pytest.raises(ValueError, match=message):
        ppl.compare(arguments.pop("target"), arguments.pop("samplers"), **arguments, **QUIET)


def test_a_warm_up_that_turns_out_too_expensive_is_a_row():
    # One evaluation a step would do; a trajectory costs more.
    entered = {"NUTS": samplers.NUTS(metric=samplers.Identity())}
    found = ppl.compare(Gaussian(3), entered, budget=1700, num_seeds=1, **QUIET)
    assert (
        "smaller than one warm-up: 100 steps of 4 chains cost about" in found.table["why"]["NUTS"]
    )


def test_draws_of_two_targets_side_by_side_are_refused(tmp_path):
    other = exact_draws(bimodal(), jax.random.key(0), 100)
    with pytest.raises(ValueError, match="'a' and 'b' have other densities or other data"):
        ppl.report({"a": exact(0, 100), "b": other}, tmp_path / "page.html")
    # The same law written twice, up to a constant, is one target.
    twice = ppl.from_log_density(lambda x: 1.0 - 0.5 * jnp.sum(x**2), jnp.zeros(2))
    same = trials.rebuilt(exact(1, 100), target=twice)
    assert ppl.report({"a": exact(0, 100), "b": same}, tmp_path / "page.html").exists()


# Names and the page ---------------------------------------------------------------------------


def test_compare_is_callable_however_it_was_imported():
    import inspect

    import ppl.compare as module
    from ppl import compare

    assert "budget" in inspect.signature(compare).parameters
    assert callable(module)
    assert callable(ppl.compare)


def test_the_page_says_what_the_table_says(gaussian, tmp_path):
    page = Page(gaussian.report(tmp_path / "deep" / "page.html").read_text("utf-8"))
    assert page.unclosed == []
    assert page.references == ["data:,"]  # nothing is loaded
    for words in (gaussian.recommendation.headline, gaussian.recommendation.why):
        assert " ".join(words.split()) in page.text
    for name, why in gaussian.recommendation.against.items():
        assert name in page.text
        assert " ".join(why.split()) in page.text
    titles = ["Ranking", "How fast", "How right", "What speaks against the others"]
    assert page.titles == [*titles, "Do the samplers agree?", "How to repeat it"]


@pytest.mark.slow
def test_a_page_without_a_reference_or_a_recommendation(two_modes, tmp_path):
    page = Page(two_modes.report(tmp_path / "page.html").read_text("utf-8"))
    assert "How right" not in page.titles
    failed = ppl.compare(Gaussian(3), {"broken": Broken()}, budget=4000, num_seeds=1, **QUIET)
    page = Page(failed.report(tmp_path / "page.html").read_text("utf-8"))
    assert "None of the samplers can be recommended" in page.text


# Six targets, known rankings --------------------------------------------------------------------


def bimodal_case():
    entered = {"IS": samplers.ImportanceSampling(), "NUTS": samplers.NUTS()}
    entered |= {"MALA": samplers.MALA(), "VI": samplers.GaussianVI()}
    entered |= {"PT": samplers.ParallelTempering(num_temperatures=6)}
    reference = exact_draws(bimodal(), jax.random.key(7), 10_000)
    return with_prior(bimodal(), 10.0), entered, {"reference": reference}


def mixture_case():
    means = 5.0 * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    target = GaussianMixture(means, 1.0, np.array([0.1, 0.2, 0.3, 0.4]))
    entered = {"IS": samplers.ImportanceSampling(), "walk": samplers.RandomWalk()}
    entered |= {"NUTS": samplers.NUTS()}
    reference = exact_draws(target, jax.random.key(7), 10_000)
    return with_prior(target, 6.0), entered, {"reference": reference}


def rats_case():
    target = ppl.from_numpyro(rats.model, **rats.data())
    certifiers = {"NUTS": samplers.NUTS(target_acceptance=0.9), "MAMS": samplers.AdjustedMCLMC()}
    reference = ppl.reference(target, certifiers, **QUIET)
    entered = {"NUTS": samplers.NUTS(), "walk": samplers.RandomWalk()}
    return target, entered | {"IS": samplers.ImportanceSampling()}, {"reference": reference}


LOCAL = {"NUTS": samplers.NUTS(), "MALA": samplers.MALA(), "walk": samplers.RandomWalk()}
NO_METRIC = {
    "NUTS": samplers.NUTS(),
    "no metric": samplers.NUTS(metric=samplers.Identity()),
    "MALA": samplers.MALA(metric=samplers.Identity()),
}
CAREFUL = LOCAL | {"NUTS": samplers.NUTS(target_acceptance=0.9)}
# Target, samplers and options; who should be recommended; the order of the speeds; who is wrong.
CASES = {
    "gaussian": (lambda: (Gaussian(50), LOCAL, {}), "NUTS", ["NUTS", "MALA", "walk"], set()),
    "ill-conditioned": (
        lambda: (IllConditionedGaussian(20, 1e4), NO_METRIC, {}),
        "NUTS", ["NUTS", "no metric", "MALA"], {"MALA"},
    ),
    "funnel": (lambda: (Funnel(20, scale=1.0), CAREFUL, {}), "NUTS", ["NUTS", "walk"], set()),
    "Neal's funnel": (lambda: (Funnel(), LOCAL, {}), None, [], {"NUTS", "MALA", "walk"}),
    "bimodal": (bimodal_case, "IS", [], {"NUTS", "MALA", "VI"}),
    "mixture": (mixture_case, "IS", ["IS", "walk", "NUTS"], set()),
    "hierarchy": (rats_case, "NUTS", [], {"walk", "IS"}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_known_rankings_are_found_and_the_recommendation_is_right(name):
    make, best, order, wrong = CASES[name]
    target, entered, options = make()
    found = ppl.compare(target, entered, **options, **QUIET)
    assert found.recommendation.sampler == best, str(found.recommendation)
    assert best is None or found.recommendation.tied == (best,)
    speeds = found.table["ess_min_per_1000"]
    for faster, slower in zip(order, order[1:], strict=False):
        assert speeds[faster] > speeds[slower], found.table.to_string()
    assert wrong <= set(found.against), str(found.recommendation)
    # What every comparison of samplers on modes must have, and must find right.
    assert "PT" not in found.against, str(found.recommendation)
