"""The page: what it says, and that it is complete in itself."""

import base64
import io
import os

import numpy as np
import pandas as pd
import pytest

import ppl
from ppl.draws import Estimate
from ppl.report.blocks import aligned, number, seconds
from ppl.report.page import report
from report_pages import Page, make_draws, model_groups, nuts_stats


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.fixture
def good(generator):
    values = {"mu": generator.normal(size=(4, 500)), "theta": generator.normal(size=(4, 500, 3))}
    observed = generator.normal(size=60)
    prior = {"mu": generator.normal(size=(1, 200))}
    return make_draws(
        values,
        stats=nuts_stats(generator, 4, 500),
        groups=model_groups(generator, observed, prior),
        run={"notes": ["2 of 4 chains were started anew."]},
    )


@pytest.fixture
def weighted(generator):
    return make_draws(
        {"x": generator.normal(size=(2, 800, 2)), "mu": generator.normal(size=(2, 800))},
        log_weights=generator.normal(size=(2, 800)),
        log_evidence=Estimate(-31.42, 0.08, -31.6, -31.3),
        history={
            "ess": generator.uniform(300, 800, (2, 9)),
            "inverse_temperature": np.tile(np.linspace(0, 1, 9), (2, 1)),
            "num_evaluations": np.ones((2, 9, 2)),
        },
        run={
            "sampler_name": "TemperedSMC",
            "kind": "particle",
            "exactness": "asymptotically exact",
        },
    )


def read(draws, path) -> Page:
    return Page(report(draws, path / "page.html").read_text(encoding="utf-8"))


# What it says -----------------------------------------------------------------------------------


def test_page_has_its_sections_in_order(good, tmp_path):
    assert read(good, tmp_path).titles == [
        "Summary",
        "Do the chains agree?",
        "Traces",
        "Effective sample size",
        "Energy",
        "Divergences",
        "The worst parameters in pairs",
        "Step size and acceptance",
        "Prior and posterior",
        "Posterior predictive checks",
        "What it cost",
        "How to repeat it",
        "Notes",
    ]


def test_verdict_in_words_comes_first(good, tmp_path):
    verdict = ppl.diagnostics.convergence.judge(good)
    text = read(good, tmp_path).text
    assert text.index(verdict.headline) < text.index("Sampler") < text.index("Summary")


def test_reasons_and_advice_are_those_of_the_verdict(generator, tmp_path):
    values = generator.normal(size=(4, 300)) + np.array([0, 0, 0, 5])[:, None]
    draws = make_draws({"x": values})
    verdict = ppl.diagnostics.convergence.judge(draws)
    assert verdict.status == "bad"
    page = read(draws, tmp_path)
    for sentence in (verdict.headline, *verdict.reasons, *verdict.advice):
        assert " ".join(sentence.split()) in page.text


def test_key_facts_are_there(good, tmp_path):
    text = read(good, tmp_path).text
    for fact in (
        "NUTS, exact",
        "4 chains × 500",
        "16,000 log-density, 16,000 gradient",
        "1 x cpu (x86_64), float32",
    ):
        assert fact in text


def test_the_cost_has_all_phases_and_speed_leaves_out_compilation(generator, tmp_path):
    spent = {"train": 6.0, "sample": 2.0, "compile": 4.0}
    draws = make_draws(
        {"x": generator.normal(size=(4, 500))},
        run={"seconds": spent, "evaluations": {"train": [0, 900], "sample": [0, 100]}},
    )
    assert draws.run.wall_seconds == 8
    text = read(draws, tmp_path).text
    for fact in (
        "training 0 900 6.00 s",
        "sampling 0 100 2.00 s",
        "8.00 s, 4.00 s of it compilation",
    ):
        assert fact in text
    least = min(draws.summary()[["ess_bulk", "ess_tail"]].min())
    assert f"{number(least / 4)} per second, compilation apart" in text


def test_page_tells_how_to_repeat_the_run(good, tmp_path):
    text = read(good, tmp_path).text
    key = 'jax.random.wrap_key_data(jnp.array([0, 7], "uint32"), impl="threefry2x32")'
    assert key in text
    assert "2 of 4 chains were started anew." in text


