"""When a run stops."""

import math

import numpy as np
import pytest

from made_draws import make, of_values
from ppl.stopping import converged, elapsed, evaluations


def good(draws: int = 400, width: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, draws, width))


def test_converged_accepts_independent_chains():
    assert converged()(of_values({"x": good()}))


def test_converged_asks_every_name():
    bad = good()
    bad[0, :, 1] += 1
    assert not converged()(of_values({"x": good(), "y": bad}))
    assert not converged()(of_values({"x": good(), "y": np.cumsum(good(), axis=1)}))


def test_converged_asks_for_effective_draws():
    draws = of_values({"x": good(100)})
    assert not converged(r_hat=1.1, ess=1000)(draws)
    assert converged(r_hat=1.1, ess=200)(draws)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_converged_is_false_on_a_draw_that_is_not_finite(number):
    broken = good()
    broken[2, 7, 0] = number
    assert not converged()(of_values({"x": good(), "y": broken}))


@pytest.mark.parametrize("draws", [0, 1, 3])
def test_converged_needs_four_draws(draws):
    assert not converged(r_hat=10, ess=1e-3)(of_values({"x": good(draws)}))


def test_converged_leaves_constants_out_unless_all_are():
    constant = np.ones((4, 400, 2))
    assert converged()(of_values({"x": good(), "one": constant}))
    assert not converged()(of_values({"one": constant}))


def test_converged_compares_one_chain_with_itself():
    one = good(2000)[:1]
    assert converged()(of_values({"x": one}))
    one[:, 1000:] += 2
    assert not converged()(of_values({"x": one}))


def test_converged_refuses_draws_that_are_no_chains():
    with pytest.raises(ValueError, match="converged.. judges Markov chains; .* 'particle'"):
        converged()(make(kind="particle"))


def test_elapsed_counts_the_phases_of_the_run_once():
    draws = make(seconds={"start": 1.0, "warmup": 2.0, "sample": 3.0, "compile": 4.0})
    assert elapsed(6)(draws)
    assert not elapsed(6.5)(draws)


def test_evaluations_counts_the_larger_of_densities_and_gradients():
    draws = make(num_evaluations=(100, 40))
    assert evaluations(100)(draws)
    assert not evaluations(101)(draws)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: converged(r_hat=1.0), "r_hat must be above 1; got 1.0"),
        (lambda: converged(ess=0), "ess must be a positive number; got 0"),
        (lambda: converged(ess=math.inf), "ess must be a positive number; got inf"),
        (lambda: elapsed(0), "seconds must be positive; got 0"),
        (lambda: elapsed(math.nan), "seconds must be positive; got nan"),
        (lambda: evaluations(0), "n must be at least 1; got 0"),
    ],
)
def test_limits_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
