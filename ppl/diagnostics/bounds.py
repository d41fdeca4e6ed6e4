"""Log-evidence from below and from above, by a sampler run forward and run given an exact draw.

    E[log Zhat]  <=  log Z  <=  E[log Zhat given an exact draw]

A run of a particle sampler estimates Z without bias, and so log Z from below. The same run in which
one particle is an exact draw of the target (with its ancestors: conditional SMC; for annealed
importance sampling the path walked backward from it) has E[1 / Zhat] = 1 / Z, and so estimates
log Z from above [1]. The gap between the two is a sum of divergences of the sampler's own random
numbers, which bound those of its draws (one particle drawn by the weights) in either direction:

    log Z - lower  >=  KL(draws | target),      upper - log Z  >=  KL(target | draws)

with equality for a single particle [2]. The bounds hold for the means: their estimates have errors.

An exact draw exists where data were simulated: the parameters that they were simulated from are one
of the posterior. Otherwise it comes from rejection, enumeration, or conjugacy.

One draw or several: the upper bound is a mean over exact draws. With a single one the runs vary
and the draw does not, which the error cannot show; what holds for each run still is
P(log Zhat < log Z - b) <= exp(-b), by Markov's inequality.

References
----------
.. [1] R. B. Grosse, Z. Ghahramani, R. P. Adams, "Sandwiching the marginal likelihood using
   bidirectional Monte Carlo", 2015, arXiv:1511.02543.
.. [2] S. Zhao, R. Brekelmans, A. Makhzani, R. Grosse, "Probabilistic inference in language models
   via twisted sequential Monte Carlo", ICML 2024, arXiv:2404.17546. Section 5.
"""

import math
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Float

from ppl import keys, weights
from ppl.energy import TargetError
from ppl.precision import full_precision
from ppl.sampler import Trained
from ppl.template import describe, named
from ppl.weights import Estimate

AT_ONCE = 8  # runs side by side


@dataclass(frozen=True, eq=False, repr=False)
class EvidenceBounds:
    """A sandwich of log Z.

    Attributes
    ----------
    lower, upper
        Estimates of the bounds, with standard errors.
    log_evidence
        Log mean of the unbiased estimates of Z, with its error and these bounds.
    log_z
        What the divergences refer to: the known log Z, or the middle of the bounds.
    runs, conditional_runs
        Log-evidence of each run, without and with an exact draw.
    target
        What the bounds are of: where data were simulated, the target of these.
    """

    lower: Estimate
    upper: Estimate
    log_evidence: Estimate
    log_z: float
    runs: Float[np.ndarray, " runs"]
    conditional_runs: Float[np.ndarray, " runs"]
    target: Any

    @property
    def kl_draws_target(self) -> float:
        """Bound of KL(draws | target), nats: large where draws are where the target is not."""
        return self.log_z - self.lower.value

    @property
    def kl_target_draws(self) -> float:
        """Bound of KL(target | draws), nats: large where the draws miss part of the target."""
        return self.upper.value - self.log_z

    def __str__(self) -> str:
        between = " and ".join(
            f"{e.value:.3f}" + ("" if e.std_error is None else f" +- {e.std_error:.3f}")
            for e in (self.lower, self.upper)
        )
        return (
            f"log Z lies between {between}; KL(draws | target) is at most "
            f"{self.kl_draws_target:.3f}, KL(target | draws) at most {self.kl_target_draws:.3f}"
        )

    def __repr__(self) -> str:
        return f"EvidenceBounds: {self}"


