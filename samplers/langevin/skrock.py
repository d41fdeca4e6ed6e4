"""Stochastic orthogonal Runge-Kutta-Chebyshev method (SK-ROCK): Langevin in long, stable steps.

    K_0 = x,   n = sqrt(2 h) xi,   xi ~ N(0, I),   s = grad log pi
    K_1 = x + mu_1 h s(x + nu_1 n) + kappa_1 n
    K_j = mu_j h s(K_{j-1}) + nu_j K_{j-1} + kappa_j K_{j-2},   j = 2 .. S
    x' = K_S                                                             (algorithm 1 of [1])

    w_0 = 1 + eta / S^2,   w_1 = T_S(w_0) / T_S'(w_0)
    mu_1 = w_1 / w_0,   nu_1 = S w_1 / 2,   kappa_1 = S w_1 / w_0
    mu_j = 2 w_1 T_{j-1}(w_0) / T_j(w_0),   nu_j = mu_j w_0 / w_1,   kappa_j = 1 - nu_j

with Chebyshev's polynomials T. The S stages of a step are arranged so that it stays stable up to
``h = l_S / L``, ``l_S = (S - 1/2)^2 (2 - 4 eta / 3) - 3/2``, where L is the largest curvature: the
length of a step grows with the square of the gradients it costs, where that of S steps of `ULA`
grows with S. Biased. On a direction of a Gaussian with precision k, and a = h k,

    x' = A x + B n,   A = T_S(w_0 - w_1 a) / T_S(w_0)
    B = U_{S-1}(w_0 - w_1 a) / U_{S-1}(w_0) (1 - w_1 a / 2)

so that the stationary variance is ``2 h B^2 / (1 - A^2)``: nearly 1 / k where a is small, far too
small where a is large. Wide directions are right, narrow ones are traded for speed.

Where the target was made by `ppl.composite`, s is the gradient of its smoothed density, as in
`MYULA`, and the bias of the smoothing joins in.

References
----------
.. [1] Pereyra, Vargas Mieles and Zygalakis, "Accelerating proximal Markov chain Monte Carlo by
   using an explicit stabilized method", SIAM J. Imaging Sci. 13, 2020, arXiv:1908.08845.
.. [2] Abdulle, Almuslimani and Vilmart, "Optimal explicit stabilized integrator of weak order 1 for
   stiff and ergodic stochastic differential equations", SIAM/ASA J. Uncertain. Quantif. 6, 2018,
   doi:10.1137/17M1145859. The scheme; section 3, its stability on linear problems.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree
from numpy.polynomial import Chebyshev

from ppl.energy import Energy, Position
from ppl.sampler import Exactness, MarkovKernel, positive, size, where
from samplers.langevin.myula import is_usable, smoothed
from samplers.mcmc.windows import optional

DAMPING = 0.05  # eta: what is given up of the length of a step so that A stays below one


class SKROCKState(NamedTuple):
    """A position, the target's log-density (nats), and the gradient that drives the chain."""

    position: PyTree
    log_density: Float[Array, ""]
    gradient: PyTree


class SKROCKInfo(NamedTuple):
    """Whether the step led to no finite density, and was not taken."""

    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class SKROCK(MarkovKernel):
    """Stochastic orthogonal Runge-Kutta-Chebyshev method: biased, in the step size.

    A draw costs ``num_stages + 1`` gradients, and as many proximal maps where the target has one.

    Parameters
    ----------
    step_size
        The h above, in squared units of the position. There is no default and no warm-up: it
        decides the bias. `longest_step` says where the chain explodes; the authors take 0.8 of it.
    smoothing
        The lam of `MYULA`, for targets with a proximal map. None: ``2.5 step_size / l_S``. This is
        ``1 / L`` for a step of 0.8 of the longest, L being that of ``grad log p``.
    num_stages
        The S above: 10 to 15 in [1].

    Differences from the paper
    --------------------------
    A step to a density or gradient that is not finite is not taken, and is counted as a
    divergence. The density at the end of a step is evaluated, for the record and for this check:
    one evaluation more than the method needs.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "biased"

    step_size: Float[Array, ""] = positive("step_size")
    smoothing: Any = optional(positive("smoothing"))
    num_stages: int = size("num_stages", minimum=2, default=10)

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> SKROCKState:
        return SKROCKState(position, *smoothed(target, position, self._smoothing()))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: SKROCKState
    ) -> tuple[SKROCKState, SKROCKInfo]:
        h, (mu, nu, kappa) = self.step_size, coefficients(self.num_stages)
        noise = optax.tree.random_like(rng_key, state.position)
        noise = jax.tree.map(lambda xi: (jnp.sqrt(2 * h) * xi).astype(xi.dtype), noise)

        def score(x: PyTree) -> PyTree:
            return smoothed(target, x, self._smoothing())[1]

        def combine(terms: list[tuple[Any, PyTree]]) -> PyTree:
            """Sum of ``factor * tree``, in the precision of the position."""
            factors, trees = zip(*terms, strict=True)
            return jax.tree.map(
                lambda x, *leaves: sum(
                    (f * leaf).astype(x.dtype) for f, leaf in zip(factors, leaves, strict=True)
                ),
                state.position,
                *trees,
            )

        shifted = combine([(1.0, state.position), (nu[0], noise)])
        before = state.position
        now = combine([(1.0, before), (mu[0] * h, score(shifted)), (kappa[0], noise)])

        def stage(stages: tuple[PyTree, PyTree], row: Any) -> tuple[tuple[PyTree, PyTree], None]:
            before, now = stages
            mu, nu, kappa = row
            return (now, combine([(mu * h, score(now)), (nu, now), (kappa, before)])), None

        rows = jax.tree.map(lambda x: jnp.asarray(x[1:]), (mu, nu, kappa))
        (_, end), _ = jax.lax.scan(stage, (before, now), rows)
        proposed = self.init(rng_key, target, end)
        finite = is_usable(proposed)
        evaluations = jnp.full(2, self.num_stages + 1, jnp.int32)
        return where(finite, proposed, state), SKROCKInfo(~finite, evaluations)

    def _smoothing(self) -> Float[Array, ""]:
        if self.smoothing is not None:
            return self.smoothing
        return 2 * self.step_size / (0.8 * longest_step(self.num_stages))


def coefficients(num_stages: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``mu``, ``nu`` and ``kappa`` of each stage."""
    w_0 = 1 + DAMPING / num_stages**2
    polynomials = [Chebyshev.basis(j) for j in range(num_stages + 1)]
    values = np.array([polynomial(w_0) for polynomial in polynomials])
    w_1 = values[-1] / polynomials[-1].deriv()(w_0)
    ratios = values[1:-1] / values[2:]
    mu = np.concatenate([[w_1 / w_0], 2 * w_1 * ratios])
    nu = np.concatenate([[num_stages * w_1 / 2], 2 * w_0 * ratios])
    kappa = np.concatenate([[num_stages * w_1 / w_0], 1 - nu[1:]])
    return mu, nu, kappa


def longest_step(num_stages: int) -> float:
    """``l_S``: steps up to ``l_S / L`` are stable where no curvature exceeds L."""
    return (num_stages - 0.5) ** 2 * (2 - 4 * DAMPING / 3) - 1.5
