"""Sets: the log normalizer is the elementary symmetric polynomial, energies add."""

import jax.numpy as jnp
import numpy as np
import pytest

from models.environments.sets import Sets
from ppl.environment import check
from ppl.state_graph import state_graph

pytestmark = pytest.mark.usefixtures("unoptimized")


def test_it_passes_the_checker_and_knows_its_normalizer():
    environment = Sets(np.random.default_rng(0).normal(size=7), num_chosen=3)
    assert check(environment) == (1 + 7 + 21 + 35, True)
    graph = state_graph(environment)
    assert graph.can_stop.sum() == 35
    log_z = np.log(np.exp(graph.log_reward).sum())
    assert environment.log_normalizer == pytest.approx(log_z, abs=1e-6)


def test_energies_add_over_elements():
    environment = Sets([0.5, -1.0, 2.0], num_chosen=2)
    state = jnp.array([True, False, True])
    assert environment.log_density(state) == pytest.approx(2.5)
    assert environment.partial_energy(environment.undo(state, jnp.int32(2))) == pytest.approx(-0.5)
    assert environment.progress(environment.initial()) == 0
    assert environment.progress(state) == jnp.sum(state) / environment.num_chosen


def test_sets_larger_than_what_there_is_are_refused():
    with pytest.raises(ValueError, match="num_chosen must be 3, the number of elements, at most"):
        Sets([0.0, 1.0, 2.0], num_chosen=4)
    with pytest.raises(ValueError, match="values are one number for each element"):
        Sets([[0.0]], num_chosen=1)
