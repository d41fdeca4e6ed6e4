"""Paths and their scores: exact flows leave nothing to learn, both directions agree, twins fail."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import samplers
from models.environments.box import Box
from models.environments.hypergrid import Hypergrid
from ppl.state_graph import state_graph
from samplers.gflownet.paths import (
    Exploration,
    backward_paths,
    cut,
    forward_and_told,
    forward_paths,
)
from samplers.gflownet.policies import Table
from samplers.gflownet.scores import Ahead, look_forward, rewards_on_the_way, score
from samplers.trajectory.objectives import log_weights

pytestmark = pytest.mark.usefixtures("unoptimized")

SIDE, NUM = 4, 4000
EXPLORE = Exploration(jnp.array(0.3), jnp.array(2.0))
OBJECTIVES = {
    "TB": samplers.TrajectoryBalance(),
    "VarGrad": samplers.VarGrad(),
    "DB": samplers.DetailedBalance(),
    "SubTB": samplers.SubTrajectoryBalance(0.9),
}
BACKWARD = {
    "uniform": samplers.UniformBackward(),
    "learned": samplers.LearnedBackward(),
    "MaxEnt": samplers.MaxEntBackward(),
}


def grid():
    return Hypergrid(2, SIDE, rewards=(0.1, 0.5, 2.0))


def backward_table(kind, graph):
    """Log P_B of the three policies, in the order of the graph."""
    is_parent = graph.parent >= 0
    if kind == "uniform":
        return graph.uniform_backward()
    if kind == "MaxEnt":
        log_n = graph.log_num_paths()
        return np.where(is_parent, log_n[graph.parent] - log_n[:, None], -np.inf)
    some = np.where(is_parent, np.random.default_rng(0).uniform(0.2, 1, is_parent.shape), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(some / some.sum(1, keepdims=True))


def exact(kind):
    """A table whose policy, backward policy and flows balance, in the order of `index`."""
    environment = grid()
    graph = state_graph(environment)
    log_backward = backward_table(kind, graph)
    log_flow, log_forward = graph.exact_flows(log_backward)
    said = np.concatenate([log_forward, log_backward, log_flow[:, None]], axis=1)
    rows = np.zeros_like(said)
    rows[np.asarray(jax.vmap(environment.index)(graph.states))] = said
    return environment, Table(jnp.asarray(np.maximum(np.nan_to_num(rows, nan=-99.0), -99.0)))


@eqx.filter_jit
def losses(environment, policy, backward, share):
    """Of each objective, on paths that explore; those that take windows see some."""
    paths = forward_paths(random.key(0), environment, policy, 100, EXPLORE)
    log_reward = jax.vmap(environment.log_density)(paths.objects)
    short = cut(random.key(1), paths, share)
    found = {}
    for name, objective in OBJECTIVES.items():
        windows = objective.takes_windows
        scores = score(environment, policy, backward, short if windows else paths, log_reward)
        found[name] = objective(scores)
        if windows:
            off = scores.log_flow + jnp.arange(len(scores.log_flow))[:, None] / 10
            found[f"{name} of a wrong flow"] = objective(scores._replace(log_flow=off))
    return found


@pytest.mark.parametrize(
    "kind", [pytest.param("uniform", marks=pytest.mark.slow), "learned", "MaxEnt"]
)
def test_exact_flows_leave_no_objective_anything(kind, x64):
    environment, policy = exact(kind)
    found = losses(environment, policy, BACKWARD[kind], jnp.array(0.5))
    for name, loss in found.items():
        assert (loss > 0.01) if "wrong" in name else (loss < 1e-12), name


class Late(Hypergrid):
    """Building may stop at every second cell from the third on; rewards elsewhere are none."""

    def forward_mask(self, state):
        total = jnp.sum(state)
        may_stop = (total >= 2) & (total % 2 == 0)
        return super().forward_mask(state).at[-1].set(may_stop)

    def log_density(self, position):
        reward = super().log_density(position)
        return jnp.where(self.forward_mask(position)[-1], reward, jnp.nan)

    def partial_energy(self, state):
        return jnp.sin(3.0 * state[0] + state[1])

    def progress(self, state):
        return jnp.sum(state) / self.max_length


@pytest.mark.parametrize("kind", [Late, pytest.param(Hypergrid, marks=pytest.mark.slow)])
def test_flows_that_look_forward_are_rewards_over_stops_or_what_is_learned(kind, x64):
    """Exact policies leave nothing to learn; with another reward on the way, or stop, they do."""
    log_z, unread = jnp.array(0.7), 99.0
    environment = kind(2, SIDE)
    graph = state_graph(environment)
    log_backward = graph.uniform_backward()
    log_flow, log_forward = graph.exact_flows(log_backward)
    learned = np.full(len(log_flow), unread)
    if kind is Late:
        energy = jax.vmap(environment.partial_energy)(graph.states)
        left = 1 - jax.vmap(environment.progress)(graph.states)
        learned = np.where(graph.can_stop, unread, log_flow + energy - left * log_z)
    rows = np.zeros((len(log_flow), 6))
    said = np.concatenate([log_forward, log_backward, learned[:, None]], axis=1)
    rows[np.asarray(jax.vmap(environment.index)(graph.states))] = np.maximum(said, -99.0)

    @eqx.filter_jit
    def losses(rows, wrong):
        policy, backward = Ahead(Table(rows)), BACKWARD["uniform"]
        paths = forward_paths(random.key(0), environment, policy, 100, EXPLORE)
        paths = cut(random.key(1), paths, jnp.array(0.5))
        log_reward = jax.vmap(environment.log_density)(paths.objects)
        known, asked = rewards_on_the_way(environment, paths, log_reward)
        on_the_way = jnp.where(asked, known + wrong, known)[1:]
        scores = score(environment, policy, backward, paths, log_reward)
        scores = look_forward(environment, scores, paths, log_z, on_the_way)
        return OBJECTIVES["DB"](scores), OBJECTIVES["SubTB"](scores)

    rows = jnp.asarray(rows)
    assert max(losses(rows, 0.0)) < 1e-12
    assert min(losses(rows, 0.5)) > 0.005
    assert min(losses(rows.at[:, 2].add(0.5), 0.0)) > 0.005


def test_each_objective_sees_a_wrong_parent_count_and_a_missing_stop(x64):
    environment, policy = exact("learned")
    n = environment.num_actions
    # The backward policy of the wrong parents: uniform where the flows are of another.
    wrong_parents = losses(environment, policy, BACKWARD["uniform"], jnp.array(0.0))
    no_stop = eqx.tree_at(lambda p: p.rows, policy, policy.rows.at[:-1, n].add(-5.0))
    missing = losses(environment, no_stop, BACKWARD["learned"], jnp.array(0.0))
    for name in OBJECTIVES:
        assert wrong_parents[name] > 0.005, name
        assert missing[name] > 0.01, name


@eqx.filter_jit
def drawn(environment, policy, backward):
    """Paths from both ends, with their log-weights; the objects of the latter are exact draws."""
    keys = random.split(random.key(3), 3)
    cells = jnp.stack(jnp.meshgrid(*[jnp.arange(SIDE)] * 2, indexing="ij"), -1).reshape(-1, 2)
    chosen = random.categorical(keys[0], jax.vmap(environment.log_density)(cells), shape=(NUM,))
    ways = (
        forward_paths(keys[1], environment, policy, NUM),
        backward_paths(keys[2], environment, policy, backward, cells[chosen]),
    )
    weights = []
    for paths in ways:
        log_reward = jax.vmap(environment.log_density)(paths.objects)
        weights.append(log_weights(score(environment, policy, backward, paths, log_reward)))
    return ways, weights, cells[chosen]


@pytest.fixture(scope="module")
def some_policy():
    environment = grid()
    rows = 0.7 * random.normal(random.key(9), (environment.num_states, 6))
    return environment, Table(rows)


@pytest.mark.parametrize("kind", ["learned", pytest.param("MaxEnt", marks=pytest.mark.slow)])
def test_weights_are_right_before_training(kind, some_policy):
    """E_F sigmoid(w - log Z) = E_B sigmoid(log Z - w), for any policy; a twin that scores another
    backward policy than the one that drew is found."""
    environment, policy = some_policy
    _, (forward, backward), _ = drawn(environment, policy, BACKWARD[kind])
    log_z = np.log(np.exp(state_graph(environment).log_reward).sum())

    def z_score(forward, backward):
        a, b = jax.nn.sigmoid(forward - log_z), jax.nn.sigmoid(log_z - backward)
        return (a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / NUM)

    assert abs(z_score(forward, backward)) < 4.9
    assert abs(z_score(forward, backward + 0.3)) > 4.9


def test_paths_of_both_directions_are_legal(some_policy):
    environment, policy = some_policy
    ways, _, objects = drawn(environment, policy, BACKWARD["learned"])
    for paths in ways:
        assert paths.complete.all()
        np.testing.assert_array_equal(paths.states[0], 0)
        lengths = paths.mask.sum(0)
        np.testing.assert_array_equal(paths.objects.sum(-1) + 1, lengths)
        states, actions, mask = map(np.asarray, (paths.states, paths.actions, paths.mask))
        moved = np.diff(states, axis=0)
        expected = np.eye(3, 2)[actions] * mask[..., None]
        np.testing.assert_array_equal(moved, expected[:-1])
        last = actions[lengths - 1, np.arange(NUM)]
        np.testing.assert_array_equal(last, environment.num_actions)
    np.testing.assert_array_equal(ways[1].objects, objects)


def test_scores_are_those_of_the_plain_policy_however_paths_were_drawn(some_policy):
    environment, policy = some_policy
    paths = eqx.filter_jit(forward_paths)(random.key(5), environment, policy, 50, EXPLORE)
    zeros = jnp.zeros(50)
    scores = eqx.filter_jit(score)(environment, policy, BACKWARD["uniform"], paths, zeros)
    states, actions = np.asarray(paths.states), np.asarray(paths.actions)
    logits = np.asarray(policy.rows)[states @ [SIDE, 1], :3].astype(float)
    logits[..., :2][states == SIDE - 1] = -np.inf
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(log_p, actions[..., None], -1)[..., 0]
    mask = np.asarray(paths.mask)
    np.testing.assert_allclose(np.asarray(scores.log_pf)[mask], expected[mask], atol=1e-5)


def test_exploration_is_a_mixture_of_a_flatter_policy_and_chance(some_policy):
    environment, policy = some_policy
    paths = eqx.filter_jit(forward_paths)(random.key(6), environment, policy, NUM, EXPLORE)
    first = np.bincount(np.asarray(paths.actions[0]), minlength=3) / NUM
    tempered = np.exp(np.asarray(policy.rows[0, :3], float) / 2.0)
    expected = 0.7 * tempered / tempered.sum() + 0.3 / 3
    assert np.abs(first - expected).max() < 4.9 * np.sqrt(0.25 / NUM)
    plain = np.exp(np.asarray(policy.rows[0, :3], float))
    assert np.abs(first - plain / plain.sum()).max() > 4.9 * np.sqrt(0.25 / NUM)


def test_cut_paths_are_windows_from_the_start():
    environment = grid()
    policy = Table(jnp.zeros((environment.num_states, 6)))
    paths = forward_paths(random.key(7), environment, policy, 200)
    same, short = (cut(random.key(8), paths, jnp.array(s)) for s in (0.0, 1.0))
    np.testing.assert_array_equal(same.mask, paths.mask)
    assert same.complete.all()
    lengths, kept = paths.mask.sum(0), short.mask.sum(0)
    assert (kept >= 1).all()
    np.testing.assert_array_equal(short.complete, kept == lengths)
    assert 0.2 < short.complete.mean() < 0.8


BOX = Box(lambda x: -x @ x, [-1.0, 0.0], [1.0, 3.0])


@pytest.mark.parametrize(
    "environment", [grid(), pytest.param(BOX, marks=pytest.mark.slow)], ids=["grid", "box"]
)
def test_what_was_told_while_paths_were_drawn_is_what_asking_again_says(environment):
    """Of paths that explore, some cut short: the same loss and gradient; not with exploration."""
    backward = BACKWARD["learned"]

    @eqx.filter_jit
    def losses_and_gradients(policy):
        paths, tells = forward_and_told(random.key(0), environment, policy, backward, 30, EXPLORE)
        log_reward = jax.vmap(environment.log_density)(paths.objects)
        short = cut(random.key(1), paths, jnp.array(0.5))

        def loss(policy, tells):
            scores = score(environment, policy, backward, short, log_reward, tells)
            return OBJECTIVES["SubTB"](scores)

        both = [eqx.filter_value_and_grad(loss)(policy, known) for known in (tells, None)]
        return *both, loss(policy, tells._replace(log_pf=tells.log_pf + 0.1))

    policy = samplers.MLPPolicy(width=8).start(random.key(2), environment)
    policy = jax.tree.map(lambda x: x + 0.1 if eqx.is_inexact_array(x) else x, policy)
    (loss, pull), (again, pull_again), wrong = losses_and_gradients(policy)
    assert loss == pytest.approx(float(again), rel=1e-5)
    for one, other in zip(*map(jax.tree.leaves, (pull, pull_again)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * float(again))
    assert abs(wrong - loss) > 1e-3 * loss
