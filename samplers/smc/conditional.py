"""Conditional sequential Monte Carlo: a run of the engine in which one particle follows a path.

    slot 0:           x_t = x*_t, with its ancestor in slot 0
    slots 1..N-1:     as in an unconditional run, resampled independently of each other
    out:              a path drawn by the last weights, through its ancestors

Where x* has the law Q of the model, so has the path that comes out, for any N of two or more: a
Markov kernel on paths [1]. The particles of early times have few ancestors in common with the last
ones, and x* is the one that is always left: without more, the kernel hardly moves what is early.
Ancestor sampling [2] draws the ancestor of slot 0 anew at each time,

    P(a_t = i)  ~  W_{t-1}^i  M_t(x_{t-1}^i, x*_t)  G_t(x_{t-1}^i, x*_t)

which leaves Q invariant as well, and joins x* to the past of another particle.

The free slots are drawn one by one (multinomial): systematic, stratified and SSP resampling bind
them to what slot 0 gets, and would have to be drawn given that. Slot 0 must be laid aside before
the others are drawn, where these come in order.

Evidence: for x* of the law Q,  E[1 / Zhat] = 1 / Z,  whence  E[log Zhat] >= log Z: from above,
where an unconditional run is from below [3].

References
----------
.. [1] C. Andrieu, A. Doucet, R. Holenstein, "Particle Markov chain Monte Carlo methods", J. R.
   Stat. Soc. B 72, 2010, doi:10.1111/j.1467-9868.2009.00736.x. Section 4.3.
.. [2] F. Lindsten, M. I. Jordan, T. B. Schon, "Particle Gibbs with ancestor sampling", JMLR 15,
   2014, arXiv:1401.0604. Algorithm 2.
.. [3] R. B. Grosse, Z. Ghahramani, R. P. Adams, "Sandwiching the marginal likelihood using
   bidirectional Monte Carlo", 2015, arXiv:1511.02543.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl import weights
from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, MarkovKernel, size, where
from samplers.smc import feynman_kac as fk
from samplers.smc.resampling import multinomial
from samplers.smc.state_space import Filtering, as_proposal


def conditional_run(
    rng_key: PRNGKeyArray,
    model: fk.FeynmanKac,
    rows: PyTree,
    n: int,
    reference: PyTree,
    *,
    threshold: Any = 1.0,
    ancestor_sampling: bool = False,
) -> tuple[PyTree, fk.Run]:
    """Run a model over all its rows, given one path of it.

    `ppl.diagnostics` does not know this function: what wants an upper bound of log Z takes
    ``lambda rng_key: conditional_run(rng_key, ...)[1].log_evidence`` as a callable.

    Parameters
    ----------
    rng_key
        One key.
    model
        A Feynman-Kac model with `log_start_potential` and `log_potential`, and with `log_move` for
        ancestor sampling.
    rows
        As in `feynman_kac.run`.
    n
        Number of particles, at least two, the reference included.
    reference
        The path: one particle with a leading axis of times (T + 1), with whatever the model keeps
        in its particles.
    threshold
        Resample where the ESS is at most this share of the particles; 1 always.
    ancestor_sampling
        Draw the ancestors of slot 0 anew. What a particle keeps must then depend on x_t alone.

    Returns
    -------
    path
        Drawn from the particles; of the law Q, if the reference is.
    run
        Its log-evidence is an estimate from above; its path is None.

    Raises
    ------
    ValueError
        For fewer than two particles.
    NotImplementedError
        For a model without the methods it needs, by name.
    """
    if n < 2:
        raise ValueError(
            f"a conditional run needs at least 2 particles, the reference and another; got {n}"
        )
    key_start, key_steps, key_path = random.split(rng_key, 3)
    num_steps = jax.tree.leaves(rows)[0].shape[0]
    first = jax.tree.map(lambda x: x[0], reference)
    start, log_potentials = _pin(model.log_start_potential, *model.start(key_start, n), first)
    population = fk.begin(start, log_potentials)

    def one(population: fk.Population, at: Any) -> tuple[fk.Population, tuple[fk.Info, PyTree]]:
        key, row, pinned = at
        population, info = step(
            key, model, population, row, pinned, threshold, ancestor_sampling=ancestor_sampling
        )
        return population, (info, population.particles)

    at = (random.split(key_steps, num_steps), rows, jax.tree.map(lambda x: x[1:], reference))
    population, (history, later) = lax.scan(one, population, at)
    paths = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), start, later)
    last = multinomial(key_path, population.log_weights, 1)
    path = jax.tree.map(lambda x: x[:, 0], fk.lineages(history.ancestors, paths, last))
    return path, fk.finished(population, log_potentials, history)


def step(
    rng_key: PRNGKeyArray,
    model: fk.FeynmanKac,
    population: fk.Population,
    row: Any,
    pinned: PyTree,
    threshold: Any,
    *,
    ancestor_sampling: bool,
) -> tuple[fk.Population, fk.Info]:
    """One step, at the end of which slot 0 is ``pinned``."""
    key_free, key_own, key_move = random.split(rng_key, 3)
    own = jnp.zeros(1, jnp.int32)
    if ancestor_sampling:
        own = _ancestor(key_own, model, population, row, pinned)
    population, ancestors, resampled = _resample(key_free, population, own, threshold)
    before = population.particles
    dead = fk.is_dead(population)
    particles, log_potentials = _pin(
        lambda x: model.log_potential(jax.tree.map(lambda b: b[:1], before), x, row),
        *model.advance(key_move, before, row),
        pinned,
    )
    population = population._replace(particles=where(dead, before, particles))
    population = fk.weigh(population, log_potentials)
    return population, fk.Info(
        weights.ess(population.log_weights),
        fk.log_evidence(population),
        resampled,
        ancestors,
        weights.count_illegal(log_potentials).astype(jnp.int32),
    )


def _pin(
    log_potential: Any, particles: PyTree, log_potentials: Float[Array, " n"], pinned: PyTree
) -> tuple[PyTree, Float[Array, " n"]]:
    """Particles and potentials with the reference in slot 0."""
    one = jax.tree.map(lambda x: x[None], pinned)
    own = log_potential(one).astype(log_potentials.dtype)
    particles = jax.tree.map(lambda x, p: x.at[:1].set(p.astype(x.dtype)), particles, one)
    return particles, log_potentials.at[:1].set(own)


def _ancestor(
    rng_key: PRNGKeyArray, model: fk.FeynmanKac, population: fk.Population, row: Any, pinned: PyTree
) -> Int[Array, " 1"]:
    """Where the reference comes from; never from where it could not."""
    n, before = len(population.log_weights), population.particles
    everywhere = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), pinned)
    log_move = model.log_move(before, everywhere, row)
    log_potential = model.log_potential(before, everywhere, row)
    return multinomial(rng_key, population.log_weights + log_move + log_potential, 1)


def _resample(
    rng_key: PRNGKeyArray, population: fk.Population, own: Int[Array, " 1"], threshold: Any
) -> tuple[fk.Population, Int[Array, " n"], Any]:
    """Draw the free slots' ancestors, where the ESS is low."""
    n = len(population.log_weights)
    do = fk.is_low(population, threshold) & ~fk.is_dead(population)
    # The draws come in order: of n draws of which the first is laid aside the others are too high.
    free = multinomial(rng_key, population.log_weights, n - 1)
    ancestors = jnp.concatenate([own, free])
    ancestors = jnp.where(do, ancestors, jnp.arange(n, dtype=jnp.int32))
    return where(do, fk.copies(population, ancestors), population), ancestors, do


