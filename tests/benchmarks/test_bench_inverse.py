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


def test_lines_are_kept_and_known_again(tmp_path):
    path, columns = tmp_path / "lines.csv", ("case", "method", "coverage")
    assert bench.there(path, "case") == set()
    for method in ("DPS", "TMPD"):
        bench.keep(path, columns, {"case": "mask", "method": method, "coverage": 0.912345})
    assert path.read_text() == "case,method,coverage\nmask,DPS,0.9123\nmask,TMPD,0.9123\n"
    assert bench.there(path, "case", "method") == {("mask", "DPS"), ("mask", "TMPD")}
    assert bench.what("TMPD") == "biased"
    assert bench.what("narrow") == "broken"


def test_a_line_that_grows_is_that_of_all_its_problems(tmp_path):
    """Means and errors of the pieces together are those of the whole; others stay as they were."""
    measures = np.random.default_rng(0).uniform(0.8, 1.2, (5, len(bench.MEASURES)))

    def row(found):
        error = found.std(0, ddof=1) / len(found) ** 0.5 if len(found) > 1 else np.full(5, np.nan)
        one = dict(zip(bench.MEASURES, found.mean(0), strict=True))
        one |= {f"{name} s.e.": x for name, x in zip(bench.MEASURES, error, strict=True)}
        one["mean error"] = np.mean(found[:, 2] ** 2) ** 0.5
        names = {"case": "mask", "method": "DPS", "draws are": "biased", "calibrated": False}
        return one | names | {"fields": len(found), "calls": 10.0, "seconds": 1.0 * len(found)}

    path, whole, grown = tmp_path / "lines.csv", row(measures), None
    bench.keep(path, bench.COLUMNS, whole | {"method": "TMPD", "sd ratio": 0.123456})
    before = path.read_text()
    for piece in (measures[:2], measures[2:4], measures[4:]):
        grown = bench.together(grown, row(piece))
        bench.keep(path, bench.COLUMNS, grown, "case", "method")
    for name in set(bench.COLUMNS) - {"calibrated"}:
        assert grown[name] == pytest.approx(whole[name]), name
    assert path.read_text().startswith(before)
    assert path.read_text().count("\n") == 3
    found = bench.line_of(path, case="mask", method="DPS")
    assert found["fields"] == 5
    assert found["coverage"] == pytest.approx(whole["coverage"], rel=1e-3)
    assert bench.line_of(path, case="blur", method="DPS") is None


class Priors:
    """The same problems before the data came: their targets are the fields."""

    def __init__(self, case):
        self.targets = [target.prior.denoiser.__self__ for target in case.targets]


def test_methods_of_the_library_are_found_by_name():
    assert set(bench.available()) <= set(bench.SETTINGS)
    with pytest.raises(ValueError, match="no problem is called 'smoke'"):
        bench.field_case("smoke")
