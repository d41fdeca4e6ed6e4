"""Discrete walk-jump sampling (dWJS): sequences by a smoothed energy and one denoising step.

    Y = X + sigma eps,   eps ~ N(0, I),   X one-hot: for each place a vector of zeros and a one
    walk:   y <- K(y, .),   K leaving exp(-f(y)) invariant, f the learned energy of Y
    jump:   letter of place l = argmax_v D_lv(y),   D(y) the learned mean of X given Y = y

Noise makes one smooth law of isolated sequences, which a walk on R^(L V) explores; a denoiser takes
each y back to letters. Both are learned from a data set:

    f by contrastive divergence:   minimize E f(Y) - E f(Y'),   Y' ~ exp(-f) from walks
    D by least squares:            minimize E |X - D(Y)|^2

The walks of Y' go on from one update to the next, as in [3]. Biased: by what the networks have not
learned, by walks of finite length, and by the jump, whose letters are the likeliest and not drawn.
`WalkJumpGibbs` is the same scheme without any of these, where a density of few letters is known.

References
----------
.. [1] Frey et al., "Protein discovery with discrete walk-jump sampling", ICLR 2024,
   arXiv:2306.12360. Algorithm 1.
.. [2] Saremi and Hyvärinen, "Neural empirical Bayes", JMLR 20, 2019, arXiv:1903.02334.
.. [3] Tieleman, "Training restricted Boltzmann machines using approximations to the likelihood
   gradient", ICML 2008, doi:10.1145/1390156.1390290. Persistent contrastive divergence.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax, random
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl.energy import Energy, TargetError
from ppl.sampler import Exactness, LearnedSampler, MarkovKernel, fraction, positive, size, where
from ppl.template import describe, float_dtype
from samplers.langevin.underdamped import UnderdampedLangevin
from samplers.mcmc.metrics import Identity
from samplers.mcmc.metropolis import all_finite


def default_walk() -> UnderdampedLangevin:
    """Walk of y / sigma, where hardly any curvature exceeds 1: nothing is left to tune."""
    return UnderdampedLangevin(metric=Identity(), damping=2.0)  # pyright: ignore[reportArgumentType]


def kernel_of_walk() -> Any:
    """Field: the Markov kernel of a walk."""

    def convert(value: Any) -> Any:
        if not isinstance(value, MarkovKernel) and type(value) is not object:
            raise ValueError(
                f"walk must be a Markov kernel such as samplers.MALA(0.5); got {value!r}"
            )
        return value

    return eqx.field(default_factory=default_walk, converter=convert)


def mlp(rng_key: PRNGKeyArray, num_in: int, num_out: int | str) -> Any:
    """Two hidden layers of 64."""
    return eqx.nn.MLP(num_in, num_out, 64, 2, jax.nn.silu, key=rng_key)  # pyright: ignore[reportArgumentType]


class LearnedSequences(Energy):
    """The learned law of ``z = y / sigma``.

    ``log p(z) = -|z|^2 / 2 + sum_l log sum_v exp(z_lv / sigma) + network(softmax(z / sigma))``:
    without the network, independent letters with equal probabilities. For letters with any law it
    is the logarithm of a polynomial in the softmax; and being bounded, it leaves p normalizable.
    """

    network: Any
    sigma: Float[Array, ""]
    template: Any

    def log_density(self, position: Float[Array, "length letter"]) -> Float[Array, ""]:
        letters = position / self.sigma
        base = jnp.sum(logsumexp(letters, axis=1)) - jnp.sum(position**2) / 2
        return base + self.network(jax.nn.softmax(letters, axis=1).ravel())


def denoised(
    network: Any, position: Float[Array, "length letter"], sigma: Float[Array, ""]
) -> Float[Array, "length letter"]:
    """D above, at ``y = sigma position``: probabilities of the letters at each place."""
    letters = position / sigma
    shift = network(jax.nn.softmax(letters, axis=1).ravel())
    return jax.nn.softmax(letters + shift.reshape(letters.shape), axis=1)


class WalkJumpState(NamedTuple):
    """The networks of f and D, Adam's moments, and where the walks of Y' / sigma are."""

    energy: Any
    denoiser: Any
    optimizer: Any
    walks: Float[Array, "walk length letter"]


class WalkJumpInfo(NamedTuple):
    """An update: the denoiser's squared error, the difference of energies, the walks' acceptance.

    ``diverging`` where a loss or gradient was not finite, and nothing was updated.
    """

    loss: Float[Array, ""]
    contrast: Float[Array, ""]
    acceptance_rate: Float[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class WalkJump(LearnedSampler):
    """Discrete walk-jump sampling: biased, independent draws of sequences like those of a data set.

    The target is `ppl.from_samples` of one-hot rows, integers of shape (row, length, letter). A
    draw begins at noise, walks, and jumps once. Evaluations are those of the learned energy.

    Parameters
    ----------
    num_updates
        Adam updates; the learning rate falls to zero along a half cosine over them.
    sigma
        Noise of y. Sequences that differ in one letter lie sqrt(2) apart: where sigma is far below,
        walks hardly ever change a letter; where it is far above, the jump confounds them.
    walk
        Kernel of the walk, which moves y / sigma. By default tested underdamped Langevin steps of
        ``d^(-1/4)`` in d = length x letter dimensions.
    num_steps
        Steps of the walk of a draw.
    num_rows
        Rows of the data, and walks of Y', in an update.
    num_negative_steps
        Steps that the walks of Y' take in an update.
    restart
        Fraction of these walks that begin anew at noisy rows, in each update.
    learning_rate
        Of the first update.
    network
        ``network(rng_key, num_in, num_out)`` makes a network on vectors; ``num_out`` is
        ``"scalar"`` for f, as in `equinox.nn.MLP`.

    Raises
    ------
    TargetError
        If the rows are not one-hot, integers of shape (length, letter); before compilation.

    Differences from the paper
    --------------------------
    Networks see ``softmax(y / sigma^2)``, on top of the solution for independent letters, and the
    denoiser's rows are probabilities. Walks have a Metropolis test, so that no step size has to be
    found; the release takes 100 steps of an integrator without one. Walks of Y' persist.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    exactness: ClassVar[Exactness] = "biased"
    batch_size: ClassVar[int] = 256

    num_updates: int = size("num_updates", default=2000)
    sigma: Float[Array, ""] = positive("sigma", default=0.5)
    walk: Any = kernel_of_walk()
    num_steps: int = size("num_steps", default=200)
    num_rows: int = size("num_rows", default=256)
    num_negative_steps: int = size("num_negative_steps", default=5)
    restart: Float[Array, ""] = fraction("restart", default=0.05)
    learning_rate: Float[Array, ""] = positive("learning_rate", default=5e-3)
    network: Callable[..., Any] = eqx.field(default=mlp, static=True)

    def check(self, target: Any) -> None:
        one_hot_shape(target, "WalkJump")
        rows = np.asarray(target.rows)
        if not (np.isin(rows, (0, 1)).all() and (rows.sum(-1) == 1).all()):
            wrong = np.argmax(~(np.isin(rows, (0, 1)).all(-1) & (rows.sum(-1) == 1)).all(-1))
            raise TargetError(
                "WalkJump takes one-hot rows, one 1 for each place and zeros; row "
                f"{wrong} is {rows[wrong].tolist()}"
            )
        check_walk(self, self._law(None, target))

    def resolve(self, target: Energy) -> "WalkJump":
        return replace(self, walk=self.walk.resolve(self._law(None, target)))

    def init(self, rng_key: PRNGKeyArray, target: Any) -> WalkJumpState:
        length, letters = target.template.shape
        key_energy, key_denoiser, key_walks = random.split(rng_key, 3)
        energy = self.network(key_energy, length * letters, "scalar")
        denoiser = self.network(key_denoiser, length * letters, length * letters)
        optimizer = self._optimizer.init(eqx.filter((energy, denoiser), eqx.is_array))
        return WalkJumpState(energy, denoiser, optimizer, self._noisy(key_walks, target)[1])

    def step(
        self, rng_key: PRNGKeyArray, target: Any, state: WalkJumpState
    ) -> tuple[WalkJumpState, WalkJumpInfo]:
        key_rows, key_restart, key_walk = random.split(rng_key, 3)
        x, z = self._noisy(key_rows, target)
        begin = random.bernoulli(key_restart, self.restart, (self.num_rows, 1, 1))
        walks = jnp.where(begin, z, state.walks)
        law = self._law(state.energy, target)
        walks, rate = self._walked(key_walk, law, walks, self.num_negative_steps)

        def losses(networks: tuple[Any, Any]) -> tuple[Array, tuple[Array, Array]]:
            contrast = contrast_of(self._law(networks[0], target), z, walks)
            means = jax.vmap(denoised, (None, 0, None))(networks[1], z, law.sigma)
            squares = jnp.mean(jnp.sum((x - means) ** 2, axis=(1, 2)))
            return contrast + squares, (contrast, squares)

        networks = (state.energy, state.denoiser)
        (_, (contrast, squares)), gradient = eqx.filter_value_and_grad(losses, has_aux=True)(
            networks
        )
        updates, optimizer = self._optimizer.update(gradient, state.optimizer)
        energy, denoiser = eqx.apply_updates(networks, updates)
        updated = WalkJumpState(energy, denoiser, optimizer, walks)
        finite = all_finite((contrast, squares, eqx.filter(gradient, eqx.is_array)))
        kept = where(finite, *(eqx.filter(s, eqx.is_array) for s in (updated, state)))
        spent = jnp.full(2, self.num_rows * (self.num_negative_steps + 2), jnp.int32)
        info = WalkJumpInfo(squares, contrast, rate, ~finite, spent)
        return eqx.combine(kept, state), info

    def draw(
        self, rng_key: PRNGKeyArray, target: Any, state: WalkJumpState, n: int
    ) -> tuple[Int[Array, "n length letter"], None]:
        key_start, key_noise, key_walk = random.split(rng_key, 3)
        law, shape = self._law(state.energy, target), (n, *target.template.shape)
        dtype = law.template.dtype
        start = random.uniform(key_start, shape, dtype) / law.sigma
        start = start + random.normal(key_noise, shape, dtype)
        z, _ = self._walked(key_walk, law, start, self.num_steps)
        means = jax.vmap(denoised, (None, 0, None))(state.denoiser, z, law.sigma)
        letters = jnp.argmax(means, axis=2)
        return jax.nn.one_hot(letters, shape[2], dtype=target.template.dtype), None

    def evaluations(self, n: int) -> tuple[int, int]:
        return (n * self.num_steps, n * self.num_steps)

    def _law(self, network: Any, target: Energy) -> LearnedSequences:
        template = jax.ShapeDtypeStruct(target.template.shape, float_dtype(target.template))
        sigma = self.sigma.astype(template.dtype)
        return LearnedSequences(network=network, sigma=sigma, template=template)

    def _noisy(self, rng_key: PRNGKeyArray, target: Any) -> tuple[Array, Array]:
        """Rows of the data, and these with noise, in units of sigma."""
        key_rows, key_noise = random.split(rng_key)
        law = self._law(None, target)
        indices = random.randint(key_rows, (self.num_rows,), 0, target.num_data)
        x = target.at(indices).astype(law.template.dtype)
        return x, x / law.sigma + random.normal(key_noise, x.shape, x.dtype)

    def _walked(
        self, rng_key: PRNGKeyArray, law: LearnedSequences, positions: Array, num_steps: int
    ) -> tuple[Array, Array]:
        """Where walks are after some steps, and how many of these were accepted."""
        keys = lambda i: random.split(random.fold_in(rng_key, i), positions.shape[0])

        def step(states: Any, i: Array) -> tuple[Any, Array]:
            states, infos = jax.vmap(self.walk.step, (0, None, 0))(keys(i), law, states)
            return states, jnp.mean(getattr(infos, "acceptance_rate", jnp.ones(())))

        states = jax.vmap(self.walk.init, (0, None, 0))(keys(num_steps), law, positions)
        states, rates = lax.scan(step, states, jnp.arange(num_steps))
        return states.position, jnp.mean(rates)

    @property
    def _optimizer(self) -> Any:
        return optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.num_updates))


