"""The compiled loop: a chunk of steps, for Markov chains, particles and training alike.

A chunk is one ``lax.while_loop`` with a traced trip count and an all-done stop. It writes what
each step leaves behind into a fixed buffer, so one compilation serves every chunk length, every
number of samples, warm-up and sampling. Sampler, target, keys and state are arguments: new data
and new hyperparameters neither trace nor compile.

The step keys are ``fold_in(fold_in(key, chain), t)`` with the global step ``t``: draws depend
neither on where chunks end nor on how many there are. Where every step is kept they are made before
the loop, many at a time: one by one they would be a good part of a cheap step.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from ppl.energy import Energy
from ppl.keys import Keys, key_row, step_key_table, step_keys
from ppl.sampler import LearnedSampler, ParticleSampler, Record, WarmUp, where


class Program(eqx.Module):
    """What one step of a chunk does, and when everything has arrived."""

    @abstractmethod
    def step(
        self, keys: Keys, target: Energy, state: Any, t: Int[Array, ""]
    ) -> tuple[Any, Any, "Tally"]:
        """Return the new state, what to write into the buffer, and the counts.

        The keys are those of step ``t``.
        """

    @abstractmethod
    def done(self, state: Any) -> Bool[Array, ""]:
        """Whether to stop before the chunk is full."""


class Tally(eqx.Module):
    """Counts summed over the steps of a chunk, also over those that thinning drops."""

    evaluations: Int[Array, "*chain 2"]
    diverging: Int[Array, "*chain"]


def tally(info: Any) -> Tally:
    """Evaluations and divergences of a step, chain by chain: a sum would cost its own loop."""
    diverging = getattr(info, "diverging", jnp.zeros(info.num_evaluations.shape[:-1], bool))
    return Tally(info.num_evaluations.astype(jnp.int32), diverging.astype(jnp.int32))


# Programs -------------------------------------------------------------------------------------


class MarkovState(eqx.Module):
    """All chains, the kernel that moves them, and what its adaptation knows."""

    kernel: Any
    adaptation: Any
    chains: Any


class MarkovProgram(eqx.Module):
    """Chains vmapped inside the step; adaptation switched off by the step number."""

    warmup: WarmUp | None
    num_warmup: Int[Array, ""]

    def step(
        self, keys: Keys, target: Energy, state: MarkovState, t: Int[Array, ""]
    ) -> tuple[MarkovState, Record, Tally]:
        kernel, adaptation = state.kernel, state.adaptation
        chains, info = jax.vmap(kernel.step, (0, None, 0))(keys, target, state.chains)
        watched = ()
        if self.warmup is not None:
            adapting = t < self.num_warmup
            tuned, learned = self.warmup.step(kernel, adaptation, info)
            kernel = _where_arrays(adapting, tuned, kernel)
            adaptation = _where_arrays(adapting, learned, adaptation)
            watched = kernel.watch(chains)
        lp = getattr(chains, "log_density", None)
        info_fields = reported(info) | ({} if lp is None else {"lp": lp})
        record = Record(chains.position, info_fields, watched)
        return MarkovState(kernel, adaptation, chains), record, tally(info)

    def done(self, state: MarkovState) -> Bool[Array, ""]:
        return jnp.zeros((), bool)


class ParticleProgram(eqx.Module):
    """Independent runs vmapped inside the step; a run that has arrived stands still."""

    sampler: ParticleSampler

    def step(
        self, keys: Keys, target: Energy, state: Any, t: Int[Array, ""]
    ) -> tuple[Any, Any, Tally]:
        arrived = jax.vmap(self.sampler.done)(state)
        if len(keys) == 1:
            # Where one run is alone it is not batched: a cond of its step takes one branch, which
            # under vmap takes both. It never stands still, as the loop ends where it arrives.
            of_one, as_one = lambda x: x[0], lambda x: x[None]
            moved = self.sampler.step(keys[0], target, jax.tree.map(of_one, state))
            state, info = jax.tree.map(as_one, moved)
        else:
            new, info = jax.vmap(self.sampler.step, (0, None, 0))(keys, target, state)
            state = jax.vmap(where)(arrived, state, new)
        counted = jnp.where(arrived[:, None], 0, info.num_evaluations)
        diverging = getattr(info, "diverging", jnp.zeros(arrived.shape, bool)) & ~arrived
        history = reported(info) | {"arrived": arrived}
        return state, history, Tally(counted.astype(jnp.int32), diverging.astype(jnp.int32))

    def done(self, state: Any) -> Bool[Array, ""]:
        return jnp.all(jax.vmap(self.sampler.done)(state))


class LearnedProgram(eqx.Module):
    """One optimizer update a step. Trainers are never vmapped: runs follow one another."""

    sampler: LearnedSampler

    def step(
        self, keys: Keys, target: Energy, state: Any, t: Int[Array, ""]
    ) -> tuple[Any, Any, Tally]:
        state, info = self.sampler.step(keys, target, state)
        return state, reported(info), tally(info)

    def done(self, state: Any) -> Bool[Array, ""]:
        return self.sampler.done(state)


def reported(info: Any) -> dict[str, Array]:
    """Fields of an info as they appear in ``draws.stats``; the evaluations are summed apart.

    A field that is a dict of arrays is reported entry by entry, as ``field.entry``; one that is a
    tuple of them is for warm-up alone.
    """
    names = getattr(info, "_fields", None) or info.__dataclass_fields__
    found = {}
    for name in names:
        value = getattr(info, name)
        if isinstance(value, dict):
            found |= {f"{name}.{entry}": x for entry, x in value.items()}
        elif name != "num_evaluations" and eqx.is_array(value):
            found[name] = value
    return found


def _where_arrays(condition: Bool[Array, ""], yes: Any, no: Any) -> Any:
    """`where` over the arrays of two modules that share everything else."""
    yes_arrays, _ = eqx.partition(yes, eqx.is_array)
    no_arrays, rest = eqx.partition(no, eqx.is_array)
    return eqx.combine(where(condition, yes_arrays, no_arrays), rest)


# The loop -------------------------------------------------------------------------------------


def chunk(
    program: Any,
    target: Energy,
    keys: Keys,
    state: Any,
    start: Int[Array, ""],
    count: Int[Array, ""],
    thin: Int[Array, ""] | None,
    capacity: int,
) -> tuple[Any, Any, Tally, Int[Array, ""], Bool[Array, ""]]:
    """Run ``count`` steps from global step ``start``, keeping every ``thin``-th (all for None).

    Returns
    -------
    state
        After the last step.
    buffer
        What the steps left behind, leading axis ``capacity``; as many rows are meant as steps
        were kept.
    tally
        Evaluations and divergences.
    steps_done
        Equal to ``count`` unless everything had arrived.
    done
        Whether everything has arrived.
    """
    arrays, rest = eqx.partition(state, eqx.is_array)
    arrays = strong(arrays)

    # Under its own jit the step is traced once, for its shapes and for the loop.
    @jax.jit
    def one(operands: Any, t: Int[Array, ""], arrays: PyTree) -> Any:
        program, target, keys, table = eqx.combine(operands, static)
        now = step_keys(keys, t) if table is None else key_row(table, t - start)
        new, left, counts = program.step(now, target, eqx.combine(arrays, rest), t)
        new_arrays = strong(eqx.filter(new, eqx.is_array))
        return new_arrays, left, counts, program.done(new)

    table = step_key_table(keys, start, count, capacity) if thin is None else None
    operands, static = eqx.partition((program, target, keys, table), eqx.is_array)
    _, left, counts, _ = jax.eval_shape(one, operands, start, arrays)
    buffer = jax.tree.map(lambda s: jnp.zeros((capacity, *s.shape), s.dtype), left)
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), counts)

    def body(carry: Any) -> Any:
        i, arrays, buffer, total, _ = carry
        arrays, left, counts, done = one(operands, start + i, arrays)
        # The last of every `thin` steps is what stays in its row. (`.at[].set` is a scatter, which
        # costs more than all of a cheap step; `//` looks at signs.)
        row = i if thin is None else lax.div(i, jnp.asarray(thin, i.dtype))
        buffer = jax.tree.map(
            lambda b, v: lax.dynamic_update_index_in_dim(b, v, row, 0), buffer, left
        )
        return i + 1, arrays, buffer, jax.tree.map(jnp.add, total, counts), done

    def unfinished(carry: Any) -> Bool[Array, ""]:
        return (carry[0] < count) & ~carry[4]

    carry = (jnp.int32(0), arrays, buffer, zero, program.done(state))
    i, arrays, buffer, total, done = lax.while_loop(unfinished, body, carry)
    return eqx.combine(arrays, rest), buffer, total, i, done


def strong(tree: PyTree) -> PyTree:
    """Drop the weak types of arrays, with which the next call would compile a second time."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.tree.map(lambda x: lax.convert_element_type(x, x.dtype), arrays), rest)


def over_targets[T](fn: Callable[..., T], batched: Any, *, vectorize: bool) -> T:
    """``fn(batched)`` over the leading axis of the arrays in ``batched``, in one program.

    ``vmap`` where all steps cost the same, ``lax.map`` where trajectories differ in length:
    vmapped trees would all wait for the longest one.
    """
    arrays, rest = eqx.partition(batched, eqx.is_array)
    static: list[Any] = []

    def one(arrays: PyTree) -> PyTree:
        out_arrays, out_rest = eqx.partition(fn(eqx.combine(arrays, rest)), eqx.is_array)
        static.append(out_rest)
        return out_arrays

    mapped = jax.vmap(one)(arrays) if vectorize else lax.map(one, arrays)
    return eqx.combine(mapped, static[0])
