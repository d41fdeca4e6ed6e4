"""The checker finds what is wrong with an environment and says where; small graphs are summed."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from ppl.environment import Environment, check
from ppl.state_graph import state_graph, total_variation

#        1
#   0 <     > 3 - 4         moves 0 and 1; building may stop at 1, 3 and 4
#        2
CHILD = [[1, 2], [-1, 3], [3, -1], [4, -1], [-1, -1]]
LOG_REWARD = np.log([9.0, 1.0, 9.0, 2.0, 3.0])
CAN_STOP = [False, True, False, True, True]


class Table(Environment):
    """States are numbers, and everything about them is data: mutants share one program."""

    child: jax.Array
    parent: jax.Array
    forward: jax.Array
    backward: jax.Array
    log_reward: jax.Array
    legal: jax.Array
    energy: jax.Array
    numbers: jax.Array
    log_paths: jax.Array
    max_length: int = eqx.field(static=True, default=3)

    num_actions = 2
    num_states = 5

    @property
    def template(self):
        return jax.ShapeDtypeStruct((), jnp.int32)

    def log_density(self, position):
        return self.log_reward[position]

    def forward_mask(self, state):
        return self.forward[state]

    def backward_mask(self, state):
        return self.backward[state]

    def apply(self, state, action):
        return self.child[state, action]

    def undo(self, state, action):
        return self.parent[state, action]

    def is_legal(self, state):
        return self.legal[state]

    def partial_energy(self, state):
        return self.energy[state]

    def index(self, state):
        return self.numbers[state]

    def log_num_paths(self, state):
        return self.log_paths[state]


def table(**changes):
    child = np.array(CHILD)
    parent = np.full(child.shape, -1)
    for state, move in np.argwhere(child >= 0):
        parent[child[state, move], move] = state
    fields = {
        "child": np.maximum(child, 0),
        "parent": np.maximum(parent, 0),
        "forward": np.column_stack([child >= 0, CAN_STOP]),
        "backward": parent >= 0,
        "log_reward": LOG_REWARD,
        "legal": np.ones(5, bool),
        "energy": np.zeros(5),
        "numbers": np.arange(5),
        "log_paths": np.log([1.0, 1, 1, 2, 2]),
    }
    environment = Table(**{name: jnp.asarray(x) for name, x in fields.items()})
    for name, change in changes.items():
        if name == "max_length":
            environment = dataclasses.replace(environment, max_length=change)
        else:
            place, value = change
            changed = getattr(environment, name).at[place].set(value)
            environment = eqx.tree_at(lambda e: getattr(e, name), environment, changed)  # noqa: B023
    return environment


def test_a_right_environment_passes_whole_or_by_walks():
    assert ppl.environment.check(table()) == (5, True)
    assert ppl.environment.check(table(), max_states=4) == (5, False)


BROKEN = {
    "no inverse": (
        {"backward": ((3, 1), False)},
        "move 1 has no inverse: it leads from 1 to 3, where backward_mask",
    ),
    "wrong inverse": ({"parent": ((3, 1), 2)}, "move 1 has a wrong inverse.*from 1 to 3, and undo"),
    "a parent too many": (
        {"backward": ((1, 1), True), "parent": ((1, 1), 0)},
        "backward_mask allows move 1 at the state 1, but no legal state leads there",
    ),
    "an illegal state behind a mask": (
        {"legal": (4, False)},
        "forward_mask allows move 0 at the state 3; it leads to 4, which is no state",
    ),
    "a state that cannot end": (
        {"forward": ((4, 2), False)},
        "no move at the state 4, nor the stop: building cannot",
    ),
    "no parent": ({"backward": (2, False)}, "move 1 has no inverse: it leads from 0 to 2"),
    "a parent of the first": ({"backward": ((0, 0), True)}, "move 0 at the initial state 0"),
    "NaN": ({"log_reward": (3, np.nan)}, "log_density is NaN at the object 3"),
    "+inf": ({"log_reward": (1, np.inf)}, r"log_density is \+inf at the object 1"),
    "nothing to draw": ({"log_reward": (slice(None), -np.inf)}, "-inf at each of the 3 objects"),
    "energy": ({"energy": (2, np.inf)}, "partial_energy is not finite at the state 2"),
    "a number too large": ({"numbers": (4, 5)}, "below num_states = 5 at 4"),
    "a number twice": ({"numbers": (4, 3)}, "index is that of another state at"),
}


@pytest.mark.parametrize("max_states", [100, 4], ids=["whole", "by walks"])
@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_named(what, max_states):
    changes, message = BROKEN[what]
    with pytest.raises(ppl.TargetError, match=message):
        check(table(**changes), max_states=max_states)


LOOP = {
    "child": ((4, 1), 1),
    "parent": ((1, 1), 4),
    "forward": ((4, 1), True),
    "backward": ((1, 1), True),
}


def test_a_loop_is_found_whole_and_by_walks():
    with pytest.raises(ppl.TargetError, match="is in a loop of moves"):
        check(table(**LOOP))
    with pytest.raises(ppl.TargetError, match="a way leads back to the state 1: a loop"):
        check(table(**LOOP, max_length=5), max_states=4)


def test_a_way_that_is_too_long_is_found():
    with pytest.raises(ppl.TargetError, match="max_length is 2, and a way has 3 moves"):
        check(table(max_length=2))
    with pytest.raises(ppl.TargetError, match="max_length is 2, and a way is longer"):
        check(table(max_length=2), max_states=4)


def test_a_wrong_number_of_ways_is_found():
    message = r"log_num_paths is 0.0000 at the state 3, to which exp\(0.6931\) ways"
    with pytest.raises(ppl.TargetError, match=message):
        check(table(log_paths=(3, 0.0)))


def test_shapes_are_checked_and_a_target_that_is_no_environment_is_refused():
    class Short(Table):
        def forward_mask(self, state):
            return self.forward[state, :2]

    class Wide(Table):
        def apply(self, state, action):
            return jnp.stack([state, state])

    fields = {field.name: getattr(table(), field.name) for field in dataclasses.fields(Table)}
    with pytest.raises(ppl.TargetError, match=r"the 2 moves and, last, for the stop, bool\[3\]"):
        check(Short(**fields))
    with pytest.raises(ppl.TargetError, match=r"apply\(state, action\) must be a state"):
        check(Wide(**fields))
    with pytest.raises(ppl.TargetError, match="check takes a ppl.environment.Environment"):
        check(ppl.from_log_density(lambda x: -x @ x, jnp.zeros(2)))


# The graph ------------------------------------------------------------------------------------


def test_the_law_of_a_policy_by_hand():
    graph = state_graph(table())
    np.testing.assert_array_equal(graph.level, [0, 1, 1, 2, 3])
    log_forward = np.log(
        [[0.25, 0.75, 1e-300], [1e-300, 0.5, 0.5], [1, 1e-300, 1e-300], [0.2, 1e-300, 0.8], [1] * 3]
    )
    built = 0.25 * 0.5 + 0.75
    law = graph.terminal_law(log_forward)
    np.testing.assert_allclose(law, [0, 0.125, 0, built * 0.8, built * 0.2], atol=1e-12)
    assert total_variation(law, graph.exact_law()) > 0.1


def test_exact_flows_draw_the_law_and_broken_twins_do_not():
    graph = state_graph(table())
    rng = np.random.default_rng(0)
    some = np.where(graph.parent >= 0, rng.uniform(0.1, 1, graph.parent.shape), 1e-300)
    some = np.log(some / some.sum(1, keepdims=True))
    for log_backward in (graph.uniform_backward(), some):
        log_flow, log_forward = graph.exact_flows(log_backward)
        assert np.exp(log_flow[0]) == pytest.approx(6.0, rel=1e-6)
        law = graph.terminal_law(log_forward)
        assert total_variation(law, graph.exact_law()) < 1e-12
    # A parent counted twice: state 3 takes a third from each of two parents.
    wrong = graph.uniform_backward() + np.log(2 / 3) * (graph.level == 2)[:, None]
    _, log_forward = graph.exact_flows(wrong)
    assert total_variation(graph.terminal_law(log_forward), graph.exact_law()) > 0.05
    # No stop where building may go on: the mass of 1 and 3 is lost.
    log_forward = graph.exact_flows(graph.uniform_backward())[1]
    log_forward[[1, 3], 2] = -np.inf
    assert graph.terminal_law(log_forward).sum() < 0.9


def test_too_many_states_are_refused():
    with pytest.raises(ppl.TargetError, match="has more than max_states = 3 states"):
        state_graph(table(), max_states=3)
