"""A long run that may stand for the truth, certified by two unrelated samplers agreeing.

One sampler that agrees with itself may be wrong with all its chains: a wrong density it cannot
see, but a mode that was missed, a bias, a slow direction another method is unlikely to share. Each
sampler must pass its own diagnostics, more strictly than in daily use; then means and tail
probabilities of every scalar must agree within chance (scores against `z_limit`), no region of
high density may have been visited by one of them only, and the energy distance between thinned
draws must be one that permutations explain.

What this cannot see: what both samplers miss, such as a mode far from all starts; and errors
smaller than the Monte Carlo error, which the certificate states.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from jax import random

from ppl import keys
from ppl.calling import CallableModule
from ppl.diagnostics.agreement import z_limit
from ppl.diagnostics.energy_distance import energy_test
from ppl.diagnostics.findings import RHAT_GOOD
from ppl.diagnostics.missed import MATERIAL, missed_share
from ppl.draws import Draws
from ppl.inference import sample
from ppl.precision import full_precision
from ppl.recommendation import trouble, worst_bias
from ppl.sampler import MarkovKernel, ParticleSampler, Sampler
from ppl.standing import Standing
from ppl.trial import Trial, rebuilt
from ppl.truth import exact_draws, require_exact

DRAWS, CHAINS, RUNS = 5000, 8, 16
ESS_WANTED = 1000
ENERGY_LEVEL = 1e-3
ENERGY_ROWS = 400


class NotCertified(ValueError):
    """No reference: the samplers do not agree, or one of them fails its own diagnostics.

    Attributes
    ----------
    draws
        What they gave, by name.
    """

    def __init__(self, message: str, draws: Mapping[str, Draws]):
        super().__init__(message)
        self.draws = dict(draws)


@full_precision
def reference(
    target: Any,
    samplers: Any = None,
    rng_key: Any = 0,
    *,
    num_samples: int = DRAWS,
    num_chains: int = CHAINS,
    num_warmup: int | None = None,
    init: Any = None,
    progress: bool = True,
) -> Draws:
    """Draws that may stand for the truth about a target, with their certificate as a note.

    Parameters
    ----------
    target
        What to sample.
    samplers
        ``{name: sampler}``, two or more, of different kinds. They are not looked up here, because
        which are unrelated depends on the target: NUTS and HMC share their dynamics; NUTS and a
        random walk, or tempered SMC, do not. May be left out for a target that offers exact draws.
    rng_key
        As in `ppl.sample`.
    num_samples, num_chains, num_warmup, init
        Of Markov kernels. Particle samplers make 16 runs, all others draw
        ``num_samples * num_chains`` times.
    progress
        Show progress bars on standard error.

    Returns
    -------
    Draws
        Of the sampler with the largest effective sample size; ``draws.run.notes`` ends with the
        certificate. For ``reference=`` of `ppl.compare`, among others.

    Raises
    ------
    NotCertified
        A `ValueError` that says what differs; its ``draws`` are what the samplers gave.
    ValueError
        For fewer than two samplers, two of one class, or a biased one.

    Examples
    --------
    >>> import jax.numpy as jnp, ppl, samplers
    >>> target = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    >>> draws = ppl.reference(
    ...     target, {"MALA": samplers.MALA(), "walk": samplers.RandomWalk()}, progress=False
    ... )
    >>> draws.run.notes[-1]
    'certified: MALA and walk agree, ...'
    """
    rng_key = keys.as_key(rng_key)
    if samplers is None:
        require_exact(target)
        draws = exact_draws(target, rng_key, num_samples * num_chains)
        return _noted(draws, "certified: exact draws of the target")
    _check(samplers)
    found: dict[str, Draws] = {}
    for place, (name, sampler) in enumerate(samplers.items()):
        sizes: dict[str, Any]
        match sampler:
            case MarkovKernel():
                sizes = {"num_samples": num_samples, "num_chains": num_chains}
                sizes |= {"num_warmup": num_warmup, "init": init}
            case ParticleSampler():
                sizes = {"num_chains": RUNS}
            case _:
                sizes = {"num_samples": num_samples * num_chains}
        key = random.fold_in(rng_key, place)
        found[name] = sample(sampler, target, key, progress=progress, **sizes)
    return certify(found)


def certify(draws: Mapping[str, Draws]) -> Draws:
    """The best of several sets of draws of one target, if all of them agree.

    Raises
    ------
    NotCertified
        If they do not, or one of them fails its own diagnostics.
    """
    standings = [
        Standing(name, each.sampler, [Trial(each, max(each.num_evaluations))])
        for name, each in draws.items()
    ]
    for each in standings:
        reason = _own(each)
        if reason:
            raise NotCertified(f"no reference: {each.name} cannot be used, {reason}", draws)
    certificates = [_agree(a, b, draws) for a, b in combinations(standings, 2)]
    best = max(standings, key=lambda each: each.ess[0, 0])
    note = f"certified: {'; '.join(certificates)}; least effective size {best.ess[0, 0]:,.0f}"
    return _noted(best.runs[0], note)


def _own(standing: Standing) -> str:
    reason = trouble(standing, with_reference=False)
    if not reason and standing.are_chains and not standing.r_hat < RHAT_GOOD:
        reason = f"its R-hat is {standing.r_hat:.4f} (wanted: below {RHAT_GOOD})"
    size = float(standing.ess[0, 0]) if standing.runs else 0.0
    if not reason and size < ESS_WANTED:
        reason = f"its least effective size is {size:.0f} (wanted: {ESS_WANTED}); draw more"
    return reason


def _agree(a: Standing, b: Standing, draws: Mapping[str, Draws]) -> str:
    """What was found to agree, in words; or raise."""
    names = f"{a.name} and {b.name}"
    answers = a.answers(b.pool.yardstick())
    limit, (_, worst) = z_limit(answers.number), worst_bias(answers)
    if not worst < limit:
        raise NotCertified(
            f"no reference: {names} disagree by {worst:.1f} standard errors in one of "
            f"{answers.number} means and tail probabilities (limit: {limit:.1f})",
            draws,
        )
    for accused, witness in ((a, b), (b, a)):
        y, log_density = witness.points
        rows = y.reshape(-1, y.shape[2])
        share, _ = missed_share(*accused.points, rows, log_density.ravel())
        if share > MATERIAL:
            raise NotCertified(
                f"no reference: {accused.name} has missed a region with {share:.0%} of the draws "
                f"of {witness.name}",
                draws,
            )
    p_value = _energy(a, b)
    if p_value < ENERGY_LEVEL:
        raise NotCertified(
            f"no reference: {names} differ in energy distance (p = {p_value:.2g})", draws
        )
    return (
        f"{names} agree, the largest of {answers.number} differences is {worst:.1f} standard "
        f"errors (limit {limit:.1f}), energy distance p = {p_value:.2f}"
    )


def _energy(a: Standing, b: Standing) -> float:
    """Permutation p-value, of draws as far apart as their effective number asks."""
    sets = []
    sd = np.where(b.pool.yardstick().sd > 0, b.pool.yardstick().sd, 1.0)
    for each in (a, b):
        rows = each.rows(b.pool.labels, np.random.default_rng(0))
        keep = min(len(rows), ENERGY_ROWS, int(each.ess[0, 0] / 2))
        chosen = np.linspace(0, len(rows) - 1, max(keep, 10)).round().astype(int)
        sets.append(rows[chosen] / sd)
    return energy_test(*sets, num_permutations=math.ceil(1 / ENERGY_LEVEL))[1]


def _check(samplers: Any) -> None:
    if not isinstance(samplers, Mapping) or len(samplers) < 2:
        raise ValueError(
            "a reference needs two samplers or more, unrelated, by name, such as "
            f"{{'NUTS': samplers.NUTS(), 'walk': samplers.RandomWalk()}}; got {samplers!r}"
        )
    kinds: dict[type, str] = {}
    for name, sampler in samplers.items():
        if not isinstance(sampler, Sampler):
            raise ValueError(f"{name!r} is no sampler: got {sampler!r}")
        if type(sampler) in kinds:
            raise ValueError(
                f"{kinds[type(sampler)]!r} and {name!r} are both {type(sampler).__name__}: a "
                "reference needs unrelated samplers, which do not share their errors"
            )
        if sampler.exactness == "biased":
            raise ValueError(f"{name!r} is biased: a reference needs samplers that are not")
        kinds[type(sampler)] = name


def _noted(draws: Draws, note: str) -> Draws:
    return rebuilt(draws, run=replace(draws.run, notes=[*draws.run.notes, note]))


sys.modules[__name__].__class__ = CallableModule
