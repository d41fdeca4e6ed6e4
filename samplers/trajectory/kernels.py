"""Gaussian forward and backward kernels, and paths that go along them.

    forward    x_0 ~ mu,    x_n+1 = mean_F(n, x_n) + sd_F(n) xi
    backward   x_N given,   x_n = mean_B(n, x_n+1) + sd_B(n) xi

A diffusion sampler is its `Kernels`; it says what is learned at a state, once for each state, and
the Gaussian laws that follow. Paths are N + 1 states by B by d. They are made by a scan over time,
batch inside, and scored again under other parameters with all states side by side, ``score``: a
gradient of that goes through no loop over time, and can be taken of some paths at a time.
Exploration noise widens what is drawn and is never scored.

The end of a path has log R(x_N) = the log-density of the target. Where the gradient goes through
states (reverse KL), that of the target is put in by hand, clipped:

    log R(x) -> [log R(x)] + [clip(grad log R(x))] . (x - [x]),     [.] constant

References
----------
.. [1] Zhang and Chen, "Path integral sampler: a stochastic control approach for sampling", ICLR
   2022, arXiv:2111.15141. Langevin gradients inside the control.
.. [2] Sendera et al., "Improved off-policy training of diffusion samplers", NeurIPS 2024,
   arXiv:2402.05098. Section 3: stored paths, exploration.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from ppl.energy import Energy, Position
from ppl.template import dimension, float_dtype
from samplers.trajectory.objectives import Scores


class Law(NamedTuple):
    """N(mean, sd^2), sd for all coordinates or for each; a coordinate with sd = 0 is a point.

    The log-density of a point is taken to be zero.
    """

    mean: Float[Array, " d"]
    sd: Float[Array, "*d"]

    def log_density(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Normalized, in nats."""
        point = self.sd == 0
        sd = jnp.where(point, 1.0, self.sd)  # safe under the gradient also where it is not used
        z = (x - self.mean) / sd
        if sd.ndim == 0:
            log_density = -0.5 * jnp.vdot(z, z) - x.size * (jnp.log(sd) + 0.5 * jnp.log(2 * jnp.pi))
            return jnp.where(point, 0.0, log_density)
        each = -0.5 * z**2 - jnp.log(sd) - 0.5 * jnp.log(2 * jnp.pi)
        return jnp.sum(jnp.where(point, 0.0, each))


class Look(NamedTuple):
    """The target at one state: log R (-inf where it is no number), and its clipped gradient."""

    log_reward: Float[Array, ""]
    gradient: Float[Array, " d"] | None
    is_clipped: Bool[Array, ""]


class Flat(Energy):
    """A target on vectors."""

    target: Energy

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        whole = self.target.template
        return jax.ShapeDtypeStruct((dimension(whole),), float_dtype(whole))

    @property
    def unravel(self) -> Callable[[Array], Position]:
        """From vectors to positions."""
        template = self.target.template
        return ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), template))[1]

    def log_density(self, position: Float[Array, " d"]) -> Float[Array, ""]:
        return self.target.log_density(self.unravel(position))


def flattened(target: Energy) -> Flat:
    """The same target on vectors."""
    return Flat(target=target)  # pyright: ignore[reportCallIssue]


class Reward(eqx.Module):
    """log R on vectors, with the clip of its gradient for each coordinate."""

    target: Flat
    gradient_clip: Float[Array, ""]

    def value(self, x: Float[Array, " d"]) -> Look:
        """Without the gradient."""
        log_reward = self.target.log_density(x)
        return Look(_legal(log_reward), None, jnp.zeros((), bool))

    def with_gradient(self, x: Float[Array, " d"]) -> Look:
        """The density and its clipped gradient."""
        log_reward, gradient = jax.value_and_grad(self.target.log_density)(x)
        clip = self.gradient_clip.astype(x.dtype)
        clipped = jnp.clip(jnp.nan_to_num(gradient, nan=0.0), -clip, clip)
        return Look(_legal(log_reward), clipped, jnp.any(clipped != gradient))


def _legal(log_reward: Float[Array, ""]) -> Float[Array, ""]:
    bad = jnp.isnan(log_reward) | (log_reward == jnp.inf)
    return jnp.where(bad, -jnp.inf, log_reward)