@full_precision
def log_evidence_bounds(
    sampler: Any,
    target: Any,
    exact_draws: Any = None,
    rng_key: Any = 0,
    num_repeats: int = 64,
    *,
    log_z: float | None = None,
) -> EvidenceBounds:
    """Bound log Z from both sides, and both divergences of a sampler's draws.

    Parameters
    ----------
    sampler
        One with ``log_evidence_of(rng_key, target)`` and ``log_evidence_given(rng_key, target,
        exact_draw)``, each one run in JAX, such as ``samplers.AIS(tune=False)``,
        ``samplers.TemperedSMC(schedule=..., num_moves=..., tune=False)`` and
        ``samplers.ParticleFilter()``; or a trained one, ``draws.sampler``, such as that of
        ``samplers.TwistedSMC()``.
    target
        What it samples.
    exact_draws
        One position of the target, exactly drawn, or several (a leading axis), used in turn. None:
        the target must offer ``"simulate"``; data are simulated, and the bounds are of the target
        of these.
    rng_key
        A key or an int.
    num_repeats
        Runs of either kind.
    log_z
        Log Z where it is known better, for the divergences; by default that of a target that knows
        its own, else the middle of the bounds.

    Returns
    -------
    EvidenceBounds

    Raises
    ------
    TypeError
        For a sampler without these methods.
    TargetError
        For draws that do not fit the target, or none and nothing to simulate.
    """
    key_simulate, key_runs = random.split(keys.as_key(rng_key))
    inner = sampler.sampler if isinstance(sampler, Trained) else sampler
    if not (hasattr(inner, "log_evidence_of") and hasattr(inner, "log_evidence_given")):
        raise TypeError(
            f"{type(inner).__name__} cannot run given an exact draw; samplers that can have "
            "log_evidence_of(rng_key, target) and log_evidence_given(rng_key, target, exact_draw), "
            "such as samplers.AIS(tune=False) and samplers.TwistedSMC()"
        )
    if hasattr(inner, "num_updates") and not isinstance(sampler, Trained):
        raise TypeError(
            f"train first: draws = ppl.sample({type(inner).__name__}(...), target), then "
            "log_evidence_bounds(draws.sampler, target, ...)"
        )
    if isinstance(num_repeats, bool) or not isinstance(num_repeats, int) or num_repeats < 2:
        raise ValueError(f"num_repeats must be an integer, at least 2; got {num_repeats!r}")
    if exact_draws is None:
        if "simulate" not in target.offers:
            raise TargetError(
                "the bound from above needs exact_draws=, a position drawn exactly from the "
                f"target: {target.refuse('simulate')}"
            )
        exact_draws, target = target.simulate(key_simulate)
    exact = _stacked(exact_draws, target.template)
    if not isinstance(sampler, Trained):
        sampler.check(target)
        sampler = sampler.resolve(target)

    num_draws = jax.tree.leaves(exact)[0].shape[0]
    turn = jnp.arange(num_repeats) % num_draws
    of, given = _runs(sampler, target, exact, turn, random.split(key_runs, num_repeats))
    of, given = np.asarray(of, np.float64), np.asarray(given, np.float64)
    lower, upper = _mean(of), _mean(_by_draw(given, np.asarray(turn)))
    if log_z is None and "log_normalizer" in target.offers:
        log_z = float(target.log_normalizer)
    if log_z is None:
        log_z = (lower.value + upper.value) / 2
    value, error = weights.combine_evidence(of)
    evidence = Estimate(float(value), float(error), lower.value, upper.value)
    return EvidenceBounds(lower, upper, evidence, log_z, of, given, target)


@eqx.filter_jit
def _runs(sampler: Any, target: Any, exact: Any, turn: Any, run_keys: Any) -> tuple[Array, Array]:
    inner: Any = sampler
    state: tuple[Any, ...] = ()
    if isinstance(sampler, Trained):
        inner, state = sampler.sampler, (sampler.state,)

    def one(at: Any) -> tuple[Array, Array]:
        key, which = at
        key_of, key_given = random.split(key)
        draw = jax.tree.map(lambda x: x[which], exact)
        return (
            inner.log_evidence_of(key_of, target, *state),
            inner.log_evidence_given(key_given, target, draw, *state),
        )

    return lax.map(one, (run_keys, turn), batch_size=AT_ONCE)


def _stacked(draws: Any, template: Any) -> Any:
    """Exact draws with a leading axis, in the dtypes of the target."""
    leaves, wanted = jax.tree.leaves(draws), jax.tree.leaves(template)
    ranks = {np.ndim(x) - len(w.shape) for x, w in zip(leaves, wanted, strict=False)}
    same = jax.tree.structure(draws) == jax.tree.structure(template) and all(
        np.shape(x)[np.ndim(x) - len(w.shape) :] == w.shape
        for x, w in zip(leaves, wanted, strict=True)
    )
    lengths = {np.shape(x)[0] for x in leaves} if ranks == {1} else {1}
    if not same or ranks not in ({0}, {1}) or len(lengths) != 1 or 0 in lengths:
        got = {name: np.shape(x) for name, x in named(draws).items()}
        raise TargetError(
            f"exact_draws must be positions of the target, {describe(template)}, one or several "
            f"along a leading axis; got shapes {got}"
        )
    one = ranks == {0}
    return jax.tree.map(
        lambda x, w: jnp.asarray(x, w.dtype)[None] if one else jnp.asarray(x, w.dtype),
        draws, template,
    )  # fmt: skip


def _by_draw(values: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Mean over the runs of each exact draw, where there are several: draws are what varies."""
    if turn.max() == 0:
        return values
    return np.array([values[turn == i].mean() for i in range(turn.max() + 1)])


def _mean(values: np.ndarray) -> Estimate:
    with np.errstate(invalid="ignore"):
        error = values.std(ddof=1) / math.sqrt(len(values))
    return Estimate(float(values.mean()), float(error) if math.isfinite(error) else None)
