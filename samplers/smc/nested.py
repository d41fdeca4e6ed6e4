"""Nested slice sampling: the evidence by peeling the prior, shell after shell; through BlackJAX.

    n live points, draws of the prior;   X the prior mass where L is above the lowest of them
    again and again: the lowest die, at level L_i;  others take their place, drawn from the prior
                     above that level by slice moves from survivors;  X shrinks by about 1 - 1/n
    Z = sum_i L_i w_i,   w_i = 1/m_i prod_{j < i} (1 - 1/m_j)

m_i is the number of points alive when i dies. With exact draws above each level Z is unbiased [3];
its logarithm is normal, with a variance near H / n, H the information that the data add to the
prior [1]. Neither gradients nor temperatures are needed, and phase transitions do no harm. Draws of
the prior must find the modes; a posterior far smaller than the prior costs n H rounds.

The deaths, the slice moves (hit-and-run along directions of the live points' covariance) and the
running evidence are BlackJAX's [2]. The weights are ours: in double precision, after the run, with
plateaus and batches of deaths counted as what they are.

References
----------
.. [1] J. Skilling, "Nested sampling for general Bayesian computation", Bayesian Analysis 1, 2006,
   doi:10.1214/06-BA127.
.. [2] D. Yallup, N. Kroupa, W. Handley, "Nested slice sampling", 2026, arXiv:2601.23252.
.. [3] C. Walter, "Point process-based Monte Carlo estimation", Statistics and Computing 27, 2017,
   arXiv:1412.6368.
.. [4] A. Fowlie, W. Handley, L. Su, "Nested sampling with plateaus", MNRAS 503, 2021,
   arXiv:2010.13884.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.ns import adaptive, base, nss
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl import weights
from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, ParticleSampler, fraction, size
from ppl.template import dimension
from samplers.mcmc.metrics import geometric_mean_factor, standardize
from samplers.mcmc.windows import optional
from samplers.smc.path import Path, as_reference, why_dead

NUM_VOLUMES = 200  # histories of X that the error is taken from
STUCK = 0.01  # share of slices without a point that is worth a note


class NestedState(NamedTuple):
    """BlackJAX's live points, flat, with its running evidence; how many draws had no likelihood."""

    live: adaptive.AdaptiveNSState
    step: Int[Array, ""]
    num_illegal: Int[Array, ""]


class NestedInfo(NamedTuple):
    """A round: who died, at what level, and what is left.

    ``log_volume`` is log X afterwards, ``log_live`` the log of the mean likelihood of the live
    points, ``remaining`` their share of the evidence. ``num_stuck`` counts slices that found no
    point within 100 tries. ``num_illegal`` counts draws of the start whose likelihood is NaN or
    infinite; they count as impossible.
    """

    dead: Float[Array, "k d"]
    log_likelihood: Float[Array, " k"]
    birth: Float[Array, " k"]
    log_volume: Float[Array, ""]
    log_live: Float[Array, ""]
    log_evidence: Float[Array, ""]
    remaining: Float[Array, ""]
    num_stuck: Int[Array, ""]
    num_illegal: Int[Array, ""]
    num_evaluations: Int[Array, "2"]


