"""The harness passes exact draws and fails broken ones, each for what is wrong with it."""

import numpy as np
import pytest

import bench_inverse as bench
import samplers


@pytest.fixture(scope="module")
def case():
    return bench.field_case("mask", size=16, num_fields=20)


@pytest.fixture(scope="module")
def table(case):
    methods = {"exact": bench.exact, "narrow": bench.narrow, "shifted": bench.shifted}
    return bench.calibration(methods, case)


@pytest.mark.slow
def test_exact_draws_are_calibrated(table):
    row = table.loc["exact"]
    assert row["calibrated"]
    assert row["sd ratio"] == pytest.approx(1, abs=0.02)
    assert row["mean error"] == pytest.approx(1, abs=0.1)
    assert row["crps ratio"] == 1


@pytest.mark.slow
def test_broken_twins_are_not(table):
    narrow, shifted = table.loc["narrow"], table.loc["shifted"]
    assert not narrow["calibrated"]
    assert narrow["sd ratio"] == pytest.approx(0.9 * table.loc["exact", "sd ratio"])
    # Coverage alone lets means pass that are off by a fifth of a standard deviation.
    assert not shifted["calibrated"]
    assert abs(shifted["coverage"] - 0.9) < bench.LIMIT * shifted["coverage s.e."]
    assert shifted["mean error"] > 1.5


@pytest.mark.slow
def test_a_sampler_takes_part_by_its_name(case):
    two = case._replace(
        targets=case.targets[:2], **{
            name: getattr(case, name)[:2] for name in ("truths", "means", "sds", "exact")
        }
    )  # fmt: skip
    from_prior = lambda case: bench.draws_of(samplers.ExactDraws(), Priors(case), 99)[0]
    found = bench.calibration({"prior": from_prior}, two).loc["prior"]
    assert found["sd ratio"] > 1.5
    assert found["residual"] > 20
    lines = list(bench.field_lines(bench.calibration({"exact draws": bench.exact}, two), "mask"))
    assert lines[2].startswith("| exact draws | exact | ")


class Priors:
    """The same problems before the data came: their targets are the fields."""

    def __init__(self, case):
        self.targets = [target.prior.denoiser.__self__ for target in case.targets]


@pytest.mark.slow
def test_distances_know_exact_draws_from_others():
    case = bench.mixture_case(8, 2, num_problems=4, num_draws=300)
    floor, prior = bench.distances(case.again, case), bench.distances(case.again[::-1], case)
    assert floor.mean() < 0.5 * prior.mean()
    table = bench.mixture({"exact draws": bench.floor}, [case])
    assert table.loc["exact draws", "8, 2"] == pytest.approx(floor.mean())
    assert np.isfinite(table.loc["exact draws", "8, 2 ±"])
    assert list(bench.mixture_lines(table))[2].startswith("| exact draws | exact | ")


@pytest.mark.slow
def test_digits_have_an_exact_posterior_that_sees_their_upper_half():
    case = bench.digits_case(num_problems=2, num_draws=50)
    likelihood = case.targets[0].log_likelihood_fn
    seen = case.exact[0][:, :32]
    assert np.abs(seen.mean(0) - np.asarray(likelihood.observation)).max() < 0.3
    assert bench.distances(case.again, case).mean() < 0.2


def test_methods_of_the_library_are_found_by_name():
    assert set(bench.available()) <= set(bench.SETTINGS)
    with pytest.raises(ValueError, match="no problem is called 'smoke'"):
        bench.field_case("smoke")
