"""Longer runs of learned samplers on the targets that papers report, shortened to a processor.

    python tests/benchmarks/bench_published.py [run[:part] ...]

Each prints one line, with the processor time it took; ``docs/samplers_of_energies.md`` has them.
None is a test: how far from the truth they come is what they are run for.
"""

import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree

import bench_cox
import ppl
import samplers
from models.environments.bit_sequences import BitSequences, some_modes
from models.environments.hypergrid import Hypergrid
from models.targets.funnel import hard_funnel
from models.targets.many_well import many_well
from models.targets.particles import DoubleWellParticles
from ppl.state_graph import state_graph, total_variation
from samplers.gflownet.laws import terminal_law
from samplers.trajectory import objectives
from samplers.trajectory.kernels import forward_paths, score


def wells(make: Callable[[], Any], num_keys: int = 1, num_samples: int = 20_480) -> str:
    """Many-well 32: log Z, and the worst of sixteen left masses, over some keys."""
    target, found = many_well(), []
    for key in range(num_keys):
        draws = ppl.sample(make(), target, key, num_samples=num_samples, progress=False)
        w = draws.log_weights.ravel()
        left = np.asarray(target.in_left_well(jnp.asarray(draws["x"][0])))
        masses = np.stack([ppl.weights.probabilities(w) @ left, left.mean(0)])
        off = np.abs(masses - float(target.left_share)).max(1)
        log_z, ess = draws.log_evidence.value, ppl.weights.ess(w) / w.size
        found.append((log_z, w.mean(), ess, *off, left.mean()))
    log_z, means, ess, weighted, plain, mean = np.array(found).T
    truth = float(target.log_normalizer)
    return (
        f"log Z off by {np.round(log_z - truth, 3)}, mean of w by {np.round(means - truth, 2)}, "
        f"ESS {ess.round(3)}; worst left mass off by {weighted.round(3)}, {plain.round(3)} without "
        f"weights; their mean {mean.round(4)} (0.1557)"
    )


def wells_by_balance() -> str:
    """Trajectory balance with the gradient in the control, exploration, replay and search."""
    search = samplers.LocalSearch(every=100, num_chains=128, num_steps=60, step_size=0.1)
    return wells(
        lambda: samplers.PIS(
            objective=samplers.TrajectoryBalance(), scale=1.0, exploration=1.0, num_updates=4000,
            replay=samplers.Replay(capacity=20_000, local_search=search),
        )
    )  # fmt: skip


def wells_by_variance() -> str:
    """The log-variance with the gradient in the control and exploration."""
    return wells(
        lambda: samplers.PIS(
            objective=samplers.VarGrad(), scale=1.5, exploration=0.5, num_updates=4500,
            learning_rate=4e-3,
        )
    )  # fmt: skip


def wells_by_annealing() -> str:
    """CMCD by the log-variance."""
    return wells(lambda: samplers.CMCD(objective=samplers.VarGrad(), scale=1.5, num_updates=3000))


def wells_by_coordinates() -> str:
    """The log-variance with a control that is a sum over coordinates and a perceptron."""
    return wells(
        lambda: samplers.PIS(
            objective=samplers.VarGrad(), scale=1.5, num_updates=2000, learning_rate=1e-2,
            network=partial(samplers.AdditiveMLP, width=32, depth=1),
        ), num_keys=3, num_samples=81_920,
    )  # fmt: skip


def funnels(make: Callable[[], Any], num_keys: int = 3) -> str:
    """Funnel: log Z over some keys."""
    target, found = hard_funnel(), []
    for key in range(num_keys):
        draws = ppl.sample(make(), target, key, num_samples=20_480, progress=False)
        w = draws.log_weights.ravel()
        found.append((draws.log_evidence.value, w.mean(), ppl.weights.ess(w) / w.size))
        print(f"key {key}: log Z, mean of w, ESS {np.round(found[-1], 3)}", file=sys.stderr)
    log_z, means, ess = np.array(found).T
    return (
        f"log Z off by {np.round(log_z - float(target.log_normalizer), 3)}, sd "
        f"{log_z.std(ddof=1):.3f}; mean of w {means.round(2)}, ESS {ess.round(3)}"
    )


def funnel_by_balance() -> str:
    """Trajectory balance with the gradient in the control and exploration."""
    return funnels(
        lambda: samplers.PIS(objective=samplers.TrajectoryBalance(), scale=3.0, exploration=0.5)
    )


