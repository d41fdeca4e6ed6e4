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
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from ppl import weights
from ppl.diagnostics import bfmi as energy_fraction
from ppl.diagnostics.clusters import clusters
from ppl.diagnostics.divergences import concentration
from ppl.diagnostics.rhat_ess import ChainStatistics, chain_statistics, rhat
from ppl.diagnostics.stein import SteinTest, stein_test
from ppl.diagnostics.table import run_means, scalars, statistics_of
from ppl.diagnostics.virial import Virial, virial_test
from ppl.draws import Draws

MIN_DRAWS = 50  # a chain: fewer do not show their own autocorrelation
MIN_INDEPENDENT = 25
MAX_SCALARS = 5000
RHAT_GOOD, RHAT_BAD = 1.01, 1.05
ESS_BAD = 100
STEIN, VIRIAL = "stein p-value", "virial p-value"
# Of these two. A run that claims to be exact is not accused by one chance in a hundred.
LEVELS = {"biased": (0.01, 1e-3), "asymptotically exact": (0.001, 1e-4), "exact": (0.001, 1e-4)}
MAX_STEIN_DRAWS, MAX_SCORE_DIMENSION = 1000, 500

type Status = Literal["good", "caution", "bad", "unknown"]
_ORDER = ("note", "good", "caution", "unknown", "bad")


class Finding(NamedTuple):
    """One thing that was seen, how heavily it counts, and what to do about it."""

    weight: Literal["note", "caution", "bad", "unknown"]
    reason: str
    advice: str = ""


class Measure(NamedTuple):
    """One row of the verdict's table; ``passed`` is None where there is no limit."""

    name: str
    value: float
    wanted: str
    passed: bool | None
    where: str = ""


class Verdict(NamedTuple):
    """A judgement.

    Attributes
    ----------
    status
        ``"good"``, ``"caution"``, ``"bad"``, or ``"unknown"`` where there is too little to judge.
    headline
        One sentence.
    reasons
        Why, heaviest first.
    advice
        What to do, in the same order.
    table
        pandas DataFrame, a row per measure: value, wanted, passed, where.
    """

    status: Status
    headline: str
    reasons: list[str]
    advice: list[str]
    table: Any


def judge(draws: Draws) -> Verdict:
    """Judge a run by what its kind of draws can show."""
    measures: list[Measure] = []
    if draws.run.kind == "resampled":
        findings = [_RESAMPLED]
    elif draws.run.kind == "markov":
        findings = list(_chains(draws, measures))
    else:
        findings = list(_population(draws, measures))
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


