"""The right one passes, and each of five that are broken is flagged.

The cheap case has ten pairs ``log x_i ~ N(0, 1)``, ``log y_i ~ N(log x_i, 1)``. Its posterior is
known, ``log x_i ~ N(m, 1 / p)`` with p = 2 and m = log(y_i) / 2, so that a kernel can draw from it
exactly, or be wrong in a way that is known exactly.
"""

import importlib
import subprocess
import sys
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.distributions import constraints
from scipy import stats

import ppl
import samplers
from agreement import z_limit
from models.programs import eight_schools
from ppl import inference
from ppl.calibrate import Calibration
from ppl.energy import Energy, TargetError
from ppl.sampler import DirectSampler, Exactness, MarkovKernel
from report_pages import Page

pytestmark = pytest.mark.usefixtures("unoptimized")

DIM = 10
Y = np.ones(DIM, np.float32)


def pairs(y):
    with numpyro.plate("pair", len(y)):
        x = numpyro.sample("x", dist.LogNormal(0.0, 1.0))
        numpyro.sample("y", dist.LogNormal(jnp.log(x), 1.0), obs=y)


class State(NamedTuple):
    position: Any
    is_stuck: Any


class Info(NamedTuple):
    num_evaluations: Any


class Known(MarkovKernel):
    """Autoregression that leaves ``N(m, 1 / p)`` invariant, m and p of the posterior, or broken."""

    exactness: ClassVar[Exactness] = "exact"
    copies: Any = eqx.field(converter=jnp.asarray, default=1.0)  # how often the data count
    prior: Any = eqx.field(converter=jnp.asarray, default=1.0)  # how often the prior counts
    jacobian: Any = eqx.field(converter=jnp.asarray, default=0.0)  # how often it is added too much
    scale: Any = eqx.field(converter=jnp.asarray, default=1.0)
    stuck: Any = eqx.field(converter=jnp.asarray, default=0.0)  # probability, chain by chain
    correlation: Any = eqx.field(converter=jnp.asarray, default=0.5)

    def init(self, rng_key, target, position):
        position, _ = self.draw(rng_key, target)
        return State(position, random.uniform(rng_key) < self.stuck)

    def law(self, target):
        log_y = jnp.log(target.args[0])
        precision = self.prior + self.copies
        return (self.copies * log_y + self.jacobian) / precision, self.scale * precision**-0.5

    def draw(self, rng_key, target):
        mean, sd = self.law(target)
        return {"x": mean + sd * random.normal(rng_key, mean.shape)}, mean

    def step(self, rng_key, target, state):
        drawn, mean = self.draw(rng_key, target)
        rho = self.correlation
        moved = mean + rho * (state.position["x"] - mean)
        moved += jnp.sqrt(1 - rho**2) * (drawn["x"] - mean)
        position = {"x": jnp.where(state.is_stuck, state.position["x"], moved)}
        return State(position, state.is_stuck), Info(jnp.array([1, 0]))


def calibrated(sampler: Any = None, model: Any = pairs, *args: Any, **options: Any) -> Calibration:
    sizes = {"num_simulations": 50, "num_samples": 100, "num_warmup": 0}
    options = sizes | {"progress": False} | options
    return ppl.calibrate(model, sampler or Known(), *(args or (Y,)), **options)


# The verdict ----------------------------------------------------------------------------------


def test_the_right_sampler_passes():
    result = calibrated(num_simulations=100)
    assert result.passed is True
    assert result.verdict.startswith("Calibrated: nothing in 100 simulations")
    assert "would have shown" in result.verdict
    assert str(result) == result.verdict
    assert list(result.ranks) == [*(f"x[{i}]" for i in range(DIM)), *JOINT]
    assert result.ranks.shape == result.effective.shape == (100, DIM + 3)
    assert ((result.ranks > 0) & (result.ranks < 1)).all(axis=None)


JOINT = ["log_likelihood", "log_prior", "log_density"]

BROKEN = {
    "wrong Jacobian": (Known(jacobian=1.0), "too high by about"),
    "dropped prior": (Known(prior=0.0), "log_prior of the draws is too low"),
    "scale 15 % off": (Known(scale=1.15), "log_density of the draws is too low"),
    "scale 15 % off, narrow": (Known(scale=0.85), "log_density of the draws is too high"),
    "stuck chain": (Known(stuck=0.25), "a chain that never moved"),
    "data reused": (Known(copies=2.0), "log_likelihood of the draws is too high"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_sampler_is_flagged(what):
    sampler, words = BROKEN[what]
    result = calibrated(sampler, num_simulations=100)
    assert result.passed is False
    assert result.verdict.startswith("Not calibrated: in 100 simulations")
    assert words in result.verdict
    assert "To do: " in result.verdict


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "level"), [(1.1, "low"), (0.9, "high")])
def test_a_scale_off_by_a_tenth_is_flagged_in_two_hundred_simulations(scale, level):
    result = calibrated(Known(scale=scale), num_simulations=200)
    assert result.passed is False
    assert f"log_density of the draws is too {level}" in result.verdict


