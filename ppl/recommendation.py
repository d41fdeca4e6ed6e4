"""Which of several samplers to use on one target, and what speaks against the others.

First, who is right. Against a reference: a sampler whose answers (means and tail probabilities, see
`ppl.diagnostics.agreement`) differ by more than the tolerance, by more than chance explains, is
wrong; so is one whose log Z is not the known one. Without a reference, in this order:

1. what its own diagnostics condemn: R-hat, effective size, k-hat, divergences, failures;
2. who has missed a region of high density that another one has found;
3. whose log Z is below another one's: estimates that miss mass are low;
4. a biased sampler that disagrees with an exact one; among exact ones the lone dissenter, who
   disagrees with more of the others than anybody else. Where two stand against each other, both
   are out: nothing says who is right.

Then, who is fast: the least effective sample size over the scalars, per evaluation (per second,
where the budget is in seconds), over all that was spent. Samplers whose difference is within the
noise from key to key are tied.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from jaxtyping import Float

from ppl.diagnostics.agreement import Answers, Yardstick, z_limit
from ppl.diagnostics.findings import ESS_BAD, RHAT_BAD
from ppl.diagnostics.missed import MATERIAL, missed_share
from ppl.standing import Standing

DIVERGENT = 0.02  # share of divergent draws from which on chains are not to be trusted
EVIDENCE_SCORE = 4.0
TIE_LEVEL = 0.05
NEGLIGIBLE = 0.05  # difference that nobody chooses a sampler for
SINGLE_RUN = 0.2  # with one run there is no noise to measure: differences up to this are ties


@dataclass(frozen=True)
class Recommendation:
    """What to use, in words. ``str`` gives all of it.

    Attributes
    ----------
    sampler
        Name of the one to use; None where none can be recommended.
    tied
        Names of those that are as fast within the noise from key to key, the first one included.
    headline
        One sentence.
    why
        What speaks for it.
    against
        What speaks against each of the others, by name.
    advice
        What to do next; empty where there is nothing to do.
    """

    sampler: str | None
    tied: tuple[str, ...]
    headline: str
    why: str = ""
    against: Mapping[str, str] = field(default_factory=dict)
    advice: str = ""

    def __str__(self) -> str:
        first = " ".join(part for part in (self.headline, self.why) if part)
        lines = [first, *(f"{name}: {why}" for name, why in self.against.items())]
        return "\n".join([*lines, self.advice] if self.advice else lines)


# Who is right ---------------------------------------------------------------------------------


def trouble(standing: Standing, *, with_reference: bool) -> str:
    """What a sampler's own diagnostics say against it; empty: nothing."""
    failures, total = standing.failures, len(standing.trials)
    if failures:
        share = "" if len(failures) == total else f" with {len(failures)} of {total} keys"
        return f"failed{share}: {failures[0]}"
    if standing.broken:
        return f"{standing.broken:.2%} of its draws are not finite"
    if standing.are_chains:
        if not standing.r_hat < RHAT_BAD:
            return (
                f"its chains disagree: R-hat is {standing.r_hat:.3g}, over all keys together "
                f"(wanted: below {RHAT_BAD})"
            )
        size, divergent = float(standing.ess[:, 0].sum()), standing.divergences or 0
        draws = sum(each.num_chains * each.num_samples for each in standing.runs)
        if size < ESS_BAD:
            return f"too few effective draws to say anything: {size:.0f} in all runs together"
        if divergent > DIVERGENT * draws and not with_reference and _hamiltonian(standing):
            return f"{divergent / draws:.1%} of its trajectories diverged"
        return ""
    if standing.is_weighted:
        if math.isnan(standing.khat):
            return "too few of its draws carry weight to say anything"
        if not standing.khat < standing.khat_limit:
            return (
                f"its weights have a heavy tail: k-hat is {standing.khat:.2f} (wanted: below "
                f"{standing.khat_limit:.2f})"
            )
        size = float(standing.ess[:, 0].sum())
        if size < ESS_BAD:
            return f"its weighted draws are worth {size:.0f} in all runs together"
    return ""


def _hamiltonian(standing: Standing) -> bool:
    return all("energy" in r.stats or "energy_change" in r.stats for r in standing.runs)


def wrong(answers: Answers, labels: Sequence[str], tolerance: float) -> str:
    """The worst answer beyond tolerance and chance, in words; empty: none."""
    scores, limit = np.abs(answers.scores), z_limit(answers.number)
    with np.errstate(invalid="ignore"):
        bad = (np.abs(answers.bias) > tolerance) & (scores > limit)
    if not bad.any():
        return ""
    kind, scalar = divmod(int(np.where(bad, np.abs(answers.bias), -1).argmax()), bad.shape[1])
    words = ("its mean", "the share below its 5 % quantile", "the share below its median",
             "the share below its 95 % quantile")  # fmt: skip
    return (
        f"{words[kind]}, of {labels[scalar]}, is off by {abs(answers.bias[kind, scalar]):.2g} sd "
        f"({scores[kind, scalar]:.0f} standard errors)"
    )