_FUNNEL = Finding(
    "bad",
    "Slow mixing, divergent trajectories and a low E-BFMI come together: each may be harmless, all "
    "three are what a funnel does, whose neck these draws have hardly entered.",
    "Write the hierarchy non-centred (theta = mu + tau * z, z ~ N(0, 1)); a smaller step size "
    "alone does not help.",
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
                f"{name} is not finite in {_count(count, 'number')} ({share:.2%}); its moments "
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
    dimension = sum(math.prod(leaf.shape[2:]) for leaf in _leaves(draws))
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


# Chains ---------------------------------------------------------------------------------------


def _chains(draws: Draws, measures: list[Measure]) -> Iterator[Finding]:
    if draws.num_samples < MIN_DRAWS:
        yield Finding(
            "unknown",
            f"{MIN_DRAWS} draws in each chain are needed for R-hat and effective sizes; there are "
            f"{draws.num_samples}.",
            "Run longer.",
        )
        return
    labels, x, statistics, note = _judged(draws)
    if note:
        yield note
    stuck = stuck_chains(draws)
    if stuck:
        yield Finding(
            "bad",
            f"{_listed_chains(stuck)} never moved: every proposal was rejected.",
            "Use a smaller step size or a longer warm-up, and look at the density near where the "
            "chain stands: it may be the edge of a region of -inf, or a gradient may be wrong.",
        )
    if (x == x[:1, :1]).all(axis=(0, 1)).all():
        if not stuck:
            yield Finding("unknown", "No value varies, so there is nothing to judge.")
        return
    disagreements = list(_mixing(draws, labels, x, statistics, measures))
    yield from disagreements
    mixed = all(finding.weight != "bad" for finding in disagreements)
    scarce = list(_effective(draws, labels, statistics, measures, mixed=mixed))
    yield from scarce
    trajectories = list(_hamiltonian(draws, labels, x, measures))
    yield from trajectories
    failed = {measure.name for measure in measures if measure.passed is False}
    if (disagreements or scarce) and {"divergences", "bfmi"} <= failed:
        yield _FUNNEL
    if draws.num_chains == 1:
        yield Finding(
            "caution",
            "There is one chain. It agrees with itself or not; whether chains from elsewhere "
            "would find other modes cannot be known.",
            "Run four chains (num_chains=4).",
        )


def _judged(
    draws: Draws,
) -> tuple[list[str], np.ndarray, ChainStatistics, Finding | None]:
    """Scalars to judge and their statistics: all, or evenly spaced ones of very many."""
    stride = _stride(draws)
    labels, x = scalars(draws, keep_every=stride)
    if stride == 1:
        parts = [statistics_of(draws, name) for name in draws.names]
        columns = (np.concatenate(c) for c in zip(*parts, strict=True))
        return labels, x, ChainStatistics(*columns), None
    note = Finding("note", f"Judged by {len(labels):,} scalars, every {stride}th of each array.")
    return labels, x, chain_statistics(x), note


def _stride(draws: Draws) -> int:
    total = sum(math.prod(x.shape[2:]) for x in draws.values.values())
    return max(1, -(-total // MAX_SCALARS))


def stuck_chains(draws: Draws) -> list[int]:
    """Chains that never moved."""
    leaves = jax.tree.leaves(draws.positions)
    still = np.ones(draws.num_chains, bool)
    for leaf in leaves:
        still &= (leaf == leaf[:, :1]).reshape(draws.num_chains, -1).all(axis=1)
    return np.flatnonzero(still).tolist() if leaves else []


def _mixing(
    draws: Draws,
    labels: list[str],
    x: np.ndarray,
    statistics: ChainStatistics,
    measures: list[Measure],
) -> Iterator[Finding]:
    r_hat = np.nan_to_num(statistics.r_hat, nan=1.0, posinf=np.inf)
    worst = float(r_hat.max())
    measures.append(
        Measure("r_hat", worst, f"< {RHAT_GOOD}", worst < RHAT_GOOD, labels[int(r_hat.argmax())])
    )
    if worst < RHAT_GOOD:
        return
    high = np.argsort(-r_hat)[: (r_hat >= RHAT_GOOD).sum()]
    halves = " (its two halves)" if draws.num_chains == 1 else ""
    yield Finding(
        "bad" if worst >= RHAT_BAD else "caution",
        f"The chains disagree{halves}: R-hat is up to {worst:.3g} (wanted: below {RHAT_GOOD}), in "
        f"{_count(len(high), 'scalar')} of {len(labels)}: "
        f"{_listed(f'{labels[i]} {r_hat[i]:.3g}' for i in high[:5])}.",
        "" if worst >= RHAT_BAD else "Run more draws: R-hat is only a little too high.",
    )
    if worst < RHAT_BAD:
        return
    apart = clusters(labels, x)
    later = x[:, x.shape[1] // 2 :]
    settled = float(np.nan_to_num(rhat(later), nan=1.0, posinf=np.inf).max()) < RHAT_GOOD
    if settled:
        yield Finding(
            "bad",
            "The second half of the draws agrees with itself, the first does not: the chains were "
            "still on their way when sampling began.",
            f"Use a longer warm-up (num_warmup was {draws.run.num_warmup}).",
        )
    elif apart:
        yield Finding(
            "bad",
            f"The chains stand in {len(apart.members)} clusters: {apart.words}. Either the target "
            "has several modes, or the chains have not begun to mix.",
            "If the modes are real, use a sampler that moves between them (tempered SMC, parallel "
            "tempering); the weight of each mode is not the share of chains in it. If they mirror "
            "each other, order or fix the parameters that can be swapped.",
        )
    else:
        yield Finding(
            "bad",
            "The chains move too slowly to have seen the same region.",
            "Run a longer warm-up and more draws; reparametrise what is strongly correlated or "
            "funnel-shaped (non-centred hierarchies), or let NUTS adapt a dense metric.",
        )


def _effective(
    draws: Draws,
    labels: list[str],
    statistics: ChainStatistics,
    measures: list[Measure],
    *,
    mixed: bool,
) -> Iterator[Finding]:
    wanted = min(100 * draws.num_chains, 400)
    for name, words in (("ess_bulk", "means"), ("ess_tail", "5 % and 95 % quantiles")):
        sizes = np.nan_to_num(getattr(statistics, name), nan=np.inf)
        worst, where = float(sizes.min()), labels[int(sizes.argmin())]
        measures.append(Measure(name, worst, f">= {wanted}", worst >= wanted, where))
        if worst >= wanted:
            continue
        factor = math.ceil(wanted / max(worst, 1))
        yield Finding(
            "bad" if worst < ESS_BAD else "caution",
            f"Too few effective draws for {words}: {worst:.0f} (wanted: {wanted}), in {where}.",
            # More draws do not help chains that disagree; what R-hat advises does.
            f"Run about {factor} times as many draws." if mixed else "",
        )


def _hamiltonian(
    draws: Draws, labels: list[str], x: np.ndarray, measures: list[Measure]
) -> Iterator[Finding]:
    sizes = (draws.num_chains, draws.num_samples)
    stats = {k: v for k, v in draws.stats.items() if v.shape == sizes}
    if "diverging" in stats:
        yield from _divergent(draws, stats["diverging"].astype(bool), labels, x, measures)
    if "energy" in stats:
        fractions = energy_fraction.bfmi(stats["energy"])
        worst = float(np.nanmin(fractions)) if np.isfinite(fractions).any() else math.nan
        limit = energy_fraction.THRESHOLD
        measures.append(Measure("bfmi", worst, f">= {limit}", not worst < limit))
        if worst < limit:
            low = np.flatnonzero(fractions < limit).tolist()
            yield Finding(
                "caution",
                f"E-BFMI is {worst:.2f} (wanted: {limit}) in {_listed_chains(low).lower()}: the "
                "energy changes little from draw to draw, so tails are explored slowly.",
                "Reparametrise heavy tails and funnels (non-centred hierarchies, scales on the "
                "log scale); more draws help little.",
            )
    if "reached_max_treedepth" in stats:
        share = float(stats["reached_max_treedepth"].mean())
        measures.append(Measure("reached_max_treedepth", share, "< 0.01", share < 0.01))
        if share >= 0.01:
            yield Finding(
                "note",
                f"{share:.1%} of the trajectories reached the largest tree depth: a matter of "
                "speed, not of truth.",
                "Raise the largest tree depth, or improve the metric by a longer warm-up.",
            )
    if "acceptance_rate" in stats:
        rate = float(np.nanmean(np.minimum(stats["acceptance_rate"], 1.0)))
        measures.append(Measure("acceptance_rate", rate, ">= 0.05", rate >= 0.05))
        if rate < 0.05:
            yield Finding(
                "caution",
                f"Only {rate:.1%} of the proposals were accepted.",
                "Use a smaller step size, or a longer warm-up if the sampler tunes it.",
            )


def _divergent(
    draws: Draws,
    diverging: np.ndarray,
    labels: list[str],
    x: np.ndarray,
    measures: list[Measure],
) -> Iterator[Finding]:
    count, share = int(diverging.sum()), float(diverging.mean())
    hamiltonian = "energy" in draws.stats or "energy_change" in draws.stats
    if not hamiltonian:
        measures.append(Measure("proposals without density", count, "", None))
        if share > 0.1:
            yield Finding(
                "note",
                f"{share:.0%} of the proposals had no finite density and were rejected.",
                "Give the target its support (support=...), so that proposals stay inside.",
            )
        return
    measures.append(Measure("divergences", count, "0", count == 0))
    if count == 0:
        return
    shifts = [s for s in concentration(labels, x, diverging)[:3] if abs(s.shift) > 0.5]
    where = f" They concentrate where {_listed(s.words for s in shifts)}." if shifts else ""
    yield Finding(
        "bad" if share > 0.02 else "caution",
        f"{_count(count, 'divergent trajectory', 'divergent trajectories')} after warm-up "
        f"({share:.2%}): the density curves more than the step size can follow, and regions "
        f"beyond may be missing from the draws.{where}",
        "Reparametrise where divergences concentrate (a non-centred hierarchy, if it is a scale), "
        "or raise the target acceptance rate (0.9, 0.95, 0.99) so that steps get smaller.",
    )


# Weighted, independent and learned draws --------------------------------------------------------


def _population(draws: Draws, measures: list[Measure]) -> Iterator[Finding]:
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
        yield Finding("caution", f"{_listed_chains(dead, 'Run')} ended without any weight.")
    khat = weights.pareto_khat(log_weights)
    limit = weights.khat_threshold(log_weights.size)
    measures.append(Measure("khat", khat, f"< {limit:.2f}", bool(khat < limit)))
    advice = "Use a proposal with heavier tails, or anneal from the reference (tempered SMC)."
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
            f"Draw about {math.ceil(400 / size)} times as many, or use a better proposal.",
        )


def _particles(draws: Draws, measures: list[Measure]) -> Iterator[Finding]:
    labels, x = scalars(draws, keep_every=_stride(draws))
    rows = np.concatenate(
        [leaf.reshape(-1, math.prod(leaf.shape[2:])) for leaf in _leaves(draws)], 1
    )
    share = len(np.unique(rows, axis=0)) / len(rows)
    measures.append(Measure("distinct particles", share, ">= 0.5", share >= 0.5))
    if share < 0.5:
        yield Finding(
            "bad" if share < 0.05 else "caution",
            f"Only {share:.0%} of the particles differ: the moves after resampling hardly moved.",
            "More or better moves between temperatures, or more particles.",
        )
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


def _leaves(draws: Draws) -> list[np.ndarray]:
    return jax.tree.leaves(draws.positions)


# Words ----------------------------------------------------------------------------------------


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _listed(parts: Iterator[str]) -> str:
    return ", ".join(parts)


def _listed_chains(chains: list[int], unit: str = "Chain") -> str:
    numbers = ", ".join(map(str, chains))
    return f"{unit} {numbers}" if len(chains) == 1 else f"{unit}s {numbers}"