def test_shift_and_width_are_measured():
    """A Jacobian too many shifts by ``p^(-1/2)`` posterior standard deviations."""
    table = calibrated(Known(jacobian=1.0), num_simulations=100).table
    shift = table.loc[table["kind"] == "value", "shift"]
    # Ranks among about 130 draws blur the scores by a few percent.
    assert abs(shift.mean() - 2**-0.5) < z_limit(2) / np.sqrt(100 * DIM) + 0.03
    width = calibrated(Known(scale=0.7), num_simulations=100).table["width"].iloc[:DIM]
    assert abs(width.mean() - 0.7) < 0.7 * z_limit(2) / np.sqrt(2 * 100 * DIM) + 0.03


def test_data_that_the_prior_is_computed_from_are_counted_twice():
    """The five broken ones also as models: this one is centered at its data."""

    def centered(y):
        mu = numpyro.sample("mu", dist.Normal(jnp.mean(y), 1.0))
        numpyro.sample("y", dist.Normal(mu, 1.0).expand([len(y)]).to_event(1), obs=y)

    class Exact(Known):
        def law(self, target):
            y = target.args[0]
            return jnp.mean(y), (1 + len(y)) ** -0.5

        def draw(self, rng_key, target):
            mean, sd = self.law(target)
            return {"x": mean + sd * random.normal(rng_key)}, mean

        def init(self, rng_key, target, position):
            return State({"mu": self.draw(rng_key, target)[0]["x"]}, jnp.asarray(False))

        def step(self, rng_key, target, state):
            return self.init(rng_key, target, None), Info(jnp.array([1, 0]))

    result = calibrated(Exact(), centered, np.zeros(2, np.float32), num_simulations=100)
    assert result.passed is False
    assert "draws of mu are too narrow" in result.verdict
    assert "data count more than once" in result.verdict


@pytest.mark.slow
def test_a_generator_shows_what_a_wrong_model_does():
    """The fitted model holds its data in a factor, and takes the variance for the scale."""

    def fitted(y):
        with numpyro.plate("pair", len(y)):
            x = numpyro.sample("x", dist.LogNormal(0.0, 1.0))
            numpyro.factor("y", dist.Normal(jnp.log(x), 4.0).log_prob(jnp.log(y)))

    class Factor(Known):
        def law(self, target):
            return jnp.log(target.program.args[0]) / 17, (16 / 17) ** 0.5

    result = calibrated(Factor(), fitted, Y, generator=pairs, num_simulations=100)
    assert result.passed is False
    assert "log_likelihood (generator) of the draws is too low" in result.verdict
    assert result.about["generator"] == "Program pairs"


def test_quantities_of_the_users_own():
    result = calibrated(quantities=lambda values: {"total": jnp.sum(values["x"])})
    assert result.table.loc["total", "kind"] == "joint"
    assert result.passed is True


@pytest.mark.slow
def test_without_enough_simulations_there_is_no_pass():
    result = calibrated(num_simulations=30)
    assert result.passed is None
    assert "50 simulations are needed for a pass; there are 30" in result.verdict
    # An alarm is one whatever the numbers.
    assert calibrated(Known(prior=0.0), num_simulations=30).passed is False


def test_without_enough_effective_draws_there_is_no_pass():
    result = calibrated(Known(correlation=0.97))
    assert result.passed is not True
    assert "effective draws" in result.verdict or "disagree" in result.verdict


def test_a_faint_alarm_says_how_often_chance_gives_it():
    least = float(calibrated().table["p_value"].min())
    faint = calibrated(false_alarms=1.01 * least)
    assert faint.passed is False
    assert f"Chance alone gives as much in one of {1 / least:,.0f} calibrations" in faint.verdict
    assert "Run again with another rng_key" in faint.verdict
    assert "Run again" not in calibrated(Known(prior=0.0)).verdict


