"""All states of a small environment, in topological order, and exact sums over ways through them.

    P(s_0) = 1,   P(s') = sum_{s -> s'} P(s) P_F(s' | s),   law(x) = P(x) P_F(stop | x)
    F(s) = 1{s may stop} R(s) + sum_{s -> s'} F(s') P_B(s | s'),                 F(s_0) = Z

The first line is the law of what a policy builds, from the initial state on; the second gives the
flow that a backward policy asks for, from the ends back, and with it the forward policy

    P_F(s' | s) = F(s') P_B(s | s') / F(s),   P_F(stop | s) = R(s) / F(s)

that draws exactly from R / Z. Everything is done level by level, a level being the length of the
longest way to a state, in float64 and NumPy.

References
----------
.. [1] Bengio et al., "GFlowNet foundations", JMLR 24, 2023, arXiv:2111.09266. Section 2.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppl.environment import Environment, Findings, State, look_at, shown
from ppl.template import TargetError

CHUNK = 512  # states looked at together
MAX_STATES = 400_000


class StateGraph(NamedTuple):
    """Sorted states with their legal moves; ``-1`` where there is none.

    ``order`` are their numbers in the order of exploration.
    """

    states: State
    child: np.ndarray  # (states, moves)
    parent: np.ndarray  # (states, moves): where a move that may have led here came from
    can_stop: np.ndarray  # (states,)
    log_reward: np.ndarray  # (states,): -inf where building may not stop
    level: np.ndarray  # (states,)
    order: np.ndarray

    def levels(self) -> list[np.ndarray]:
        """Numbers of the states of each level."""
        cuts = np.searchsorted(self.level, np.arange(1, self.level.max() + 1))
        return np.split(np.arange(len(self.level)), cuts)

    def log_num_paths(self) -> np.ndarray:
        """Log number of ways from the initial state to each."""
        log_n = np.full(len(self.level), -np.inf)
        log_n[0] = 0.0
        for rows in self.levels()[1:]:
            parent = self.parent[rows]
            log_n[rows] = _log_sum(np.where(parent >= 0, log_n[parent], -np.inf))
        return log_n

    def uniform_backward(self) -> np.ndarray:
        """Log of the backward policy that takes each parent alike, (states, moves)."""
        is_parent = self.parent >= 0
        with np.errstate(divide="ignore"):
            return np.where(is_parent, -np.log(np.maximum(is_parent.sum(1), 1))[:, None], -np.inf)

    def exact_law(self) -> np.ndarray:
        """R / Z of each state; 0 where building may not stop."""
        return np.exp(self.log_reward - _log_sum(self.log_reward))

    def terminal_law(self, log_forward: np.ndarray) -> np.ndarray:
        """Probability of each state to be built by a forward policy, (states, moves and stop)."""
        log_forward = np.asarray(log_forward, np.float64)
        moves = np.exp(np.where(self.child >= 0, log_forward[:, :-1], -np.inf))
        reached = np.zeros(len(self.level))
        reached[0] = 1.0
        for rows in self.levels():
            ahead, flow = self.child[rows], reached[rows][:, None] * moves[rows]
            np.add.at(reached, ahead[ahead >= 0], flow[ahead >= 0])
        return reached * np.where(self.can_stop, np.exp(log_forward[:, -1]), 0.0)

    def exact_flows(self, log_backward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-flow of each state under a backward policy, and the forward policy that goes with it.

        The policy is (states, moves and stop), the stop last.
        """
        log_flow = np.where(self.can_stop, self.log_reward, -np.inf)
        log_forward = np.full((len(self.level), self.child.shape[1] + 1), -np.inf)
        moves = np.arange(self.child.shape[1])
        for rows in reversed(self.levels()):
            child = self.child[rows]
            through = np.where(
                child >= 0, (log_flow[:, None] + log_backward)[child, moves], -np.inf
            )
            parts = np.concatenate([through, log_flow[rows][:, None]], axis=1)
            log_flow[rows] = _log_sum(parts)
            with np.errstate(invalid="ignore"):
                log_forward[rows] = parts - log_flow[rows][:, None]
        return log_flow, np.where(np.isnan(log_forward), -np.inf, log_forward)


def total_variation(law: np.ndarray, other: np.ndarray) -> float:
    """Half the sum of the absolute differences."""
    return float(0.5 * np.abs(law - other).sum())


def _log_sum(x: np.ndarray) -> Any:
    with np.errstate(divide="ignore"):
        top = np.max(x, axis=-1, keepdims=True)
        top = np.where(np.isfinite(top), top, 0.0)
        return np.log(np.exp(x - top).sum(-1)) + top[..., 0]


# Exploration ----------------------------------------------------------------------------------


def state_graph(environment: Environment, max_states: int = MAX_STATES) -> StateGraph:
    """All states of an environment.

    Raises
    ------
    TargetError
        If there are more than ``max_states``, or if a way leads back to where it came from.
    """
    explored = explore(environment, max_states)
    if explored is None:
        raise TargetError(
            f"this {type(environment).__name__} has more than max_states = {max_states} states: "
            "exact sums are for small environments"
        )
    return sort(*explored)


def explore(environment: Environment, max_states: int) -> tuple[State, Findings] | None:
    """All states, from the initial one on, with what was found there; None: they are too many.

    Illegal states are not entered.
    """
    start = jax.tree.map(lambda x: np.asarray(x)[None], environment.initial())
    known, blocks, found = {_bytes(start)[0]: 0}, [start], []
    while blocks:
        states = _joined(blocks)
        if len(known) > max_states:
            return None
        blocks = []
        findings = _look(environment, states)
        found.append((states, findings))
        follow = np.argwhere(_legal(findings))
        children = jax.tree.map(lambda x: x[follow[:, 0], follow[:, 1]], findings.children)  # noqa: B023
        new = []
        for i, key in enumerate(_bytes(children)):
            if key not in known:
                known[key] = len(known)
                new.append(i)
        if new:
            blocks = [jax.tree.map(lambda x: x[np.array(new)], children)]  # noqa: B023
    states, findings = zip(*found, strict=True)
    return _joined(list(states)), _joined(list(findings))


