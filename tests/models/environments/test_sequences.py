"""Sequences of fixed and of free length."""

import jax.numpy as jnp
import numpy as np
import pytest

from models.environments.sequences import Sequences
from ppl.environment import check
from ppl.state_graph import state_graph

pytestmark = pytest.mark.usefixtures("unoptimized")


def ones(letters, nats):
    return nats * jnp.sum(letters == 1)


def test_sequences_of_any_length_pass_and_sum_to_a_geometric_series():
    environment = Sequences(ones, 0.7, num_letters=3, length=4, shortest=1)
    assert check(environment) == (1 + 3 + 9 + 27 + 81, True)
    graph = state_graph(environment)
    gain = 2 + np.exp(0.7)
    assert np.exp(graph.log_reward).sum() == pytest.approx(sum(gain**k for k in range(1, 5)))


def test_sequences_of_one_length_stop_at_the_end_alone():
    environment = Sequences(ones, 0.7, num_letters=2, length=3)
    assert check(environment) == (15, True)
    assert state_graph(environment).can_stop.sum() == 8


def test_a_shortest_length_beyond_the_longest_is_refused():
    with pytest.raises(ValueError, match="shortest must be 3, the length, at most; got 4"):
        Sequences(ones, 0.7, num_letters=2, length=3, shortest=4)