def test_biased_samplers_are_told_how_much():
    class Biased(Known):
        exactness: ClassVar[Exactness] = "biased"

    result = calibrated(Biased(scale=1.5))
    assert "Biased is biased: this is how much" in result.verdict


# Ranks ----------------------------------------------------------------------------------------


def test_chains_are_thinned_by_their_effective_size():
    """An autoregression of correlation r has one independent draw in (1 + r) / (1 - r)."""
    slow = calibrated(Known(correlation=0.8)).effective
    fast = calibrated(Known(correlation=0.0)).effective
    assert 25 < slow["x[0]"].median() < 65  # 400 / 9
    assert fast["x[0]"].median() > 175


def test_ties_are_broken_at_random():
    """A count has many ties: ranks are uniform only if each place is equally likely."""

    def whole(values):
        return {"count": jnp.floor(values["x"][0])}

    u = calibrated(quantities=whole, num_simulations=100).ranks["count"].to_numpy()
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert len(np.unique(u)) == 100


@pytest.mark.slow
def test_what_never_varies_is_no_quantity():
    result = calibrated(quantities=lambda values: {"three": jnp.asarray(3.0)}, num_simulations=5)
    assert "three" not in result.ranks


class Weighted(DirectSampler):
    """The posterior of the pairs by importance sampling, from one twice as wide."""

    exactness: ClassVar[Exactness] = "asymptotically exact"
    batch_size: ClassVar[int] = 2000
    wrong: bool = False

    def draw(self, rng_key, target, n):
        mean, sd = jnp.log(target.args[0]) / 2, 0.5**0.5
        e = 1.3 * random.normal(rng_key, (n, DIM))
        log_weights = jnp.sum(-0.5 * e**2 + 0.5 * (e / 1.3) ** 2, axis=1)
        return {"x": mean + sd * e}, jnp.zeros(n) if self.wrong else log_weights


@pytest.mark.parametrize("wrong", [False, True])
def test_weighted_draws_count_by_their_weights(wrong):
    result = calibrated(Weighted(wrong=wrong), num_samples=2000, num_warmup=None)
    assert result.passed is not wrong
    assert (result.effective["x[0]"] < 2000).all() or wrong


def test_exact_draws_of_a_distribution_pass_and_those_of_another_do_not():
    target = ppl.from_distribution(dist.Gamma(2.0, 3.0))
    options: dict[str, Any] = {"num_simulations": 50, "progress": False}
    assert ppl.calibrate(target, samplers.ExactDraws(), **options).passed is True

    class Twice(samplers.ExactDraws):  # z = log x of another scale
        def draw(self, rng_key, target, n):
            return target.sample(rng_key, n) + 0.6, None

    result = ppl.calibrate(target, Twice(), **options)
    assert result.passed is False
    assert "draws of x are too high" in result.verdict


class Own:
    """``x ~ Exponential(1)``, ``y ~ N(log x, 1)``, by hand; the Jacobian counted ``times``."""

    def __init__(self, times):
        self.times = times

    @staticmethod
    def fn(x, y, times):
        return -x - 0.5 * (y - jnp.log(x)) ** 2 + (times - 1) * jnp.log(x)

    def simulate(self, rng_key):
        key_x, key_y = random.split(rng_key)
        z = jnp.log(random.exponential(key_x))
        target = ppl.from_log_density(
            self.fn, jnp.zeros(()), z + random.normal(key_y), float(self.times),
            support=constraints.positive,
        )  # fmt: skip
        return z, target


@pytest.mark.slow
def test_an_own_simulator_with_a_random_walk():
    """A real chain on a density written by hand: right, and with its Jacobian added twice."""
    options = {"num_chains": 4, "num_samples": 500, "num_warmup": 100, "progress": False}
    walk = samplers.RandomWalk(step_size=1.5)
    assert ppl.calibrate(Own(1), walk, num_simulations=100, **options).passed is True
    result = ppl.calibrate(Own(2), walk, num_simulations=100, **options)
    assert result.passed is False
    assert "draws of x are" in result.verdict
    assert "too high" in result.verdict


# Around the data ------------------------------------------------------------------------------


class Around(Known):
    """Exact for the pairs, with or without replicated data."""

    def law(self, target):
        logs = [jnp.log(t.args[0]) for t in getattr(target, "programs", (target,))]
        precision = 1.0 + self.copies * len(logs)
        return self.copies * sum(logs) / precision, self.scale * precision**-0.5


