"""The hypergrid: its rewards, its modes, its ways."""

import jax
import numpy as np
import pytest

from models.environments.hypergrid import Hypergrid
from ppl.environment import check
from ppl.state_graph import state_graph

pytestmark = pytest.mark.usefixtures("unoptimized")


@pytest.mark.parametrize(("dims", "side"), [(2, 8), (3, 4), (1, 2)])
def test_it_passes_the_checker(dims, side):
    assert check(Hypergrid(dims, side)) == (side**dims, True)


def test_rewards_are_those_of_the_paper():
    graph = state_graph(Hypergrid())
    values, counts = np.unique(np.exp(graph.log_reward).round(4), return_counts=True)
    assert dict(zip(values, counts, strict=True)) == {0.1: 48, 0.6: 12, 2.6: 4}
    assert graph.exact_flows(graph.uniform_backward())[0][0] == pytest.approx(3.109061, abs=1e-6)


@pytest.mark.parametrize("side", [8, 11, 20])
def test_rewards_agree_with_fractions(side):
    """At a side of 11 some cells lie on the bounds, where floats round to either side."""
    from fractions import Fraction

    environment = Hypergrid(1, side, rewards=(1.0, 2.0, 4.0))
    found = np.exp(jax.vmap(environment.log_density)(np.arange(side)[:, None]))
    a = [abs(Fraction(i, side - 1) - Fraction(1, 2)) for i in range(side)]
    expected = [
        1 + 2 * (x > Fraction(1, 4)) + 4 * (Fraction(3, 10) < x < Fraction(2, 5)) for x in a
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("dims", "side"), [(2, 8), (4, 8), (2, 20)])
def test_modes_are_the_highest_cells_of_the_corners(dims, side):
    environment = Hypergrid(dims, side)
    modes = environment.modes
    assert len({tuple(2 * m // side) for m in np.asarray(modes)}) == len(modes) == 2**dims
    np.testing.assert_allclose(np.exp(jax.vmap(environment.log_density)(modes)), 2.6, rtol=1e-6)


def test_wrong_rewards_are_refused():
    with pytest.raises(ValueError, match="rewards are three numbers, R_0, R_1 and R_2"):
        Hypergrid(rewards=(0.1, 0.5))
