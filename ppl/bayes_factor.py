"""`bayes_factor`: how many times more probable the data are under one model than under another.

    log B = log p(y | first) - log p(y | second)                              (eq. 1 of [1])

At equal odds before the data, B : 1 are the odds after. The evidence of a model depends on its
priors, also where they hardly touch the posterior: a prior ten times as wide is a tenth of the
evidence, for each parameter that the data determine.

References
----------
.. [1] R. E. Kass, A. E. Raftery, "Bayes factors", JASA 90, 1995,
   doi:10.1080/01621459.1995.10476572.
"""

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import random

from ppl import keys
from ppl.calling import CallableModule
from ppl.draws import Draws
from ppl.energy import Energy, TargetError
from ppl.inference import sample
from ppl.sampler import Sampler
from ppl.weights import Estimate


@dataclass(frozen=True)
class BayesFactor:
    """What `bayes_factor` found; ``print`` shows it in words.

    Attributes
    ----------
    log
        Log of the Bayes factor in nats, with its standard error; above 0 for the first model.
    evidences
        Log-evidence of each model.
    draws
        Draws of each model's posterior.
    """

    log: Estimate
    evidences: tuple[Estimate, Estimate]
    draws: tuple[Draws, Draws]

    @property
    def probability(self) -> float:
        """Of the first model, where both were equally probable before the data."""
        return 1 / (1 + math.exp(-min(max(self.log.value, -700.0), 700.0)))

    def __str__(self) -> str:
        value, error = self.log[:2]
        lines = [
            f"log evidence of the {name} model: {_shown(estimate)}"
            for name, estimate in zip(("first", "second"), self.evidences, strict=True)
        ]
        better, favor = ("first", value) if value >= 0 else ("second", -value)
        lines.append(f"log Bayes factor {_shown(self.log)}, for the {better} model")
        if error is not None and favor < 2 * error:
            lines.append("It is within twice its error: which model is better is not decided")
        else:
            share = max(self.probability, 1 - self.probability)
            lines.append(f"At equal odds before, the {better} model has probability {share:.4g}")
        return "\n".join(lines)


def bayes_factor(
    first: Any, second: Any, sampler: Sampler | None = None, rng_key: Any = 0, **options: Any
) -> BayesFactor:
    """Bayes factor of two models of the same data.

    Parameters
    ----------
    first, second
        Targets, such as ``ppl.from_numpyro(model, ...)``, or draws of their posteriors. Draws of
        chains that know no evidence have it from bridge sampling.
    sampler
        For targets: any that gives the evidence (``samplers.TemperedSMC()``, ``AIS()``,
        ``ParallelTempering()``), or a chain to be bridged (``samplers.NUTS()``).
    rng_key
        As in `ppl.sample`.
    options
        For `ppl.sample`, such as ``num_chains=4``.

    Returns
    -------
    BayesFactor

    Raises
    ------
    TargetError
        If the models are of different data, as far as they say which are theirs: NumPyro models
        do; of densities of your own, and of their normalization, you are the judge.
    ValueError
        For targets without a sampler, or draws that give no evidence.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppl, samplers
    >>> def model(y, scale):
    ...     mu = numpyro.sample("mu", dist.Normal(0.0, scale))
    ...     numpyro.sample("y", dist.Normal(mu, 1.0).expand(y.shape).to_event(1), obs=y)
    >>> y = jnp.array([2.1, 1.7, 2.4, 0.9])
    >>> free, near_zero = ppl.from_numpyro(model, y, 1.0), ppl.from_numpyro(model, y, 0.01)
    >>> found = ppl.bayes_factor(free, near_zero, samplers.TemperedSMC(num_particles=512))
    >>> found.log.value > 3
    True
    """
    for which, model in (("first", first), ("second", second)):
        if not isinstance(model, Energy | Draws):
            raise TypeError(
                f"the {which} model must be a target, such as ppl.from_numpyro(model, ...), or "
                f"draws of one; got {type(model).__name__}"
            )
    targets = [model.target if isinstance(model, Draws) else model for model in (first, second)]
    require_same_data(*targets)
    rng_key = keys.as_key(rng_key)
    draws = [
        _drawn(model, sampler, random.fold_in(rng_key, i), options)
        for i, model in enumerate((first, second))
    ]
    evidences = [evidence_of(each, random.fold_in(rng_key, 2 + i)) for i, each in enumerate(draws)]
    errors = [estimate.std_error for estimate in evidences if estimate.std_error is not None]
    error = math.hypot(*errors) if len(errors) == 2 else None
    log = Estimate(evidences[0].value - evidences[1].value, error)
    return BayesFactor(log, (evidences[0], evidences[1]), (draws[0], draws[1]))


def evidence_of(draws: Draws, rng_key: Any = 0) -> Estimate:
    """``draws.log_evidence``, or that of bridge sampling where the sampler knows none."""
    if draws.log_evidence is not None:
        return draws.log_evidence
    from ppl.diagnostics.bridge import bridge_evidence

    return bridge_evidence(draws, rng_key)


def _drawn(model: Any, sampler: Sampler | None, rng_key: Any, options: dict[str, Any]) -> Draws:
    if isinstance(model, Draws):
        return model
    if sampler is None:
        raise ValueError(
            "bayes_factor runs a sampler on targets: write ppl.bayes_factor(first, second, "
            "samplers.TemperedSMC()), or give draws"
        )
    settings: dict[str, Any] = {"progress": False} | options
    return sample(sampler, model, rng_key, **settings)


def _shown(estimate: Estimate) -> str:
    value, error = estimate[:2]
    return f"{value:.3f}" + ("" if error is None else f" +- {error:.2g}")


# The same data ------------------------------------------------------------------------------------


def require_same_data(first: Any, second: Any) -> None:
    """Raise where two models say what they observe, and it is not the same.

    Sites may have other names, if together they hold the same numbers.
    """
    data = [getattr(target, "observed_data", None) for target in (first, second)]
    known = [each for each in data if each is not None]
    if len(known) < 2:
        return
    a, b = ({n: np.asarray(x, np.float64) for n, x in each.items()} for each in known)
    if a.keys() != b.keys():
        a, b = ({"the data": np.sort(np.concatenate([x.ravel() for x in each.values()] or [[]]))}
                for each in (a, b))  # fmt: skip
    for name in a:
        what = name if name == "the data" else repr(name)
        if a[name].shape != b[name].shape:
            raise _different(f"{what} of shape {a[name].shape} and {b[name].shape}")
        apart = ~np.isclose(a[name], b[name], rtol=1e-5, atol=0, equal_nan=True)
        if apart.any():
            at = tuple(int(i) for i in np.argwhere(apart)[0])
            where = "".join(f"[{', '.join(map(str, at))}]" if at else "")
            raise _different(f"{what}{where} is {a[name][at]:g} and {b[name][at]:g}")


def _different(what: str) -> TargetError:
    return TargetError(
        f"the two models are of different data: {what}. A Bayes factor compares how probable the "
        "same data are under both; condition both models on the same, untransformed data"
    )


sys.modules[__name__].__class__ = CallableModule