@pytest.mark.parametrize(("sampler", "passed"), [(Around(), True), (Around(scale=2.0), False)])
def test_posterior_calibration_starts_from_the_posterior_of_the_data(sampler, passed):
    y = np.exp(np.full(DIM, 4.0)).astype(np.float32)
    result = calibrated(sampler, pairs, y, around_data=True)
    assert result.passed is passed
    assert result.about["around_data"]


@pytest.mark.slow
def test_an_improper_prior_can_be_calibrated_around_its_data():
    def flat(y):
        mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(mu, 1.0).expand([len(y)]).to_event(1), obs=y)

    options = {"num_simulations": 60, "num_samples": 100, "num_warmup": 200, "progress": False}
    mala = samplers.MALA(step_size=0.3)
    result = ppl.calibrate(flat, mala, np.zeros(3, np.float32), around_data=True, **options)
    assert result.passed is True
    with pytest.raises(TargetError, match="no proper prior to draw from"):
        ppl.calibrate(flat, mala, np.zeros(3, np.float32), **options)


# Running --------------------------------------------------------------------------------------


def test_new_data_compile_nothing(compilations):
    calibrated()
    with compilations() as count:
        calibrated(Known(scale=1.1), pairs, 2 * Y, rng_key=3)
    assert count.compilations == 0


def test_samplers_that_are_no_chains_compile_once_for_all_simulations(compilations):
    options = {"num_samples": 2000, "num_warmup": None, "num_simulations": 5}
    calibrated(Weighted(), **options)
    with compilations() as count:
        calibrated(Weighted(), pairs, 2 * Y, **options)
    assert count.compilations == 0


