"""Tempered SMC against BlackJAX and `particles`: the variance of log Z times the run time.

Both the variance and the time are those of `SEEDS` runs that alternate, compilation not counted:
sixty seeds leave the ratio of two prices uncertain by a quarter, which is printed beside it.
Seconds are those of the processor, which other processes do not lengthen.

BlackJAX's is its adaptive tempered SMC in its documented loop, compiled, moved by HMC with the best
of a few step sizes and lengths. That of `particles` is its adaptive tempering with the moves of its
defaults, a random walk scaled to the particles: waste-free, and standard. It sees the target as a
compiled function.

Prices of TemperedSMC in units of the others' (November 2026, one of two shared cores, 5 minutes):
mixture, 100 seeds: BlackJAX 0.37 +- 0.07; 20 seeds: `particles` 0.008 +- 0.003, waste-free 0.004.
Breast cancer, 20 seeds: BlackJAX's best setting, (0.2, 5, 5), 0.19 +- 0.07; 20 seeds: `particles`
0.005 +- 0.002. WasteFreeSMC in units of BlackJAX: mixture 0.74 +- 0.14, breast cancer 0.10 +- 0.03.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random
from jax.flatten_util import ravel_pytree

import ppl
from models.programs import breast_cancer
from samplers.smc.tempered import TemperedSMC
from samplers.smc.waste_free import WasteFreeSMC

NUM_PARTICLES, DIMENSION = 4096, 10
SEEDS = {"mixture": 100, "breast cancer": 20}
# Step size, leapfrog steps, moves.
PEERS = {
    "mixture": [(0.5, 5, 2), (0.7, 4, 2), (0.5, 8, 5)],
    "breast cancer": [(0.3, 5, 2), (0.2, 8, 2), (0.2, 5, 5)],
}


def log_ratio(x: Any) -> Any:
    """Log of 0.3 N(-2.5, 0.7^2 I) + 0.7 N(2.5, 0.7^2 I) over N(0, 3^2 I)."""
    near = jax.scipy.stats.norm.logpdf(x, 2.5, 0.7).sum() + jnp.log(0.7)
    far = jax.scipy.stats.norm.logpdf(x, -2.5, 0.7).sum() + jnp.log(0.3)
    return jnp.logaddexp(near, far) - jax.scipy.stats.norm.logpdf(x, 0, 3).sum()


def target_of(name: str) -> Any:
    """One of the two targets."""
    if name == "mixture":
        return ppl.posterior(dist.Normal(jnp.zeros(DIMENSION), 3.0).to_event(1), log_ratio)
    return ppl.from_numpyro(breast_cancer.model, **breast_cancer.data())


def ours(target: Any, sampler: Any) -> Callable[[int], float]:
    """Log Z of a seed."""
    return lambda seed: ppl.sample(sampler, target, seed, progress=False).log_evidence.value


def peer(target: Any, step_size: float, num_steps: int, num_moves: int) -> Callable[[int], float]:
    """The documented loop: a step while the temperature is below one."""
    import blackjax
    from blackjax.smc import extend_params, resampling

    d = sum(leaf.size for leaf in jax.tree.leaves(target.template))
    algorithm = blackjax.adaptive_tempered_smc(
        lambda x: target.log_parts(x)[0],
        lambda x: target.log_parts(x)[1],
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        extend_params(
            {
                "step_size": step_size,
                "inverse_mass_matrix": jnp.ones(d),
                "num_integration_steps": num_steps,
            }
        ),
        resampling.systematic,
        0.5,
        num_mcmc_steps=num_moves,
    )

    @jax.jit
    def loop(key: Any) -> Any:
        key_start, key_run = random.split(key)
        start = getattr(target, "prior", target).sample(key_start, NUM_PARTICLES)

        def body(carry: Any) -> Any:
            state, key, log_z = carry
            key, key_step = random.split(key)
            state, info = algorithm.step(key_step, state)
            return state, key, log_z + info.log_likelihood_increment

        carry = (algorithm.init(start), key_run, jnp.zeros(()))
        return jax.lax.while_loop(lambda c: c[0].tempering_param < 1, body, carry)[2]

    return lambda seed: float(loop(random.key(seed)))


def random_walks(target: Any, wastefree: bool) -> Callable[[int], float]:
    """Adaptive tempering of `particles`, with chains of ten states."""
    particles = pytest.importorskip("particles")
    from particles import smc_samplers

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), target.template)
    _, unravel = ravel_pytree(zeros)
    log_parts = jax.jit(jax.vmap(lambda x: target.log_parts(unravel(x))))
    prior = getattr(target, "prior", target)
    flat = jax.vmap(lambda position: ravel_pytree(position)[0])
    draw = jax.jit(lambda key, n: flat(prior.sample(key, n)), static_argnums=1)

    class Prior:
        def rvs(self, size: int) -> Any:
            return np.asarray(draw(random.key(np.random.randint(2**31)), size), float)

        def logpdf(self, x: Any) -> Any:
            return np.asarray(log_parts(x)[0], float)

    class Model(smc_samplers.StaticModel):
        def loglik(self, theta: Any, t: Any = None) -> Any:
            return np.asarray(log_parts(theta)[1], float)

    def run(seed: int) -> float:
        np.random.seed(seed)
        model = Model(prior=Prior())
        tempering = smc_samplers.AdaptiveTempering(model=model, wastefree=wastefree, len_chain=10)
        n = NUM_PARTICLES // 10 if wastefree else NUM_PARTICLES
        smc = particles.SMC(fk=tempering, N=n)
        smc.run()
        return smc.logLt

    return run


class Price(NamedTuple):
    """Variance of log Z times median seconds, and how much of it is uncertain."""

    value: float
    relative_error: float


def prices(runs: dict[str, Callable[[int], float]], seeds: Iterable[int]) -> dict[str, Price]:
    """Prices of runs that alternate."""
    found, seconds = ({name: [] for name in runs} for _ in range(2))
    for run in runs.values():
        run(0)  # compiles
    for seed in seeds:
        for name, run in runs.items():
            began = time.process_time()
            found[name].append(run(seed))
            seconds[name].append(time.process_time() - began)
    return {name: price(name, found[name], seconds[name]) for name in runs}


def price(name: str, found: list[float], seconds: list[float]) -> Price:
    """Price of one sampler; the error is that of a variance, by its fourth moment."""
    deviations = np.asarray(found) - np.mean(found)
    variance, took = float(np.var(found, ddof=1)), float(np.median(seconds))
    error = float(np.std(deviations**2) / variance / np.sqrt(len(found)))
    print(
        f"{name}: {np.mean(found):.4f}, sd {variance**0.5:.4f}, {took:.3f} s, price "
        f"{1e3 * variance * took:.3f}e-3 (+- {error:.0%}, {len(found)} seeds)",
        flush=True,
    )
    return Price(variance * took, error)


def ratio(one: Price, other: Price) -> float:
    """One price in units of another."""
    found = one.value / other.value
    error = np.hypot(one.relative_error, other.relative_error)
    print(f"ratio {found:.3f} +- {found * error:.3f}", flush=True)
    return found


@pytest.mark.parametrize("name", sorted(PEERS))
def test_the_price_of_log_z_is_at_most_half_of_blackjax(name):
    target = target_of(name)
    peers = {f"BlackJAX {options}": peer(target, *options) for options in PEERS[name]}
    runs = {"TemperedSMC": ours(target, TemperedSMC(NUM_PARTICLES))}
    runs["WasteFreeSMC"] = ours(target, WasteFreeSMC(NUM_PARTICLES))
    found = prices(runs | peers, range(1, 1 + SEEDS[name]))
    best = min(peers, key=lambda name: found[name].value)
    ratio(found["WasteFreeSMC"], found[best])
    assert ratio(found["TemperedSMC"], found[best]) <= 1 / 2


@pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array:DeprecationWarning")
@pytest.mark.parametrize("name", sorted(PEERS))
def test_the_price_of_log_z_is_at_most_a_fifth_of_particles(name):
    target = target_of(name)
    runs = {"TemperedSMC": ours(target, TemperedSMC(NUM_PARTICLES))}
    runs["particles, waste-free"] = random_walks(target, True)
    runs["particles"] = random_walks(target, False)
    found = prices(runs, range(1, 21))
    for other in ("particles, waste-free", "particles"):
        assert ratio(found["TemperedSMC"], found[other]) <= 1 / 5