class Kernels(eqx.Module):
    """Both kernels of a diffusion sampler, of a single state; the callers vmap.

    ``u`` is what `control` returned at the state, and ``look`` the target there, or None where
    ``guided`` is false.
    """

    reward: eqx.AbstractVar[Reward]
    num_steps: eqx.AbstractVar[int]
    guided: eqx.AbstractVar[bool]

    @abstractmethod
    def start(self, rng_key: PRNGKeyArray) -> Float[Array, " d"]:
        """x_0 ~ mu."""

    @abstractmethod
    def log_start(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Log mu(x_0); zero for a point."""

    @abstractmethod
    def control(self, n: Int[Array, ""], x: Float[Array, " d"], look: Look | None) -> Any:
        """What is learned, at the n-th state."""

    @abstractmethod
    def forward(self, n: Int[Array, ""], x: Float[Array, " d"], u: Any, look: Look | None) -> Law:
        """P_F from the n-th state."""

    @abstractmethod
    def backward(self, n: Int[Array, ""], x: Float[Array, " d"], u: Any, look: Look | None) -> Law:
        """P_B of the n-th state; x, u and look are those of the next one."""

    @abstractmethod
    def log_reference(
        self, n: Int[Array, ""], x: Float[Array, " d"], look: Look | None
    ) -> Float[Array, ""]:
        """A first guess of log F_n - log Z, where flows are learned."""


class Paths(NamedTuple):
    """States, what the target is along them where the kernels are guided, and at the ends."""

    states: Float[Array, "N+1 B d"]
    looks: Look | None
    ends: Look


def held(learned: Any) -> Any:
    """What is learned, as a constant; networks may hold functions, which stay what they are."""
    return jax.tree.map(lambda x: lax.stop_gradient(x) if eqx.is_array(x) else x, learned)


# Making paths ----------------------------------------------------------------------------------


def forward_paths(
    rng_key: PRNGKeyArray,
    kernels: Kernels,
    num: int,
    noise: ArrayLike = 0.0,
    *,
    through: bool = False,
) -> tuple[Paths, Scores]:
    """Paths from the source with their scores, without flows.

    Parameters
    ----------
    rng_key
        Of all paths together.
    kernels
        What they go along.
    num
        Their number B.
    noise
        Standard deviation of what is added to each step for exploration, in units of that of the
        step; it is not scored.
    through
        Whether gradients go through the states to the reward.
    """
    key_start, key_steps = random.split(rng_key)
    x = jax.vmap(kernels.start)(random.split(key_start, num))
    states, looks, log_pf, log_pb = walk(
        key_steps, kernels, x, 0, kernels.num_steps, noise, again=through
    )
    ends = _ends(kernels, states[-1], looks, with_gradient=through)
    return Paths(states, looks, ends), _scores(kernels, x, log_pf, log_pb, ends, states[-1])


def walk(
    rng_key: PRNGKeyArray,
    kernels: Kernels,
    x: Float[Array, "B d"],
    n: Any,
    num_steps: int,
    noise: ArrayLike = 0.0,
    *,
    look: Look | None = None,
    again: bool = False,
) -> tuple[Array, Look | None, Array, Array]:
    """States and looks from given n-th ones on, and log P_F and log P_B of each step.

    ``look``, where it is known, is what the target is at the first states.
    With ``again``, a gradient computes each step once more instead of keeping what is inside of it:
    its memory grows with the steps by the states alone, not by networks.
    """
    first = jnp.asarray(n, jnp.int32)

    def state(carry: Any, n: Any) -> Any:
        x, before = carry
        here = _seen(kernels, n, x, None if look is None else (n == first, look))
        # Of the first state nothing comes before, and of the last nothing after: these are laws of
        # other steps, and not used. So the network stands in the program once.
        last, now = jnp.maximum(n - 1, first), jnp.minimum(n, first + num_steps - 1)
        back = jax.vmap(kernels.backward, (None, 0, 0, 0))(last, *here)
        law = jax.vmap(kernels.forward, (None, 0, 0, 0))(now, *here)
        z = random.normal(random.fold_in(rng_key, n), law.mean.shape, law.mean.dtype)
        sd = law.sd * jnp.sqrt(1 + jnp.asarray(noise, law.sd.dtype) ** 2)
        after = law.mean + sd.reshape(len(x), -1) * z
        return (after, x), (x, here[2], _densities(law, after), _densities(back, before))

    if again:
        state = jax.checkpoint(state, prevent_cse=False)  # a scan's body has nothing to be shared
    steps = first + jnp.arange(num_steps + 1, dtype=jnp.int32)
    _, (states, looks, log_pf, log_pb) = lax.scan(state, (x, x), steps)
    return states, looks, log_pf[:-1], log_pb[1:]


def backward_paths(
    rng_key: PRNGKeyArray, kernels: Kernels, x: Float[Array, "B d"]
) -> tuple[Paths, Scores]:
    """Paths that end in given points, drawn from the last step to the first, and their scores."""
    num_steps = kernels.num_steps

    def state(carry: Any, n: Any) -> Any:
        x, after = carry
        here = _seen(kernels, n, x)
        last, now = jnp.maximum(n - 1, 0), jnp.minimum(n, num_steps - 1)  # as in `walk`
        law = jax.vmap(kernels.forward, (None, 0, 0, 0))(now, *here)
        back = jax.vmap(kernels.backward, (None, 0, 0, 0))(last, *here)
        z = random.normal(random.fold_in(rng_key, last), back.mean.shape, back.mean.dtype)
        before = back.mean + back.sd.reshape(len(x), -1) * z
        return (before, x), (x, here[2], _densities(law, after), _densities(back, before))

    steps = jnp.arange(num_steps + 1, dtype=jnp.int32)
    _, (states, looks, log_pf, log_pb) = lax.scan(state, (x, x), steps, reverse=True)
    ends = _ends(kernels, x, looks, with_gradient=False)
    return Paths(states, looks, ends), _scores(
        kernels, states[0], log_pf[:-1], log_pb[1:], ends, None
    )


def score(kernels: Kernels, paths: Paths) -> Scores:
    """Scores of stored paths under these kernels, without flows; all states side by side."""
    log_pf, log_pb = score_steps(kernels, paths.states, paths.looks)
    x0, ends = lax.stop_gradient((paths.states[0], paths.ends))
    return _scores(kernels, x0, log_pf, log_pb, ends, None)


def score_steps(
    kernels: Kernels, states: Float[Array, "states B d"], looks: Look | None, n: Any = 0
) -> tuple[Array, Array]:
    """Log P_F and log P_B of stored steps from the n-th state on."""
    x, looks = lax.stop_gradient((states, looks))
    steps = n + jnp.arange(len(x))
    u = along(kernels.control)(steps, x, looks)
    laws = along(kernels.forward)(steps[:-1], *_rows((x, u, looks), slice(None, -1)))
    backs = along(kernels.backward)(steps[:-1], *_rows((x, u, looks), slice(1, None)))
    return _densities(laws, x[1:]), _densities(backs, x[:-1])


def along(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn(n, *of_one_state)`` for all times and paths."""

    def all_states(steps: Array, *trees: Any) -> Any:
        over_paths = jax.vmap(fn, (None, *(0 for _ in trees)))
        return jax.vmap(over_paths)(steps, *trees)

    return all_states


def join(a: tuple[Paths, Scores], b: tuple[Paths, Scores]) -> tuple[Paths, Scores]:
    """Two sets of paths as one, with their scores."""

    def both(x: Any, y: Any, axis: int) -> Any:
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis), x, y)

    states, looks = both(a[0][:2], b[0][:2], 1)
    return Paths(states, looks, both(a[0].ends, b[0].ends, 0)), both(a[1], b[1], -1)


