"""The charts: what they mark, and values they cannot draw."""

import numpy as np
import pytest

from ppl.report import plots


@pytest.fixture
def generator():
    return np.random.default_rng(3)


@pytest.mark.parametrize("chains", [2, 4])
def test_rank_band_holds_chains_that_agree_in_19_of_20(generator, chains):
    leave = 0
    for _ in range(100):
        panel = plots.rank("x", generator.normal(size=(chains, 400)), 400.0)
        leave += "leave the band" in panel.note
    # 100 trials at 5 %: four standard errors are 9.
    assert leave <= 5 + 9


def test_rank_plot_flags_a_chain_that_is_shifted(generator):
    values = generator.normal(size=(4, 500))
    values[2] += 0.5
    assert "leave the band" in plots.rank("x", values, 500.0).note


def test_rank_plot_of_one_chain_compares_its_halves(generator):
    values = generator.normal(size=(1, 1000))
    assert "leave" not in plots.rank("x", values, 500.0).note
    assert "leave" in plots.rank("x", values + np.linspace(0, 2, 1000), 500.0).note


def test_positive_parameters_over_decades_get_a_log_axis(generator):
    panel = plots.pair(
        "tau", np.exp(3 * generator.normal(size=500)), "x", generator.normal(size=500)
    )
    assert "tau (log scale)" in panel.svg
    assert "x (log scale)" not in panel.svg


def test_weights_carried_by_one_draw_are_said():
    weights = np.full(1000, 1e-6)
    weights[0] = 1.0
    assert plots.weight_share(weights / weights.sum()).note == "0.1% carry half"


@pytest.mark.parametrize(
    "values",
    [
        np.full((4, 100), np.nan),
        np.full((4, 100), 2.0),
        np.full((1, 3), -np.inf),
        np.zeros((4, 0)),
        np.array([[1.0, np.nan, 3.0, np.inf]]),
        np.array([[1e300, -1e300, 1e300, 0.0]]),
        np.array([[0.0, 5e-324, 0.0, 5e-324, 0.0]]),
    ],
    ids=["nan", "constant", "infinite", "empty", "mixed", "huge", "tiny"],
)
def test_charts_of_degenerate_values_do_not_fail(values):
    weights = np.full(values.shape, 1 / max(values.size, 1))
    for panel in (
        plots.trace("x", values, diverging=np.ones(values.shape, bool)),
        plots.rank("x", values, 10.0),
        plots.densities("x", [(values, None, "c0"), (values, weights, "c1")], label="x"),
        plots.histogram("x", values),
        plots.pair("x", values, "y", values, weights=weights),
        plots.history("x", values),
        plots.sparkline(values),
        plots.sparkline(values, weights),
    ):
        assert panel is None or "nan" not in str(getattr(panel, "svg", panel))