def funnel_by_search() -> str:
    """Trajectory balance with learned widths, and paths back from what chains have found."""
    search = samplers.LocalSearch(every=20, num_chains=128, num_steps=100)
    return funnels(
        lambda: samplers.PIS(
            objective=samplers.TrajectoryBalance(), scale=2.5, ratio=0.03, exploration=0.5,
            num_updates=1500, learning_rate=3e-3, learned_widths=True,
            replay=samplers.Replay(20_000, priority=samplers.ByRank(0.2), local_search=search),
        )
    )  # fmt: skip


def funnel_by_annealing() -> str:
    """CMCD by reverse KL through the path, with the source as wide as v."""
    objective = samplers.ReverseKL(reparametrized=True)
    return funnels(
        lambda: samplers.CMCD(objective=objective, scale=3.0, num_steps=64, num_updates=2000)
    )


def grid() -> str:
    """Hypergrid of 20^4 cells, R_0 = 1e-3: the exact law of what is built, by corner."""
    cells = Hypergrid(4, 20, rewards=(1e-3, 0.5, 2.0))
    gflownet = samplers.GFlowNet(num_updates=4000, num_paths=64, learning_rate=3e-3)
    draws = ppl.sample(gflownet, cells, 0, num_samples=1024, progress=False)
    graph = state_graph(cells)
    law, exact = terminal_law(draws.sampler, cells, graph), graph.exact_law()
    corner = (np.asarray(graph.states) > 9) @ np.array([8, 4, 2, 1])
    off = np.bincount(corner, law) / np.bincount(corner, exact) - 1
    assert draws.log_evidence is not None
    log_z = np.logaddexp.reduce(graph.log_reward)
    return (
        f"total variation {total_variation(law, exact):.4f}; masses of the 16 corners off by "
        f"{np.abs(off).max():.1%} at most; log Z off by {draws.log_evidence.value - log_z:.4f}"
    )


def bits(modes: Any, gflownet: Any, num_draws: int, num_moves: int, only: str = "") -> str:
    """Basins of bit sequences by a network, by chains, and by tempered SMC."""
    environment = BitSequences(modes, word=4)
    (num_modes, num_bits), rng = modes.shape, np.random.default_rng(0)
    log_z, error, masses = environment.truth(rng, 200_000)
    uniform = ppl.SequenceModel(even, jnp.zeros(16), environment.length)
    chain = samplers.BackAndForth(environment)

    def smc(move: Any, num_moves: int) -> Any:
        sampler = samplers.TemperedSMC(num_draws, move, reference=uniform, num_moves=num_moves)
        return ppl.sample(sampler, environment, 0, progress=False)

    runs: dict[str, Any] = {
        "GFlowNet": lambda: ppl.sample(
            gflownet, environment, 0, num_samples=num_draws, progress=False
        ),
        "BackAndForth": lambda: ppl.sample(  # one draw of each chain
            chain,
            environment,
            0,
            init=samplers.built,
            num_chains=num_draws,
            num_warmup=300,
            num_samples=1,
            progress=False,
        ),
        "TemperedSMC": lambda: smc(chain, 3),
        "TemperedSMC by words": lambda: smc(samplers.SiteMetropolis(16), num_moves),
    }
    away = environment.basins(environment.exact(rng, 20_000))[1].mean()
    told = [f"log Z {log_z:.3f} +- {error:.3f}, mean distance {away:.2f}"]
    for name, run in runs.items():
        if only not in name:
            continue
        began = time.process_time()
        draws = run()
        if "SMC" in name:  # its particles count by their weights, the networks' as built
            draws = draws.resample(jax.random.key(1), num_draws)
        strings = np.asarray(draws["x"]).reshape(-1, num_bits)
        nearest, away = environment.basins(strings)
        counts = np.bincount(nearest, minlength=num_modes)
        expected = counts.sum() * masses
        chi_square = ((counts - expected) ** 2 / expected).sum()
        found = "none" if draws.log_evidence is None else f"{draws.log_evidence.value:.3f}"
        told.append(
            f"{name}: chi-square {chi_square:.1f} of {num_modes - 1}, log Z {found}, mean distance "
            f"{away.mean():.2f}, {draws.num_evaluations[0]:,} rewards, "
            f"{time.process_time() - began:.0f} s"
        )
    return "; ".join(told)


def to_write_long_strings() -> Any:
    """A mixture that learns from what it writes, and from what a chain has made of that."""
    back = samplers.Revisit(
        capacity=4096,
        priority=samplers.ByReward(0),
        num_rounds=400,
        kernel=samplers.SiteMetropolis(16),
    )
    return samplers.GFlowNet(
        objective=samplers.VarGrad(),
        policy=samplers.MixturePolicy(192, spread=0.15),
        revisit=back,
        num_updates=2000,
        learning_rate=0.03,
    )


def even(params: Any, tokens: Any) -> Any:
    """Logits of words that are all alike."""
    return jnp.broadcast_to(params, (tokens.shape[0], params.size))


