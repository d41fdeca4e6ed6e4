"""Gibbs sampling over blocks of named sites, each moved by a kernel of its own.

    for each block b in turn:   x_b <- K_b(x_b | x_-b)                        (section 3 of [2])
    for each discrete site:     k_i ~ p(k_i | everything else), by enumeration         [1]

A kernel that leaves every conditional of its block invariant leaves the whole target invariant, and
so does a scan over all blocks (Metropolis within Gibbs). The conditional of a block is the target
with the other sites held fixed; these are data to it, so that nothing compiles anew.

Elements of a discrete site that are independent given everything else (those in a plate, as a rule)
are drawn all at once, from one evaluation of the density for each value; whether they are is tried
out when the target is made, and a Metropolis test makes sure: it always accepts where they are.
Others are drawn one after the other.

References
----------
.. [1] Geman and Geman, "Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of
   images", IEEE Trans. Pattern Anal. Mach. Intell. 6, 1984, doi:10.1109/TPAMI.1984.4767596.
.. [2] Tierney, "Markov chains for exploring posterior distributions", Ann. Stat. 22, 1994,
   doi:10.1214/aos/1176325750.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, MarkovKernel, OnePieceWarmUp, Record, WarmUp
from ppl.template import describe
from samplers.mcmc.metropolis import accept


class Conditional(Energy):
    """A target as a density of some of its sites, the others fixed."""

    target: Energy
    rest: dict[str, Any]
    template: dict[str, Any]

    def log_density(self, position: Position) -> Float[Array, ""]:
        return self.target.log_density(self.rest | position)

    @property
    def offers(self) -> frozenset[str]:
        has_path = "state_space" in self.target.offers and "path" in self.template
        return self._with_gradient("log_density", *(["state_space"] if has_path else []))

    def state_space(self, position: Position) -> tuple[Any, Position]:
        """The model of the path that is in this block, and the path."""
        return self.target.state_space(self.rest | position)  # pyright: ignore[reportAttributeAccessIssue]

    def with_path(self, position: Position, path: Position) -> Position:
        """The block with another path."""
        return self.target.with_path(position, path)  # pyright: ignore[reportAttributeAccessIssue]


def conditional(target: Energy, position: Position, names: tuple[str, ...]) -> Conditional:
    """The density of the sites ``names`` given the rest of a position."""
    rest = {name: value for name, value in position.items() if name not in names}
    template = {name: target.template[name] for name in names}
    return Conditional(target=target, rest=rest, template=template)


class GibbsState(NamedTuple):
    """A position, the log-density (nats) there, and the state of each block after its move."""

    position: PyTree
    log_density: Float[Array, ""]
    blocks: tuple[Any, ...]


class GibbsInfo(NamedTuple):
    """A scan: acceptance rates of the blocks (discrete sites last), their mean, and the infos."""

    acceptance_rate: Float[Array, ""]
    block_acceptance: Float[Array, " block"]
    diverging: Bool[Array, ""]
    infos: tuple[Any, ...]
    num_evaluations: Int[Array, "2"]


class Gibbs(MarkovKernel):
    """Gibbs sampling: a scan over blocks of named sites, each with its own kernel. Exact.

    Parameters
    ----------
    blocks
        Kernel by site, or by tuple of sites: ``{"z": RandomWalk(), ("mu", "tau"): NUTS()}``. Sites
        are the keys of the target's position; every continuous one is in exactly one block.
    num_states
        For discrete parts of a density of your own: how many values ``0, 1, ...`` each takes. A
        model made by `ppl.from_numpyro_mixed` knows its own.

    Raises
    ------
    ValueError
        If a kernel is biased, or tunes itself in one piece.
    TargetError
        If a site is in no block or in two, or if a discrete site has no known values.

    Differences from the papers
    ---------------------------
    A kernel is begun anew in each scan, since its conditional has changed: momenta that it would
    keep are drawn afresh. The acceptance of a discrete site is 1 by construction, and reported.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness] = "exact"
    fixed_length: ClassVar[bool] = False

    names: tuple[tuple[str, ...], ...] = eqx.field(static=True)
    kernels: tuple[MarkovKernel, ...]
    num_states: tuple[tuple[str, int], ...] = eqx.field(static=True)

    def __init__(
        self,
        blocks: Mapping[Any, Any],
        *,
        num_states: Mapping[str, int] | None = None,
    ):
        for kernel in blocks.values():
            if not isinstance(kernel, MarkovKernel):
                raise ValueError(
                    "Gibbs takes a Markov kernel for each block, such as samplers.NUTS(); got "
                    f"{kernel!r}"
                )
            if kernel.exactness != "exact":
                raise ValueError(
                    f"Gibbs is exact only if its blocks are: {type(kernel).__name__} is "
                    f"{kernel.exactness}. Use samplers.MALA(), HMC() or NUTS()"
                )
        self.names = tuple((key,) if isinstance(key, str) else tuple(key) for key in blocks)
        self.kernels = tuple(blocks.values())
        self.num_states = tuple(sorted((num_states or {}).items()))

    def check(self, target: Energy) -> None:
        template = target.template
        if not isinstance(template, dict):
            raise TargetError(
                "Gibbs moves named parts of a position, a dict; the positions of this target are "
                f"{describe(template)}"
            )
        listed = [name for names in self.names for name in names]
        if unknown := [name for name in listed if name not in template]:
            raise TargetError(f"Gibbs: no site {unknown[0]!r}; the target has {describe(template)}")
        if twice := [name for name in listed if listed.count(name) > 1]:
            raise TargetError(f"Gibbs: site {twice[0]!r} is in two blocks; one of them moves it")
        for name in self._discrete(target):
            if name not in self._known(target):
                raise TargetError(
                    f"Gibbs: the values of the discrete site {name!r} are not known; write "
                    f"num_states={{{name!r}: 2}}, or make the target with ppl.from_numpyro_mixed"
                )
        missing = [n for n in template if n not in listed and n not in self._discrete(target)]
        if missing:
            raise TargetError(
                f"Gibbs: site {missing[0]!r} is in no block and would never move; write "
                f"Gibbs({{..., {missing[0]!r}: samplers.NUTS()}})"
            )
        for names, kernel in zip(self.names, self.kernels, strict=True):
            part = conditional(target, template, names)
            for capability in sorted(kernel.needs - part.offers):
                raise TargetError(
                    f"Gibbs: {type(kernel).__name__} on {names} needs {capability!r}: "
                    f"{part.refuse(capability)}"
                )
            kernel.check(part)
            if isinstance(kernel.warmup(part), OnePieceWarmUp):
                raise ValueError(f"Gibbs: {type(kernel).__name__} tunes itself in one piece")

    def resolve(self, target: Energy) -> "Gibbs":
        kernels = tuple(
            kernel.resolve(conditional(target, target.template, names))
            for names, kernel in zip(self.names, self.kernels, strict=True)
        )
        return eqx.tree_at(lambda g: g.kernels, self, kernels)

    def warmup(self, target: Energy) -> "GibbsWarmUp | None":
        parts = tuple(
            kernel.warmup(conditional(target, target.template, names))
            for names, kernel in zip(self.names, self.kernels, strict=True)
        )
        return GibbsWarmUp(parts) if any(part is not None for part in parts) else None

    def watch(self, state: GibbsState) -> PyTree:
        pairs = zip(self.kernels, state.blocks, strict=True)
        return tuple(kernel.watch(block) for kernel, block in pairs)

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> GibbsState:
        keys = random.split(rng_key, max(len(self.kernels), 1))
        blocks = tuple(
            kernel.init(key, conditional(target, position, names), _part(position, names))
            for key, names, kernel in zip(keys, self.names, self.kernels, strict=False)
        )
        return GibbsState(position, target.log_density(position), blocks)

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: GibbsState
    ) -> tuple[GibbsState, GibbsInfo]:
        position, log_density = state.position, state.log_density
        key_blocks, key_discrete = random.split(rng_key)
        blocks, infos, rates = [], [], []
        diverging, spent = jnp.zeros((), bool), jnp.zeros(2, jnp.int32)
        for i, (names, kernel) in enumerate(zip(self.names, self.kernels, strict=True)):
            key_init, key_step = random.split(random.fold_in(key_blocks, i))
            part = conditional(target, position, names)
            # The others have moved since: density and gradient are those of another conditional.
            begun = kernel.init(key_init, part, _part(position, names))
            moved, info = kernel.step(key_step, part, begun)
            position = position | moved.position
            log_density = part.log_density(moved.position)
            blocks.append(moved)
            infos.append(info)
            rates.append(getattr(info, "acceptance_rate", jnp.ones(())))
            diverging |= getattr(info, "diverging", jnp.zeros((), bool))
            again = jnp.array([2, 1 if "gradient" in kernel.needs else 0], jnp.int32)
            spent += info.num_evaluations.astype(jnp.int32) + again
        for i, name in enumerate(self._discrete(target)):
            key = random.fold_in(key_discrete, i)
            position, log_density, rate, count = self._enumerate(
                key, target, position, log_density, name
            )
            rates.append(rate)
            spent += jnp.array([count, 0], jnp.int32)
        by_block = jnp.stack([rate.astype(log_density.dtype) for rate in rates])
        info = GibbsInfo(jnp.mean(by_block), by_block, diverging, tuple(infos), spent)
        return GibbsState(position, log_density, tuple(blocks)), info

    # Discrete sites ---------------------------------------------------------------------------

    def _discrete(self, target: Energy) -> list[str]:
        """Sites of integers that no block moves."""
        listed = {name for names in self.names for name in names}
        return [
            name
            for name, leaf in target.template.items()
            if name not in listed
            and hasattr(leaf, "dtype")
            and jnp.issubdtype(leaf.dtype, jnp.integer)
        ]

    def _known(self, target: Any) -> dict[str, Array]:
        own = {name: jnp.arange(number) for name, number in self.num_states}
        return getattr(target, "supports", {}) | own

    def _enumerate(
        self,
        rng_key: PRNGKeyArray,
        target: Any,
        position: Position,
        log_density: Float[Array, ""],
        name: str,
    ) -> tuple[Position, Float[Array, ""], Float[Array, ""], int]:
        """Draw a site from its conditional: position, log-density, acceptance, evaluations."""
        site = position[name]
        values = self._known(target)[name].astype(site.dtype)
        if name in getattr(target, "separable", ()):
            new, log_ratio = self._together(rng_key, target, position, values, name)
            key_accept = random.fold_in(rng_key, 1)
            proposed = target.log_density(new)
            (position, log_density), rate, _ = accept(
                key_accept,
                proposed - log_density + log_ratio,
                (new, proposed),
                (position, log_density),
            )
            return position, log_density, rate, len(values) + 1
        new = self._one_by_one(rng_key, target, position, values, name)
        log_density = target.log_density(new)
        return new, log_density, jnp.ones_like(log_density), len(values) * site.size + 1

    def _together(
        self,
        rng_key: PRNGKeyArray,
        target: Any,
        position: Position,
        values: Int[Array, " value"],
        name: str,
    ) -> tuple[Position, Float[Array, ""]]:
        """All elements at once, and log q(old) - log q(new) of this independent proposal."""
        site = position[name]

        def terms(value: Array) -> Array:
            return target.log_density_by_element(
                name, position | {name: jnp.full_like(site, value)}
            )

        log_q = jax.nn.log_softmax(jax.vmap(terms)(values), axis=0)
        drawn = random.categorical(rng_key, log_q, axis=0, mode="high")
        was = jnp.argmax(values.reshape(-1, *(1,) * site.ndim) == site, axis=0)

        def score(index: Array) -> Array:
            return jnp.sum(jnp.take_along_axis(log_q, index[None], axis=0))

        return position | {name: values[drawn]}, score(was) - score(drawn)

    def _one_by_one(
        self,
        rng_key: PRNGKeyArray,
        target: Energy,
        position: Position,
        values: Int[Array, " value"],
        name: str,
    ) -> Position:
        shape = position[name].shape

        def draw(i: Array, site: Int[Array, " element"]) -> Int[Array, " element"]:
            def score(value: Array) -> Array:
                return target.log_density(position | {name: site.at[i].set(value).reshape(shape)})

            scores = jax.vmap(score)(values)
            scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
            key = random.fold_in(rng_key, i)
            chosen = values[random.categorical(key, scores, mode="high")]
            return site.at[i].set(jnp.where(jnp.any(jnp.isfinite(scores)), chosen, site[i]))

        flat = position[name].ravel()
        return position | {name: lax.fori_loop(0, flat.size, draw, flat).reshape(shape)}


