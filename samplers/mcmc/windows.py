"""Warm-up by windows: step size by dual averaging, metric from draws and gradients.

The schedule is Stan's [1] in outline: a short first window, metric windows that grow, a last
window for the step size alone. What differs suits chains that run together and gradients that are
there anyway:

- all chains share one step size and one metric, from their pooled statistics; the dual averaging
  [2] follows the mean acceptance over chains;
- the first metric comes from the gradients at the starting points, every later one minimizes the
  Fisher divergence over the draws of a window (`samplers.mcmc.metrics`), so that a few steps
  of a few chains are enough to leave a bad metric behind;
- draws are centered within their chain: chains that sit in different places, because they have
  not mixed or because there are several modes, do not widen the metric;
- while the metric is unknown, trajectories are kept short.

References
----------
.. [1] Stan Development Team, "Stan reference manual", chapter "MCMC sampling", section
   "Automatic parameter tuning".
.. [2] Hoffman and Gelman, "The No-U-Turn Sampler", JMLR 15, 2014, arXiv:1111.4246. Section 3.2.
.. [3] Seyboldt, Carlson and Carpenter, "Preconditioning Hamiltonian Monte Carlo by minimizing
   Fisher divergence", 2026, arXiv:2603.18845.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from blackjax.adaptation import step_size as blackjax_step_size
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy
from ppl.sampler import Record, WarmUp, fraction, where
from ppl.template import float_dtype
from samplers.mcmc.metrics import Metric, default_metric
from samplers.mcmc.step_size import adjusted

FIRST, SECOND, LAST = 25, 50, 100  # lengths in a warm-up long enough for them
ONE_GRADIENT = 1.25  # growth of the windows of kernels whose steps cost one gradient
SHORT_WINDOWS = 2  # windows with short trajectories
MOST_CHAINS, LEAST_STEPS, MOST_NUMBERS = 512, 8, 2**24  # of the memory of one window


# Its types say float where arrays pass.
_dual_averaging: Any = blackjax_step_size.dual_averaging_adaptation


class WindowState(NamedTuple):
    """BlackJAX's dual averaging, where the window stands, its latest draws and gradients.

    Where the metric does not learn there are none: in 1,600 dimensions they fill 134 MB, which
    parallel tempering has for each rung, and copies with every chunk.
    """

    averaging: Any
    window: Int[Array, ""]
    steps: Int[Array, ""]
    positions: Float[Array, "memory chain d"] | None
    gradients: Float[Array, "memory chain d"] | None


class WindowWarmUp(WarmUp):
    """Tune ``kernel.step_size`` and ``kernel.metric``.

    The kernel's states have a ``gradient``, which it watches, or none: then the draws alone give
    the metric. Its infos have an ``acceptance_rate``. A kernel with a field ``brief`` is told
    through it to keep trajectories short, one with a field ``tuning`` that it is being tuned.

    Parameters
    ----------
    target_acceptance
        The mean acceptance rate asked for.
    growth
        How much longer a metric window is than the one before. A chain that takes one gradient a
        step gets ahead slowly, and a bad metric holds it: with `ONE_GRADIENT` it is replaced often.
    most_numbers
        That are remembered of draws, and as many of gradients.
    """

    target_acceptance: Float[Array, ""] = fraction("target_acceptance")
    growth: float = eqx.field(static=True, default=4.0)
    most_numbers: int = eqx.field(static=True, default=MOST_NUMBERS)

    def windows(self, num_steps: int) -> list[int]:
        first, last = min(FIRST, num_steps // 5), min(LAST, num_steps // 4)
        if first < LEAST_STEPS // 2:
            return [num_steps] if num_steps else []
        lengths, length, left = [first], min(SECOND, 2 * first), num_steps - first - last
        while left >= 2 * length:
            lengths.append(length)
            left, length = left - length, int(self.growth * length)
        return [*lengths, left, last]

    def init(
        self, rng_key: PRNGKeyArray, target: Energy, kernel: Any, states: Any
    ) -> tuple[Any, WindowState]:
        positions = flatten(states.position)
        gradients = flatten(states.gradient) if hasattr(states, "gradient") else None
        num_chains, dimension = positions.shape
        chains = min(num_chains, MOST_CHAINS)
        rows = max(512, 8 * dimension)
        rows = min(rows, self.most_numbers // dimension)
        memory = max(-(-rows // chains), LEAST_STEPS)
        empty = jnp.zeros((memory, chains, dimension), positions.dtype)

        metric = kernel.metric.rescaled(start_scales(positions, gradients))
        metric = where(kernel.metric.is_identity, metric, kernel.metric)
        started = _replace(kernel, kernel.step_size, metric, brief=True, tuning=True)
        zero = jnp.zeros((), jnp.int32)
        learns = kernel.metric.learns
        rings = (empty if learns else None, empty if learns and gradients is not None else None)
        return started, WindowState(self._averaging(kernel.step_size), zero, zero, *rings)

    def step(self, kernel: Any, adaptation: WindowState, infos: Any) -> tuple[Any, WindowState]:
        _, update, _ = _dual_averaging(self.target_acceptance)
        rates = infos.acceptance_rate
        rate = jnp.mean(jnp.where(jnp.isfinite(rates), rates, 0.0))
        old = adaptation.averaging
        # BlackJAX mixes Python numbers in, which would widen float32 where float64 is enabled.
        averaging = jax.tree.map(lambda new, old: new.astype(old.dtype), update(old, rate), old)
        kernel = eqx.tree_at(
            lambda k: k.step_size, kernel, _step_size(averaging.log_step_size, kernel.step_size)
        )
        return kernel, adaptation._replace(averaging=averaging)

    def end_chunk(
        self,
        rng_key: PRNGKeyArray,
        target: Energy,
        kernel: Any,
        adaptation: WindowState,
        states: Any,
        record: Record,
        count: Int[Array, ""],
        window_ends: Bool[Array, ""],
        is_last: Bool[Array, ""],
    ) -> tuple[Any, WindowState, Any]:
        adaptation = remember(adaptation, record, count)

        def close() -> tuple[Any, WindowState]:
            averaged = _step_size(adaptation.averaging.log_step_size_avg, kernel.step_size)
            window = adaptation.window + 1
            metric = lax.cond(
                is_last, lambda: kernel.metric, lambda: estimate(kernel.metric, adaptation)
            )
            # A step size that suits the old metric says little about a first good one.
            dimension = sum(x[0, 0].size for x in jax.tree.leaves(record.position))
            fresh = jnp.asarray(initial_step_size(dimension), averaged.dtype)
            start = jnp.where(is_last | (window > SHORT_WINDOWS), averaged, fresh)
            brief = (window < SHORT_WINDOWS) & ~is_last
            empty = adaptation._replace(
                averaging=self._averaging(start),
                window=window,
                steps=jnp.zeros_like(adaptation.steps),
            )
            return _replace(kernel, start, metric, brief=brief, tuning=~is_last), empty

        kernel, adaptation = lax.cond(window_ends, close, lambda: (kernel, adaptation))
        return kernel, adaptation, states

    def _averaging(self, step_size: Float[Array, ""]) -> Any:
        init, _, _ = _dual_averaging(self.target_acceptance)
        state = init(step_size)
        dtypes = state._replace(step=jnp.int32, **dict.fromkeys(_FLOATS, step_size.dtype))
        return jax.tree.map(jnp.asarray, state, dtypes)


_FLOATS = ("log_step_size", "log_step_size_avg", "avg_error", "mu")


# Statistics -----------------------------------------------------------------------------------


def start_scales(
    positions: Float[Array, "chain d"], gradients: Float[Array, "chain d"] | None
) -> Float[Array, " d"]:
    """Diagonal metric from the starting points: ``sd(x) / rms(g)``, under a root.

    The expected gradient is zero, so that its mean square counts; a single chain, or chains that
    start together, are taken to lie one unit from where they belong; gradients that are not known
    are taken to be one.
    """
    sd = jnp.std(positions, axis=0)
    size = jnp.ones_like(sd) if gradients is None else jnp.sqrt(jnp.mean(gradients**2, axis=0))
    ratio = jnp.where(sd > 0, sd, 1.0) / jnp.where(size > 0, size, 1.0)
    return jnp.sqrt(jnp.clip(ratio, 1e-10, 1e10))


def remember(adaptation: WindowState, record: Record, count: Int[Array, ""]) -> WindowState:
    """Write the rows of a chunk where their step in the window belongs.

    A ring: what is remembered at the end of a window does not depend on how it was cut.
    """
    steps = adaptation.steps + count
    if adaptation.positions is None:
        return adaptation._replace(steps=steps)
    memory, chains, _ = adaptation.positions.shape
    # The latest row of this chunk that belongs to a place of the ring; negative where none does.
    newest = steps - 1
    row = count - 1 - (newest - jnp.arange(memory)) % memory

    def write(ring: Float[Array, "memory chain d"], tree: PyTree) -> Float[Array, "memory chain d"]:
        rows = jax.vmap(flatten)(jax.tree.map(lambda x: x[row, :chains], tree))
        return jnp.where((row >= 0)[:, None, None], rows.astype(ring.dtype), ring)

    gradients = adaptation.gradients
    return adaptation._replace(
        steps=steps,
        positions=write(adaptation.positions, record.position),
        gradients=None if gradients is None else write(gradients, record.watched),
    )


def estimate(metric: Metric, adaptation: WindowState) -> Metric:
    """Metric from the last two thirds of a window, as far as they are remembered."""
    if adaptation.positions is None:
        return metric
    memory, chains, dimension = adaptation.positions.shape
    steps = adaptation.steps
    # The step of the window that a place of the ring holds: the last one that was written there.
    place = jnp.arange(memory)
    step = place + (steps - 1 - place) // memory * memory
    kept = (step >= 0) & (step >= steps // 3)
    num_kept = jnp.maximum(jnp.sum(kept), 1)

    def deviations(ring: Float[Array, "memory chain d"]) -> Float[Array, "n d"]:
        ring = jnp.where(kept[:, None, None], ring, 0)
        mean = jnp.sum(ring, axis=0) / num_kept
        centered = jnp.where(kept[:, None, None], ring - mean, 0)
        return centered.reshape(memory * chains, dimension) / jnp.sqrt(num_kept * chains)

    count = num_kept * chains
    gradients = adaptation.gradients
    return metric.fit(
        deviations(adaptation.positions),
        None if gradients is None else deviations(gradients),
        count.astype(adaptation.positions.dtype),
    )


def flatten(tree: PyTree) -> Float[Array, "chain d"]:
    """Rows of flat positions, from a tree with a leading chain axis."""
    return jax.vmap(lambda one: ravel_pytree(one)[0])(tree)


# Kernels --------------------------------------------------------------------------------------


def initial_step_size(dimension: int) -> float:
    """Leapfrog step that suits a standard normal, up to a constant of order one.

    At a fixed acceptance rate it falls like the fourth root of the dimension [1]_.

    .. [1] Beskos et al., "Optimal tuning of the hybrid Monte Carlo algorithm", Bernoulli 19,
       2013, arXiv:1001.4460. Theorem 3.6.
    """
    return dimension**-0.25


def optional(field: Any) -> Any:
    """Field: as the given one, or None, which `resolved` fills in."""
    convert = field.metadata["converter"]
    return eqx.field(
        default=None,
        static=field.metadata.get("static", False),
        converter=lambda value: None if value is None else convert(value),
    )


def flag(value: Any) -> Any:
    """Converter: a traced boolean."""
    return jnp.asarray(value, bool)


def resolved[Kernel: Any](kernel: Kernel, target: Energy) -> Kernel:
    """Kernel whose metric and step size are laid out for the dimension of this target."""
    dtype = float_dtype(target.template)
    dimension = sum(leaf.size for leaf in jax.tree.leaves(target.template))
    metric = default_metric(dimension) if kernel.metric is None else kernel.metric
    step_size = kernel.step_size
    if step_size is None:
        step_size = initial_step_size(dimension)
    return eqx.tree_at(
        lambda k: (k.step_size, k.metric),
        kernel,
        (jnp.asarray(step_size, dtype), metric.for_dimension(dimension, dtype)),
        is_leaf=lambda x: x is None,
    )


def retuned[Kernel: Any](
    kernel: Kernel, particles: PyTree, log_weights: Float[Array, " n"], info: Any, gradients: PyTree
) -> Kernel:
    """Kernel with the metric of weighted particles, and of their gradients, where there are any.

    The step size follows the acceptance seen.
    """
    weights = jax.nn.softmax(log_weights)[:, None]

    def deviations(tree: PyTree) -> Float[Array, "n d"]:
        x = jnp.where(weights > 0, flatten(tree), 0)  # NaN, perhaps, where there is no weight
        return jnp.sqrt(weights) * (x - jnp.sum(weights * x, axis=0))

    metric = kernel.metric.fit(
        deviations(particles),
        deviations(gradients) if jax.tree.leaves(gradients) else None,
        1 / jnp.sum(weights**2),
    )
    step_size = adjusted(kernel.step_size, info, kernel.target_acceptance)
    return _replace(kernel, step_size, metric)


def _replace(kernel: Any, step_size: Array, metric: Metric, **flags: Any) -> Any:
    kernel = eqx.tree_at(
        lambda k: (k.step_size, k.metric),
        kernel,
        (jnp.asarray(step_size, kernel.step_size.dtype), metric),
    )
    for name, value in flags.items():
        if hasattr(kernel, name):
            kernel = eqx.tree_at(lambda k: getattr(k, name), kernel, jnp.asarray(value))  # noqa: B023
    return kernel


def _step_size(log_step_size: Array, like: Array) -> Float[Array, ""]:
    # Smaller steps move nothing in single precision, and zero would never grow again.
    return jnp.maximum(jnp.exp(log_step_size), 1e-7).astype(like.dtype)
