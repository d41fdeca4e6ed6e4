"""The Ising model: energies by hand, states by enumeration."""

from itertools import product

import equinox as eqx
import numpy as np
import pytest

from models.environments.ising import Ising
from ppl.environment import check
from ppl.state_graph import state_graph

pytestmark = pytest.mark.usefixtures("unoptimized")


def by_hand(spins, coupling, field):
    side = len(spins)
    bonds = sum(
        spins[i, j] * (spins[(i + 1) % side, j] + spins[i, (j + 1) % side])
        for i, j in product(range(side), repeat=2)
    )
    return coupling * bonds + field * spins.sum()


def test_it_passes_the_checker_and_sums_to_its_partition_function():
    environment = Ising(2, coupling=0.3, field=-0.1)
    assert check(environment) == (81, True)
    spins = np.array(list(product([-1, 1], repeat=4))).reshape(-1, 2, 2)
    log_z = np.log(sum(np.exp(by_hand(s, 0.3, -0.1)) for s in spins))
    graph = state_graph(environment)
    assert np.log(np.exp(graph.log_reward).sum()) == pytest.approx(log_z, abs=1e-5)


def test_each_bond_counts_once():
    environment = Ising(4, coupling=0.25, field=0.5)
    spins = np.random.default_rng(1).choice([-1, 1], (4, 4)).astype(np.int32)
    log_density = eqx.filter_jit(environment.log_density)(spins)
    assert log_density == pytest.approx(by_hand(spins, 0.25, 0.5), abs=1e-5)