def walk(environment: Environment, num_walks: int) -> tuple[State, Findings, str | None]:
    """States of random ways, what was found there, and what was wrong with a way itself."""
    rng, problem = np.random.default_rng(0), None
    start = jax.tree.map(np.asarray, environment.initial())
    states = jax.tree.map(lambda x: np.repeat(x[None], num_walks, 0), start)
    seen: dict[bytes, Any] = {}
    trails: list[set[bytes]] = [set() for _ in range(num_walks)]
    walking = np.arange(num_walks)
    for length in range(environment.max_length + 2):
        if len(walking) == 0 or problem:
            break
        findings = _look(environment, states)
        for i, key in enumerate(_bytes(states)):
            if key in trails[walking[i]]:
                problem = f"a way leads back to the state {shown(_row(states, i))}: a loop"
            trails[walking[i]].add(key)
            seen.setdefault(key, (_row(states, i), _row(findings, i)))
        if length > environment.max_length:
            problem = problem or (
                f"max_length is {environment.max_length}, and a way is longer; it is at "
                f"{shown(_row(states, 0))}"
            )
        # Half of the walkers stop only where they must: they see the long ways.
        legal = _legal(findings)
        may_stop = findings.forward[:, -1] & (walking % 2 == 0)
        options = np.concatenate([legal, may_stop[:, None]], axis=1)
        going = [i for i in range(len(walking)) if options[i].any()]
        chosen = [int(rng.choice(np.flatnonzero(options[i]))) for i in going]
        on = [(i, a) for i, a in zip(going, chosen, strict=True) if a < legal.shape[1]]
        if not on:
            break
        i, a = np.array(on).T
        states = jax.tree.map(lambda x: x[i, a], findings.children)  # noqa: B023
        walking = walking[i]
    rows = list(seen.values())
    stack = lambda trees: jax.tree.map(lambda *x: np.stack(x), *trees)
    return stack([row[0] for row in rows]), stack([row[1] for row in rows]), problem


def sort(states: State, found: Findings) -> StateGraph:
    """Put explored states in topological order."""
    number = {key: i for i, key in enumerate(_bytes(states))}
    legal = _legal(found)
    child = np.full(legal.shape, -1)
    where = np.argwhere(legal)
    ahead = jax.tree.map(lambda x: x[where[:, 0], where[:, 1]], found.children)
    child[where[:, 0], where[:, 1]] = [number[key] for key in _bytes(ahead)]
    level = _levels(child, states)
    order = np.argsort(level, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    child = np.where(child >= 0, place[child], -1)[order]
    parent = np.full(child.shape, -1)
    i, a = np.nonzero(child >= 0)
    parent[child[i, a], a] = i
    can_stop = found.forward[order, -1]
    log_reward = np.asarray(found.log_density, np.float64)[order]
    return StateGraph(
        jax.tree.map(lambda x: x[order], states),
        child,
        parent,
        can_stop,
        np.where(can_stop, log_reward, -np.inf),
        level[order],
        order,
    )


def _levels(child: np.ndarray, states: State) -> np.ndarray:
    """Length of the longest way to each state; an error if there is a loop."""
    waiting = np.bincount(child[child >= 0], minlength=len(child))
    level = np.zeros(len(child), int)
    ready, done = np.flatnonzero(waiting == 0), 0
    while len(ready):
        done += len(ready)
        ahead = child[ready]
        depth = np.broadcast_to(level[ready][:, None] + 1, ahead.shape)[ahead >= 0]
        ahead = ahead[ahead >= 0]
        np.maximum.at(level, ahead, depth)
        np.subtract.at(waiting, ahead, 1)
        reached = np.unique(ahead)
        ready = reached[waiting[reached] == 0]
    if done < len(child):
        raise TargetError(
            f"the state {shown(_row(states, int(np.argmax(waiting > 0))))} is in a loop of moves, "
            "or behind one: no way may meet a state twice"
        )
    return level


def _legal(found: Findings) -> np.ndarray:
    return found.forward[:, :-1] & found.legal_children


def _look(environment: Environment, states: State) -> Findings:
    """`look_at` in chunks of one size, on the host."""
    n = len(jax.tree.leaves(states)[0])
    parts = []
    for first in range(0, n, CHUNK):
        part = jax.tree.map(lambda x: x[first : first + CHUNK], states)  # noqa: B023
        size = min(CHUNK, n - first)
        pad = lambda x: np.concatenate([x, np.repeat(x[-1:], CHUNK - size, 0)])  # noqa: B023
        found = look_at(environment, jax.tree.map(lambda x: jnp.asarray(pad(x)), part))  # noqa: B023
        parts.append(jax.tree.map(lambda x: np.asarray(x)[:size], found))  # noqa: B023
    return _joined(parts)


def _joined(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _row(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda x: x[i], tree)


def _bytes(states: State) -> list[bytes]:
    """One string of bytes for each state."""
    leaves = [np.ascontiguousarray(x) for x in jax.tree.leaves(states)]
    if len(leaves[0]) == 0:
        return []
    rows = [x.reshape(len(x), -1).view(np.uint8) for x in leaves]
    return [row.tobytes() for row in np.concatenate(rows, axis=1)]