def _part(position: Position, names: tuple[str, ...]) -> Position:
    return {name: position[name] for name in names}


# Warm-up --------------------------------------------------------------------------------------


class GibbsWarmUp(WarmUp):
    """The warm-up of each block, side by side.

    The windows are those of the block that has most of them; a block with a single window has it
    end with the last of them.
    """

    parts: tuple[Any, ...]  # a WarmUp or None for each block

    def windows(self, num_steps: int) -> list[int]:
        return max((p.windows(num_steps) for p in self.parts if p is not None), key=len)

    def init(
        self, rng_key: PRNGKeyArray, target: Energy, kernel: Gibbs, states: GibbsState
    ) -> tuple[Gibbs, tuple]:
        first = jax.tree.map(lambda x: x[0], states.position)
        kernels, adaptations = list(kernel.kernels), []
        for i, part in enumerate(self.parts):
            adaptation = ()
            if part is not None:
                kernels[i], adaptation = part.init(
                    random.fold_in(rng_key, i),
                    conditional(target, first, kernel.names[i]),
                    kernels[i],
                    states.blocks[i],
                )
            adaptations.append(adaptation)
        return _with_kernels(kernel, kernels), tuple(adaptations)

    def step(self, kernel: Gibbs, adaptation: tuple, infos: GibbsInfo) -> tuple[Gibbs, tuple]:
        kernels, adaptations = list(kernel.kernels), list(adaptation)
        for i, part in enumerate(self.parts):
            if part is not None:
                kernels[i], adaptations[i] = part.step(kernels[i], adaptations[i], infos.infos[i])
        return _with_kernels(kernel, kernels), tuple(adaptations)

    def end_chunk(
        self,
        rng_key: PRNGKeyArray,
        target: Energy,
        kernel: Gibbs,
        adaptation: tuple,
        states: GibbsState,
        record: Record,
        count: Int[Array, ""],
        window_ends: Bool[Array, ""],
        is_last: Bool[Array, ""],
    ) -> tuple[Gibbs, tuple, GibbsState]:
        first = jax.tree.map(lambda x: x[0], states.position)
        kernels, adaptations = list(kernel.kernels), list(adaptation)
        for i, part in enumerate(self.parts):
            if part is None:
                continue
            names = kernel.names[i]
            own = Record(_part(record.position, names), record.info, record.watched[i])
            has_windows = len(part.windows(1000)) > 1
            # The states that come back are not used: a block is begun anew in each scan.
            kernels[i], adaptations[i], _ = part.end_chunk(
                random.fold_in(rng_key, i),
                conditional(target, first, names),
                kernels[i],
                adaptations[i],
                states.blocks[i],
                own,
                count,
                window_ends if has_windows else is_last,
                is_last,
            )
        return _with_kernels(kernel, kernels), tuple(adaptations), states


def _with_kernels(kernel: Gibbs, kernels: list[Any]) -> Gibbs:
    return eqx.tree_at(lambda g: g.kernels, kernel, tuple(kernels))
