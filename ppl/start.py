"""Where chains start: positions, and what is said when there is no finite one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree
from numpyro.distributions.distribution import validation_enabled

from ppl.energy import Energy, Position, TargetError
from ppl.keys import Keys
from ppl.template import describe, named

RADIUS = 2.0  # jittered starts are uniform on (-2, 2) in the unconstrained space, as Stan's
ATTEMPTS = 100
NO_START = "no finite start"  # how the message begins
PATIENCE = 10  # attempts that also ask for a density the precision can resolve


def jittered(
    keys: Keys, target: Energy, *, with_gradient: bool
) -> tuple[Position, Bool[Array, " chain"], Array]:
    """Uniform starts, drawn again where the density or its gradient is not finite.

    Later attempts shrink toward the origin, where the tails of an unconstrained density are
    least likely to overflow. At first a density so low that rounding hides differences of a
    tenth of a nat counts as not finite too: there an accept step is a coin toss and a chain may
    stay for good. (A density may be that large everywhere, so patience ends.)

    Returns positions, which of them are finite, and the attempts made.
    """
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), target.template)
    flat, unravel = ravel_pytree(zeros)

    def propose(attempt: Array) -> Position:
        scale = (RADIUS * 0.97**attempt).astype(flat.dtype)

        # One draw for the whole position: every use of the generator costs compile time.
        def one(key: PRNGKeyArray) -> Position:
            key = random.fold_in(key, attempt)
            return unravel(random.uniform(key, flat.shape, flat.dtype, -scale, scale))

        return jax.vmap(one)(keys)

    def body(carry: Any) -> Any:
        attempt, positions, good = carry
        positions = jax.tree.map(
            lambda old, new: jnp.where(_like(good, old), old, new), positions, propose(attempt)
        )
        good, density = finite(target, positions, with_gradient=with_gradient)
        resolved = jnp.abs(density) * jnp.finfo(density.dtype).eps < 0.1
        return attempt + 1, positions, good & (resolved | (attempt >= PATIENCE))

    num_chains = keys.shape[0]
    nowhere = jax.tree.map(lambda x: jnp.zeros((num_chains, *x.shape), x.dtype), zeros)
    attempts, positions, good = lax.while_loop(
        lambda c: (c[0] < ATTEMPTS) & ~jnp.all(c[2]),
        body,
        (jnp.int32(0), nowhere, jnp.zeros(num_chains, bool)),
    )
    return positions, good, attempts


def finite(
    target: Energy, positions: Position, *, with_gradient: bool
) -> tuple[Bool[Array, " chain"], Float[Array, " chain"]]:
    """Which chains have a finite density (and gradient), and the densities."""
    if not with_gradient:
        density = jax.vmap(_density(target))(positions)
        return jnp.isfinite(density), density
    density, gradient = jax.vmap(jax.value_and_grad(target.log_density))(positions)
    good = jnp.isfinite(density)
    for leaf in jax.tree.leaves(gradient):
        good &= jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim)))
    return good, density


def _density(target: Any) -> Callable[[Position], Array]:
    """What must be finite. A model that only ever sees some of its rows has that of its prior.

    The path of a simulator has none but that of its data.
    """
    names = ("log_density", "log_prior", "log_likelihood")
    return getattr(target, next(name for name in names if name in target.offers))


def _like(mask: Bool[Array, " chain"], leaf: Array) -> Bool[Array, "..."]:
    return jnp.reshape(mask, mask.shape + (1,) * (leaf.ndim - 1))


def given(init: PyTree, template: PyTree, num_chains: int) -> Position:
    """Positions a user passed: one for all chains, or one a chain (leading axis)."""
    if jax.tree.structure(init) != jax.tree.structure(template):
        raise TargetError(
            f"init does not fit the target: positions look like {describe(template)}; got "
            f"{jax.tree.structure(init)}. Positions are unconstrained; from constrained values "
            "make them with target.unconstrain(values)."
        )
    names, expected = zip(*named(template).items(), strict=True)
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(init)]
    single = all(x.shape == e.shape for x, e in zip(leaves, expected, strict=True))
    batch = all(x.shape == (num_chains, *e.shape) for x, e in zip(leaves, expected, strict=True))
    if not single and not batch:
        got = {name: leaf.shape for name, leaf in zip(names, leaves, strict=True)}
        raise TargetError(
            f"init must be one position {describe(template)}, or {num_chains} of them stacked "
            f"along a leading chain axis; got shapes {got}"
        )
    fitted = [
        jnp.broadcast_to(x.astype(e.dtype), (num_chains, *e.shape))
        for x, e in zip(leaves, expected, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(template), fitted)


def from_draws(draws: Any, template: PyTree, num_chains: int, rng_key: PRNGKeyArray) -> Position:
    """Last draw of every chain; of weighted or too few chains, a resampled draw."""
    positions = draws.positions
    if positions is None or jax.tree.structure(positions) != jax.tree.structure(template):
        raise TargetError(
            "init=draws: these draws are of another target; its positions look like "
            f"{describe(template)}"
        )
    if draws.log_weights is None and draws.num_chains == num_chains:
        return given(jax.tree.map(lambda x: x[:, -1], positions), template, num_chains)
    resampled = draws.resample(rng_key, num_chains)
    return given(jax.tree.map(lambda x: x[0], resampled.positions), template, num_chains)


# Parameters outside their domain are what is looked for here: NumPyro must not raise at them.
@validation_enabled(is_validate=False)
def refuse_start(
    target: Energy, positions: Position, good: np.ndarray, *, from_user: bool
) -> TargetError:
    """Build the error that says which part of the density fails, where, and what to do."""
    chain = int(np.argmin(good))
    position = jax.tree.map(lambda x: jnp.asarray(x)[chain], positions)
    density, gradient = (
        jax.value_and_grad(_density(target))(position)
        if _floats(position)
        else (_density(target)(position), {})
    )
    lines = [
        f"the log-density is {float(density):g} at the start of chain {chain}"
        if not np.isfinite(density)
        else f"the gradient is not finite at the start of chain {chain} "
        f"(log-density {float(density):g})"
    ]
    if not from_user:
        lines[0] += (
            f", and at all {ATTEMPTS} jittered starts tried (uniform on (-2, 2), unconstrained)"
        )
    lines.append("at " + _show(named(target.constrain(position))))
    bad = [name for name, leaf in named(gradient).items() if not np.all(np.isfinite(leaf))]
    if np.isfinite(density) and bad:
        lines.append(
            f"gradient not finite in: {', '.join(bad)}. jnp.where(ok, f(x), 0) has a NaN gradient "
            "where f has: guard x itself too, f(jnp.where(ok, x, 1))."
        )
    explain = getattr(target, "explain", None)
    if explain is not None:
        last_finite = None
        for site, kind, value, log_prob in explain(position):
            total = float(np.sum(np.asarray(log_prob)))
            if np.isfinite(total):
                last_finite = f"{site} ({kind}): {total:g}"
                continue
            lines.append(
                f"first term that is not finite: {kind} site {site!r}, log-probability {total:g} "
                f"at value {_short(value)}; last finite term: {last_finite or 'none'}"
            )
            break
    lines.append(
        "Pass init= with positions where the density is finite, or widen the support or the prior."
        if from_user is False
        else "Pass other positions, or leave init out for jittered starts."
    )
    return TargetError(f"{NO_START}: " + "\n  ".join(lines))


def _floats(position: Position) -> bool:
    return all(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(position))


def _short(value: Any) -> str:
    return np.array2string(np.asarray(value), precision=4, threshold=6, edgeitems=2)


def _show(values: dict[str, Any], limit: int = 6) -> str:
    shown = ", ".join(f"{name} = {_short(value)}" for name, value in list(values.items())[:limit])
    return shown + (", ..." if len(values) > limit else "")
