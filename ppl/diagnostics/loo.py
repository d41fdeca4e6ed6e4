"""Leave-one-out cross-validation by Pareto-smoothed importance sampling (PSIS-LOO), as in ArviZ.

    elpd = sum_i log p(y_i | y_-i),   by draws with weights 1 / p(y_i | theta)            ([1])

How well a model predicts each observation from the others, without fitting it again. ArviZ computes
it; this door brings the pointwise log-likelihoods and nothing else of the tree, and says what is
missing where there are none.

Null distribution: none; differences of ``elpd`` between models are read against the standard error
of their pointwise differences (``arviz.compare``). k-hat of an observation above
``min(1 - 1 / log10(S), 0.7)`` says that the draws without it cannot be reached by weights: its term
is wrong, and ArviZ warns. Limits: observations that depend on each other (time series, groups that
are to be predicted as a whole) are not left out together; more than one observed site cannot be
added up without saying what one observation is.

WAIC is not offered: ArviZ 1 has dropped it, because it estimates the same quantity, with larger
errors and without a k-hat to show when it fails.

References
----------
.. [1] A. Vehtari, A. Gelman, J. Gabry, "Practical Bayesian model evaluation using leave-one-out
   cross-validation and WAIC", Statistics and Computing 27, 2017, arXiv:1507.04544.
"""

from typing import Any

from ppl.draws import Draws
from ppl.energy import TargetError

MIN_DRAWS = 100


def loo(draws: Draws, site: str | None = None, **options: Any) -> Any:
    """PSIS-LOO of draws of a NumPyro model with data.

    Weighted draws are resampled first, as in ``draws.to_arviz()``.

    Parameters
    ----------
    draws
        Of ``ppl.from_numpyro(...)``, or loaded from a file that has the log-likelihoods.
    site
        The observed site, when there are several.
    options
        Passed on to ``arviz.loo``, such as ``reff``; ``pointwise`` is true by default.

    Returns
    -------
    arviz_stats.ELPDData
        With ``elpd``, ``se``, ``p``, and pointwise ``elpd_i`` and ``pareto_k``.

    Raises
    ------
    TargetError
        If the target has no pointwise log-likelihood.
    ValueError
        For fewer than 100 draws, or several observed sites and none chosen.
    """
    import arviz

    size = draws.num_chains * draws.num_samples
    if size < MIN_DRAWS:
        raise ValueError(f"LOO needs {MIN_DRAWS} draws; there are {size}. Run longer")
    target = draws.target
    if "log_likelihood" not in draws.groups:
        if target is None:
            raise TargetError("these draws do not know their target: write draws.attach(target)")
        if "pointwise_log_likelihood" not in target.offers:
            why = target.refuse("pointwise_log_likelihood")
            raise TargetError(
                f"LOO needs the log-likelihood of every observation: {why}. Write the model in "
                "NumPyro, with its data as obs=, and use ppl.from_numpyro"
            )
    tree = draws.to_arviz(groups=["log_likelihood"])
    if "log_likelihood" not in tree.children:
        raise TargetError("LOO needs a model with observed sites; this one has none")
    sites = list(tree["log_likelihood"].data_vars)
    if site is None and len(sites) > 1:
        raise ValueError(
            f"there are several observed sites, {', '.join(sites)}: write site=... for one of them"
        )
    if site is not None and site not in sites:
        raise ValueError(f"no observed site {site!r}; there are {', '.join(sites)}")
    return arviz.loo(tree, var_name=site or sites[0], **{"pointwise": True} | options)
