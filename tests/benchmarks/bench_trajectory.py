"""Updates a second of diffusion samplers: trajectory balance and PIS, against PyTorch.

All sides have the same network (sine features of time and a linear map of the state, added; two
hidden layers of 64), 300 paths of 100 steps, Brownian motion pinned at 0, and Adam, on the mixture
of 25 modes and on the funnel. torchgfn trains by trajectory balance. It has no PIS: its network
runs in the plain loop that differentiates reverse KL through the path. Torch gets one thread, as
XLA does, and time is that of the processor, so that others on the machine count less. Compilation
is reported apart, and compared with that of NumPyro's NUTS.
"""

import math
import time
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax import lax, random

import paired
import peers
import samplers
from models.targets.benchmark_mixtures import gmm25
from models.targets.funnel import hard_funnel

torch = pytest.importorskip("torch")
gfn = pytest.importorskip("gfn")

NUM_STEPS, NUM_PATHS, NUM_UPDATES, WIDTH = 100, 300, 2, 64
TARGETS = {
    "GMM-25": (gmm25, "gmm25_prior", math.sqrt(5.0)),
    "funnel": (hard_funnel, "hard_funnel", 1.0),
}


class Waves(eqx.Module):
    """The network of both sides."""

    phase: Any
    time: eqx.nn.MLP
    state: eqx.nn.Linear
    joint: eqx.nn.MLP

    def __init__(self, rng_key: Any, shape: Any, *, dtype: Any = None) -> None:
        keys, (d,) = random.split(rng_key, 4), shape
        self.phase = random.normal(keys[0], (WIDTH,))
        self.time = eqx.nn.MLP(2 * WIDTH, WIDTH, WIDTH, 1, jax.nn.gelu, key=keys[1])
        self.state = eqx.nn.Linear(d, WIDTH, key=keys[2])
        self.joint = eqx.nn.MLP(WIDTH, d, WIDTH, 2, jax.nn.gelu, key=keys[3])

    def __call__(self, x: Any, t: Any) -> Any:
        angle = t * jnp.linspace(0.1, 100, WIDTH) + self.phase
        h = self.time(jnp.concatenate([jnp.sin(angle), jnp.cos(angle)])) + self.state(x)
        return self.joint(jax.nn.gelu(h))


def ours(name: str, objective: Any) -> Any:
    """A function of the key: some updates from the first state."""
    make, _, scale = TARGETS[name]
    sampler = samplers.PIS(
        num_steps=NUM_STEPS, num_paths=NUM_PATHS, num_updates=10_000, scale=scale, guided=False,
        network=Waves, objective=objective,
    )  # fmt: skip
    target = make()
    start = eqx.filter_jit(sampler.init)(random.key(0), target)
    arrays, rest = eqx.partition(start, eqx.is_array)

    @jax.jit
    def run(key: Any, arrays: Any) -> Any:
        def one(arrays: Any, t: Any) -> Any:
            state, info = sampler.step(random.fold_in(key, t), target, eqx.combine(arrays, rest))
            return eqx.filter(state, eqx.is_array), info.loss

        return lax.scan(one, arrays, jnp.arange(NUM_UPDATES))[1]

    return lambda i: run(random.key(i), arrays)


def torchs(name: str) -> tuple[Any, Any, float]:
    """Environment, network and scale of the peer."""
    from gfn.gym.diffusion_sampling import DiffusionSampling
    from gfn.utils.modules import DiffusionPISGradNetForward

    torch.set_num_threads(1)
    torch.manual_seed(0)
    _, label, scale = TARGETS[name]
    env = DiffusionSampling(label, None, NUM_STEPS)
    return env, DiffusionPISGradNetForward(env.dim, joint_layers=2, zero_init=True), scale


