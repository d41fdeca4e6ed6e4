"""Walk-jump sampling as a Gibbs sweep, on sequences that can all be listed.

    Y = X + sigma eps,   eps ~ N(0, I),   X ~ pi one-hot
    p_sigma(y) = sum_x pi(x) N(y; x, sigma^2 I)
    walk:   y <- K(y, .),  K leaving p_sigma invariant
    jump:   x ~ p(x | y),  proportional to pi(x) exp(<x, y> / sigma^2)

`WalkJump` learns p_sigma and the jump from data. Here pi is a density over V^L sequences of few
letters: both are sums over all of them, and their logarithms come with gradients. Walks on R^(L V)
cross where single letters cannot be exchanged one at a time. Given y all letters are drawn at once,
so that a sweep leaves the law of (X, Y), hence pi, invariant: exact, if the walk is.

The published jump takes the likeliest letter of each place, argmax_v E[X_lv | y]: one draw a walk
whose law is near pi for small sigma. With ``argmax`` its bias can be measured against the truth.

References
----------
.. [1] Frey et al., "Protein discovery with discrete walk-jump sampling", ICLR 2024,
   arXiv:2306.12360. Algorithm 1.
.. [2] Saremi and Hyvärinen, "Neural empirical Bayes", JMLR 20, 2019, arXiv:1903.02334. Section 4:
   walk and jump.
"""

from dataclasses import replace
from functools import reduce
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl.energy import Energy, TargetError
from ppl.sampler import Exactness, MarkovKernel, positive, size
from samplers.langevin.walk_jump import check_walk, kernel_of_walk, one_hot_shape

LARGEST = 2**16  # sequences that are listed
BATCH = 1024  # of them whose densities are evaluated at a time


class SmoothedSequences(Energy):
    """The law of ``z = y / sigma``, from the log-densities of all sequences in a table.

    Sequences are numbered with the last letter running fastest.
    """

    log_densities: Float[Array, " sequence"]
    sigma: Float[Array, ""]
    template: Any

    def log_density(self, position: Float[Array, "length letter"]) -> Float[Array, ""]:
        return logsumexp(self.log_weights(position)) - jnp.sum(position**2) / 2

    def log_weights(self, position: Float[Array, "length letter"]) -> Float[Array, " sequence"]:
        """Of each sequence given z, up to a constant: ``log pi(x) + <x, z> / sigma``."""
        letters = position / self.sigma
        inner = reduce(lambda before, here: (before[:, None] + here).ravel(), letters)
        return self.log_densities + inner

    def denoise(self, position: Float[Array, "length letter"]) -> Float[Array, "length letter"]:
        """``E[X | z]``: probabilities of the letters at each place."""
        # Of the family exp(<x, z> / sigma), the mean is the gradient of the log-normalizer.
        return self.sigma * jax.grad(lambda z: logsumexp(self.log_weights(z)))(position)


class WalkJumpGibbsState(NamedTuple):
    """One-hot letters, their log-density (nats), those of all sequences, and where the walk is."""

    position: Int[Array, "length letter"]
    log_density: Float[Array, ""]
    log_densities: Float[Array, " sequence"]
    walk: Any


