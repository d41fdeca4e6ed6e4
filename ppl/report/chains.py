"""Sections about chains: whether they agree, whether they mix, whether they are long enough."""

import numpy as np

from ppl.diagnostics import rhat_ess
from ppl.report import plots
from ppl.report.blocks import Section, figure
from ppl.report.plots import MAX_CHAINS
from ppl.report.subject import Subject


def ranks(subject: Subject) -> Section | None:
    """Rank ECDFs of the chains."""
    if subject.is_empty or not subject.are_chains:
        return None
    caption = (
        "The draws of all chains are ranked together. Where chains agree, every chain holds its "
        "share of low, middle and high ranks and its line stays in the grey band (95% for all "
        "chains together, at this chain's effective sample size). Look for a line that leaves the "
        "band: a slope up at the left is a chain with too many low values, a wave is one that is "
        "too narrow or too wide."
    )
    if subject.draws.num_chains == 1:
        caption += " There is one chain: its two halves are compared."
    panels = [
        plots.rank(label, values, _chain_ess(values))
        for label, values in subject.chosen(subject.panel_rows)
    ]
    blocks = figure(panels, caption + subject.order, legend=subject.legend(halves=True))
    return Section("ranks", "Do the chains agree?", blocks) if blocks else None


def traces(subject: Subject) -> Section | None:
    """Values against the number of the draw."""
    if subject.is_empty or not subject.are_chains:
        return None
    diverging = subject.diverging
    caption = (
        "A chain that mixes looks like grass: the same height everywhere, no trend, no plateaus. "
        "Look for chains at different levels, slow waves, and flat stretches where a chain was "
        "stuck."
    )
    if subject.draws.num_samples > 280:
        caption += (
            " The strong lines are running means; behind them the draws, thinned so that the "
            "extremes of every stretch remain."
        )
    if diverging is not None and diverging.any():
        caption += " Red marks at the foot are divergences."
    panels = [
        plots.trace(label, values, diverging=diverging)
        for label, values in subject.chosen(subject.panel_rows)
    ]
    blocks = figure(panels, caption + subject.order, legend=subject.legend())
    return Section("traces", "Traces", blocks) if blocks else None


def ess_evolution(subject: Subject) -> Section | None:
    """Effective sample size as draws accumulate."""
    chains, size = subject.draws.num_chains, subject.draws.num_samples
    if subject.is_empty or not subject.are_chains or size < 16:
        return None
    ends = np.unique(np.linspace(size / 8, size, 8).astype(int))
    rows = subject.panel_rows
    if not rows:
        return None
    draws = np.stack([values for _, values in subject.chosen(rows)], -1)
    panels = [
        plots.ess_evolution(
            title,
            ends * chains,
            [subject.labels[row] for row in rows],
            np.stack([measure(draws[:, :end]) for end in ends]),
            subject.ess_wanted,
        )
        for title, measure in (("Bulk ESS", rhat_ess.ess_bulk), ("Tail ESS", rhat_ess.ess_tail))
    ]
    caption = (
        "Effective sample size of the first draws, then of more and more; a line a parameter, the "
        "least in color. Look for straight lines that end above the dashed one: a line that "
        "flattens or falls is a chain that finds new places late, and its ESS cannot be trusted."
    )
    blocks = figure(panels, caption)
    return Section("ess", "Effective sample size", blocks) if blocks else None


def _chain_ess(values: np.ndarray) -> float:
    """Mean effective sample size of the chains, each on its own: agreement is not presumed."""
    each = [rhat_ess.ess_bulk(chain[None, :, None])[0] for chain in values[:MAX_CHAINS]]
    each = [size for size in each if np.isfinite(size)]
    size = float(np.clip(np.mean(each), 2, values.shape[1])) if each else float(values.shape[1])
    return size / 2 if len(values) == 1 else size
