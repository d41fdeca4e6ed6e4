"""Updates a second of GFlowNets on the hypergrid, trajectory balance, 16 paths an update.

Ours and gfnx's run the same perceptron (two hidden layers, linear rectifier), uniform backward
policy and Adam, a hundred updates in one compiled scan each, in alternating pairs; compilation is
reported apart. Without gfnx ours is timed alone. torchgfn, which compiles nothing, has one thread.
"""

import importlib.util
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax, random

import paired
from models.environments.hypergrid import Hypergrid
from ppl.environment import Environment
from samplers.gflownet.gflownet import GFlowNet
from samplers.gflownet.policies import Network, Policy

NUM_PATHS, NUM_UPDATES, WIDTH = 16, 100, 256
GRIDS = {"8^2": (2, 8), "20^4": (4, 20)}


class Rectified(eqx.Module):
    """The network of both sides, on rows of features."""

    mlp: eqx.nn.MLP

    def __call__(self, rows: Any) -> Any:
        return self.mlp(rows.reshape(-1))


class Plain(Policy):
    """Ours: forward logits, and what a policy says besides."""

    def start(self, rng_key: Any, environment: Environment) -> Network:
        rows = jax.eval_shape(environment.features, environment.template).shape
        out = 2 * environment.num_actions + 2
        return Network(Rectified(eqx.nn.MLP(int(np.prod(rows)), out, WIDTH, 2, key=rng_key)))


def ours(name: str) -> Any:
    """A function of the key: a hundred updates from the first state."""
    grid = Hypergrid(*GRIDS[name])
    sampler = GFlowNet(
        policy=Plain(), num_paths=NUM_PATHS, num_updates=10_000, learning_rate=1e-3, exploration=0.0
    )
    start = eqx.filter_jit(sampler.init)(random.key(0), grid)

    @eqx.filter_jit
    def run(key: Any) -> Any:
        arrays, rest = eqx.partition(start, eqx.is_array)

        def one(arrays: Any, t: Any) -> Any:
            state, info = sampler.step(random.fold_in(key, t), grid, eqx.combine(arrays, rest))
            return eqx.filter(state, eqx.is_array), info.loss

        return lax.scan(one, arrays, jnp.arange(NUM_UPDATES))[1]

    return lambda i: run(random.key(i))


def peer(name: str) -> Any:
    """The same with gfnx: its grid, its rollout, and a second pass through the network."""
    import gfnx

    dims, side = GRIDS[name]
    grid = gfnx.HypergridEnvironment(gfnx.EasyHypergridRewardModule(), dim=dims, side=side)
    env_params = grid.init(random.key(0))
    mlp = eqx.nn.MLP(dims * side, dims + 1, WIDTH, 2, key=random.key(0))
    params, static = eqx.partition((mlp, jnp.zeros(())), eqx.is_array)
    labels = jax.tree.map(lambda x: "mlp" if x.ndim else "log_z", params)
    rates = {"mlp": optax.adam(1e-3), "log_z": optax.adam(0.1)}
    adam = optax.multi_transform(rates, labels)

    def policy(rng_key: Any, obs: Any, params: Any) -> Any:
        return jax.vmap(eqx.combine(params, static)[0])(obs), {}

    def loss_of(params: Any, data: Any, log_reward: Any) -> Any:
        states = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), data.state)
        shape = data.action.shape
        logits = jax.vmap(eqx.combine(params, static)[0])(data.obs.reshape(-1, dims * side))
        legal = ~grid.get_invalid_mask(states, env_params)
        log_p = jax.nn.log_softmax(logits, where=legal, axis=-1).reshape(*shape, -1)
        log_pf = jnp.take_along_axis(log_p, data.action[..., None], axis=-1)[..., 0]
        is_parent = ~grid.get_invalid_backward_mask(states, env_params)
        log_pb = -jnp.log(jnp.maximum(is_parent.sum(-1), 1)).reshape(shape)
        after = jnp.concatenate([log_pb[:, 1:], jnp.zeros_like(log_pb[:, :1])], axis=1)
        increments = jnp.where(data.pad, 0.0, log_pf - after)
        return jnp.mean((params[1] + increments.sum(1) - log_reward) ** 2)

    @eqx.filter_jit
    def run(key: Any) -> Any:
        def one(carry: Any, t: Any) -> Any:
            params, moments = carry
            data, info = gfnx.utils.rollout.forward_rollout(
                random.fold_in(key, t), NUM_PATHS, policy, params, grid, env_params
            )
            loss, gradient = jax.value_and_grad(loss_of)(params, data, info["log_gfn_reward"])
            updates, moments = adam.update(gradient, moments)
            return (optax.apply_updates(params, updates), moments), loss

        return lax.scan(one, (params, adam.init(params)), jnp.arange(NUM_UPDATES))[1]

    return lambda i: run(random.key(i))