def test_key_on_the_page_is_the_key_of_the_run(tmp_path):
    import jax
    import jax.numpy as jnp

    key = jax.random.key(2**40 + 3)
    data = {
        "data": np.asarray(jax.random.key_data(key)).tolist(),
        "impl": str(jax.random.key_impl(key)),
    }
    page = read(make_draws({"x": np.zeros((1, 5))}, run={"rng_key": data}), tmp_path)
    line = next(word for word in page.words if word.startswith("rng_key = "))
    scope = {"jax": jax, "jnp": jnp}
    exec(line, scope)
    assert scope["rng_key"] == key


def test_csv_on_the_page_is_the_whole_summary(generator, tmp_path):
    draws = make_draws({"x": generator.normal(size=(2, 100, 30))})
    page = read(draws, tmp_path)
    link = next(r for r in page.references if r.startswith("data:text/csv"))
    table = pd.read_csv(io.BytesIO(base64.b64decode(link.split(",")[1])), index_col=0)
    pd.testing.assert_frame_equal(table, draws.summary(), check_dtype=False)


def test_of_many_parameters_the_worst_are_shown_and_it_is_said(generator, tmp_path):
    values = generator.normal(size=(4, 200, 50))
    values[0, :, 37] += 3
    text = read(make_draws({"x": values}), tmp_path).text
    assert "The 20 of 50 scalars with the worst R-hat" in text
    assert "x[37]" in text


def test_divergences_are_located(generator, tmp_path):
    tau = np.exp(generator.normal(size=(4, 500)))
    stats = nuts_stats(generator, 4, 500) | {"diverging": tau < np.quantile(tau, 0.02)}
    text = read(
        make_draws({"x": generator.normal(size=(4, 500)), "tau": tau}, stats=stats), tmp_path
    ).text
    assert "40 divergent transitions in 2,000 draws (2.00%). Most conspicuous: tau is low" in text


def test_chains_get_no_weights_and_weighted_draws_no_chain_diagnostics(good, weighted, tmp_path):
    chains, weights = read(good, tmp_path), read(weighted, tmp_path)
    assert "Weights" not in chains.titles
    assert weights.titles == [
        "Summary",
        "Weights",
        "Densities",
        "Parameters in pairs",
        "Step by step",
        "What it cost",
        "How to repeat it",
    ]
    assert "R-hat" not in weights.text
    assert "Pareto k-hat" in weights.text
    assert "−31.420 ± 0.080, between −31.60 and −31.30" in weights.text


def test_samplers_are_compared_before_each_is_reported(good, weighted, generator, tmp_path):
    other = make_draws({"mu": generator.normal(size=(4, 500)) + 1})
    page = read({"first <one>": good, "second": other, "third": weighted}, tmp_path)
    assert page.titles[0] == "Side by side"
    assert [t for t in page.titles if t in ("first <one>", "second", "third")] == [
        "first <one>",
        "second",
        "third",
    ]


def test_samplers_that_disagree_are_said_to(good, generator, tmp_path):
    other = make_draws({"mu": generator.normal(size=(4, 500)) + 1})
    page = read({"a": good, "b": other}, tmp_path)
    assert "No: 1 of 1 mean differ" in page.text
    assert "No mean differs" in read({"a": good, "b": good}, tmp_path).text


def test_statistics_the_model_cannot_reproduce_are_marked(generator, tmp_path):
    observed = np.r_[generator.normal(size=99), 50.0]
    groups = model_groups(generator, observed, {})
    groups["posterior_predictive"]["y"].values[:] = generator.normal(size=(2, 50, 100))
    draws = make_draws({"mu": generator.normal(size=(2, 50))}, groups=groups)
    text = report(draws, tmp_path / "page.html").read_text()
    row = text[text.index("y: greatest") :]
    assert 'class="warn">0.0%' in row[: row.index("</tr>")]


# Complete in itself -----------------------------------------------------------------------------


def pages(good, weighted):
    return {"good": good, "weighted": weighted, "both": {"a": good, "b": weighted}}


