"""Multi-path Pathfinder, with importance weights.

    from each of K jittered starts minimize -log pi by L-BFGS; at every iterate x a Gaussian
        q = N(x - S g, S),   S = diag(a) + b c b'      the inverse Hessian estimate (eq. II.2)
    keep the Gaussian of highest ELBO, E_q[log pi - log q], along each path     (algorithm 3 of [1])
    draw from the mixture of the K Gaussians, with log-weights log pi - log q   (algorithm 2)

It needs a few hundred gradients where a sampler needs ten thousands, and finds the Gaussians along
the way *to* the mode, where more mass may be than at the mode. Weighted, the draws are
asymptotically exact and their mean weight is an unbiased estimate of Z; k-hat says whether either
may be trusted. Unweighted they are as biased as the mixture.

References
----------
.. [1] Zhang, Carpenter, Gelman and Vehtari, "Pathfinder: parallel quasi-Newton variational
   inference", JMLR 23, 2022, arXiv:2108.03782. Algorithms 1 to 4, appendix II.
.. [2] Veach and Guibas, "Optimally combining sampling techniques for Monte Carlo rendering",
   SIGGRAPH 1995, doi:10.1145/218380.218498. The density of the mixture in the weights.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, LearnedSampler, positive, size, where
from samplers.mcmc.metropolis import illegal
from samplers.variational import lbfgs
from samplers.variational.lbfgs import MEMORY, Descent

DRAWS_AT_ONCE = 128


class LowRankGaussian(NamedTuple):
    """N(m, D (I + Q (L L' - I) Q') D) with diagonal D and orthonormal columns Q, on flat positions.

    The root ``D (I + Q (L - I) Q')`` maps standard normal noise to centered draws.
    """

    mean: Float[Array, " d"]
    scales: Float[Array, " d"]
    basis: Float[Array, "d rank"]
    factor: Float[Array, "rank rank"]

    def move(self, noise: Float[Array, " d"]) -> Float[Array, " d"]:
        """From standard normal noise to a draw."""
        within = noise @ self.basis
        return self.mean + self.scales * (noise + self.basis @ (self.factor @ within - within))

    def log_density(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Normalized, in nats."""
        y = (x - self.mean) / self.scales
        within = y @ self.basis
        solved = solve_triangular(self.factor, within, lower=True)
        squares = y @ y - within @ within + solved @ solved
        log_det = jnp.sum(jnp.log(self.scales)) + jnp.sum(jnp.log(jnp.diagonal(self.factor)))
        return -0.5 * (squares + y.size * jnp.log(2 * jnp.pi)) - log_det


class Path(NamedTuple):
    """A descent, its latest pairs, and the best Gaussian along it.

    Pairs of steps ``s`` and changes of the gradient ``z`` are scaled to ``s . z = 1``; the newest
    stands last, and places not yet filled are zero.
    """

    descent: Descent
    steps: Float[Array, "memory d"]
    changes: Float[Array, "memory d"]
    diagonal: Float[Array, " d"]
    best: LowRankGaussian
    elbo: Float[Array, ""]


class PathfinderState(NamedTuple):
    """All paths (leading axis)."""

    paths: Path


class PathfinderInfo(NamedTuple):
    """All paths together.

    elbo, log_density
        Highest so far, of a Gaussian and of an iterate, in nats.
    num_found
        Paths that have found a Gaussian with a finite ELBO.
    """

    elbo: Float[Array, ""]
    log_density: Float[Array, ""]
    num_found: Int[Array, ""]
    num_evaluations: Int[Array, "2"]


class Pathfinder(LearnedSampler):
    """Multi-path Pathfinder with importance weights: asymptotically exact through them.

    Parameters
    ----------
    num_paths
        Paths, each from a jittered start of its own.
    num_draws
        Draws that estimate the ELBO of each Gaussian along a path.
    max_iterations
        Of L-BFGS, on each path.
    tolerance
        Nats below the mode at which a path ends.

    Differences from the paper
    --------------------------
    The weights have the density of the mixture of all paths (the balance heuristic of [2]) instead
    of each draw's own path: they vary less where paths overlap, and Z stays unbiased. Draws keep
    their weights; ``draws.resample`` is the paper's last step. The line search is Optax's.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_paths: int = size("num_paths", default=8)
    num_draws: int = size("num_draws", default=25)
    max_iterations: int = size("max_iterations", default=200)
    tolerance: Float[Array, ""] = positive("tolerance", default=1e-4)

    @property
    def num_updates(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Iterations of L-BFGS at most."""
        return self.max_iterations

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> PathfinderState:
        _, objective = lbfgs.flat(target)
        descents = lbfgs.begin(rng_key, target, objective, self.num_paths)
        paths, d = descents.position.shape
        like = descents.position
        rank = min(d, 2 * MEMORY)

        def zeros(*shape: int) -> Array:
            return jnp.zeros((paths, *shape), like.dtype)

        none = LowRankGaussian(like, zeros(d) + 1, zeros(d, rank), zeros(rank, rank))
        pairs = zeros(MEMORY, d)
        return PathfinderState(Path(descents, pairs, pairs, zeros(d) + 1, none, zeros() - jnp.inf))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: PathfinderState
    ) -> tuple[PathfinderState, PathfinderInfo]:
        keys = random.split(rng_key, self.num_paths)
        old = state.paths
        new = jax.vmap(lambda key, path: self._follow(key, target, path))(keys, old)
        drawn = jnp.sum(~old.descent.ended).astype(jnp.int32) * self.num_draws
        spent = lbfgs.spent(old.descent, new.descent) + jnp.stack([drawn, jnp.zeros_like(drawn)])
        found = jnp.sum(jnp.isfinite(new.elbo)).astype(jnp.int32)
        top = -lbfgs.best(new.descent).value
        return PathfinderState(new), PathfinderInfo(jnp.max(new.elbo), top, found, spent)

    def done(self, state: PathfinderState) -> Bool[Array, ""]:
        return jnp.all(state.paths.descent.ended)

    def draw(
        self, rng_key: PRNGKeyArray, target: Energy, state: PathfinderState, n: int
    ) -> tuple[Position, Float[Array, " n"]]:
        unravel, objective = lbfgs.flat(target)
        laws, found = state.paths.best, jnp.isfinite(state.paths.elbo)
        # The share of each path; none at all leaves NaN, which `notes` has refused before.
        log_share = jnp.where(found, -jnp.log(jnp.sum(found)), -jnp.inf).astype(laws.mean.dtype)

        def one(key: PRNGKeyArray) -> tuple[Array, Array]:
            key_path, key_noise = random.split(key)
            law = jax.tree.map(
                lambda x: x[random.categorical(key_path, log_share, mode="high")], laws
            )
            x = law.move(random.normal(key_noise, law.mean.shape, law.mean.dtype))
            log_q = jax.vmap(LowRankGaussian.log_density, (0, None))(laws, x)
            log_q = jax.nn.logsumexp(jnp.where(found, log_q, -jnp.inf) + log_share)
            log_density = -objective(x)
            log_density = jnp.where(illegal(log_density), -jnp.inf, log_density)
            return x, log_density - log_q

        # Every draw picks a basis of its own: in batches, or they would fill the memory.
        x, log_weights = lax.map(one, random.split(rng_key, n), batch_size=DRAWS_AT_ONCE)
        return jax.vmap(unravel)(x), log_weights

    def evaluations(self, n: int) -> tuple[int, int]:
        return (n, 0)

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        found = int(history["num_found"][-1]) if len(history["num_found"]) else 0
        if found == 0:
            raise TargetError(
                f"Pathfinder: none of {self.num_paths} paths found a Gaussian on which the "
                "log-density is finite. Narrow supports with hard edges need support= (or a "
                "constrained distribution in a model); else use NUTS"
            )
        if found < self.num_paths:
            return [
                f"Pathfinder: {self.num_paths - found} of {self.num_paths} paths found no Gaussian "
                "on which the log-density is finite; the others make the mixture"
            ]
        return []

    def _follow(self, rng_key: PRNGKeyArray, target: Energy, old: Path) -> Path:
        """One iteration of L-BFGS and the Gaussian there."""
        _, objective = lbfgs.flat(target)
        descent = lbfgs.advance(objective, old.descent, self.tolerance)
        step = descent.position - old.descent.position
        change = descent.gradient - old.descent.gradient
        pairs = push((old.steps, old.changes, old.diagonal), step, change)
        law = gaussian(descent.position, descent.gradient, *pairs)
        noise = random.normal(rng_key, (self.num_draws, step.size), step.dtype)
        x = jax.vmap(law.move)(noise)
        elbo = jnp.mean(-jax.vmap(objective)(x) - jax.vmap(law.log_density)(x))
        elbo = jnp.where(jnp.isfinite(elbo), elbo, -jnp.inf)
        better = elbo > old.elbo
        best, elbo = where(better, (law, elbo), (old.best, old.elbo))
        return where(old.descent.ended, old, Path(descent, *pairs, best, elbo))


type Pairs = tuple[Float[Array, "memory d"], Float[Array, "memory d"], Float[Array, " d"]]


def push(pairs: Pairs, step: Float[Array, " d"], change: Float[Array, " d"]) -> Pairs:
    """Add a pair and update the diagonal ``a`` (algorithm 3); one that curves wrongly is left out.

    With A = z . a z, B = z . s, C = s . s / a:   1/a' = A / (B a) + z^2 / B - A s^2 / (B C a^2)
    """
    steps, changes, a = pairs
    size = jnp.vdot(step, change)
    # All formulas are the same for (t s, t z); with s . z = 1 no product underflows.
    scale = 1 / jnp.sqrt(jnp.where(size > 0, size, 1))
    s, z = scale * step, scale * change
    total, whole = jnp.sum(a * z**2), jnp.sum(s**2 / a)
    inverse = total / a + z**2 - total * s**2 / (whole * a**2)
    pushed = (
        jnp.concatenate([steps[1:], s[None]]),
        jnp.concatenate([changes[1:], z[None]]),
        1 / inverse,
    )
    curved = size > 1e-12 * jnp.vdot(change, change)
    good = curved & jnp.all(inverse > 0) & jnp.all(jnp.isfinite(pushed[2]))
    return where(good, pushed, pairs)


def gaussian(
    position: Float[Array, " d"],
    gradient: Float[Array, " d"],
    steps: Float[Array, "memory d"],
    changes: Float[Array, "memory d"],
    diagonal: Float[Array, " d"],
) -> LowRankGaussian:
    """Gaussian of the inverse Hessian estimate; ``gradient`` is that of minus the log-density.

    S = diag(a) + b c b',   b = [diag(a) Z, S],   c = [[0, -R^-1], [-R^-T, R^-T (E + Z' a Z) R^-1]]
    with pairs as columns, R the upper triangle of S'Z and E its diagonal      (eq. II.2)
    """
    filled = jnp.any(steps != 0, axis=1)
    products = steps @ changes.T
    # Places not yet filled get ones on the diagonal: they solve to zero.
    upper = jnp.triu(products, 1) + jnp.eye(MEMORY, dtype=products.dtype)
    roots = jnp.sqrt(diagonal)
    scaled = changes * roots
    inverse = solve_triangular(upper, jnp.eye(MEMORY, dtype=upper.dtype))
    ends = jnp.diag(filled.astype(products.dtype))
    corner = inverse.T @ (ends + scaled @ scaled.T) @ inverse
    middle = jnp.block([[jnp.zeros_like(inverse), -inverse], [-inverse.T, corner]])
    # In units of the root of the diagonal: S = D (I + Q (R c R') Q') D.
    wide = jnp.concatenate([scaled, steps / roots]).T
    basis, triangle = jnp.linalg.qr(wide)
    rank = basis.shape[1]
    inner = jnp.eye(rank, dtype=wide.dtype) + triangle @ middle @ triangle.T
    factor = jnp.linalg.cholesky((inner + inner.T) / 2)
    law = LowRankGaussian(position, roots, basis, factor)
    # The Newton step S g.
    g = roots * gradient
    within = g @ basis
    newton = roots * (g + basis @ (factor @ (factor.T @ within) - within))
    return law._replace(mean=position - newton)