class WalkJumpGibbsInfo(NamedTuple):
    """What the walk's steps said; ``num_evaluations`` are of the smoothed density."""

    acceptance_rate: Float[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class _Claim:
    """Exact with an exact walk and a jump that is drawn, the defaults of the class."""

    def __get__(self, kernel: Any, cls: type) -> Exactness:
        exact = kernel is None or (kernel.walk.exactness == "exact" and not kernel.argmax)
        return "exact" if exact else "biased"


class WalkJumpGibbs(MarkovKernel):
    """Walk-jump sampling as a Gibbs sweep: exact, with an exact walk.

    The target is a density of one-hot positions, integers of shape (length, letter) with at most
    2^16 sequences; pass ``init=`` with one of them. All densities are evaluated once, at the start.

    Parameters
    ----------
    sigma
        Noise of y. Sequences that differ in one letter lie sqrt(2) apart: where sigma is far below,
        walks hardly ever change a letter.
    walk
        Kernel of the walk, which moves y / sigma. By default tested underdamped Langevin steps of
        ``d^(-1/4)``, which need no tuning because no curvature exceeds 1.
    num_steps
        Steps of the walk for each jump.
    argmax
        Jump to the likeliest letters in place of drawn ones: biased.

    Raises
    ------
    TargetError
        Before compilation: for positions that are not integers of shape (length, letter), and for
        more than 2^16 sequences.

    Differences from the paper
    --------------------------
    p_sigma and the jump are computed, not learned; the walk is tested, and the jump is drawn.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Any] = _Claim()

    sigma: Float[Array, ""] = positive("sigma", default=0.5)
    walk: Any = kernel_of_walk()
    num_steps: int = size("num_steps", default=10)
    argmax: bool = eqx.field(default=False, static=True)

    def check(self, target: Energy) -> None:
        shape = one_hot_shape(target, "WalkJumpGibbs")
        if shape[1] ** shape[0] > LARGEST:
            raise TargetError(
                f"WalkJumpGibbs lists all sequences, at most {LARGEST}; this target has "
                f"{shape[1]}^{shape[0]}. Draw sequences by samplers.SequenceMetropolis(), or learn "
                "from a data set of them, ppl.from_samples, by samplers.WalkJump()"
            )
        check_walk(self, self._smoothed(target, jnp.zeros(1)))

    def resolve(self, target: Energy) -> "WalkJumpGibbs":
        return replace(self, walk=self.walk.resolve(self._smoothed(target, jnp.zeros(1))))

    def init(
        self, rng_key: PRNGKeyArray, target: Energy, position: Int[Array, "length letter"]
    ) -> WalkJumpGibbsState:
        key_noise, key_walk = random.split(rng_key)
        table = log_densities(target)
        smoothed = self._smoothed(target, table)
        noise = random.normal(key_noise, position.shape, table.dtype)
        # The walk begins at a noisy copy of the start: where X ~ pi, already at Y ~ p_sigma.
        y = position / smoothed.sigma + noise
        walk = self.walk.init(key_walk, smoothed, y)
        return WalkJumpGibbsState(position, target.log_density(position), table, walk)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: WalkJumpGibbsState
    ) -> tuple[WalkJumpGibbsState, WalkJumpGibbsInfo]:
        key_walk, key_jump = random.split(rng_key)
        smoothed = self._smoothed(target, state.log_densities)
        walk, infos = lax.scan(
            lambda walk, key: self.walk.step(key, smoothed, walk),
            state.walk,
            random.split(key_walk, self.num_steps),
        )
        sizes = (state.position.shape[1],) * state.position.shape[0]
        if self.argmax:
            letters = jnp.argmax(smoothed.denoise(walk.position), axis=1)
            number = jnp.ravel_multi_index(tuple(letters), sizes, mode="clip")
        else:
            number = random.categorical(key_jump, smoothed.log_weights(walk.position), mode="high")
            letters = jnp.stack(jnp.unravel_index(number, sizes))
        position = jax.nn.one_hot(letters, sizes[0], dtype=state.position.dtype)
        table = state.log_densities
        rate = jnp.mean(getattr(infos, "acceptance_rate", jnp.ones(())))
        spent = jnp.sum(infos.num_evaluations, axis=0).astype(jnp.int32)
        info = WalkJumpGibbsInfo(rate, jnp.any(infos.diverging), spent)
        return WalkJumpGibbsState(position, table[number], table, walk), info

    def _smoothed(self, target: Any, table: Float[Array, " sequence"]) -> SmoothedSequences:
        template = jax.ShapeDtypeStruct(target.template.shape, table.dtype)
        sigma = self.sigma.astype(table.dtype)
        return SmoothedSequences(log_densities=table, sigma=sigma, template=template)


def log_densities(target: Any) -> Float[Array, " sequence"]:
    """Of every sequence, the last letter running fastest; -inf where it is not a number."""
    length, letters = target.template.shape
    tokens = jnp.unravel_index(jnp.arange(letters**length), (letters,) * length)

    def one(letters_of: Int[Array, " length"]) -> Float[Array, ""]:
        return target.log_density(jax.nn.one_hot(letters_of, letters, dtype=target.template.dtype))

    table = lax.map(one, jnp.stack(tokens, axis=1), batch_size=BATCH)
    return jnp.where(jnp.isnan(table), -jnp.inf, table)