def contrast_of(law: LearnedSequences, noisy: Array, walks: Array) -> Float[Array, ""]:
    """Mean energy of the data less that of the walks: its gradient is that of ``-log p(data)``."""
    log_p = jax.vmap(law.log_density)
    return jnp.mean(log_p(walks)) - jnp.mean(log_p(noisy))


def one_hot_shape(target: Any, name: str) -> tuple[int, int]:
    """Length and number of letters of one-hot positions; raises where they are something else."""
    leaves = jax.tree.leaves(target.template)
    fits = len(leaves) == 1 and leaves[0].ndim == 2 and leaves[0].shape[1] > 1
    if not fits or not jnp.issubdtype(leaves[0].dtype, jnp.integer):
        raise TargetError(
            f"{name} takes one-hot sequences, integers of shape (length, letter); positions of "
            f"this target are {describe(target.template)}. Write jax.nn.one_hot(tokens, "
            "num_letters, dtype=int)"
        )
    return leaves[0].shape


def check_walk(sampler: Any, smoothed: Energy) -> None:
    """Raise unless the sampler's walk can move on the smoothed density."""
    for capability in sorted(sampler.walk.needs - smoothed.offers):
        raise TargetError(
            f"{type(sampler).__name__}: {type(sampler.walk).__name__} needs {capability!r}, but a "
            "smoothed density has its logarithm and gradient only; write walk=samplers.MALA(0.5)"
        )
    sampler.walk.check(smoothed)