def torchs(name: str) -> Any:
    """The same with torchgfn: its grid, and the log-probabilities that its rollout has saved.

    From the first state too: paths grow longer while it learns.
    """
    import torch
    from gfn.estimators import DiscretePolicyEstimator
    from gfn.gflownet import TBGFlowNet
    from gfn.gym import HyperGrid
    from gfn.preprocessors import KHotPreprocessor
    from gfn.samplers import Sampler
    from gfn.utils.modules import MLP, DiscreteUniform

    torch.set_num_threads(1)
    dims, side = GRIDS[name]
    grid = HyperGrid(dims, side)
    seen = KHotPreprocessor(side, dims)
    uniform = DiscreteUniform(grid.n_actions - 1)
    backward = DiscretePolicyEstimator(uniform, grid.n_actions, seen, is_backward=True)

    def run(i: int) -> float:
        torch.manual_seed(i)
        network = MLP(seen.output_dim, grid.n_actions, hidden_dim=WIDTH, n_hidden_layers=2)
        forward = DiscretePolicyEstimator(network, grid.n_actions, seen)
        gflownet, rollout = TBGFlowNet(forward, backward), Sampler(forward)
        of_log_z = {id(p) for p in gflownet.logz_parameters()}
        rest = [p for p in gflownet.parameters() if id(p) not in of_log_z]
        log_z = {"params": gflownet.logz_parameters(), "lr": 0.1}
        adam = torch.optim.Adam([{"params": rest}, log_z], 1e-3)
        for _ in range(NUM_UPDATES):
            paths = rollout.sample_trajectories(grid, n=NUM_PATHS, save_logprobs=True)
            adam.zero_grad()
            loss = gflownet.loss(grid, paths, recalculate_all_logprobs=False)
            loss.backward()
            adam.step()
        return float(loss)

    return run


@pytest.mark.parametrize("name", GRIDS)
def test_updates_a_second_against_torchgfn(name: str) -> None:
    pytest.importorskip("gfn")
    sides, label = (ours(name), torchs(name)), f"hypergrid {name}, against torchgfn"
    # All sides have one thread: processor time is not that of others on the machine.
    figures = paired.alternate(*sides, label=label, clock=time.process_time)
    assert figures.lower >= 5


@pytest.mark.parametrize("name", GRIDS)
def test_updates_a_second(name: str) -> None:
    run = ours(name)
    if importlib.util.find_spec("gfnx") is not None:
        label = f"hypergrid {name}, against gfnx"
        figures = paired.alternate(run, peer(name), label=label, clock=time.process_time)
        assert figures.lower >= 1.3
        return
    began = time.perf_counter()
    jax.block_until_ready(run(0))
    first = time.perf_counter() - began
    seconds = []
    for i in range(1, 8):
        began = time.perf_counter()
        losses = jax.block_until_ready(run(i))
        seconds.append(time.perf_counter() - began)
    assert np.isfinite(losses).all()
    median = float(np.median(seconds))
    print(f"\nhypergrid {name}: {NUM_UPDATES / median:.0f} updates/s, compiled in {first:.1f} s")