@pytest.mark.slow
def test_the_same_key_gives_the_same_ranks_and_another_one_others():
    first, again, other = (calibrated(num_simulations=20, rng_key=key).ranks for key in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all(axis=None)


def test_a_killed_calibration_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = calibrated(num_simulations=100)
    real, calls = inference.sample_batch, []

    def killed(*args, **kwargs):
        calls.append(kwargs["checkpoint"])
        if len(calls) == 2:
            raise RuntimeError("killed")
        return real(*args, **kwargs)

    module = sys.modules["ppl.calibrate"]
    monkeypatch.setattr(module, "sample_batch", killed)
    with pytest.raises(RuntimeError, match="killed"):
        calibrated(num_simulations=100, checkpoint=tmp_path)
    monkeypatch.setattr(module, "sample_batch", real)
    first = {f: f.stat().st_mtime_ns for f in tmp_path.glob("simulations-00000/chunk-*")}
    resumed = calibrated(num_simulations=100, checkpoint=tmp_path)
    np.testing.assert_array_equal(resumed.ranks, whole.ranks)
    assert first == {f: f.stat().st_mtime_ns for f in first}  # not drawn a second time
    assert len(first) > 0
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_samplers_that_are_no_chains_go_on_too(tmp_path):
    importance = samplers.ImportanceSampling(num_particles=256)
    options = {"num_samples": None, "num_warmup": None, "num_simulations": 4}
    first = calibrated(importance, **options, checkpoint=tmp_path)
    states = {f: f.stat().st_mtime_ns for f in tmp_path.glob("*/target-*/chunk-*")}
    again = calibrated(importance, **options, checkpoint=tmp_path)
    np.testing.assert_array_equal(first.ranks, again.ranks)
    assert len(states) >= 4
    assert states == {f: f.stat().st_mtime_ns for f in states}


def test_an_interrupt_judges_what_is_complete(monkeypatch):
    real, calls = inference.sample_batch, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(sys.modules["ppl.calibrate"], "sample_batch", interrupted)
    result = calibrated(num_simulations=100)
    assert len(result.ranks) == 50
    assert "Interrupted: 50 of 100 simulations were run" in result.verdict


@pytest.mark.slow
def test_the_progress_bar_names_the_simulations(capsys):
    calibrated(num_simulations=60, progress=True)
    printed = capsys.readouterr().err
    assert "simulations 0 to 29" in printed
    assert "simulations 30 to 59" in printed


WAYS = [
    "import ppl; f = ppl.calibrate",
    "from ppl import calibrate as f",
    "import ppl.calibrate; import ppl; f = ppl.calibrate",
    "import ppl; ppl.calibrate; import ppl.calibrate; f = ppl.calibrate",
    "import ppl.report, ppl.calibrate; from ppl import calibrate as f",
]


def test_the_name_is_callable_however_it_is_imported():
    """In one process, which forgets the package each time."""
    check = "assert list(signature(f).parameters)[:2] == ['model', 'sampler']; f.Calibration"
    forget = "[sys.modules.pop(name) for name in [*sys.modules] if name.split('.')[0] == 'ppl']"
    lines = ["import sys; from inspect import signature"]
    lines += [f"{way}; assert callable(f); {check}; {forget}" for way in WAYS]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_the_module_is_called_like_its_function():
    assert importlib.import_module("ppl.calibrate")(
        pairs, Known(), Y, num_simulations=50, num_samples=100, num_warmup=0, progress=False
    )


# The report -----------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [False, True])
def test_the_report_is_one_page_with_the_verdict_on_top(broken, tmp_path):
    result = calibrated(Known(copies=2.0) if broken else Known(stuck=0.01))
    path = result.report(tmp_path / "folder" / "page.html")
    page = Page(path.read_text("utf-8"))
    assert page.unclosed == []
    assert page.elements["script"] == 0
    assert all(reference.startswith("data:") for reference in page.references)
    assert result.judgement.headline in page.text
    assert "Calibration report" in page.text
    assert page.titles == [
        "Where the truths rank",
        "Test quantities",
        "The fits",
        "How to repeat it",
    ]
    shown = [label for label in page.labels if label.startswith("Rank ECDF difference of")]
    assert len(shown) == DIM + 3
    assert any("too high" in label for label in shown) is broken
    with pytest.raises(IsADirectoryError):
        result.report(tmp_path)


# Bad input ------------------------------------------------------------------------------------


def factor(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.factor("fit", -jnp.sum((y - mu) ** 2))


def improper(y):
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(mu, 1.0).expand([len(y)]).to_event(1), obs=y)


def silent(y):
    del y
    numpyro.sample("mu", dist.Normal(0.0, 1.0))


def tempered(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.handlers.scale(scale=0.5):
        numpyro.sample("y", dist.Normal(mu, 1.0).expand([len(y)]).to_event(1), obs=y)


def broadcast(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([2, 1]).to_event(2))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@pytest.mark.filterwarnings("ignore:model silent observes nothing", "ignore:site 'y'. observations")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (factor, r"numpyro.factor 'fit' .* nothing can be drawn.*generator="),
        (improper, "site 'mu' of model improper has no proper prior to draw from"),
        (silent, "model silent observes no sample site"),
        (tempered, r"handlers.scale makes the density of site 'y' another one"),
        (broadcast, r"observations of shape \(10,\) meet a distribution of batch shape \(2, 1\)"),
        (ppl.from_log_density(lambda x: -(x**2), jnp.zeros(())), "LogDensity has no 'simulate'"),
        ("eight schools", r"takes a NumPyro model.*simulate\(rng_key\).*got str"),
    ],
)
def test_a_model_that_cannot_simulate_is_refused(model, message):
    args = () if isinstance(model, Energy | str) else (Y,)
    with pytest.raises(TargetError, match=message):
        ppl.calibrate(model, Known(), *args, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_simulations": 0}, "num_simulations must be a positive integer; got 0"),
        ({"num_simulations": 2.5}, "num_simulations must be a positive integer; got 2.5"),
        ({"false_alarms": 0.0}, "false_alarms must be a number between 0 and 1; got 0.0"),
        ({"num_chains": 0}, "num_chains must be an integer, at least 1"),
        ({"generator": silent}, "calibrate cannot simulate: model silent observes no sample site"),
        ({"generator": lambda y: factor(y)}, "calibrate cannot simulate"),
        (
            {"quantities": lambda values: {"x": 1.0}},
            "quantities: 'x' is a name of the draws already",
        ),
        ({"quantities": lambda values: 3.0}, "must return a dict of numbers by name; got float"),
    ],
)
@pytest.mark.filterwarnings("ignore:model silent observes nothing")
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        calibrated(**{"num_simulations": 5} | options)


def test_simulated_data_that_nothing_can_start_from_are_named():
    def explosive(y):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(jnp.where(x > 0.0, jnp.inf, x), 1.0), obs=y)

    walk = samplers.RandomWalk(step_size=1.0)
    with pytest.raises(TargetError, match="of one of the simulations 0 to 19: data drawn"):
        calibrated(walk, explosive, np.float32(0.0), num_simulations=20)


def test_a_generator_of_other_parameters_is_refused():
    def other(y):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(z, 1.0).expand([len(y)]).to_event(1), obs=y)

    with pytest.raises(TargetError, match="generator other draws no 'x', which model pairs infers"):
        calibrated(generator=other)


