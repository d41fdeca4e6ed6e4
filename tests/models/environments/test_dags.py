"""Graphs: there are as many as known, BGe is a marginal likelihood, equivalent graphs are alike."""

from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from sklearn.datasets import load_linnerud

import ppl
from models.environments import linnerud
from models.environments.dags import DAGs, bge, log_marginal
from ppl.environment import check
from ppl.state_graph import state_graph

DATA = linnerud.standardized("weight", "waist", "chins")


@pytest.mark.parametrize(
    ("nodes", "count"), [(3, 25), (4, 543), pytest.param(5, 29281, marks=pytest.mark.slow)]
)
def test_there_are_as_many_graphs_as_known(nodes, count):
    environment = DAGs(np.zeros((nodes, 2**nodes)))
    assert check(environment, max_states=30_000) == (count, True)


def one_by_one(x, chosen, a, w):
    """log p(d_Y) as a product of predictive laws: each row given those before, a Student-t."""
    n, size = x.shape[1], len(chosen)
    y, total, t = x[:, chosen], 0.0, a * (w - n - 1) / (a + 1)
    for i, row in enumerate(y):
        before, k = y[:i], a + i
        mean = before.sum(0) / k
        center = before - before.mean(0) if i else before
        scale = t * np.eye(size) + center.T @ center
        if i:
            scale += i * a / k * np.outer(before.mean(0), before.mean(0))
        df = w - n + i + 1
        law = scipy.stats.multivariate_t(mean, scale * (k + 1) / (k * df), df=df)
        total += law.logpdf(row)
    return total


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_marginal_likelihood_is_the_product_of_predictions(size):
    for chosen in combinations(range(3), size):
        expected = one_by_one(DATA, list(chosen), 1.0, 5.0)
        assert log_marginal(DATA, list(chosen), 1.0, 5.0) == pytest.approx(expected, abs=1e-9)
        # A twin whose prior weighs the covariance by one row more is another law.
        assert abs(log_marginal(DATA, list(chosen), 1.0, 6.0) - expected) > 0.05


def colliders(graph):
    """Parents that are not adjacent: with the skeleton, they say which independences hold."""
    pairs = [(i, k, j) for j in range(3) for i in range(3) for k in range(i) if i != j != k]
    adjacent = graph | graph.T
    return tuple(p for p in pairs if graph[p[0], p[2]] and graph[p[1], p[2]]
                 and not adjacent[p[0], p[1]])  # fmt: skip


def test_graphs_of_the_same_independences_have_the_same_score():
    graph = state_graph(DAGs(bge(DATA)))
    classes = {}
    for adjacency, score in zip(graph.states, graph.log_reward, strict=True):
        key = ((adjacency | adjacency.T).tobytes(), colliders(adjacency))
        classes.setdefault(key, []).append(score)
    assert len(classes) == 11
    assert max(np.ptp(scores) for scores in classes.values()) < 1e-4
    assert np.ptp([scores[0] for scores in classes.values()]) > 1


def test_scores_are_sums_over_nodes_given_their_parents():
    scores, graph = bge(DATA), state_graph(DAGs(bge(DATA)))
    for adjacency, score in zip(graph.states[::5], graph.log_reward[::5], strict=True):
        sets = [sum(1 << i for i in range(3) if adjacency[i, j]) for j in range(3)]
        assert score == pytest.approx(sum(scores[j, s] for j, s in enumerate(sets)), abs=1e-4)


def test_the_data_are_those_of_scikit_learn():
    loaded = load_linnerud()
    columns = np.concatenate([loaded.target, loaded.data], axis=1)
    np.testing.assert_array_equal(linnerud.measurements(), columns)
    names = [*loaded.target_names, *loaded.feature_names]
    assert [name.lower() for name in names] == list(linnerud.NAMES)
    np.testing.assert_allclose(linnerud.standardized().std(0), 1)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"column for each of the 2\^n sets of parents; got"):
        DAGs(np.zeros((3, 4)))
    with pytest.raises(ppl.TargetError, match="bge takes a finite matrix"):
        bge(np.full((3, 2), np.nan))
    with pytest.raises(ppl.TargetError, match="covariance_weight more than 4"):
        bge(DATA, covariance_weight=4)