@pytest.mark.parametrize("which", ["good", "weighted", "both"])
def test_page_loads_nothing_and_runs_nothing(which, good, weighted, tmp_path):
    path = report(pages(good, weighted)[which], tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert all(reference.startswith("data:") for reference in page.references)
    assert not page.elements.keys() & {"script", "iframe", "object", "embed", "img", "video"}
    assert "@import" not in text
    assert "url(" not in text
    assert "javascript:" not in text


@pytest.mark.parametrize("which", ["good", "weighted", "both"])
def test_page_is_well_formed(which, good, weighted, tmp_path):
    page = read(pages(good, weighted)[which], tmp_path)
    assert page.unclosed == []
    assert [i for i, times in page.ids.items() if times > 1] == []
    assert {anchor[1:] for anchor in page.anchors} <= page.ids.keys()
    assert page.elements["h1"] == 1
    # Every chart says in words what it shows.
    assert all(page.labels)


def test_page_of_ten_parameters_is_below_a_megabyte_and_a_half(generator, tmp_path):
    draws = make_draws(
        {"theta": generator.normal(size=(4, 5000, 10))}, stats=nuts_stats(generator, 4, 5000, 50)
    )
    assert report(draws, tmp_path / "page.html").stat().st_size < 1.5e6


def test_names_are_escaped_everywhere(generator, tmp_path):
    name = '<script>alert("$x_1^{2}$ & {{ 7 * 7 }}")</script>'
    draws = make_draws(
        {name: generator.normal(size=(4, 200)), "$\\alpha_": generator.normal(size=(4, 200))}
    )
    page = read(draws, tmp_path)
    assert page.elements["script"] == 0
    assert name in page.text
    assert "$\\alpha_" in page.text


# Odd draws --------------------------------------------------------------------------------------


def odd(generator) -> dict:
    normal = generator.normal
    holes = normal(size=(4, 100))
    holes[1, 3] = np.nan
    stats = nuts_stats(generator, 4, 100)
    particle = {"kind": "particle", "sampler_name": "SMC"}
    return {
        "one chain": make_draws({"x": normal(size=(1, 100))}, stats=nuts_stats(generator, 1, 100)),
        "three draws": make_draws({"x": normal(size=(4, 3))}, stats=nuts_stats(generator, 4, 3)),
        "one draw": make_draws({"x": normal(size=(1, 1))}, stats=nuts_stats(generator, 1, 1)),
        "no draws": make_draws({"x": normal(size=(4, 0, 2))}, stats=nuts_stats(generator, 4, 0)),
        "constant": make_draws({"x": np.ones((4, 100)), "y": normal(size=(4, 100))}, stats=stats),
        "all constant": make_draws({"x": np.ones((4, 100))}, stats=stats),
        "nan": make_draws({"x": normal(size=(4, 100)), "f": holes}, stats=stats),
        "all nan": make_draws({"x": np.full((4, 100), np.nan)}, stats=stats),
        "infinite": make_draws({"x": np.where(normal(size=(4, 100)) > 2, np.inf, 0.0)}),
        "integers": make_draws(
            {"k": generator.poisson(3, (4, 100)), "b": normal(size=(4, 100)) > 0}
        ),
        "empty array": make_draws({"x": normal(size=(4, 100, 0)), "y": normal(size=(4, 100))}),
        "no stats": make_draws({"x": normal(size=(4, 100))}),
        "stats of nan": make_draws(
            {"x": normal(size=(4, 100))}, stats={"energy": np.full((4, 100), np.nan)}
        ),
        "all diverging": make_draws(
            {"x": normal(size=(4, 100))}, stats=stats | {"diverging": np.ones((4, 100), bool)}
        ),
        "64 chains": make_draws(
            {"x": normal(size=(64, 60))}, stats=nuts_stats(generator, 64, 60, 9)
        ),
        "biased": make_draws({"x": normal(size=(4, 100))}, run={"exactness": "biased"}),
        "bare run": make_draws(
            {"x": normal(size=(4, 100))},
            run={"seconds": {}, "evaluations": {}, "versions": {}, "started": "", "rng_key": {}},
            num_evaluations=(0, 0),
        ),
        "direct": make_draws({"x": normal(size=(1, 400))}, run={"kind": "direct"}),
        "learned": make_draws(
            {"x": normal(size=(1, 400))},
            run={"kind": "learned"},
            history={"loss": np.r_[1e9, np.nan, np.linspace(5, 1, 300)][None]},
        ),
        "resampled": make_draws({"x": normal(size=(1, 400))}, run={"kind": "resampled"}),
        "no weight at all": make_draws(
            {"x": normal(size=(1, 100))}, log_weights=np.full((1, 100), -np.inf), run=particle
        ),
        "one weight": make_draws(
            {"x": normal(size=(1, 100, 2))},
            log_weights=np.r_[0.0, np.full(99, -np.inf)][None],
            run=particle,
        ),
        "equal weights": make_draws(
            {"x": normal(size=(2, 100))}, log_weights=np.zeros((2, 100)), run=particle
        ),
        "weights of nan": make_draws(
            {"x": normal(size=(2, 100))},
            log_weights=np.where(normal(size=(2, 100)) > 1, np.nan, 0.0),
            log_evidence=Estimate(np.nan, np.nan),
            run=particle,
        ),
    }


@pytest.mark.parametrize("which", odd(np.random.default_rng(0)))
def test_odd_draws_get_a_page(which, generator, tmp_path):
    draws = odd(generator)[which]
    page = read(draws, tmp_path)
    assert "How to repeat it" in page.titles
    words = page.text.replace(",", " ").split()
    assert not [words[max(i - 9, 0) : i + 2] for i, w in enumerate(words) if w in ("nan", "inf")]
    text = read({"a": draws, "b": draws}, tmp_path).text
    assert "Side by side" in text


def test_a_thousand_parameters_get_a_page_of_twenty(generator, tmp_path):
    draws = make_draws({"x": generator.normal(size=(4, 100, 1000))})
    path = report(draws, tmp_path / "page.html")
    assert path.stat().st_size < 1.5e6
    assert "The 20 of 1,000 scalars" in Page(path.read_text()).text


@pytest.mark.parametrize("observed", ["few", "counts", "binary", "constant", "nan", "matrix"])
def test_predictive_checks_of_odd_data_do_not_fail(observed, generator, tmp_path):
    data = {
        "few": generator.normal(size=3),
        "counts": generator.poisson(2, 100),
        "binary": generator.integers(0, 2, 100),
        "constant": np.ones(100),
        "nan": np.r_[np.nan, generator.normal(size=60)],
        "matrix": generator.normal(size=(10, 10)),
    }[observed]
    draws = make_draws(
        {"mu": generator.normal(size=(2, 50))}, groups=model_groups(generator, data, {})
    )
    read(draws, tmp_path)


# Writing ----------------------------------------------------------------------------------------


def test_report_is_a_function_and_a_package(good, tmp_path):
    import ppl.report.svg

    assert ppl.report.svg.Chart
    assert (
        ppl.report(good, tmp_path / "a" / "b" / "page.html") == tmp_path / "a" / "b" / "page.html"
    )


def test_failure_leaves_the_old_page_and_no_litter(good, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        report(good, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_refused_as_a_file(good, tmp_path):
    with pytest.raises(
        IsADirectoryError, match=r"is a folder; name a file in it, such as .*report"
    ):
        report(good, tmp_path)


def test_no_draws_at_all_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no draws to report"):
        report({}, tmp_path / "page.html")


# Numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234.5, "1,234"),
        (-0.012345, "−0.0123"),
        (1.5e-7, "1.5×10⁻⁷"),
        (float("nan"), "–"),
        (float("-inf"), "−∞"),
        (None, "–"),
    ],
)
def test_numbers_have_three_significant_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (4.4012, 0.092, "4.401"),
        (4.4012, 0.92, "4.40"),
        (1234.4, 30.0, "1,234"),
        (2.5, 0.0, "2.50"),
        (-0.001, 0.3, "0.00"),
    ],
)
def test_digits_end_where_the_monte_carlo_error_begins(value, error, text):
    assert aligned(value, error) == text


def test_durations_have_a_fitting_unit():
    assert [seconds(s).replace("\xa0", " ") for s in (0.001, 1.234, 45.0, 300.0, 9000.0)] == [
        "1.0 ms",
        "1.23 s",
        "45.0 s",
        "5.0 min",
        "2.5 h",
    ]