def test_sampler_and_model_in_the_wrong_order_are_refused():
    with pytest.raises(TypeError, match="the model comes first"):
        ppl.calibrate(Known(), pairs, Y)
    with pytest.raises(TargetError, match="holds its data already"):
        ppl.calibrate(ppl.from_numpyro(pairs, Y), Known(), Y)
    with pytest.raises(TargetError, match="around_data=True.*takes a NumPyro model"):
        ppl.calibrate(Own(1), Known(), around_data=True)


# Eight schools with NUTS, and false alarms ------------------------------------------------------


class Broken(Energy):
    """The eight schools with one thing wrong, told apart by a number for each."""

    program: Any
    jacobian: Any  # how often the log-Jacobian counts
    likelihood: Any
    scale: Any  # of all draws

    @property
    def template(self):
        return self.program.template

    @property
    def offers(self):
        return self._with_gradient("log_density", "log_parts")

    def log_parts(self, position):
        log_prior, log_likelihood = self.program.log_parts(position)
        log_prior += (self.jacobian - 1) * self.program.log_jacobian(position)
        return log_prior / self.scale**2, self.likelihood * log_likelihood / self.scale**2

    def log_density(self, position):
        return sum(self.log_parts(position))

    def constrain(self, position):
        return self.program.constrain(position)

    def outputs(self, position):
        return self.program.outputs(position)


class Simulator:
    def __init__(self, **changes):
        self.changes = {"jacobian": 1.0, "likelihood": 1.0, "scale": 1.0} | changes

    def simulate(self, rng_key):
        program = ppl.from_numpyro(eight_schools.model, **eight_schools.data())
        position, target = program.simulate(rng_key)
        return position, Broken(target, **jax.tree.map(jnp.asarray, self.changes))  # pyright: ignore


def without_a_prior(y, sigma):
    """Flat in mu, the ranks of which stay uniform: a flat prior matches any location."""
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(y)):
        theta_trans = numpyro.sample("theta_trans", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * theta_trans)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


class Stuck(samplers.NUTS):
    """NUTS whose chains never leave small scales between the schools again."""

    def step(self, rng_key, target, state):
        new, info = samplers.NUTS.step(self, rng_key, target, state)
        is_stuck = state.position["tau"] < -2.0
        return jax.tree.map(lambda a, b: jnp.where(is_stuck, a, b), state, new), info


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"jacobian": 2.0}, "draws of tau are"),
        ({"jacobian": 0.0}, "draws of tau are too low"),
        ("dropped prior", "log_prior (generator) of the draws is too low"),
        ({"scale": 1.1}, "log_density of the draws is too low"),
        ({"likelihood": 2.0}, "log_likelihood of the draws is too high"),
        ("stuck chain", "off"),
    ],
)
def test_eight_schools_with_nuts(changes, words):
    """All are seen with p-values below 1e-9; each takes 10 to 40 s on one thread."""
    options: dict[str, Any] = {"num_warmup": 500, "progress": False}
    if changes == "dropped prior":
        data = eight_schools.data()
        options |= data | {"generator": eight_schools.model}
        result = ppl.calibrate(without_a_prior, samplers.NUTS(), **options)
    elif changes == "stuck chain":
        result = ppl.calibrate(Simulator(), Stuck(), **options)
    else:
        result = ppl.calibrate(Simulator(**changes), samplers.NUTS(), **options)
    print(f"\n{changes}: least p {result.table['p_value'].min():.2g}\n{result.verdict}")
    assert result.passed is (changes == {})
    assert words in result.verdict


@pytest.mark.slow
def test_false_alarms_are_at_most_one_in_a_hundred():
    """400 calibrations of the right sampler, its chains correlated."""
    runs, least = 400, []
    for key in range(runs):
        result = calibrated(Known(correlation=0.7), rng_key=key, num_simulations=100)
        least.append((result.table["p_value"].min(), result.passed))
    p_values, passed = np.array([p for p, _ in least]), [passed for _, passed in least]
    below = ", ".join(f"{level}: {np.mean(p_values < level):.1%}" for level in (0.1, 0.05, 0.01))
    print(f"\n{sum(p is False for p in passed)} false alarms in {runs}; p-values below {below}")
    assert sum(p is not True for p in passed) <= stats.binom.isf(1e-4, runs, 0.01)
    assert (p_values <= 0.1).sum() <= stats.binom.isf(1e-4, runs, 0.1)
    # A twin: what the same p-values would say without the adjustment for their number.
    twin = (p_values / (2 * DIM) <= 0.01).sum()
    assert twin > stats.binom.isf(1e-4, runs, 0.01)
