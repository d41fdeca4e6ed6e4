"""Particle filter: the paths and the evidence of a state-space model, one observation at a time.

    x_0 ~ initial,  w = p(y_0 | x_0);    for t = 1..T:   resample where the ESS is low,
    x_t ~ transition(t, x_{t-1}),   w *= p(y_t | x_t);   log Z += log mean w

The bootstrap filter [1]; with a proposal q(x_t | x_{t-1}, y_t) the guided one, whose weights are
p(y_t | x_t) p(x_t | x_{t-1}) / q [2]. The evidence p(y) is unbiased. Draws are whole paths,
followed back through their ancestors [3], with the weights of the last particles: filtered at the
last time, smoothed before it. Far back few ancestors are left, often one, and what the paths say
there is worth no more: for smoothing over many times use `ConditionalSMC`.

References
----------
.. [1] N. J. Gordon, D. J. Salmond, A. F. M. Smith, "Novel approach to nonlinear/non-Gaussian
   Bayesian state estimation", IEE Proc. F 140, 1993, doi:10.1049/ip-f-2.1993.0015.
.. [2] A. Doucet, S. Godsill, C. Andrieu, "On sequential Monte Carlo sampling methods for Bayesian
   filtering", Statistics and Computing 10, 2000, doi:10.1023/A:1008935410038.
.. [3] G. Kitagawa, "Monte Carlo filter and smoother for non-Gaussian nonlinear state space models",
   JCGS 5, 1996, doi:10.1080/10618600.1996.10474692. Smoothing by storing the path.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl import weights
from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, ParticleSampler, fraction, size, where
from ppl.state_space import StateSpaceModel
from ppl.template import named
from samplers.smc import feynman_kac as fk
from samplers.smc.conditional import conditional_run
from samplers.smc.state_space import Filtering, as_proposal, require_state_space

FEW_EVES = 10  # ancestors at the start from which a run can still tell its error


class FilterState(NamedTuple):
    """Particles of time ``t - 1``, of ``num_times``; at the start those of time 0.

    ``num_illegal`` is that of the start.
    """

    population: fk.Population
    t: Int[Array, ""]
    num_times: Int[Array, ""]
    num_illegal: Int[Array, ""]


class FilterInfo(NamedTuple):
    """Time t, one step each: the particles by name, their weights, and where they come from.

    ``ess``, ``log_evidence`` and its error are those with the data up to time t; the error is NaN
    where too few ancestors are left to tell. ``num_illegal`` counts potentials that are NaN or
    infinite; their particles have no weight.
    """

    ess: Float[Array, ""]
    log_evidence: Float[Array, ""]
    log_evidence_error: Float[Array, ""]
    resampled: Bool[Array, ""]
    num_illegal: Int[Array, ""]
    particles: dict[str, Array]
    log_weights: Float[Array, " n"]
    ancestors: Int[Array, " n"]
    num_evaluations: Int[Array, "2"]


class ParticleFilter(ParticleSampler):
    """Bootstrap or guided particle filter: asymptotically exact, with an unbiased evidence.

    The filter of every time t is in the history: ``draws.history["particles.x"][run, t]`` with
    ``draws.history["log_weights"][run, t]``.

    Parameters
    ----------
    num_particles
        At least two.
    proposal
        ``proposal(t, x, y, *parameters)``: law of x_t given x_{t-1} = ``x`` and the data ``y`` of
        time t, a NumPyro distribution with tails no lighter than those of transition times
        observation. It sees missing data as NaN. None: the transition.
    initial_proposal
        ``initial_proposal(y, *parameters)``: law of x_0 given the data ``y`` of time 0. None:
        `initial`.
    resample_below
        Resample where the effective sample size is at most this share of the particles.
    resampling
        ``"stratified"``, ``"systematic"``, ``"multinomial"``, ``"residual"`` or ``"ssp"``.

    Raises
    ------
    TargetError
        If the target is no `ppl.StateSpaceModel`, if a proposal does not give the law of a state,
        or is given where the transitions have no density; and if all particles die, with the time.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"state_space"})
    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_particles: int = size("num_particles", minimum=2, default=1000)
    proposal: Callable[..., Any] | None = eqx.field(default=None, converter=as_proposal("proposal"))
    initial_proposal: Callable[..., Any] | None = eqx.field(
        default=None, converter=as_proposal("initial_proposal")
    )
    resample_below: Float[Array, ""] = fraction("resample_below", default=0.5)
    resampling: str = eqx.field(static=True, default="stratified")

    def __check_init__(self) -> None:
        fk.check_scheme(self.resampling)

    def check(self, target: Energy) -> None:
        self._model(require_state_space("ParticleFilter", target))

    def init(self, rng_key: PRNGKeyArray, target: Any) -> FilterState:
        particles, log_potentials = self._model(target).start(rng_key, self.num_particles)
        num_illegal = weights.count_illegal(log_potentials).astype(jnp.int32)
        population = fk.begin(particles, log_potentials)
        return FilterState(population, jnp.int32(0), jnp.int32(target.num_times), num_illegal)

    def step(
        self, rng_key: PRNGKeyArray, target: Any, state: FilterState
    ) -> tuple[FilterState, FilterInfo]:
        row = jax.tree.map(lambda x: x[state.t], target.rows)
        resampler = fk.Resampler(self.resample_below, self.resampling)
        model = self._model(target)
        advanced, info = fk.step(rng_key, model, state.population, row, resampler)
        # The first step reports the start.
        first = state.t == 0
        population = where(first, state.population, advanced)
        num_illegal = jnp.where(first, state.num_illegal, info.num_illegal)
        num_eves = jnp.sum(jnp.bincount(population.eves, length=self.num_particles) > 0)
        error = fk.log_evidence_error(population)
        ancestors = jnp.where(first, jnp.arange(self.num_particles), info.ancestors)
        after = state._replace(population=population, t=state.t + 1)
        return after, FilterInfo(
            ess=weights.ess(population.log_weights),
            log_evidence=fk.log_evidence(population),
            log_evidence_error=jnp.where(num_eves < FEW_EVES, jnp.nan, error),
            resampled=info.resampled & ~first,
            num_illegal=num_illegal,
            particles=named(population.particles),
            log_weights=population.log_weights,
            ancestors=ancestors.astype(jnp.int32),
            # A path of each particle: as many densities of a path.
            num_evaluations=jnp.array([self.num_particles, 0], jnp.int32) * first,
        )

    def done(self, state: FilterState) -> Bool[Array, ""]:
        return (state.t >= state.num_times) | ((state.t > 0) & fk.is_dead(state.population))

    def collect(
        self, rng_key: PRNGKeyArray, target: Any, state: FilterState, history: Any
    ) -> tuple[Position, Float[Array, " n"], Float[Array, ""]]:
        if bool(fk.is_dead(state.population)):
            raise TargetError(_why_dead(self, history, int(state.t) - 1))
        names = named(target.state_template)
        path = jax.tree.unflatten(
            jax.tree.structure(target.state_template),
            [history[f"particles.{name}"] for name in names],
        )
        positions = _paths(target, history["ancestors"][1:], path)
        return positions, state.population.log_weights, fk.log_evidence(state.population)

    def log_evidence_error(self, history: dict[str, np.ndarray]) -> float | None:
        error = float(history["log_evidence_error"][-1])
        return None if np.isnan(error) else error

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        notes = []
        lost = int(history["num_illegal"].sum())
        if lost:
            notes.append(
                f"{lost} weights of particles were NaN or infinite; these particles died, and left "
                "no children"
            )
        if np.isnan(history["log_evidence_error"][-1]):
            notes.append(
                f"fewer than {FEW_EVES} of {self.num_particles} particles of time 0 have "
                "descendants at the end: what the paths say of early times rests on these, and one "
                "run cannot tell the error of its evidence. Write num_chains= for several runs, or "
                "samplers.ConditionalSMC() for smoothing"
            )
        return notes

    def log_evidence_of(self, rng_key: PRNGKeyArray, target: Any) -> Float[Array, ""]:
        """Log-evidence of one run, whose exponential is unbiased."""
        model, resampler = self._model(target), fk.Resampler(self.resample_below, self.resampling)
        return fk.run(rng_key, model, model.rows, self.num_particles, resampler).log_evidence

    def log_evidence_given(
        self, rng_key: PRNGKeyArray, target: Any, exact_draw: Position
    ) -> Float[Array, ""]:
        """Log-evidence of one run given an exact path: from above on average.

        The other particles are resampled one by one (`samplers.smc.conditional`).
        """
        model, path = self._model(target), target.constrain(exact_draw)
        _, run = conditional_run(
            rng_key, model, model.rows, self.num_particles, path, threshold=self.resample_below
        )
        return run.log_evidence

    def _model(self, target: Any) -> Filtering:
        return Filtering(target, self.proposal, self.initial_proposal)


@eqx.filter_jit
def _paths(target: StateSpaceModel, ancestors: Int[Array, "t n"], path: Any) -> Position:
    paths = fk.lineages(ancestors, path)
    return jax.vmap(target.unconstrain)(jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), paths))


def _why_dead(sampler: ParticleFilter, history: dict[str, np.ndarray], t: int) -> str:
    n, lost = sampler.num_particles, int(history["num_illegal"][t])
    what = f" (the weights of {lost} are NaN or infinite)" if lost else ""
    return (
        f"ParticleFilter: no particle of {n} has any weight after the data of time {t}{what}. "
        "Check these data against what observation allows, raise num_particles, or give a "
        "proposal= that looks at the data"
    )