def worst_bias(answers: Answers) -> tuple[float, float]:
    """Largest bias and largest score, absolute."""
    if not answers.number:
        return math.nan, math.nan
    return float(np.nanmax(np.abs(answers.bias))), float(np.nanmax(np.abs(answers.scores)))


def against_reference(
    standings: Sequence[Standing],
    yardstick: Yardstick,
    points: tuple[np.ndarray, np.ndarray] | None,
    log_normalizer: float | None,
    tolerance: float,
) -> dict[str, str]:
    """Reasons against those that are not right; ``points``: positions of the reference."""
    reasons: dict[str, str] = {}
    for each in standings:
        reason = trouble(each, with_reference=True) if each.runs else _failed(each)
        if not reason:
            reason = wrong(each.answers(yardstick), yardstick.labels, tolerance)
            reason = f"its answer is not the reference's: {reason}" if reason else ""
        evidence = each.log_evidence if each.runs else None
        if not reason and evidence is not None and log_normalizer is not None:
            gap = evidence.value - log_normalizer
            if abs(gap) > max(tolerance, EVIDENCE_SCORE * (evidence.std_error or math.inf)):
                reason = f"its log Z is off by {gap:+.2f} (known: {log_normalizer:.2f})"
        if reason and points is not None and each.runs and not each.failures:
            share, _ = missed_share(*each.points, *points)
            if share > MATERIAL:
                reason += f"; it has missed a region that holds {share:.0%} of the reference"
        if reason:
            reasons[each.name] = reason
    return reasons


def among_themselves(standings: Sequence[Standing], tolerance: float) -> dict[str, str]:
    """Reasons against those that are not right, without a reference."""
    reasons = {
        e.name: trouble(e, with_reference=False) if e.runs else _failed(e) for e in standings
    }
    witnesses = [each for each in standings if each.runs]
    for each in witnesses:
        if not reasons[each.name]:
            reasons[each.name] = _missed(each, [w for w in witnesses if w is not each])
    right = [each for each in witnesses if not reasons[each.name]]
    for each in right:
        reasons[each.name] = _low_evidence(each, right)
    right = [each for each in right if not reasons[each.name]]
    reasons |= _dissent(right, tolerance)
    return {name: reason for name, reason in reasons.items() if reason}


def _failed(standing: Standing) -> str:
    return f"failed: {standing.failures[0]}"


def _missed(standing: Standing, witnesses: Sequence[Standing]) -> str:
    if "gradient" not in standing.runs[0].target.offers:
        return ""  # distances between discrete positions mean little
    x, log_density = standing.points
    for witness in witnesses:
        y, other = witness.points
        share, middle = missed_share(x, log_density, y.reshape(-1, y.shape[2]), other.ravel())
        if share > MATERIAL:
            where = ", ".join(f"{value:.3g}" for value in middle[:3])
            more = ", ..." if len(middle) > 3 else ""
            return (
                f"it has missed a region that {witness.name} found, around ({where}{more}), where "
                f"the density is as high as where it has been: {share:.0%} of {witness.name}'s "
                "draws lie there"
            )
    return ""


def _low_evidence(standing: Standing, others: Sequence[Standing]) -> str:
    mine = standing.log_evidence
    if mine is None or mine.std_error is None:
        return ""
    for other in others:
        theirs = other.log_evidence
        if theirs is None or theirs.std_error is None:
            continue
        gap, error = theirs.value - mine.value, math.hypot(theirs.std_error, mine.std_error)
        if gap > max(0.1, EVIDENCE_SCORE * error):
            return f"its log Z is {gap:.2f} below that of {other.name}: it has missed mass"
    return ""


def _dissent(right: Sequence[Standing], tolerance: float) -> dict[str, str]:
    """Reasons from answers that differ among samplers that nothing else speaks against."""
    reasons: dict[str, str] = {}
    exact = [each for each in right if each.sampler.exactness != "biased"]
    judges = [(each, each.pool.yardstick()) for each in exact]
    apart: dict[tuple[str, str], str] = {}
    for (a, _), (b, yardstick) in combinations(judges, 2):
        difference = wrong(a.answers(yardstick), yardstick.labels, tolerance)
        if difference:
            apart[a.name, b.name] = difference
    while apart:
        # Whoever disagrees with more of the others than anybody else does is the dissenter.
        degree = {each.name: sum(each.name in pair for pair in apart) for each in exact}
        most = max(degree.values())
        out = [name for name, count in degree.items() if count == most]
        alone = len(out) == 1 and len(exact) - len(reasons) > 2
        for name in out:
            pair = next(pair for pair in apart if name in pair)
            others = [n for p in apart if name in p for n in p if n != name]
            reasons[name] = (
                f"it disagrees with {_listed(others)}, who agree with each other or with more of "
                f"the others: {apart[pair]}"
                if alone
                else f"it and {_listed(others)} disagree, and nothing says who is right: "
                f"{apart[pair]}"
            )
        apart = {pair: words for pair, words in apart.items() if not set(pair) & set(out)}
    for each in right:
        if each.sampler.exactness != "biased":
            continue
        trusted = [(j, y) for j, y in judges if j.name not in reasons]
        found = (wrong(each.answers(y), y.labels, tolerance) for _, y in trusted)
        words = next((text for text in found if text), "")
        if words:
            reasons[each.name] = f"it is biased, and disagrees with {trusted[0][0].name}: {words}"
        elif not trusted:
            reasons[each.name] = "it is biased, and there is no exact sampler to hold it against"
    return reasons


