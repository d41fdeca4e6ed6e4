"""The verdict of a calibration in words: which quantity is off, and in which way.

Each test quantity has one p-value, of `ppl.diagnostics.uniformity`. They are many and correlated,
so they are adjusted by Bonferroni's inequality, which holds whatever the correlation. Half of the
level goes to the joint quantities (log likelihood, log prior, log density, and the user's own), the
other half to the scalars of the draws, however many: a scale that is wrong everywhere by little
shows in the joint ones, d of its parts at once, long before it shows in any one of them.

How the truth ranks among the draws says what is wrong with the draws. Truths that rank high: the
draws are too low. Truths that crowd at both ends: the draws are too narrow, too sure of themselves.
With normal scores z of the ranks, mean(z) is the shift in standard deviations of the posterior, and
sd(z) the factor by which the draws are too narrow, exactly so for Gaussians.

A fit that failed (a chain that never moved, chains that disagree, draws that are not finite) keeps
its rank: leaving it out would let a sampler choose the data it is judged by. More than one in
twenty, and the verdict is that the sampler fails on this model.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ppl.diagnostics.findings import Finding, Measure, Status, Verdict
from ppl.diagnostics.uniformity import Uniformity, uniformity

MIN_SIMULATIONS = 50
MIN_EFFECTIVE = 20  # thinned draws behind a rank, in the median fit
MAX_FAILED = 0.05
SHARE = 0.5  # of the level, for each of the two kinds of quantities


def table_of(ranks: Any, joint: np.ndarray, level: float) -> Any:
    """One row a quantity: p-value adjusted for all, shift and spread of its draws, and words.

    Parameters
    ----------
    ranks
        DataFrame (simulation, quantity) of ranks as fractions; NaN where the truth is not a number.
    joint
        Which columns are joint quantities.
    level
        Probability at most, when all ranks are uniform, that any adjusted p-value is as low.
    """
    import pandas as pd

    kinds = np.where(joint, "joint", "value")
    rows = []
    for kind, label in zip(kinds, ranks.columns, strict=True):
        u = ranks[label].to_numpy()
        u = u[np.isfinite(u)]
        test = uniformity(u) if len(u) else Uniformity(1.0, 0.0, 1.0, "band")
        p_value = min(1.0, test.p_value / _weight(kinds, kind))
        words = described(label, kind, test, u) if p_value <= level else ""
        rows.append((label, kind, len(u), p_value, -test.shift, 1 / max(test.spread, 1e-9), words))
    columns = ["quantity", "kind", "ranks", "p_value", "shift", "width", "verdict"]
    return pd.DataFrame(rows, columns=columns).set_index("quantity")


def _weight(kinds: Any, kind: str) -> float:
    """Share of the level that one quantity of a kind gets."""
    kinds = np.asarray(kinds)
    return (SHARE if len(set(kinds)) > 1 else 1.0) / max(1, int((kinds == kind).sum()))


def rate_of(table: Any, kind: str, level: float) -> float:
    """Level at which each quantity of a kind is tested."""
    return level * _weight(table["kind"], kind)


def described(label: str, kind: str, test: Uniformity, u: np.ndarray) -> str:
    """Say in which way the draws of a quantity are off, from the ranks of the truths."""
    error = 1 / math.sqrt(len(u))  # of a mean of normal scores; of their spread about 0.7 of it
    shifted = abs(test.shift) > 3 * error
    scaled = abs(test.spread - 1) > 2.5 * error
    if kind == "joint" and shifted:
        return f"{label} of the draws is too {'low' if test.shift > 0 else 'high'}"
    parts = []
    if scaled:
        narrow = test.spread > 1
        percent = abs(1 - 1 / test.spread) if narrow else 1 / test.spread - 1
        parts.append(f"too {'narrow' if narrow else 'wide'} by about {percent:.0%}")
    if shifted:
        side = "low" if test.shift > 0 else "high"
        parts.append(f"too {side} by about {abs(test.shift):.2g} posterior standard deviations")
    if not parts:
        low, high = np.mean(u < 0.1), np.mean(u > 0.9)
        parts.append(
            f"of another shape (a tenth of the truths should lie below, and above, nine tenths of "
            f"the draws; {low:.0%} and {high:.0%} do)"
        )
    return f"draws of {label} are {' and '.join(parts)}"


def shown(p_value: Any) -> str:
    """A p-value in words; rounding leaves nothing of those below 1e-12."""
    return f"p = {p_value:.2g}" if p_value > 1e-12 else "p < 1e-12"


def judge(
    table: Any,
    effective: Any,
    fits: Any,
    level: float,
    settings: dict[str, Any],
    notes: list[str],
) -> Verdict:
    """Judge what `table_of` found, together with the fits it rests on."""
    import pandas as pd

    off = table[table["p_value"] <= level].sort_values("p_value")
    measures: list[Measure] = []
    findings = [
        *_off(table, off, level, settings, measures),
        *_failed(fits, measures),
        *_enough(fits, effective, off, measures),
        *_diverging(fits, measures),
        *(Finding("note", note) for note in notes),
    ]
    order = ("bad", "unknown", "caution", "note")
    findings.sort(key=lambda f: order.index(f.weight))
    heaviest = findings[0].weight if findings else "note"
    status: Status = "good" if heaviest == "note" else heaviest
    if status != "bad":
        findings.append(Finding("note", _could_see(table, len(fits), level)))
    number = f"{len(fits)} simulation{'' if len(fits) == 1 else 's'}"
    headline = {
        "good": f"Calibrated: nothing in {number} speaks against this sampler on this model.",
        "caution": f"Calibrated in {number}, with remarks.",
        "unknown": f"Cannot be judged from {number}.",
        "bad": f"Not calibrated: in {number} this sampler does not recover what the model "
        "generates.",
    }[status]
    frame = pd.DataFrame(measures, columns=list(Measure._fields)).set_index("name")
    advice = list(dict.fromkeys(f.advice for f in findings if f.advice))
    return Verdict(status, headline, [f.reason for f in findings], advice, frame)


# Findings -------------------------------------------------------------------------------------


def _off(
    table: Any, off: Any, level: float, settings: dict[str, Any], measures: list[Measure]
) -> Iterator[Finding]:
    least = table["p_value"].min() if len(table) else 1.0
    where = str(table["p_value"].idxmin()) if len(table) else ""
    measures.append(
        Measure("least adjusted p-value", float(least), f"> {level:g}", bool(least > level), where)
    )
    if len(off) == 0:
        return
    words = [f"{text} ({shown(p)})" for text, p in zip(off["verdict"], off["p_value"], strict=True)]
    more = f"; and {len(words) - 6} more" if len(words) > 6 else ""
    few = "quantities is" if len(off) == 1 else "quantities are"
    reason = f"{len(off)} of {len(table)} {few} off: {'; '.join(words[:6])}{more}."
    yield Finding("bad", reason[0].upper() + reason[1:], _advice(off, settings))
    if least > level / 20:
        yield Finding(
            "bad",
            f"Chance alone gives as much in one of {1 / least:,.0f} calibrations.",
            "Run again with another rng_key: a real fault comes back.",
        )


def _advice(off: Any, settings: dict[str, Any]) -> str:
    """The usual causes of what was seen, likeliest first."""
    if settings["exactness"] == "biased":
        return (
            f"{settings['sampler_name']} is biased: this is how much. Use smaller steps or more of "
            "them, or an exact sampler."
        )
    likelihood = off["shift"].get("log_likelihood", 0.0)
    prior = off["shift"].get("log_prior", off["shift"].get("log_prior (generator)", 0.0))
    if likelihood > 0:
        return (
            "The draws fit the data better than the truth does: a prior is missing or too weak, or "
            "data count more than once (twice in the density, or in the prior as well)."
        )
    if likelihood < 0:
        return (
            "The draws fit the data worse than the truth does: the sampler has not found the "
            "posterior (longer warm-up, smaller steps), draws too widely, or the likelihood that "
            "is fitted is not the one that generates."
        )
    width = off["width"][off["kind"] == "value"]
    if (width < 0.93).any() and not (width > 1.07).any():
        return (
            "The draws are too sure of themselves: data count more than once (two sites observe "
            "them, or a prior is computed from them), or the sampler does not reach the tails."
        )
    if (width > 1.07).any() and not (width < 0.93).any():
        return (
            "The draws are too wide: a scale is used as a variance or a precision, part of the "
            "data is not used, or steps are too large for a sampler without an accept step."
        )
    if prior:
        return (
            "Compare the prior that is fitted with the one that generates, site by site and "
            "log-Jacobians included. Where all widths are off alike, look for a scale."
        )
    return (
        "Compare the density with the generator term by term at one position. For constrained "
        "parameters look at the log-Jacobian: missing, or counted twice."
    )


def _failed(fits: Any, measures: list[Measure]) -> Iterator[Finding]:
    bad = fits[fits["failed"] != ""]
    share = len(bad) / len(fits)
    measures.append(Measure("failed fits", share, f"<= {MAX_FAILED}", share <= MAX_FAILED))
    if len(bad) == 0:
        return
    kinds = ", ".join(
        f"{reason} in {count}" for reason, count in bad["failed"].value_counts().items()
    )
    first = ", ".join(map(str, bad.index[:5]))
    yield Finding(
        "bad" if share > MAX_FAILED else "caution",
        f"{len(bad)} of {len(fits)} fits failed: {kinds} (simulations {first}"
        f"{', ...' if len(bad) > 5 else ''}). Their ranks are counted with the others.",
        "Look at one of these fits by itself: longer warm-up, another parametrization, or a "
        "narrower prior where the simulated data are extreme.",
    )


def _enough(fits: Any, effective: Any, off: Any, measures: list[Measure]) -> Iterator[Finding]:
    number, length = len(fits), float(effective.min(axis=1).median())
    enough = number >= MIN_SIMULATIONS
    measures.append(Measure("simulations", number, f">= {MIN_SIMULATIONS}", enough))
    plenty = length >= MIN_EFFECTIVE
    where = str(effective.median().idxmin())
    measures.append(Measure("effective draws", length, f">= {MIN_EFFECTIVE}", plenty, where))
    if len(off):
        return  # an alarm is one whatever the numbers: its p-value accounts for them
    if not enough:
        yield Finding(
            "unknown",
            f"{MIN_SIMULATIONS} simulations are needed for a pass; there are {number}.",
            "Run more simulations (num_simulations=200).",
        )
    if not plenty:
        yield Finding(
            "unknown",
            f"The median fit has {length:.0f} effective draws of {where}; {MIN_EFFECTIVE} are "
            "needed for a pass.",
            "Draw more in each fit (num_samples), or use a sampler that mixes better.",
        )


def _diverging(fits: Any, measures: list[Measure]) -> Iterator[Finding]:
    count = int((fits["divergences"] > 0).sum())
    many = int((fits["divergences"] > 0.02 * fits["draws"]).sum())
    if "divergences" not in fits or fits["r_hat"].isna().all():
        return
    measures.append(Measure("fits with divergences", count, "", None))
    if many > MAX_FAILED * len(fits):
        yield Finding(
            "caution",
            f"In {many} of {len(fits)} fits more than 2 % of the trajectories diverged.",
            "Reparametrize, or raise the target acceptance rate.",
        )


def _could_see(table: Any, number: int, level: float) -> str:
    """What these simulations would have shown in one parameter four times out of five."""
    from scipy import stats

    rate = rate_of(table, "value", level) / 8  # a quarter of it for either test, two-sided
    shift = (stats.norm.isf(rate) + stats.norm.isf(0.2)) / math.sqrt(number)
    # sum z^2 ~ s^2 chi-square: the s whose lower fifth reaches the limit.
    spread = math.sqrt(stats.chi2.isf(rate, number) / stats.chi2.ppf(0.2, number))
    return (
        f"In a single parameter they would have shown, four times out of five, a shift of "
        f"{shift:.2g} posterior standard deviations, or draws too narrow by {1 - 1 / spread:.0%}; "
        "in all parameters at once less, through the log density."
    )
