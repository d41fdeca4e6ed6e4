"""One set of draws as the report sees it: its scalars, their summary, and which are the worst."""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from ppl.diagnostics.convergence import judge
from ppl.diagnostics.findings import Verdict
from ppl.diagnostics.table import scalars
from ppl.draws import Draws
from ppl.report.blocks import Cell, Table, aligned, number, plural
from ppl.report.plots import MAX_CHAINS
from ppl.weights import khat_threshold

LEVELS = {"good": "good", "caution": "warn", "unknown": "unknown", "bad": "bad"}
MAX_SHOWN = 20
MAX_RANKED = 200  # Scalars among which the most conspicuous of some kind are looked for.
GROUP_BYTES = 2e8  # Of a predictive group: evenly spaced draws beyond that.


def checks_of(verdict: Verdict) -> Table:
    """What a verdict looked at."""
    rows = []
    for row in verdict.table.itertuples():
        marks = {True: Cell("passed", "good"), False: Cell("failed", "bad")}
        mark = Cell("–") if row.passed is None else marks[bool(row.passed)]
        name = str(row.Index).replace("_", " ")
        rows.append([Cell(name), Cell(number(row.value)), Cell(row.wanted), mark, Cell(row.where)])
    head = ["", "value", "wanted", "", "where"]
    return Table(head, rows, "", "What was checked")