class NestedSampling(ParticleSampler):
    """Nested slice sampling: asymptotically exact, with the evidence.

    Parameters
    ----------
    num_live
        Live points, more than there are dimensions. The error of log Z is ``sqrt(H / num_live)``.
    num_delete
        Points that die and are replaced together. None: a tenth.
    num_slices
        Slice moves for a new point. None: ``5 d``, at least 10; with too few log Z varies more
        than its error says.
    remaining
        Share of the evidence left in the live points, at which the run ends. They are counted.
    reference
        Where to start, if not from the prior; see `TemperedSMC`.

    Raises
    ------
    TargetError
        If there is no prior that can be sampled, if there are more dimensions than live points, and
        if no draw of the start has any likelihood.

    Notes
    -----
    The draws are all points that died and the last ones alive, with their weights; their number is
    that of the rounds. The error of one run is the spread of log Z over histories of X as they
    might have been. It takes new points for independent: what slices that are too few do to Z it
    does not see.

    Differences from the paper
    --------------------------
    Directions come from a covariance that is estimated in units of its scales, with a little of the
    identity: badly scaled parameters in single precision do not break it. The weights are those
    of [3], which are unbiased, in place of the trapezoidal ones. BlackJAX recommends ``2 d``
    slices; on Gaussians in three and eight dimensions log Z then varied by 1.4 and 1.5 times its
    error, and was low.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_live: int = size("num_live", minimum=2, default=1000)
    num_delete: int | None = optional(size("num_delete"))
    num_slices: int | None = optional(size("num_slices"))
    remaining: Float[Array, ""] = fraction("remaining", default=0.01)
    reference: Any = eqx.field(default=None, converter=as_reference)

    def __check_init__(self) -> None:
        if self.num_delete is not None and self.num_delete >= self.num_live:
            raise ValueError(
                "num_delete must be smaller than num_live: new points start from survivors; got "
                f"{self.num_delete} and {self.num_live}"
            )

    def check(self, target: Energy) -> None:
        Path(target, self.reference).check("NestedSampling")
        d = dimension(target.template)
        if self.num_live <= d:
            raise TargetError(
                f"NestedSampling learns directions from its live points: {self.num_live} are too "
                f"few for {d} dimensions. Write samplers.NestedSampling(num_live={25 * d})"
            )

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> NestedState:
        path = Path(target, self.reference)
        positions = path.sample(rng_key, self.num_live)
        illegal = weights.count_illegal(path.log_ratios(positions))
        flat = jax.vmap(lambda position: ravel_pytree(position)[0])(positions)
        live = adaptive.init(flat, jax.vmap(_point_of(path)), update_inner_kernel_params_fn=_shape)
        return NestedState(live, jnp.zeros((), jnp.int32), illegal.astype(jnp.int32))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: NestedState
    ) -> tuple[NestedState, NestedInfo]:
        kernel = nss.build_kernel(
            _point_of(Path(target, self.reference)),
            self._num_slices(target),
            self._num_delete(),
            inner_kernel_params=_shape,
        )
        live, info = kernel(rng_key, state.live)
        integral, slices = live.integrator, info.update_info
        log_evidence = jnp.logaddexp(integral.logZ, integral.logZ_live)
        # Both ends of a bracket, what it grows by, and what it shrinks by.
        tries = jnp.sum(2 + slices.num_expansions + slices.num_shrink, dtype=jnp.int32)
        spent = tries + jnp.where(state.step == 0, 2 * self.num_live, 0)
        return NestedState(live, state.step + 1, state.num_illegal), NestedInfo(
            dead=info.particles.position,
            log_likelihood=info.particles.loglikelihood,
            birth=info.particles.loglikelihood_birth,
            log_volume=integral.logX,
            log_live=integral.logZ_live - integral.logX,
            log_evidence=log_evidence,
            remaining=jnp.exp(integral.logZ_live - log_evidence),
            num_stuck=jnp.sum(~slices.is_accepted, dtype=jnp.int32),
            num_illegal=state.num_illegal,
            num_evaluations=jnp.stack([spent, jnp.zeros_like(spent)]),
        )

    def done(self, state: NestedState) -> Bool[Array, ""]:
        integral, level = state.live.integrator, state.live.particles.loglikelihood
        total = jnp.logaddexp(integral.logZ, integral.logZ_live)
        nowhere = ~jnp.any(jnp.isfinite(level))
        return nowhere | (integral.logZ_live - total <= jnp.log(self.remaining))

    def collect(
        self, rng_key: PRNGKeyArray, target: Energy, state: NestedState, history: Any
    ) -> tuple[Position, Float[Any, " n"], Float[Any, ""]]:
        live = state.live.particles
        levels = np.asarray(live.loglikelihood, np.float64)
        if not isinstance(live.loglikelihood, Tracer) and not np.isfinite(levels).any():
            path = Path(target, self.reference)
            positions = _positions(np.asarray(live.position), target.template)
            raise TargetError(why_dead(path, positions, levels, "NestedSampling"))

        def together(dead: Any, alive: Any) -> np.ndarray:
            alive = np.asarray(alive)
            return np.concatenate([np.asarray(dead).reshape(-1, *alive.shape[1:]), alive])

        levels = together(history["log_likelihood"], levels).astype(np.float64)
        births = together(history["birth"], live.loglikelihood_birth)
        points = together(history["dead"], live.position)
        order = np.argsort(levels, kind="stable")
        levels, points = levels[order], points[order]
        log_weights = log_shells(num_alive(births, levels)) + levels
        log_evidence = weights.log_sum_exp(log_weights)
        return _positions(points, target.template), log_weights, log_evidence

    def log_evidence_error(self, history: dict[str, np.ndarray]) -> float | None:
        levels = np.sort(np.asarray(history["log_likelihood"], np.float64), axis=1)
        count = levels.shape[1]
        alive = np.tile(self.num_live - np.arange(count), len(levels))
        rng, log_evidences = np.random.default_rng(0), np.empty(NUM_VOLUMES)
        for i in range(NUM_VOLUMES):
            log_volume = np.cumsum(-rng.standard_exponential(alive.size) / alive)
            before = np.concatenate([[0.0], log_volume[:-1]])
            log_shell = before + np.log(-np.expm1(log_volume - before))
            last = log_volume[-1] + float(history["log_live"][-1])
            log_evidences[i] = weights.log_sum_exp(np.append(levels.ravel() + log_shell, last))
        return float(log_evidences.std(ddof=1))

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        notes = []
        if lost := int(np.max(history["num_illegal"], initial=0)):
            notes.append(
                f"the likelihood of {lost} draws of the start is NaN or infinite; they count as "
                "impossible"
            )
        stuck = history["num_stuck"].sum() / max(history["log_likelihood"].size, 1)
        if stuck > STUCK:
            notes.append(
                f"new points stood still in {stuck:.2g} of their slices: the likelihood may have "
                "plateaus, or be too rough for the covariance of the live points"
            )
        return notes

    def _num_delete(self) -> int:
        return max(1, self.num_live // 10) if self.num_delete is None else self.num_delete

    def _num_slices(self, target: Energy) -> int:
        default = max(10, 5 * dimension(target.template))
        return default if self.num_slices is None else self.num_slices


# The meeting with BlackJAX ----------------------------------------------------------------------


def _point_of(path: Path) -> Any:
    """BlackJAX's view of one flat position: its prior and its likelihood, NaN being impossible."""
    shapes = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), path.target.template)
    _, unravel = ravel_pytree(shapes)

    def point(x: Float[Array, " d"], loglikelihood_birth: Any = jnp.nan) -> Any:
        log_prior, log_likelihood = path.log_parts(unravel(x))
        log_likelihood = weights.clean(log_likelihood)
        birth = jnp.full_like(log_likelihood, loglikelihood_birth)
        return base.StateWithLogLikelihood(x, log_prior, log_likelihood, birth)

    return point


