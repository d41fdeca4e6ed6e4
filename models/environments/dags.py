"""Directed acyclic graphs, grown edge by edge, scored by how well they explain a data set (BGe).

    log R(G) = sum_j score(j, parents of j),     score(j, P) = log p(d_{P, j}) - log p(d_P)
    log p(d_Y) = l/2 log(a/(N + a)) + log Gamma_l((N + w - n + l)/2) - log Gamma_l((w - n + l)/2)
                 - l N/2 log pi + (w - n + l)/2 log |T_YY| - (N + w - n + l)/2 log |R_YY|
    T = t I,  t = a (w - n - 1)/(a + 1),     R = T + sum_i (x_i - m)(x_i - m)' + N a/(N + a) m m'

Y are l of the n variables, in N rows with mean m; a and w are the weights of the prior on the mean
and on the covariance, a normal-Wishart law, and p(d_Y) is the marginal likelihood of a Gaussian
with any covariance. All graphs are alike before the data, so that R / Z is their posterior given
the data. Graphs that claim the same independences have the same score [1], in the form of [2], who
corrected T.

Building may stop at any graph, a move adds an edge that closes no cycle, and as every part of an
acyclic graph is acyclic, edges come in any order.

References
----------
.. [1] Geiger and Heckerman, "Parameter priors for directed acyclic graphical models and the
   characterization of several probability distributions", Ann. Statist. 30, 2002,
   doi:10.1214/aos/1035844981.
.. [2] Kuipers, Moffa and Heckerman, "Addendum on the scoring of Gaussian directed acyclic graphical
   models", Ann. Statist. 42, 2014, arXiv:1402.6863.
.. [3] Deleu et al., "Bayesian structure learning with generative flow networks", UAI 2022,
   arXiv:2202.13903. The environment.
"""

import math
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ppl.environment import Environment
from ppl.template import TargetError

MOST_NODES = 12  # a score for every set of parents


