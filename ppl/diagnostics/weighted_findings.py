"""What speaks for and against weighted, independent and learned draws."""

import math
from collections.abc import Iterator

import numpy as np

from ppl import weights
from ppl.diagnostics.findings import ESS_BAD, Finding, Measure, leaves, listed_chains, stride
from ppl.diagnostics.table import run_means, scalars
from ppl.draws import Draws

MIN_INDEPENDENT = 25
# What to do about weights with a heavy tail, and about weights that are uneven, by kind of sampler.
ADVICE = {
    "direct": (
        "Use a proposal with heavier tails, or anneal from the reference (tempered SMC).",
        "use a better proposal",
    ),
    "learned": ("Train longer, and explore more while training.", "train longer"),
    "particle": (
        "More particles, and more steps on the way to the target.",
        "take more steps on the way to the target",
    ),
}


def of_population(draws: Draws, measures: list[Measure]) -> Iterator[Finding]:
    """Findings on draws that are no chains; their measures are appended."""
    size = draws.num_chains * draws.num_samples
    if size < MIN_INDEPENDENT:
        yield Finding(
            "unknown",
            f"{MIN_INDEPENDENT} draws are needed for a judgement; there are {size}.",
            "Draw more.",
        )
        return
    if draws.log_weights is not None:
        yield from _weighted(draws, measures)
    if draws.run.kind == "particle":
        yield from _particles(draws, measures)
    losses = draws.history.get("loss")
    if losses is not None and losses.size and not np.isfinite(losses[..., -1]).all():
        yield Finding(
            "bad",
            "The training loss was not finite at the end.",
            "Use a smaller learning rate, or clip gradients; look at the loss from the start.",
        )
    error = draws.log_evidence.std_error if draws.log_evidence is not None else None
    if error is not None:
        measures.append(Measure("log_evidence error", error, "< 0.5", error < 0.5))
        if not error < 0.5:
            yield Finding(
                "note",
                f"The log evidence is uncertain by {error:.2g}: only models further apart than "
                "about three times that can be told from each other.",
                "More particles, or more independent runs.",
            )


def _weighted(draws: Draws, measures: list[Measure]) -> Iterator[Finding]:
    raw = np.asarray(draws.log_weights, np.float64)
    illegal = int(weights.count_illegal(raw))
    if illegal:
        share = illegal / raw.size
        yield Finding(
            "bad" if share > 0.01 else "caution",
            f"{illegal} of {raw.size} log weights are NaN or +inf ({share:.2%}); they were counted "
            "as zero weight, so the evidence and the draws leave out wherever they came from.",
            "Find the positions whose density is NaN; write jnp.where so that no branch is NaN.",
        )
    log_weights = draws.pooled_log_weights().ravel()
    size = float(weights.ess(log_weights))
    largest = float(weights.max_weight(log_weights))
    measures.append(Measure("ess (Kish)", size, ">= 400", size >= 400))
    measures.append(Measure("max_weight", largest, "< 0.1", largest < 0.1))
    if size == 0:
        yield Finding(
            "bad",
            f"None of {raw.size} draws has weight: every density is zero or not a number where the "
            "sampler looked.",
            "Start from a reference that covers the target; check the support of the target.",
        )
        return
    dead = np.flatnonzero(~np.isfinite(weights.log_sum_exp(raw))).tolist()
    if dead:
        yield Finding("caution", f"{listed_chains(dead, 'Run')} ended without any weight.")
    khat = weights.pareto_khat(log_weights)
    limit = weights.khat_threshold(log_weights.size)
    measures.append(Measure("khat", khat, f"< {limit:.2f}", bool(khat < limit)))
    advice, better = ADVICE.get(draws.run.kind, ADVICE["direct"])
    if math.isnan(khat):
        yield Finding(
            "caution" if size >= ESS_BAD else "bad",
            "The tail of the weights cannot be fitted: too few draws carry weight, or many of "
            "them the same.",
            "Draw more.",
        )
    elif khat >= limit:
        meaning = (
            "their mean does not exist, so estimates and evidence are meaningless"
            if khat >= 1
            else "their variance does not exist, and estimates converge too slowly to be used"
        )
        yield Finding(
            "bad",
            f"The weights have a heavy tail: k-hat is {khat:.2f} (wanted: below {limit:.2f}); "
            f"{meaning}.",
            advice,
        )
    elif khat >= 0.5:
        # Smoothed weights would serve up to 0.7; these are used as they are.
        yield Finding(
            "caution",
            f"k-hat is {khat:.2f}: the variance of the weights does not exist, so that estimates "
            "converge slowly and their errors are too small.",
            advice,
        )
    if size < 400:
        yield Finding(
            "bad" if size < ESS_BAD else "caution",
            f"{raw.size} weighted draws are worth {size:.0f} (wanted: 400); the largest weight is "
            f"{largest:.1%}.",
            f"Draw about {math.ceil(400 / size)} times as many, or {better}.",
        )


def _particles(draws: Draws, measures: list[Measure]) -> Iterator[Finding]:
    labels, x = scalars(draws, keep_every=stride(draws))
    rows = np.concatenate(
        [leaf.reshape(-1, math.prod(leaf.shape[2:])) for leaf in leaves(draws)], 1
    )
    share = 1.0
    # Of discrete values equal ones are no copies: a law of few has few.
    if any(np.issubdtype(leaf.dtype, np.inexact) for leaf in leaves(draws)):
        share = len(np.unique(rows, axis=0)) / len(rows)
        measures.append(Measure("distinct particles", share, ">= 0.5", share >= 0.5))
    if share < 0.5:
        yield Finding(
            "bad" if share < 0.05 else "caution",
            f"Only {share:.0%} of the particles differ: the moves after resampling hardly moved.",
            "More or better moves between temperatures, or more particles.",
        )
    resampled = draws.history.get("resampled")
    if resampled is not None and not np.any(resampled):
        return  # each particle is a run by itself
    if draws.num_chains == 1:
        yield Finding(
            "note",
            "There is one run, and its particles share ancestors: errors in the table are lower "
            "bounds, and the error of the evidence is not known from it.",
            "Four independent runs (num_chains=4) give honest errors.",
        )
        return
    log_weights = np.zeros(x.shape[:2])
    if draws.log_weights is not None:
        log_weights = np.asarray(draws.log_weights, np.float64)
    means = run_means(x, log_weights)
    if len(means) < 4 or not labels:
        return
    sd = weights.sd(x.reshape(-1, x.shape[2]), draws.pooled_log_weights().ravel())
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.nan_to_num(means.std(axis=0, ddof=1) / sd)
    worst = int(spread.argmax())
    measures.append(
        Measure(
            "spread of run means / sd",
            float(spread[worst]),
            "< 0.3",
            spread[worst] < 0.3,
            labels[worst],
        )
    )
    if spread[worst] >= 0.3:
        yield Finding(
            "bad" if spread[worst] >= 1 else "caution",
            f"The runs disagree: the mean of {labels[worst]} varies by {spread[worst]:.2g} "
            "standard deviations from run to run.",
            "More particles; if the runs sit in different modes, more temperatures and a wider "
            "reference.",
        )