def _shape(rng_key: Any, state: Any, info: Any, parameters: Any = None) -> dict[str, Any]:
    """Factor of the covariance of the live points."""
    x = state.particles.position
    n = len(x)
    scales, deviations, _ = standardize((x - x.mean(axis=0)) / jnp.sqrt(n), None)
    factor = geometric_mean_factor(deviations, None, jnp.asarray(n, x.dtype))
    return {"covariance_factor": scales[:, None] * factor}


def _positions(points: np.ndarray, template: PyTree) -> Position:
    """Rows of flat positions, as positions; on the host."""
    leaves, structure = jax.tree.flatten(template)
    parts = np.split(points, np.cumsum([leaf.size for leaf in leaves])[:-1], axis=1)
    shaped = [
        part.reshape(len(points), *leaf.shape).astype(leaf.dtype)
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, shaped)


# Weights --------------------------------------------------------------------------------------


def num_alive(births: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Points alive as each one dies, in order of levels; those of a plateau die one by one [4].

    A point lives above the level of its birth; NaN is the birth of a draw of the prior. A point
    that was born on a plateau, for want of anything above it, was never alive.
    """
    first = np.isnan(births)
    born = first.sum() + np.searchsorted(np.sort(births[~first]), levels, side="left")
    return born - np.arange(len(levels))


def log_shells(alive: np.ndarray) -> np.ndarray:
    """``log w_i`` above; the weights add up to one once the last point has died."""
    alive = np.maximum(alive, 1)
    with np.errstate(divide="ignore"):
        left = np.cumsum(np.log1p(-1 / alive))
    return np.append(0.0, left[:-1]) - np.log(alive)