def sum_over_paths(fn: Callable[..., Any], learned: Any, paths: Any, per: int) -> Any:
    """Sum of ``fn(learned, part)``, shaped like ``learned``, over parts of ``per`` paths.

    In ``paths``, a pytree, time is the first axis and the path the second; ``fn`` is linear in its
    second entry, which is zero for a path that has been counted.
    """
    num = jax.tree.leaves(paths)[0].shape[1]
    if per >= num:
        return fn(learned, paths)

    def add(i: Array, total: Any) -> Any:
        first = jnp.minimum(i * per, num - per)
        cut = lambda x: lax.dynamic_slice_in_dim(x, first, per, axis=1)
        data, linear = jax.tree.map(cut, paths)
        is_new = first + jnp.arange(per) >= i * per
        linear = jax.tree.map(lambda x: jnp.where(is_new, x, 0.0), linear)
        return jax.tree.map(jnp.add, total, fn(learned, (data, linear)))

    return lax.fori_loop(0, -(-num // per), add, jax.tree.map(jnp.zeros_like, learned))


def _seen(
    kernels: Kernels, n: Any, x: Float[Array, "B d"], known: tuple[Any, Look] | None = None
) -> tuple[Any, Any, Any]:
    """States with what is learned there and what the target is; ``known``: when, and what."""
    see = jax.vmap(kernels.reward.with_gradient)
    look = None
    if kernels.guided:
        look = see(x) if known is None else lax.cond(known[0], lambda: known[1], lambda: see(x))
    return x, jax.vmap(kernels.control, (None, 0, 0))(n, x, look), look


def _densities(laws: Law, x: Array) -> Array:
    fn: Any = Law.log_density
    for _ in range(x.ndim - 1):
        fn = jax.vmap(fn)
    return fn(laws, x)


def _rows(tree: Any, rows: slice) -> Any:
    return jax.tree.map(lambda x: x[rows], tree)


def _ends(kernels: Kernels, x: Array, looks: Look | None, *, with_gradient: bool) -> Look:
    if looks is not None:
        return jax.tree.map(lambda leaf: leaf[-1], looks)
    look = kernels.reward.with_gradient if with_gradient else kernels.reward.value
    return jax.vmap(look)(x)


def _scores(
    kernels: Kernels, x0: Array, log_pf: Array, log_pb: Array, ends: Look, through: Array | None
) -> Scores:
    log_reward = ends.log_reward
    if through is not None and ends.gradient is not None:
        pull = jnp.sum(lax.stop_gradient(ends.gradient) * (through - lax.stop_gradient(through)), 1)
        log_reward = lax.stop_gradient(log_reward) + pull
    shape = log_pf.shape
    return Scores(
        log_pf,
        log_pb,
        jnp.zeros((shape[0] + 1, shape[1]), log_pf.dtype),
        log_reward,
        jax.vmap(kernels.log_start)(x0),
        jnp.ones(shape, bool),
        jnp.ones(shape[1], bool),
    )
