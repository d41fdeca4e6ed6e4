"""Verdicts on real runs whose worth is known: good ones pass, no bad one is called good.

What each run is worth: ``good``: right answers; ``care``: right to within a small bias, or nobody
can know; ``bad``: wrong answers. A bad run may be called bad, or impossible to judge.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ppl
import samplers
from models.programs import eight_schools
from models.targets.funnel import Funnel
from ppl.diagnostics.convergence import judge
from ppl.sampler import MarkovKernel
from samplers.langevin.ula import ULA

pytestmark = pytest.mark.usefixtures("unoptimized")

RIGHT = {"good": ("good",), "care": ("caution",), "bad": ("bad", "unknown")}


def quadratic(x, precision):
    return -0.5 * jnp.sum(precision * x**2)


def gaussian(d=3, spread=1.0):
    scales = np.geomspace(1, spread, d).astype(np.float32)
    return ppl.from_log_density(quadratic, jnp.zeros(d), 1 / scales**2)


def two_far_modes():
    def log_density(x):
        return jnp.logaddexp(-0.5 * jnp.sum((x - 8) ** 2), -0.5 * jnp.sum((x + 8) ** 2))

    return ppl.from_log_density(log_density, jnp.zeros(2))


def schools(*, centered):
    data = eight_schools.data()

    def model(y, sigma):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfCauchy(5))
        with numpyro.plate("school", len(y)):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, sigma), obs=y)

    return ppl.from_numpyro(model if centered else eight_schools.model, **data)


def log_likelihood(x, y):
    return jnp.sum(dist.Normal(x, 0.5).log_prob(y))


def conjugate(y):
    return ppl.posterior(dist.Normal(0.0, 1.0), log_likelihood, np.asarray(y, np.float32))


def cauchy():
    return ppl.from_log_density(lambda x: -jnp.sum(jnp.log1p(x**2)), jnp.zeros(2))


class State(NamedTuple):
    position: jax.Array


class Info(NamedTuple):
    num_evaluations: jax.Array


class Forgetful(MarkovKernel):
    """A Langevin kernel whose author forgot the Metropolis test, and claims it exact."""

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar = "exact"

    def init(self, rng_key, target, position):
        return State(position)

    def step(self, rng_key, target, state):
        x, h = state.position, 0.5
        noise = jax.random.normal(rng_key, x.shape)
        x = x + h * jax.grad(target.log_density)(x) + jnp.sqrt(2 * h) * noise
        return State(x), Info(jnp.array([0, 1], jnp.int32))


def run(sampler, target, **options):
    return ppl.sample(sampler, target, rng_key=1, progress=False, **options)


RUNS = {
    # name: (worth, run)
    "NUTS on a Gaussian": ("good", lambda: run(samplers.NUTS(), gaussian(10, 10.0))),
    "NUTS on eight schools, non-centered": (
        "good",
        lambda: run(samplers.NUTS(target_acceptance=0.95), schools(centered=False)),
    ),
    "HMC on a Gaussian": ("good", lambda: run(samplers.HMC(), gaussian(5))),
    "MALA on a Gaussian, long enough": (
        "good",
        lambda: run(samplers.MALA(), gaussian(3), num_samples=4000),
    ),
    "adjusted MCLMC on a Gaussian": ("good", lambda: run(samplers.AdjustedMCLMC(), gaussian(20))),
    "importance sampling near the prior": (
        "good",
        lambda: run(samplers.ImportanceSampling(), conjugate([0.5]), num_chains=4),
    ),
    "Gaussian VI on a Gaussian, weighted": (
        "good",
        lambda: run(samplers.GaussianVI(), gaussian(3)),
    ),
    "exact draws": (
        "good",
        lambda: run(samplers.ExactDraws(), ppl.from_distribution(dist.Normal(0.0, jnp.ones(3)))),
    ),
    "ULA with a tiny step": (
        "care",
        lambda: run(ULA(step_size=0.02), gaussian(2), num_samples=20_000),
    ),
    "MCLMC": ("care", lambda: run(samplers.MCLMC(), gaussian(20))),
    "NUTS, a single chain": ("care", lambda: run(samplers.NUTS(), gaussian(5), num_chains=1)),
    "NUTS on eight schools, centered": (
        "bad",
        lambda: run(samplers.NUTS(), schools(centered=True)),
    ),
    "NUTS on a funnel": ("bad", lambda: run(samplers.NUTS(), Funnel())),
    "NUTS on two far modes": ("bad", lambda: run(samplers.NUTS(), two_far_modes())),
    "NUTS, too short": ("bad", lambda: run(samplers.NUTS(), gaussian(5), num_samples=30)),
    "proposals that are never accepted": (
        "bad",
        lambda: run(samplers.RandomWalk(step_size=1e6), gaussian(3), num_warmup=0),
    ),
    "far starts, hardly moving": (
        "bad",
        lambda: run(
            samplers.RandomWalk(step_size=0.03), gaussian(3), num_warmup=0,
            init=jnp.full(3, 30.0),
        ),
    ),
    "slow chains on an ill-conditioned target": (
        "bad",
        lambda: run(samplers.RandomWalk(), gaussian(30, 100.0)),
    ),
    "importance sampling far from the prior": (
        "bad",
        lambda: run(samplers.ImportanceSampling(num_particles=1000), conjugate([8.0] * 20)),
    ),
    "Gaussian VI on heavy tails": ("bad", lambda: run(samplers.GaussianVI(), cauchy())),
    "ULA with a large step": ("bad", lambda: run(ULA(step_size=0.8), gaussian(3))),
    "a kernel without its Metropolis test": ("bad", lambda: run(Forgetful(), gaussian(3))),
}  # fmt: skip
IN_THE_GATE = (
    "MALA on a Gaussian, long enough",
    "exact draws",
    "ULA with a tiny step",
    "far starts, hardly moving",
    "ULA with a large step",
    "a kernel without its Metropolis test",
)


@pytest.mark.parametrize("name", IN_THE_GATE)
def test_the_verdict_is_right_on(name):
    worth, build = RUNS[name]
    assert judge(build()).status in RIGHT[worth]


@pytest.mark.slow
def test_verdicts_are_right_on_all_but_one_and_no_bad_run_is_called_good():
    verdicts = {name: (worth, judge(build())) for name, (worth, build) in RUNS.items()}
    wrong = {
        n: (w, v.status, v.reasons) for n, (w, v) in verdicts.items() if v.status not in RIGHT[w]
    }
    assert len(verdicts) >= 20
    assert not [n for n, (worth, v) in verdicts.items() if worth == "bad" and v.status == "good"]
    assert len(wrong) <= 1, wrong


def test_a_wrong_kernel_is_told_what_to_look_for():
    verdict = judge(RUNS["a kernel without its Metropolis test"][1]())
    assert "Forgetful claims to be exact" in "\n".join(verdict.advice)
    assert "by its gradient they are not draws of it" in verdict.reasons[0]
    assert "too wide" in verdict.reasons[0]
    assert verdict.headline == "The draws agree, but not with the target: do not use them."
    assert not verdict.table.loc["virial p-value", "passed"]


@pytest.mark.slow
def test_good_chains_are_seldom_accused():
    """The share of good, correlated chains that is accused by their gradient is small."""
    target, accused = gaussian(2), 0
    for key in range(20):
        draws = ppl.sample(
            samplers.MALA(step_size=0.7), target, rng_key=key, num_samples=1000, num_warmup=100,
            progress=False,
        )  # fmt: skip
        accused += "gradient" in " ".join(judge(draws).reasons)
    assert accused <= 1