class Subject:
    """Draws, with everything about them that more than one section needs, computed once.

    Attributes
    ----------
    name
        What they are called beside others; empty for draws that are alone on the page.
    prefix
        Of the anchors of their sections, unique on the page.
    truth
        What the draws should have found, where that is known.
    """

    def __init__(self, draws: Draws, name: str = "", prefix: str = "", truth: Any = None):
        self.draws, self.name, self.prefix, self.truth = draws, name, prefix, truth

    @cached_property
    def verdict(self) -> Verdict:
        """The judgement in words."""
        return judge(self.draws)

    @property
    def level(self) -> str:
        """Class of the verdict, which gives its color and sign: good, warn, unknown or bad."""
        return LEVELS[self.verdict.status]

    @property
    def checks(self) -> Table:
        """What the verdict looked at."""
        return checks_of(self.verdict)

    @cached_property
    def summary(self) -> Any:
        """The summary of the draws, a row a scalar."""
        return self.draws.summary()

    @cached_property
    def _scalars(self) -> tuple[list[str], np.ndarray]:
        return scalars(self.draws)

    @property
    def labels(self) -> list[str]:
        """Names of the scalars, as the rows of the summary are called."""
        return self._scalars[0]

    def scalar(self, row: int) -> np.ndarray:
        """Draws of the scalar of one row of the summary, (chain, draw)."""
        return self._scalars[1][:, :, row]

    @cached_property
    def places(self) -> list[tuple[str, int]]:
        """For each row the name of its value, and the index in the flattened value."""
        return [
            (name, index)
            for name in self.draws.names
            for index in range(
                math.prod(self.draws[name].shape[2:]) * (1 + np.iscomplexobj(self.draws[name]))
            )
        ]

    @cached_property
    def is_empty(self) -> bool:
        """Whether there is nothing to summarize."""
        return self.draws.num_samples == 0 or not self.labels

    @cached_property
    def weights(self) -> np.ndarray | None:
        """Normalized weights, (chain, draw); None for draws that count the same."""
        if self.draws.log_weights is None:
            return None
        with np.errstate(invalid="ignore"):
            weights = np.exp(self.draws.pooled_log_weights())
        return np.where(np.isfinite(weights), weights, 0.0)

    @cached_property
    def are_chains(self) -> bool:
        """Whether R-hat, ranks and traces mean something: unweighted draws of a Markov chain."""
        return self.weights is None and self.draws.run.kind == "markov"

    @property
    def unit(self) -> str:
        """What the first axis counts."""
        return "chain" if self.draws.run.kind == "markov" else "run"

    @property
    def ess_wanted(self) -> float:
        """The effective sample size that the verdict asks for."""
        return min(100.0 * self.draws.num_chains, 400.0) if self.are_chains else 400.0

    @property
    def khat_limit(self) -> float:
        """The k-hat from which on the weights are too heavy-tailed for their number."""
        return khat_threshold(self.draws.num_chains * self.draws.num_samples)

    @cached_property
    def diverging(self) -> np.ndarray | None:
        """Which draws ended a divergent trajectory, (chain, draw); None when it is not known."""
        flags = self.draws.stats.get("diverging")
        shape = (self.draws.num_chains, self.draws.num_samples)
        return None if flags is None or flags.shape != shape else flags.astype(bool)

    def column(self, name: str) -> np.ndarray:
        """A column of the summary; NaN where the summary has none."""
        if name not in self.summary:
            return np.full(len(self.summary), np.nan)
        return self.summary[name].to_numpy(np.float64)

    @cached_property
    def ranking(self) -> np.ndarray:
        """Rows of the summary, worst first: by R-hat and by effective sample size."""
        r_hat, badness = self.column("r_hat"), np.full(len(self.summary), -np.inf)
        badness = np.fmax(badness, (r_hat - 1) / 0.01)
        with np.errstate(divide="ignore"):
            for name in ("ess_bulk", "ess_tail", "ess"):
                badness = np.fmax(badness, 400 / self.column(name))
        # A mean that is not finite comes from draws that are not: nothing is worse.
        badness = np.where(np.isfinite(self.column("mean")), badness, np.inf)
        return np.argsort(-badness, kind="stable")

    @cached_property
    def shown(self) -> list[int]:
        """Rows that get a line in the table: all in their order, or the worst of too many."""
        if len(self.summary) <= MAX_SHOWN:
            return list(range(len(self.summary)))
        return self.ranking[:MAX_SHOWN].tolist()

    def worst(self, keep: int) -> list[int]:
        """The worst rows, without those that do not vary."""
        varying = (row for row in self.ranking.tolist() if np.ptp(self.scalar(row)) != 0)
        return [row for row, _ in zip(varying, range(keep), strict=False)]

    def chosen(self, rows: list[int]) -> Iterator[tuple[str, np.ndarray]]:
        """Labels and draws of some rows."""
        for row in rows:
            yield self.labels[row], self.scalar(row)

    @property
    def panel_rows(self) -> list[int]:
        """Rows that get a chart of their own, worst first."""
        return self.worst(MAX_SHOWN)

    @property
    def order(self) -> str:
        """A closing sentence for the captions of such charts."""
        return " The worst parameters come first." if len(self.labels) > 9 else ""

    def legend(self, *, halves: bool = False) -> list[tuple[str, str]]:
        """Colors of the chains; ``halves``: of the halves of a single one."""
        chains = self.draws.num_chains
        if chains == 1:
            return [("c0", "first half"), ("c1", "second half")] if halves else []
        if chains > MAX_CHAINS:
            text = f"{MAX_CHAINS} of {plural(chains, self.unit)}: those farthest from the rest"
            return [("c0", text)]
        return [(f"c{chain}", f"{self.unit} {chain}") for chain in range(chains)]

    @property
    def evidence(self) -> str:
        """The log evidence with its error and bounds; empty when there is none."""
        estimate = self.draws.log_evidence
        if estimate is None:
            return ""
        error = estimate.std_error
        text = aligned(estimate.value, math.nan if error is None else error)
        if error is not None:
            text += f" ± {number(error, 2)}"
        bounds = (estimate.lower, estimate.upper)
        if bounds != (None, None):
            words = ("?" if bound is None else number(bound, 4) for bound in bounds)
            text += f", between {' and '.join(words)}"
        return text

    @cached_property
    def tree(self) -> Any:
        """The draws as ArviZ sees them, for prior and predictive groups."""
        groups = ("prior", "prior_predictive", "posterior_predictive")
        return self.draws.to_arviz(max_bytes=GROUP_BYTES, groups=groups)

    def group(self, name: str) -> dict[str, np.ndarray]:
        """Arrays of a group of the tree, (chain, draw, ...); empty when there is no such group."""
        if name not in self.tree.children:
            return {}
        return {str(k): v.to_numpy() for k, v in self.tree[name].dataset.data_vars.items()}