# Who is fast ----------------------------------------------------------------------------------


def efficiency(standing: Standing, *, by_seconds: bool) -> Float[np.ndarray, " run"]:
    """Least effective sample size per 1,000 evaluations, or per second, of each run."""
    if not standing.runs:
        return np.zeros(0)
    spent = standing.seconds if by_seconds else standing.evaluations / 1000
    with np.errstate(divide="ignore", invalid="ignore"):
        return standing.ess[:, 0] / spent


def recommend(
    standings: Sequence[Standing], reasons: Mapping[str, str], truth: str, *, by_seconds: bool
) -> Recommendation:
    """Rank those without a reason against them, and say why.

    Parameters
    ----------
    standings
        All samplers.
    reasons
        What speaks against those that are not right, by name.
    truth
        What "right" rests on, in words that follow "its answers".
    by_seconds
        Whether seconds count, or evaluations.
    """
    right = [each for each in standings if each.name not in reasons]
    if not right:
        return Recommendation(
            None,
            (),
            "None of the samplers can be recommended.",
            "None has given an answer that holds.",
            _failures_last(standings, reasons),
            _advice(standings),
        )
    figures = {each.name: efficiency(each, by_seconds=by_seconds) for each in right}
    order = sorted(right, key=lambda each: -float(_log_mean(figures[each.name])))
    best = order[0]
    tied = [e.name for e in order if e is best or _tied(figures[best.name], figures[e.name])]
    against = dict(reasons)
    for each in order[1:]:
        ratio = math.exp(_log_mean(figures[best.name]) - _log_mean(figures[each.name]))
        against[each.name] = (
            f"right, and as fast within the noise from key to key ({_times(ratio)})"
            if each.name in tied
            else f"right, but {_times(ratio)} slower"
        )
    unit = "second" if by_seconds else "1,000 evaluations"
    rate = math.exp(_log_mean(figures[best.name]))
    what = (
        "its draws are independent and cost no evaluations"
        if math.isinf(rate)
        else f"it gives {rate:.3g} effective draws per {unit}, for the scalar with the fewest"
    )
    text = f"Its answers {truth}, and {what}."
    if len(tied) > 1:
        verb = "is" if len(tied) == 2 else "are"
        text += f" {_listed(tied[1:])} {verb} as good within the noise."
    slower = {each.name: against[each.name] for each in order[1:]}
    ordered = slower | _failures_last(standings, reasons)
    return Recommendation(best.name, tuple(tied), f"Use {best.name}.", text, ordered)


def _failures_last(standings: Sequence[Standing], reasons: Mapping[str, str]) -> dict[str, str]:
    """Reasons by name, those of failures after the others."""
    named = [each for each in standings if each.name in reasons]
    named.sort(key=lambda each: bool(each.failures))
    return {each.name: reasons[each.name] for each in named}


def _log_mean(figures: Float[np.ndarray, " run"]) -> float:
    with np.errstate(divide="ignore"):
        return float(np.log(figures).mean())


def _tied(a: Float[np.ndarray, " run"], b: Float[np.ndarray, " run"]) -> bool:
    """Whether two means of logarithms differ by no more than the runs' noise: Student's test."""
    gap = abs(_log_mean(a) - _log_mean(b))
    if not math.isfinite(gap):
        return math.isinf(_log_mean(a)) and math.isinf(_log_mean(b))
    freedom = len(a) + len(b) - 2
    if freedom < 2:
        return gap < math.log1p(SINGLE_RUN)
    from scipy.special import stdtrit

    # One variance for both: two runs more decide than two variances from so few would let them.
    squares = sum(float(((np.log(x) - np.log(x).mean()) ** 2).sum()) for x in (a, b))
    error = math.sqrt(squares / freedom * (1 / len(a) + 1 / len(b)))
    return gap <= max(float(stdtrit(freedom, 1 - TIE_LEVEL / 2)) * error, math.log1p(NEGLIGIBLE))


def _times(ratio: float) -> str:
    return f"{ratio:.2g} times" if ratio < 100 else f"{ratio:,.0f} times"


def _advice(standings: Sequence[Standing]) -> str:
    imprecise = [e for e in standings if e.are_chains and not e.failures and e.r_hat < 1.2]
    if imprecise:
        return (
            "A larger budget may be enough for "
            f"{_listed([e.name for e in imprecise])}; if not, reparametrize the model."
        )
    return (
        "Add a sampler of another family: one that moves between modes (tempered SMC, parallel "
        "tempering), or an exact one with a smaller step size; or reparametrize the model."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