def dw4(only: str = "") -> str:
    """DW4: W2 of draws to those of a long run of tempering, beside that of two parts of it.

    A figure is the mean over four sets of 1,000 draws, without weights but for SCLD, each to its
    own thousand of the run. ``dw4:PIS`` runs one sampler, ``dw4:PIS:1`` one key of it.
    """
    chosen, _, one = only.partition(":")
    target, pool = DoubleWellParticles(), dw4_reference()
    told = [f"floor {apart(pool[:4000], np.roll(pool, -1000, 0)[:4000]):.3f}"]
    for name, sampler in dw4_samplers().items():
        if chosen not in ("", name):
            continue
        found, began = [], time.process_time()
        for key in [int(one)] if one else range(3):
            draws = ppl.sample(sampler, target, key, num_samples=4096, progress=False)
            w = draws.log_weights.ravel()
            if name == "SCLD":  # a particle is one of a population by its weight
                draws = draws.resample(jax.random.key(1), 4096)
            plain = np.asarray(draws["x"]).reshape(-1, 8)
            mixed = np.random.default_rng(0).permutation(len(plain))  # copies lie side by side
            found.append((apart(plain[mixed], pool), ppl.weights.ess(w) / w.size, w.mean()))
            print(f"{name}:{key}: W2, ESS, mean of w {np.round(found[-1], 3)}", file=sys.stderr)
        w2, ess, means = np.array(found).T
        seconds = (time.process_time() - began) / len(found)
        told.append(
            f"{name} {w2.round(3)} (ESS {ess.round(3)}, mean of w {means.round(2)}, "
            f"{seconds:.0f} s a key)"
        )
    return "; ".join(told)


def dw4_samplers() -> dict[str, Any]:
    """What learns from paths has a smaller network than what learns from ends."""
    alike = partial(samplers.EGNN, num_particles=4, num_space=2, width=32, depth=3)
    small = partial(samplers.EGNN, num_particles=4, num_space=2, width=16, depth=2)
    paths: dict[str, Any] = {
        "scale": 2.5, "num_steps": 30, "num_paths": 64,
        "learning_rate": 5e-3, "network": small, "gradient_clip": 1e3,
    }  # fmt: skip
    reverse = samplers.ReverseKL(reparametrized=False)
    return {
        "AdjointSampling": samplers.AdjointSampling(scale=3.0, num_updates=2000, network=alike),
        "ASBS": samplers.ASBS(scale=3.0, num_updates=6000, network=alike),
        "PIS": samplers.PIS(objective=reverse, ratio=0.05, num_updates=4000, **paths),
        "LV-PIS": samplers.PIS(
            objective=samplers.VarGrad(), exploration=0.3, ratio=0.05, num_updates=600, **paths
        ),
        "DDS": samplers.DDS(objective=reverse, num_updates=600, **paths),
        "SCLD": samplers.SCLD(scale=2.5, num_updates=200, network=small, gradient_clip=1e3),
    }


def dw4_untrained() -> str:
    """PIS after a single update, its push shortened as one vector, and by coordinate."""
    target, pool, told = DoubleWellParticles(), dw4_reference(), []
    sampler = replace(dw4_samplers()["PIS"], num_updates=1)
    for turns in (True, False):
        samplers.EGNN.turns = turns
        jax.clear_caches()
        found = []
        for key in range(3):
            draws = ppl.sample(sampler, target, key, num_samples=4096, progress=False)
            w = draws.log_weights.ravel()
            w2 = apart(np.asarray(draws["x"]).reshape(-1, 8), pool)
            found.append((w2, ppl.weights.ess(w) / w.size, w.mean()))
        w2, ess, means = np.array(found).T.round(3)
        kind = "as one vector" if turns else "by coordinate"
        told.append(f"{kind}: {w2} (ESS {ess}, mean of w {means})")
    samplers.EGNN.turns = True
    return "; ".join(told)