class DAGs(Environment):
    """Graphs over the columns of a data set.

    Parameters
    ----------
    scores
        (nodes, 2^nodes): log-score of each node given each set of parents, a binary number whose
        bit i is node i. See `bge`, which makes them of data.
    """

    scores: Float[Array, "nodes sets"]

    def __init__(self, scores: ArrayLike):
        self.scores = jnp.asarray(scores, float)
        nodes, sets = self.scores.shape
        if sets != 2**nodes:
            raise ValueError(
                f"scores have a row for each of n nodes and a column for each of the 2^n sets of "
                f"parents; got {self.scores.shape}. Write DAGs(bge(data))"
            )

    @property
    def num_nodes(self) -> int:
        """Number of variables."""
        return len(self.scores)

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        """Adjacency: [i, j] is an edge from i to j."""
        return jax.ShapeDtypeStruct((self.num_nodes, self.num_nodes), jnp.dtype(bool))

    @property
    def num_actions(self) -> int:
        """A move for each ordered pair; those of a node with itself are never legal."""
        return self.num_nodes**2

    @property
    def max_length(self) -> int:
        """Edges of a complete graph."""
        return self.num_nodes * (self.num_nodes - 1) // 2

    def log_density(self, position: Bool[Array, "n n"]) -> Float[Array, ""]:
        parents = jnp.sum(position << jnp.arange(self.num_nodes)[:, None], axis=0)
        return jnp.sum(self.scores[jnp.arange(self.num_nodes), parents])

    def partial_energy(self, state: Bool[Array, "n n"]) -> Float[Array, ""]:
        """That of stopping here."""
        return -self.log_density(state)

    def forward_mask(self, state: Bool[Array, "n n"]) -> Bool[Array, " moves_and_stop"]:
        # An edge i -> j closes a cycle where a way leads from j to i, of length zero for i = j.
        legal = ~state & ~_reaches(state).T
        return jnp.append(legal.reshape(-1), True)

    def backward_mask(self, state: Bool[Array, "n n"]) -> Bool[Array, " moves"]:
        return state.reshape(-1)

    def apply(self, state: Bool[Array, "n n"], action: Int[Array, ""]) -> Array:
        return state.at[action // self.num_nodes, action % self.num_nodes].set(True)

    def undo(self, state: Bool[Array, "n n"], action: Int[Array, ""]) -> Array:
        return state.at[action // self.num_nodes, action % self.num_nodes].set(False)

    def is_legal(self, state: Bool[Array, "n n"]) -> Bool[Array, ""]:
        reaches = _reaches(state)
        return ~jnp.any(state & reaches.T)

    def features(self, state: Bool[Array, "n n"]) -> Float[Array, "n 2*n"]:
        """A node a row: where its edges go, and where they come from."""
        return jnp.concatenate([state, state.T], axis=1).astype(float)

    def log_num_paths(self, state: Bool[Array, "n n"]) -> Float[Array, ""]:
        """Edges come in any order."""
        return gammaln(jnp.sum(state) + 1.0)


def _reaches(state: Bool[Array, "n n"]) -> Bool[Array, "n n"]:
    """Whether a way leads from i to j, that of length zero included."""
    n = len(state)
    reaches = (state | jnp.eye(n, dtype=bool)).astype(float)
    for _ in range(max(n - 1, 1).bit_length()):  # ways of up to 1, 2, 4, .. edges
        reaches = jnp.minimum(reaches @ reaches, 1.0)
    return reaches > 0


def bge(
    data: ArrayLike, *, mean_weight: float | int = 1.0, covariance_weight: float | int | None = None
) -> np.ndarray:
    """BGe scores of every node given every set of parents, for `DAGs`.

    Parameters
    ----------
    data
        (rows, variables), best standardized: the prior mean is 0, and T treats all alike.
    mean_weight, covariance_weight
        The a and w above; w is n + a + 1 by default, and more than n + 1.

    Raises
    ------
    TargetError
        For data that are no finite matrix of at most 12 variables, or weights that are too small.
    """
    x = np.asarray(data, np.float64)
    if x.ndim != 2 or x.shape[1] > MOST_NODES or not np.isfinite(x).all():
        raise TargetError(
            f"bge takes a finite matrix of rows and at most {MOST_NODES} variables; got shape "
            f"{x.shape}"
        )
    n = x.shape[1]
    w = n + mean_weight + 1 if covariance_weight is None else covariance_weight
    if not (mean_weight > 0 and w > n + 1):
        raise TargetError(
            f"mean_weight must be positive and covariance_weight more than {n + 1}, the number of "
            f"variables plus 1; got {mean_weight} and {w}"
        )
    log_p = {
        subset: log_marginal(x, np.flatnonzero(subset), float(mean_weight), float(w))
        for subset in product((0, 1), repeat=n)
    }
    scores = np.full((n, 2**n), -np.inf)
    for parents in log_p:
        number = sum(bit << i for i, bit in enumerate(parents))
        for j in range(n):
            if not parents[j]:
                family = (*parents[:j], 1, *parents[j + 1 :])
                scores[j, number] = log_p[family] - log_p[parents]
    return scores


def log_marginal(x: np.ndarray, chosen: Any, a: float, w: float) -> float:
    """Log p(d_Y) above, Y the ``chosen`` columns."""
    rows, n = x.shape
    size = len(chosen)
    if size == 0:
        return 0.0
    t = a * (w - n - 1) / (a + 1)
    mean = x.mean(0)
    scatter = (x - mean).T @ (x - mean) + rows * a / (rows + a) * np.outer(mean, mean)
    r = (t * np.eye(n) + scatter)[np.ix_(chosen, chosen)]
    before, after = w - n + size, rows + w - n + size
    return float(
        size / 2 * np.log(a / (rows + a))
        + _log_gamma(after / 2, size)
        - _log_gamma(before / 2, size)
        - size * rows / 2 * np.log(np.pi)
        + before / 2 * size * np.log(t)
        - after / 2 * np.linalg.slogdet(r)[1]
    )


def _log_gamma(x: float, size: int) -> float:
    """Log Gamma_l(x), but for a power of pi that cancels in ratios."""
    return sum(math.lgamma(x - i / 2) for i in range(size))
