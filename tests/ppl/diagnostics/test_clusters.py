"""The alarm for chains in clusters."""

import numpy as np

from ppl.diagnostics.clusters import clusters


def test_chains_in_two_modes_are_two_clusters():
    x = np.random.default_rng(0).normal(size=(5, 200, 3))
    x[[1, 3], :, 2] += 8
    found = clusters(["a", "b", "c"], x)
    assert found is not None
    assert found.members == [[0, 2, 4], [1, 3]]
    assert found.label == "c"
    assert found.words.startswith("chains 0, 2, 4 around c = ")


def test_chains_of_one_mode_are_no_clusters():
    x = np.random.default_rng(1).normal(size=(8, 50, 100))
    assert clusters([str(i) for i in range(100)], x) is None


def test_chains_linked_through_a_third_are_one_cluster():
    x = np.random.default_rng(2).normal(size=(3, 500, 1)) + np.array([0, 1.5, 3.0])[:, None, None]
    assert clusters(["a"], x) is None


def test_chains_standing_on_different_values_are_apart():
    x = np.broadcast_to(np.array([1.0, 1.0, 2.0])[:, None, None], (3, 20, 1))
    found = clusters(["a"], x)
    assert found is not None
    assert found.members == [[0, 1], [2]]


def test_one_chain_has_no_clusters():
    assert clusters(["a"], np.random.default_rng(3).normal(size=(1, 100, 1))) is None
    assert clusters([], np.zeros((4, 100, 0))) is None