def by_trajectory_balance(name: str) -> Any:
    """torchgfn's own training, from what its rollout has saved."""
    from gfn.estimators import PinnedBrownianMotionBackward, PinnedBrownianMotionForward
    from gfn.gflownet import TBGFlowNet
    from gfn.samplers import Sampler
    from gfn.utils.modules import DiffusionFixedBackwardModule

    env, network, scale = torchs(name)
    forward = PinnedBrownianMotionForward(env.dim, network, scale, NUM_STEPS)
    fixed = DiffusionFixedBackwardModule(env.dim)
    backward = PinnedBrownianMotionBackward(env.dim, fixed, scale, NUM_STEPS)
    gflownet, rollout = TBGFlowNet(forward, backward, init_logZ=0.0), Sampler(forward)
    adam = torch.optim.Adam(gflownet.parameters(), 1e-3)

    def run(i: int) -> float:
        torch.manual_seed(i)
        for _ in range(NUM_UPDATES):
            paths = rollout.sample_trajectories(env, n=NUM_PATHS, save_logprobs=True)
            adam.zero_grad()
            loss = gflownet.loss(env, paths, recalculate_all_logprobs=False)
            loss.backward()
            adam.step()
        return float(loss)

    return run


def by_reverse_kl(name: str) -> Any:
    """The path integral sampler as a loop in PyTorch."""
    env, network, scale = torchs(name)
    adam = torch.optim.Adam(network.parameters(), 1e-3)
    step = 1 / NUM_STEPS

    def run(i: int) -> float:
        torch.manual_seed(i)
        for _ in range(NUM_UPDATES):
            x, cost = torch.zeros(NUM_PATHS, env.dim), torch.zeros(NUM_PATHS)
            for n in range(NUM_STEPS):
                u = network(torch.cat([x, torch.full((NUM_PATHS, 1), n * step)], 1)) / scale
                cost = cost + 0.5 * step * (u**2).sum(1)
                x = x + scale * (u * step + math.sqrt(step) * torch.randn_like(x))
            reference = -0.5 * (x**2).sum(1) / scale**2
            loss = (cost + reference - env.target.log_reward(x)).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        return float(loss)

    return run


RATES = {
    "trajectory balance": (samplers.TrajectoryBalance, by_trajectory_balance, 3.0),
    "PIS": (partial(samplers.ReverseKL, reparametrized=True), by_reverse_kl, 2.0),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", RATES)
def test_updates_a_second(name: str, target: str) -> None:
    objective, peer, wanted = RATES[name]
    figures = paired.alternate(
        ours(target, objective()), peer(target), pairs=5, work=lambda _: NUM_UPDATES,
        label=f"{name}, {target}, against torch", clock=time.process_time,
    )  # fmt: skip
    assert figures.lower >= wanted


@pytest.mark.parametrize("name", RATES)
def test_compilation_against_that_of_nuts(name: str) -> None:
    """On the funnel; both compile from nothing; the persistent cache must be off."""
    target = hard_funnel()
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), target.template)
    nuts = peers.numpyro_nuts((target.log_density, start, lambda x: x), 50, 50)
    sides = ours("funnel", RATES[name][0]()), nuts
    label = f"compilation of {name}, against NUTS"
    figures = paired.alternate(*sides, pairs=2, label=label, clock=time.process_time)
    assert figures.compile_ours is not None
    assert figures.compile_peer is not None
    assert figures.compile_ours < 3 * figures.compile_peer


@pytest.mark.parametrize("name", RATES)
def test_memory_of_an_update_grows_with_the_paths_alone(name: str) -> None:
    """Bytes that the compiled update needs beside its arguments."""
    target, (d,) = hard_funnel(), (10,)

    def needed(num_paths: int, num_steps: int = NUM_STEPS) -> float:
        sampler = samplers.PIS(
            num_steps=num_steps, num_paths=num_paths, guided=False, network=Waves,
            objective=RATES[name][0](),
        )  # fmt: skip
        arrays, rest = eqx.partition(sampler.init(random.key(0), target), eqx.is_array)

        def update(key: Any, arrays: Any) -> Any:
            return eqx.filter(sampler.step(key, target, eqx.combine(arrays, rest))[0], eqx.is_array)

        compiled = jax.jit(update).lower(random.key(0), arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes / 2**20

    few, many, long = needed(150), needed(300), needed(300, 2 * NUM_STEPS)
    states = NUM_STEPS * 300 * d * 4 / 2**20
    print(
        f"\n{name}: {few:.1f} MiB for 150 paths, {many:.1f} for 300, {long:.1f} for twice the "
        f"steps; the states of 300 paths are {states:.1f}"
    )
    assert many < 2.2 * few
    assert long - many < 6 * states  # what is stored of paths
