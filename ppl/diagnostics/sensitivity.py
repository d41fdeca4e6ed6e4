"""Power-scaling sensitivity: how much the posterior leans on the prior, and on the likelihood.

    p_a(x | y)  ~  p(x)^a p(y | x)   or   p(x) p(y | x)^a,    a = 0.99 and 1.01        ([1], eq. 2)
    sensitivity = d CJS(posterior, p_a) / d log2 a                                  ([1], section 3)

The scaled posteriors come from the draws at hand, with Pareto-smoothed weights
``(a - 1) log p``; CJS is the cumulative Jensen-Shannon distance of one scalar's marginal, between 0
and 1. ArviZ computes both from the log prior and log-likelihood of the draws, which targets that
can tell them apart (``log_parts``) give. The log-Jacobian of a constrained parameter belongs to
neither and is not scaled.

Null distribution: none; 0.05 is the threshold of [1]. Diagnosis:

==========  ==============  ================================================
prior       likelihood
==========  ==============  ================================================
>= 0.05     >= 0.05         prior-data conflict
>= 0.05     < 0.05          strong prior or weak likelihood
< 0.05      any             none: the prior hardly matters
==========  ==============  ================================================

Limits: marginals of single scalars only; a derivative at the model as it is, not what another prior
would give. In a hierarchy the prior of the group effects *is* part of the model: name the sites
whose prior is in question with ``prior_sites``, or the hierarchy's own shrinkage is called a
conflict. The diagnosis needs draws that can be trusted: judge them first.

References
----------
.. [1] N. Kallioinen, T. Paananen, P.-C. Buerkner, A. Vehtari, "Detecting and diagnosing prior and
   likelihood sensitivity with power-scaling", Statistics and Computing 34, 2024, arXiv:2107.14054.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PyTree

from ppl.diagnostics.table import scalars
from ppl.draws import Draws, host_generator
from ppl.energy import TargetError
from ppl.precision import full_precision

MIN_DRAWS = 400
MAX_DRAWS = 4000
THRESHOLD = 0.05
ALPHAS = (0.99, 1.01)


@full_precision
def power_scaling(
    draws: Draws,
    names: str | Sequence[str] | None = None,
    *,
    prior_sites: Sequence[str] | None = None,
    threshold: float = THRESHOLD,
) -> Any:
    """Sensitivity of every scalar to the prior and to the likelihood, and what it means.

    Parameters
    ----------
    draws
        Of a target with ``log_parts``: ``from_numpyro``, ``posterior``, ``tilt``. Weighted draws
        are resampled first.
    names
        Names to look at; all by default.
    prior_sites
        Sites of a NumPyro model whose prior is scaled; all latent sites by default.
    threshold
        Sensitivity from which on it is called one.

    Returns
    -------
    pandas.DataFrame
        A row per scalar: ``prior``, ``likelihood``, ``diagnosis`` (empty when there is none).

    Raises
    ------
    TargetError
        If the target cannot tell prior from likelihood.
    ValueError
        For fewer than 400 draws, or unknown sites.
    """
    import pandas as pd
    from arviz_stats.base.array import BaseArray

    target = draws.target
    if target is None:
        raise TargetError("these draws do not know their target: write draws.attach(target)")
    if "log_parts" not in target.offers:
        raise TargetError(
            f"power-scaling needs prior and likelihood apart: {target.refuse('log_parts')}. Write "
            "ppl.posterior(prior, log_likelihood) or a NumPyro model"
        )
    size = draws.num_chains * draws.num_samples
    if size < MIN_DRAWS:
        raise ValueError(f"power-scaling needs {MIN_DRAWS} draws; there are {size}. Run longer")
    if draws.log_weights is not None:
        # The same stream as the posterior group of `to_arviz`.
        draws = draws.resample(int(host_generator(0).integers(2**31)), size)
    step = -(-size // MAX_DRAWS)
    positions = jax.tree.map(lambda x: x[:, ::step], draws.positions)
    parts = _parts(target, positions, prior_sites)
    labels, x = scalars(draws, draws.select(names))
    x = x[:, ::step]
    library: Any = BaseArray()
    columns = {}
    for component, log_p in zip(("prior", "likelihood"), parts, strict=True):
        columns[component] = np.zeros(len(labels))
        if np.ptp(log_p) < 1e-5 * max(1.0, abs(log_p.flat[0])):
            continue  # flat up to rounding: no power of it changes anything
        pair = [np.exp(library.power_scale_lw(log_p, alpha=a, axis=(0, 1))) for a in ALPHAS]
        lower, upper = (w / w.sum() for w in pair)
        columns[component] = [
            float(library.power_scale_sense(x[:, :, i], lower, upper, *ALPHAS))
            for i in range(len(labels))
        ]
    frame = pd.DataFrame(columns, index=labels)
    frame["diagnosis"] = [
        _diagnosis(*row, threshold) for row in zip(frame.prior, frame.likelihood, strict=True)
    ]
    return frame


def _diagnosis(prior: float, likelihood: float, threshold: float) -> str:
    if not prior >= threshold:
        return ""
    return "prior-data conflict" if likelihood >= threshold else "strong prior or weak likelihood"


@eqx.filter_jit
def _log_parts(target: Any, positions: PyTree) -> tuple[Any, Any]:
    def one(position: PyTree) -> tuple[Any, Any]:
        log_prior, log_likelihood = target.log_parts(position)
        return log_prior - target.log_jacobian(position), log_likelihood

    return jax.vmap(jax.vmap(one))(positions)


def _parts(
    target: Any, positions: PyTree, prior_sites: Sequence[str] | None
) -> tuple[Float[np.ndarray, "chain draw"], Float[np.ndarray, "chain draw"]]:
    """Log prior, without the log-Jacobian, and log-likelihood of every draw."""
    log_prior, log_likelihood = (
        np.asarray(part, np.float64) for part in _log_parts(target, positions)
    )
    if prior_sites is not None:
        if not hasattr(target, "explain"):
            raise TargetError(
                f"prior_sites are sites of a NumPyro model; the target is {type(target).__name__}"
            )
        unknown = [name for name in prior_sites if name not in target.latent_names]
        if unknown or not prior_sites:
            raise ValueError(
                f"no latent sites {', '.join(unknown) or '(none given)'}; there are "
                f"{', '.join(target.latent_names)}"
            )
        sizes = log_prior.shape
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), positions)
        values = []
        for i in range(log_prior.size):
            terms = target.explain(jax.tree.map(lambda x: x[i], flat))  # noqa: B023
            values.append(
                sum(float(t.log_prob) for t in terms if t.kind == "prior" and t.site in prior_sites)
            )
        log_prior = np.reshape(values, sizes)
    return log_prior, log_likelihood