def dw4_gradients(num_updates: int = 150, num: int = 24) -> str:
    """Both gradients of reverse KL, of as many paths as an update has, after some updates.

    The reparametrized one goes through the target's gradient in the control; it did not before.
    """
    target, sampler = DoubleWellParticles(), dw4_samplers()["PIS"]
    state = sampler.init(jax.random.key(0), target)
    step = eqx.filter_jit(lambda key, state: sampler.step(key, target, state)[0])
    for key in jax.random.split(jax.random.key(0), num_updates):
        state = step(key, state)
    arrays, rest = eqx.partition(state.parameters.kernels, eqx.is_inexact_array)

    def loss(arrays: Any, key: Any, through: bool) -> Any:
        kernels = sampler._kernels(sampler._reward(target), eqx.combine(arrays, rest))
        paths, scores = forward_paths(key, kernels, sampler.num_paths, through=through)
        if through:
            return objectives.reverse_kl(scores)
        return objectives.reverse_kl_log_derivative(score(kernels, jax.lax.stop_gradient(paths)))

    found, told = [], []
    for through in (True, False):
        one = jax.jit(lambda key, through=through: jax.grad(loss)(arrays, key, through))
        keys = jax.random.split(jax.random.key(1), num)
        each = np.stack([np.asarray(ravel_pytree(one(key))[0]) for key in keys])
        total = (each.sum(0) ** 2).sum() - (each**2).sum()  # without what noise adds
        length = np.sqrt(max(total, 0) / (num * (num - 1)))
        norms = np.linalg.norm(each, axis=1)
        kind = "reparametrized" if through else "log-derivative"
        told.append(f"{kind}: median norm {np.median(norms):.1f}, of the mean {length:.1f}")
        found.append(each.mean(0) / np.linalg.norm(each.mean(0)))
    return "; ".join([*told, f"cosine of the means {found[0] @ found[1]:.2f}"])


def dw4_reference() -> np.ndarray:
    """Every twentieth state of four chains of tempering, in any order; kept from run to run."""
    file = Path(tempfile.gettempdir()) / "dw4_by_tempering.npy"
    if not file.exists():
        target = DoubleWellParticles()
        tempering = samplers.ParallelTempering(10, reference=wide(target))
        long = ppl.sample(tempering, target, 7, 20_000, 4, progress=False)
        pool = np.asarray(long["x"]).reshape(-1, 8)[::20]
        np.random.default_rng(0).shuffle(pool)
        np.save(file, pool)
    return np.load(file)


def apart(x: np.ndarray, y: np.ndarray) -> float:
    """Mean distance of each thousand of the one to that of the other."""
    parts = (slice(first, first + 1000) for first in range(0, 4000, 1000))
    return float(np.mean([wasserstein(x[part], y[part]) for part in parts]))


def wide(target: Any) -> Any:
    """Gaussian three wide on the same space."""
    import numpyro.distributions as dist

    return dist.Normal(0, 3.0).expand(target.template.shape).to_event()


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """Order two, of equally many clouds of points in the plane, each laid on the other as best.

    As the papers have it: clouds are the same after a shift, a turn, a reflection and another order
    of their points. As complex numbers, the best turn of y is that of sum conj(x) y.
    """
    x, y = (z[..., 0] + 1j * z[..., 1] for z in (x.reshape(-1, 4, 2), y.reshape(-1, 4, 2)))
    x, y = (z - z.mean(axis=1, keepdims=True) for z in (x, y))
    best = np.zeros((len(x), len(y)))
    for order in itertools.permutations(range(x.shape[1])):
        for one in (x, x.conj()):
            best = np.maximum(best, np.abs(one.conj() @ y[:, order].T))
    square = lambda z: (np.abs(z) ** 2).sum(axis=1)
    cost = np.maximum(square(x)[:, None] + square(y) - 2 * best, 0)
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    return float(np.sqrt(cost[rows, columns].mean()))


RUNS: dict[str, Callable[..., str]] = {
    "grid": grid,
    "bits-24": lambda: bits(
        some_modes(8, 3),
        samplers.GFlowNet(num_updates=3000, learning_rate=5e-3, exploration=0.05),
        6000,
        num_moves=10,
    ),
    "bits-120": lambda: bits(some_modes(), to_write_long_strings(), 6000, num_moves=30),
    "bits-120-smc": lambda: bits(some_modes(), None, 6000, num_moves=30, only="by words"),
    "wells": wells_by_balance,
    "wells-variance": wells_by_variance,
    "wells-cmcd": wells_by_annealing,
    "wells-additive": wells_by_coordinates,
    "funnel": funnel_by_balance,
    "funnel-cmcd": funnel_by_annealing,
    "funnel-search": funnel_by_search,
    "dw4": dw4,
    "dw4-untrained": dw4_untrained,
    "dw4-gradients": dw4_gradients,
    "cox": lambda: "\n".join(bench_cox.rows()),
}


def lines(names: list[str]) -> Iterator[str]:
    """A line for each run."""
    for name in names or list(RUNS):
        began = time.process_time()
        run, _, part = name.partition(":")
        told = RUNS[run](part) if part else RUNS[run]()
        yield f"{name}: {told} ({time.process_time() - began:.0f} s of processor time)"
        jax.clear_caches()


if __name__ == "__main__":
    for line in lines(sys.argv[1:]):
        print(line, flush=True)
