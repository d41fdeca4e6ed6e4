"""What speaks for and against chains: R-hat, effective sizes, divergences, energies."""

import math
from collections.abc import Iterator

import jax
import numpy as np

from ppl.diagnostics import bfmi as energy_fraction
from ppl.diagnostics.clusters import clusters
from ppl.diagnostics.divergences import concentration
from ppl.diagnostics.findings import (
    ESS_BAD,
    RHAT_BAD,
    RHAT_GOOD,
    Finding,
    Measure,
    counted,
    listed,
    listed_chains,
    stride,
)
from ppl.diagnostics.rhat_ess import ChainStatistics, chain_statistics, rhat
from ppl.diagnostics.table import scalars, statistics_of
from ppl.draws import Draws

MIN_DRAWS = 50  # a chain: fewer do not show their own autocorrelation

_FUNNEL = Finding(
    "bad",
    "Slow mixing, divergent trajectories and a low E-BFMI come together: each may be harmless, all "
    "three are what a funnel does, whose neck these draws have hardly entered.",
    "Write the hierarchy non-centered (theta = mu + tau * z, z ~ N(0, 1)); a smaller step size "
    "alone does not help.",
)


def of_chains(draws: Draws, measures: list[Measure]) -> Iterator[Finding]:
    """Findings on Markov chains; their measures are appended."""
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
            f"{listed_chains(stuck)} never moved: every proposal was rejected.",
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
    every = stride(draws)
    labels, x = scalars(draws, keep_every=every)
    if every == 1:
        parts = [statistics_of(draws, name) for name in draws.names]
        columns = (np.concatenate(c) for c in zip(*parts, strict=True))
        return labels, x, ChainStatistics(*columns), None
    note = Finding("note", f"Judged by {len(labels):,} scalars, every {every}th of each array.")
    return labels, x, chain_statistics(x), note


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
        f"{counted(len(high), 'scalar')} of {len(labels)}: "
        f"{listed(f'{labels[i]} {r_hat[i]:.3g}' for i in high[:5])}.",
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
            "Run a longer warm-up and more draws; reparametrize what is strongly correlated or "
            "funnel-shaped (non-centered hierarchies), or let NUTS adapt a dense metric.",
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
                f"E-BFMI is {worst:.2f} (wanted: {limit}) in {listed_chains(low).lower()}: the "
                "energy changes little from draw to draw, so tails are explored slowly.",
                "Reparametrize heavy tails and funnels (non-centered hierarchies, scales on the "
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
    where = f" They concentrate where {listed(s.words for s in shifts)}." if shifts else ""
    yield Finding(
        "bad" if share > 0.02 else "caution",
        f"{counted(count, 'divergent trajectory', 'divergent trajectories')} after warm-up "
        f"({share:.2%}): the density curves more than the step size can follow, and regions "
        f"beyond may be missing from the draws.{where}",
        "Reparametrize where divergences concentrate (a non-centered hierarchy, if it is a scale), "
        "or raise the target acceptance rate (0.9, 0.95, 0.99) so that steps get smaller.",
    )