# The kernel -----------------------------------------------------------------------------------


class ConditionalState(NamedTuple):
    """A position, the log-density (nats) there if there is one, and the path as the user sees it.

    The path is kept: to constrain and unconstrain it at each step would let rounding walk.
    """

    position: PyTree
    log_density: Float[Array, ""] | None
    path: PyTree


class ConditionalInfo(NamedTuple):
    """A sweep. ``acceptance_rate`` is the share of times at which the path is new.

    ``ess`` is the smallest effective sample size after a time, ``num_illegal`` counts particles
    that died of a NaN or infinite likelihood.
    """

    acceptance_rate: Float[Array, ""]
    log_evidence: Float[Array, ""]
    ess: Float[Array, ""]
    num_illegal: Int[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class ConditionalSMC(MarkovKernel):
    """Conditional SMC with ancestor sampling, of the path of a state-space model: exact.

    On a `ppl.StateSpacePosterior` it moves the path and leaves the parameters where they are: a
    block of particle Gibbs, ``Gibbs({"parameters": NUTS(), "path": ConditionalSMC()})``.

    Parameters
    ----------
    num_particles
        At least two, the path among them; with ancestor sampling some tens serve hundreds of times.
    ancestor_sampling
        Draw the ancestors of the path anew: for this the transitions need a density. Without it
        the number of particles must grow with that of times.
    proposal, initial_proposal
        As in `ParticleFilter`.

    Raises
    ------
    TargetError
        If the target has no path of a state-space model, if ancestor sampling or a proposal needs
        a density that the transitions lack, or if a proposal does not fit.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"state_space"})
    exactness: ClassVar[Exactness] = "exact"

    num_particles: int = size("num_particles", minimum=2, default=20)
    ancestor_sampling: bool = eqx.field(static=True, default=True)
    proposal: Callable[..., Any] | None = eqx.field(default=None, converter=as_proposal("proposal"))
    initial_proposal: Callable[..., Any] | None = eqx.field(
        default=None, converter=as_proposal("initial_proposal")
    )

    def check(self, target: Energy) -> None:
        if self.ancestor_sampling and "log_density" not in target.offers:
            raise TargetError(
                "ConditionalSMC draws ancestors by the density of the transitions: "
                f"{target.refuse('log_density')}. Or write "
                "samplers.ConditionalSMC(ancestor_sampling=False), with more particles"
            )

    def init(self, rng_key: PRNGKeyArray, target: Any, position: Position) -> ConditionalState:
        model, path = target.state_space(position)
        return ConditionalState(position, _density(target, position), model.constrain(path))

    def step(
        self, rng_key: PRNGKeyArray, target: Any, state: ConditionalState
    ) -> tuple[ConditionalState, ConditionalInfo]:
        model, _ = target.state_space(state.position)
        filtering = Filtering(model, self.proposal, self.initial_proposal)
        path, run = conditional_run(
            rng_key, filtering, filtering.rows, self.num_particles, state.path,
            ancestor_sampling=self.ancestor_sampling,
        )  # fmt: skip
        position = target.with_path(state.position, model.unconstrain(path))
        is_new = jax.tree.map(lambda x, old: _any(x != old), path, state.path)
        info = ConditionalInfo(
            acceptance_rate=jnp.mean(_any(jnp.stack(jax.tree.leaves(is_new), axis=1))),
            log_evidence=run.log_evidence,
            ess=jnp.min(run.history.ess, initial=self.num_particles),
            num_illegal=run.num_illegal,
            diverging=jnp.zeros((), bool),
            # A path of each particle, and that of the new one.
            num_evaluations=jnp.array([self.num_particles + 1, 0], jnp.int32),
        )
        return ConditionalState(position, _density(target, position), path), info


def _density(target: Any, position: Position) -> Float[Array, ""] | None:
    return target.log_density(position) if "log_density" in target.offers else None


def _any(x: Bool[Array, "time *event"]) -> Bool[Array, " time"]:
    return jnp.any(x, axis=tuple(range(1, x.ndim)))
