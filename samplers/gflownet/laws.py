"""The law of what a trained GFlowNet builds: exact, where the states can be listed."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ppl.environment import Environment, State
from ppl.sampler import Trained
from ppl.state_graph import StateGraph
from samplers.gflownet.policies import masked

CHUNK = 4096


@eqx.filter_jit
def _log_forward(environment: Environment, policy: Any, states: State) -> Array:
    def one(state: State) -> Array:
        return masked(policy(environment, state).forward, environment.forward_mask(state))

    return jax.vmap(one)(states)


def log_forward(environment: Environment, policy: Any, graph: StateGraph) -> np.ndarray:
    """Log-probabilities of a policy at every state, (states, moves and stop)."""
    n = len(graph.level)
    size = min(n, CHUNK)
    parts = []
    for first in range(0, n, size):
        rows = np.minimum(np.arange(first, first + size), n - 1)
        states = jax.tree.map(lambda x: jnp.asarray(x[rows]), graph.states)  # noqa: B023
        parts.append(np.asarray(_log_forward(environment, policy, states)))
    return np.concatenate(parts)[:n]


def terminal_law(trained: Trained, environment: Environment, graph: StateGraph) -> np.ndarray:
    """Probability that a trained sampler, ``draws.sampler``, builds each state of the graph.

    Examples
    --------
    >>> import ppl, samplers
    >>> from models.environments.hypergrid import Hypergrid
    >>> from ppl.state_graph import state_graph, total_variation
    >>> grid = Hypergrid(num_dims=1, side=4)
    >>> gflownet = samplers.GFlowNet(policy=samplers.TabularPolicy(), num_updates=300,
    ...     learning_rate=0.1)
    >>> draws = ppl.sample(gflownet, grid, progress=False)
    >>> graph = state_graph(grid)
    >>> total_variation(terminal_law(draws.sampler, grid, graph), graph.exact_law()) < 0.01
    True
    """
    policy = trained.state.learned.policy
    return graph.terminal_law(log_forward(environment, policy, graph))
