"""The verdict on a run, in words: may it be trusted, why, and what to do.

Each finding has a weight: ``note`` (worth knowing), ``caution`` (usable with care, or not
certified), ``bad`` (do not use), ``unknown`` (cannot be judged). The heaviest decides. Limits are
those of Stan and ArviZ where they have one: R-hat 1.01, effective size 100 a chain (400 for four),
E-BFMI 0.3, k-hat 0.7. What no diagnostic can see, a mode that no draw has found, is not claimed to
be absent.

Chains are judged by R-hat and effective size, weighted draws by k-hat and Kish's size: resampled or
independent particles have an R-hat of 1 whatever they are worth. Biased samplers never get better
than ``caution``: their draws say that they agree with each other, not how far from the target.

Draws that agree with each other are compared with the target by its gradient (see `stein` and
`virial`; at most 4,000 draws, so that it costs less than the run): a sampler with too large a step,
or a kernel with a mistake in it, has a perfect R-hat.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ppl.diagnostics.chain_findings import of_chains
from ppl.diagnostics.findings import Finding, Measure, Status, Verdict, counted, leaves
from ppl.diagnostics.stein import SteinTest, stein_test
from ppl.diagnostics.virial import Virial, virial_test
from ppl.diagnostics.weighted_findings import of_population
from ppl.draws import Draws

STEIN, VIRIAL = "stein p-value", "virial p-value"
# Of these two. A run that claims to be exact is not accused by one chance in a hundred.
LEVELS = {"biased": (0.01, 1e-3), "asymptotically exact": (0.001, 1e-4), "exact": (0.001, 1e-4)}
MAX_STEIN_DRAWS, MAX_SCORE_DIMENSION = 1000, 500
_ORDER = ("note", "good", "caution", "unknown", "bad")


def judge(draws: Draws) -> Verdict:
    """Judge a run by what its kind of draws can show."""
    measures: list[Measure] = []
    if draws.run.kind == "resampled":
        findings = [_RESAMPLED]
    elif draws.run.kind == "markov":
        findings = list(of_chains(draws, measures))
    else:
        findings = list(of_population(draws, measures))
    if all(f.weight not in ("bad", "unknown") for f in findings):
        findings += _against_the_target(draws, measures)
    findings += _common(draws)
    findings.sort(key=lambda f: -_ORDER.index(f.weight))
    heaviest = findings[0].weight if findings else "good"
    status: Status = "good" if heaviest == "note" else heaviest
    advice = [f.advice for f in findings if f.advice]
    return Verdict(
        status,
        _headline(draws, status, findings, measures),
        [f.reason for f in findings],
        list(dict.fromkeys(advice)),
        _frame(measures),
    )


_RESAMPLED = Finding(
    "unknown",
    "These draws were resampled; copies of one ancestor look like agreement, so nothing can be "
    "judged from them.",
    "Judge the draws they came from.",
)


def _headline(
    draws: Draws, status: Status, findings: list[Finding], measures: list[Measure]
) -> str:
    chains = draws.run.kind == "markov"
    heavy = [f for f in findings if f.weight not in ("note", "good")]
    if status == "good":
        return (
            "Converged: nothing speaks against these draws."
            if chains
            else "Reliable: nothing speaks against these draws."
        )
    if status == "unknown":
        return "Cannot be judged."
    if status == "bad" and any(m.name in (STEIN, VIRIAL) and not m.passed for m in measures):
        return "The draws agree, but not with the target: do not use them."
    if status == "bad":
        return "Not converged: do not use these draws." if chains else "Do not use these draws."
    if draws.run.exactness == "biased" and len(heavy) == 1:
        return (
            f"Converged, to something near the target: {draws.run.sampler_name} is biased."
            if chains
            else f"Not certified: {draws.run.sampler_name} is biased."
        )
    return "Usable with care."


def _frame(measures: list[Measure]) -> Any:
    import pandas as pd

    frame = pd.DataFrame(measures, columns=list(Measure._fields))
    return frame.set_index("name")


# All draws ------------------------------------------------------------------------------------


def _common(draws: Draws) -> Iterator[Finding]:
    for name in draws.names if draws.num_samples else []:
        value = draws[name]
        count = int((~np.isfinite(value)).sum()) if value.dtype.kind in "fc" else 0
        if count:
            share = count / value.size
            yield Finding(
                "caution",
                f"{name} is not finite in {counted(count, 'number')} ({share:.2%}); its moments "
                "are not defined.",
                f"Find out where the model computes {name} as NaN or infinity.",
            )
    if draws.run.exactness == "biased" and draws.run.kind != "resampled":
        weighted = draws.log_weights is not None
        yield Finding(
            "note" if weighted else "caution",
            f"{draws.run.sampler_name} is biased: its draws follow a law near the target, and "
            "cannot say how near."
            + (" Their weights correct for it as far as they can." if weighted else ""),
            ""
            if weighted
            else "Compare with an exact sampler, or run again with half the step size (or "
            "more steps, or longer training): answers that move were biased.",
        )
    if draws.run.stopped == "interrupted":
        yield Finding("note", "The run was interrupted; these are the draws up to then.")


def _against_the_target(draws: Draws, measures: list[Measure]) -> Iterator[Finding]:
    """Two tests by the score: of the whole law, and of place and width of every coordinate."""
    tests = _by_score(draws)
    if tests is None:
        return
    stein, virial = tests
    levels = LEVELS[draws.run.exactness]
    measured = zip((STEIN, VIRIAL), (stein.p_value, virial.p_value), levels, strict=True)
    rows = [Measure(name, p, f"> {level:g}", p > level) for name, p, level in measured]
    measures += rows
    if all(row.passed for row in rows):
        return
    seen = "; ".join(f"{row.name} {row.value:.2g}" for row in rows if not row.passed)
    yield Finding(
        "bad",
        "The draws agree with each other, but not with the target: tested by its gradient they "
        f"are not draws of it ({seen}). {virial.words}.",
        "Use a smaller step size (or more steps, or longer training), or an exact sampler."
        if draws.run.exactness == "biased"
        else f"{draws.run.sampler_name} claims to be exact: look for a mistake in the kernel or in "
        "the density (a gradient cut by stop_gradient or jnp.where). Or tails were not reached.",
    )


def _by_score(draws: Draws) -> tuple[SteinTest, Virial] | None:
    """Tests of unweighted draws by the score of their target; None where there is none."""
    offers = getattr(draws.target, "offers", frozenset())
    dimension = sum(math.prod(leaf.shape[2:]) for leaf in leaves(draws))
    if (
        draws.log_weights is not None
        or draws.run.kind not in ("markov", "direct", "learned")
        or "gradient" not in offers
        or not 0 < dimension <= MAX_SCORE_DIMENSION
    ):
        return None
    if "by score" not in draws.cache:
        try:
            stein = stein_test(draws, num_bootstrap=999, max_draws=MAX_STEIN_DRAWS)
            result = stein, virial_test(draws)
        except (ValueError, ArithmeticError):  # too few effective draws, or no finite gradient
            result = None
        draws.cache["by score"] = result
    return draws.cache["by score"]
