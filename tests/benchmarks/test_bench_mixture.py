"""The harness knows exact draws from others, and problems of several shapes as one."""

import jax.numpy as jnp
import numpy as np
import pytest

import bench_mixture as bench
import samplers
from models.inverse.mixture_posterior import benchmark


@pytest.mark.slow
def test_distances_know_exact_draws_from_others():
    case = bench.mixture_case(8, 2, num_problems=4, num_draws=300)
    floor, prior = bench.distances(case.again, case), bench.distances(case.again[::-1], case)
    assert floor.mean() < 0.5 * prior.mean()
    (line,) = bench.lines("exact draws", bench.floor, [case])
    assert line["distance"] == pytest.approx(floor.mean())
    assert line["draws are"] == "exact"
    assert np.isfinite(line["s.e."])


def test_a_problem_with_rows_of_zeros_is_the_same_problem():
    problem = benchmark(0, 8, 2)
    wide = bench.widened(problem.likelihood, 4)
    assert wide.num_observed == 4
    x = jnp.arange(8.0)
    np.testing.assert_allclose(wide.mean_given(x, 2.0), problem.likelihood.mean_given(x, 2.0))
    others = (problem.truth, 0 * problem.truth)
    gaps = [float(fn(others[0]) - fn(others[1])) for fn in (wide, problem.likelihood)]
    assert gaps[0] == pytest.approx(gaps[1], rel=1e-5)


@pytest.mark.slow
def test_problems_of_all_shapes_run_in_one_program(compilations):
    cases = [bench.mixture_case(8, m, num_problems=2, num_draws=20) for m in bench.OBSERVED]
    with compilations() as count:
        found = bench.lines("DiffPIR", bench.made("DiffPIR", 20, num_steps=5), cases)
    assert count.of("_draw") == 1
    assert [line["case"] for line in found] == ["8, 1", "8, 2", "8, 4"]
    assert all(line["distance"] > 0 for line in found)


@pytest.mark.slow
def test_digits_have_an_exact_posterior_that_sees_their_upper_half():
    case = bench.digits_case(num_problems=2, num_draws=50)
    likelihood = case.targets[0].log_likelihood_fn
    seen = case.exact[0][:, :32]
    assert np.abs(seen.mean(0) - np.asarray(likelihood.observation)).max() < 0.3
    assert bench.distances(case.again, case).mean() < 0.2


def test_settings_are_those_of_methods_of_the_library():
    for name in bench.SETTINGS:
        assert bench.made(name, 10).exactness == getattr(samplers, name).exactness
