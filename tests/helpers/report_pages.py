"""Made-up draws for tests of the report, and a reader of its HTML."""

from collections import Counter
from html.parser import HTMLParser
from typing import Any

import numpy as np
import xarray

from ppl.draws import Draws, Run


def make_draws(values: dict[str, Any], **changes: Any) -> Draws:
    """Draws as the driver would build them; ``run`` holds changes of the description."""
    values = {name: np.asarray(array) for name, array in values.items()}
    chains, samples = next(iter(values.values())).shape[:2]
    run: dict[str, Any] = {
        "sampler": "NUTS(step_size=0.41)",
        "sampler_name": "NUTS",
        "exactness": "exact",
        "kind": "markov",
        "target": "a target",
        "rng_key": {"data": [0, 7], "impl": "threefry2x32"},
        "num_chains": chains,
        "num_samples": samples,
        "num_warmup": 500,
        "thin": 1,
        "seconds": {"start": 0.1, "warmup": 1.5, "sample": 0.7, "compile": 1.2},
        "evaluations": {"warmup": [9000, 9000], "sample": [7000, 7000]},
        "versions": {"ppl": "0.1.0", "python": "3.12.1", "device": "1 x cpu (x86_64), float32"},
        "started": "2026-01-02T03:04:05+00:00",
    } | changes.pop("run", {})
    fields: dict[str, Any] = {
        "target": None,
        "sampler": None,
        "stats": {},
        "values": values,
        "num_evaluations": (16000, 16000),
    } | changes
    return Draws(values, run=Run(**run), **fields)


def nuts_stats(generator: np.random.Generator, chains: int, samples: int, divergent: int = 0):
    """Statistics under the names that NUTS gives them, of a run that went well."""
    shape = (chains, samples)
    diverging = np.zeros(shape, bool)
    diverging.ravel()[generator.permutation(diverging.size)[:divergent]] = True
    return {
        "acceptance_rate": generator.beta(8, 1, shape),
        "diverging": diverging,
        "energy": generator.normal(size=shape),
        "n_steps": 2 ** generator.integers(1, 4, shape) - 1,
        "tree_depth": generator.integers(1, 4, shape),
        "step_size": np.full(shape, 0.41),
        "reached_max_treedepth": np.zeros(shape, bool),
    }


def model_groups(generator: np.random.Generator, observed: np.ndarray, prior: dict[str, Any]):
    """The groups of a model with data: prior, observed data, and draws of new data."""
    axes = [f"axis{i}" for i in range(observed.ndim)]
    replicated = generator.permuted(np.broadcast_to(observed, (2, 50, *observed.shape)), axis=2)
    return {
        "prior": xarray.Dataset({k: (("chain", "draw"), v) for k, v in prior.items()}),
        "observed_data": xarray.Dataset({"y": (axes, observed)}),
        "posterior_predictive": xarray.Dataset({"y": (["chain", "draw", *axes], replicated)}),
    }


class Page(HTMLParser):
    """Elements, ids, references and text of a page."""

    VOID = frozenset("meta link br hr img input path circle".split())

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.references: list[str] = []
        self.anchors: list[str] = []
        self.headings: list[tuple[str, str]] = []
        self.labels: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.unclosed: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        if tag not in self.VOID:
            self._open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.headings.append((tag, ""))
        for name, value in attrs:
            value = value or ""
            if name == "id":
                self.ids[value] += 1
            elif name in ("src", "srcset", "data", "poster", "action", "xlink:href"):
                self.references.append(value)
            elif name == "href":
                (self.anchors if value.startswith("#") else self.references).append(value)
            elif name == "aria-label":
                self.labels.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.words.append(data)
        if self.headings and self._open and self._open[-1] == self.headings[-1][0]:
            tag, words = self.headings[-1]
            self.headings[-1] = (tag, words + data)

    @property
    def text(self) -> str:
        """What the reader sees, without markup."""
        return " ".join(" ".join(self.words).split())

    @property
    def titles(self) -> list[str]:
        """Headings below the first."""
        return [words.strip() for tag, words in self.headings if tag != "h1"]
