"""Draws: what every sampler gives back.

Positions live in the kernels' unconstrained space; ``draws["theta"]`` is what the user sees,
computed from them on first use, once. Arrays are on the host, with leading axes (chain, draw).
ArviZ, xarray and pandas are imported where they are used, so that ``import ppl`` stays light.
"""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from ppl import weights
from ppl.keys import as_key
from ppl.precision import full_precision
from ppl.template import named
from ppl.weights import Estimate

PHASES = {  # of a run, with their names
    "start": "start",
    "warmup": "warm-up",
    "train": "training",
    "sample": "sampling",
    "bound": "bounds of log Z",
}


@dataclass
class Run:
    """How draws came about: everything needed to repeat the run, and what it cost.

    Attributes
    ----------
    sampler, sampler_name
        The tuned sampler in words, such as ``NUTS(step_size=0.41)``, and its name.
    exactness
        ``"exact"``, ``"asymptotically exact"`` or ``"biased"``: the sampler's own claim.
    kind
        ``"markov"``, ``"particle"``, ``"direct"``, ``"learned"``; ``"resampled"`` for draws that
        `Draws.resample` made.
    target
        The target in words.
    rng_key
        ``{"data": [...], "impl": "threefry2x32"}``.
    seconds
        Wall times of the `PHASES`; ``"compile"``, where known, is part of these.
    evaluations
        Evaluations by phase of what ``counted`` says: of the log-density and the gradient, or of
        the log-likelihood and the denoiser. They add up to ``draws.num_evaluations``.
    stopped
        ``"complete"``, ``"until"``, ``"interrupted"`` or ``"done"``.
    started
        ISO time, UTC.
    notes
        Warnings in words.
    """

    sampler: str
    sampler_name: str
    exactness: str
    kind: str
    target: str
    rng_key: dict[str, Any]
    num_chains: int
    num_samples: int
    num_warmup: int
    thin: int
    seconds: dict[str, float] = field(default_factory=dict)
    evaluations: dict[str, list[int]] = field(default_factory=dict)
    warmup_divergences: int = 0
    stopped: str = "complete"
    versions: dict[str, str] = field(default_factory=dict)
    started: str = ""
    notes: list[str] = field(default_factory=list)
    counted: list[str] = field(default_factory=lambda: ["log-density", "gradient"])

    @property
    def wall_seconds(self) -> float:
        """Of all phases, compilation included."""
        return float(sum(self.seconds.get(phase, 0.0) for phase in PHASES))

    def to_json(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers."""
        return _plain(asdict(self))


def _plain(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(value) for value in tree]
    if isinstance(tree, np.generic | np.ndarray | jax.Array):
        return np.asarray(tree).tolist()
    return tree


class Draws:
    """Draws of one run, with what is needed to judge, keep, continue and repeat it.

    Parameters
    ----------
    positions
        Pytree of arrays like ``target.template`` with leading axes (chain, draw), unconstrained.
    target
        What was sampled; None for draws that were loaded (see `attach`).
    sampler
        The tuned kernel or the trained sampler; None for draws that were loaded.
    stats
        Per-draw arrays (chain, draw, ...) under ArviZ's names.
    run
        How the draws came about.
    log_weights
        None, or (chain, draw) unnormalized log weights; chains are independent runs. NaN is
        never legal: it counts as -inf, and is reported.
    log_evidence
        Estimate of the log normalizer, or None. Its ``lower`` and ``upper`` are the means of
        log Z over the runs and over as many runs given an exact draw each, between which log Z lies
        on average (`ppl.diagnostics.log_evidence_bounds`): for samplers with all frozen on targets
        that can be sampled.
    num_evaluations
        (log-density, gradient) evaluations spent, warm-up and training included.
    history
        Per-step arrays (chain, step, ...) of particle and learned samplers.
    values
        Named constrained arrays, when they are known already.
    groups
        Further ArviZ groups, as xarray datasets by name, when they are known already.
    """

    def __init__(
        self,
        positions: PyTree,
        *,
        target: Any,
        sampler: Any,
        stats: Mapping[str, Any],
        run: Run,
        log_weights: Any = None,
        log_evidence: Estimate | None = None,
        num_evaluations: tuple[int, int] = (0, 0),
        history: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
        groups: Mapping[str, Any] | None = None,
    ):
        self.positions = jax.tree.map(np.asarray, positions)
        self.target = target
        self.sampler = sampler
        self.stats: dict[str, np.ndarray] = {name: np.asarray(x) for name, x in stats.items()}
        self.run = run
        self.log_weights = None if log_weights is None else np.asarray(log_weights)
        self.log_evidence = log_evidence
        self.num_evaluations = (int(num_evaluations[0]), int(num_evaluations[1]))
        self.history: dict[str, np.ndarray] = {
            name: np.asarray(x) for name, x in (history or {}).items()
        }
        self._values = {k: np.asarray(v) for k, v in values.items()} if values else None
        self.groups: dict[str, Any] = dict(groups or {})
        self._labels: tuple[dict[str, list[str]], dict[str, Any]] = ({}, {})
        self.cache: dict[Any, Any] = {}  # of diagnostics that several readers ask for
        self._sizes = self._leading_axes()

    def _leading_axes(self) -> tuple[int, int]:
        leaves = jax.tree.leaves(self.positions) or list((self._values or {}).values())
        sizes = {leaf.shape[:2] for leaf in leaves}
        if self.log_weights is not None:
            sizes.add(self.log_weights.shape)
        if len(sizes) != 1 or len(next(iter(sizes))) != 2:
            raise ValueError(
                "positions and log_weights need common leading axes (chain, draw); got "
                f"{sorted(sizes, key=str)}"
            )
        return next(iter(sizes))

    # Values -----------------------------------------------------------------------------------

    @property
    def num_chains(self) -> int:
        """Number of chains, or of independent runs."""
        return self._sizes[0]

    @property
    def num_samples(self) -> int:
        """Number of draws in each chain."""
        return self._sizes[1]

    @property
    def values(self) -> dict[str, np.ndarray]:
        """All named values, constrained, deterministic sites included."""
        if self._values is None:
            if self.target is None:
                raise ValueError(
                    "these draws know neither their values nor their target; "
                    "write draws.attach(target)"
                )
            self._values = outputs(self.target, self.positions)
        return self._values

    @property
    def names(self) -> list[str]:
        """Names of the values, in the order of the model."""
        return list(self._shapes())

    def _shapes(self) -> dict[str, Any]:
        """Shapes and dtypes of single draws, without computing them."""
        if self._values is not None:
            return {k: jax.ShapeDtypeStruct(v.shape[2:], v.dtype) for k, v in self._values.items()}
        if self.target is None:
            return self.values
        return _shapes_of(self.target)

    @property
    def labels(self) -> tuple[dict[str, list[str]], dict[str, Any]]:
        """Names of the axes of values, and of the entries of axes, where the model has them."""
        if hasattr(self.target, "dims"):
            return dict(self.target.dims), dict(self.target.coords)
        return self._labels

    def __getitem__(self, name: str) -> np.ndarray:
        values = self.values
        if name not in values:
            raise KeyError(unknown_name(name, list(values)))
        return values[name]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        run = self.run
        unit = "run" if run.kind in ("particle", "learned") else "chain"
        unit += "" if self.num_chains == 1 else "s"
        lines = [
            f"Draws: {run.sampler_name} on {run.target}, {self.num_chains} {unit} "
            f"x {self.num_samples} draws" + (", weighted" if self.log_weights is not None else "")
        ]
        if self._values is not None or self.target is not None:
            shapes = self._shapes()
            shown = list(shapes.items())[:12]
            width = max((len(name) for name, _ in shown), default=0)
            lines += [f"  {n:<{width}}  {s.dtype.name}{list(s.shape)}" for n, s in shown]
            if len(shapes) > len(shown):
                lines.append(f"  and {len(shapes) - len(shown)} more: see .names")
        if self.log_evidence is not None:
            value, error = self.log_evidence[:2]
            lines.append(
                f"  log evidence {value:.2f}" + ("" if error is None else f" +- {error:.2f}")
            )
        spent = " and ".join(
            f"{n:,} {name}" for n, name in zip(self.num_evaluations, run.counted, strict=True)
        )
        lines.append(
            f"  {spent} evaluations in {run.wall_seconds:.2f} s"
            + ("" if run.stopped in ("complete", "done") else f"; stopped: {run.stopped}")
        )
        lines += [f"  note: {note}" for note in run.notes]
        return "\n".join(lines)

    def attach(self, target: Any, sampler: Any = None) -> "Draws":
        """The same draws with their target (and sampler), which files do not hold.

        Raises
        ------
        TargetError
            If the positions do not fit the target's template.
        """
        from ppl.energy import TargetError
        from ppl.template import require_template

        leaves, structure = jax.tree.leaves(self.positions), jax.tree.structure(target.template)
        if len(leaves) != structure.num_leaves:
            raise TargetError(
                f"these draws have {len(leaves)} arrays a position, the target has "
                f"{structure.num_leaves}: they are draws of another target"
            )
        positions = jax.tree.unflatten(structure, leaves)
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), positions)
        require_template(one, target.template, "the position of these draws")
        return self._with(positions=positions, target=target, sampler=sampler or self.sampler)

    def _with(self, **changes: Any) -> "Draws":
        fields = {
            "positions": self.positions,
            "target": self.target,
            "sampler": self.sampler,
            "stats": self.stats,
            "run": self.run,
            "log_weights": self.log_weights,
            "log_evidence": self.log_evidence,
            "num_evaluations": self.num_evaluations,
            "history": self.history,
            "values": self._values,
            "groups": self.groups,
        } | changes
        return Draws(fields.pop("positions"), **fields).with_labels(*self._labels)

    def with_labels(self, dims: dict[str, list[str]], coords: dict[str, Any]) -> "Draws":
        """Name axes and their entries, for draws whose target cannot; changes these draws."""
        self._labels = (dims, coords)
        return self

    # Weights ----------------------------------------------------------------------------------

    def pooled_log_weights(self) -> np.ndarray:
        """Log weights of all draws together, (chain, draw), normalized; uniform without weights.

        Weights of direct and learned samplers that estimate the evidence are comparable across
        chains and are pooled as they are. Otherwise the unknown constant differs from run to
        run: each run is normalized on its own and all count the same, except a run that died
        (all weights -inf), which counts nothing.
        """
        size = self.num_chains * self.num_samples
        if self.log_weights is None:
            return np.full(self._sizes, -math.log(max(size, 1)))
        log_weights = np.asarray(self.log_weights, np.float64)
        comparable = self.run.kind in ("direct", "learned") and self.log_evidence is not None
        if not comparable:
            log_weights = weights.normalize(log_weights)
        return weights.normalize(log_weights.ravel()).reshape(self._sizes)

    def resample(self, rng_key: PRNGKeyArray | int, n: int) -> "Draws":
        """``n`` equally weighted draws in one chain.

        Weighted draws are resampled by the stratified scheme, so that the number of copies of
        each has its weight as expectation. Draws without weights are taken at random without
        replacement (beyond their number: in whole copies first). The order is shuffled, and
        ``stats["ancestor"]`` holds the index of each draw among the flattened originals. Draws
        with a common ancestor are copies: the result is judged through its originals.

        Raises
        ------
        ValueError
            If there are no draws, or all weights are zero.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1; got {n}")
        size = self.num_chains * self.num_samples
        if size == 0:
            raise ValueError("there are no draws to resample from")
        generator = host_generator(rng_key)
        if self.log_weights is None:
            ancestors = np.concatenate(
                [np.tile(np.arange(size), n // size), generator.permutation(size)[: n % size]]
            )
        else:
            ancestors = weights.stratified(generator, self.pooled_log_weights().ravel(), n)
        ancestors = generator.permutation(ancestors)
        return self.take(ancestors[None, :])

    def take(self, ancestors: np.ndarray) -> "Draws":
        """Equally weighted draws at flat indices (chain, draw)."""

        def gather(x: np.ndarray) -> np.ndarray:
            return x.reshape(-1, *x.shape[2:])[ancestors]

        size, unique = self.num_chains * self.num_samples, len(np.unique(ancestors))
        note = f"resampled: {ancestors.size} draws with {unique} unique ancestors of {size}"
        run = replace(
            self.run,
            kind="resampled",
            num_chains=ancestors.shape[0],
            num_samples=ancestors.shape[1],
            notes=[*self.run.notes, note],
        )
        stats = {k: gather(v) for k, v in self.stats.items() if v.shape[:2] == self._sizes}
        return self._with(
            positions=jax.tree.map(gather, self.positions),
            values=None if self._values is None else {k: gather(v) for k, v in self.values.items()},
            stats=stats | {"ancestor": ancestors},
            log_weights=None,
            run=run,
            groups=None,
        )

    # Answers ----------------------------------------------------------------------------------

    def summary(
        self,
        names: str | Sequence[str] | None = None,
        *,
        quantiles: Sequence[float] = (0.05, 0.5, 0.95),
        round_to: int | None = None,
    ) -> Any:
        """Table with a row per scalar: moments, quantiles, and how far they may be trusted.

        Chains get ArviZ's ``mcse_mean``, ``ess_bulk``, ``ess_tail`` and ``r_hat``. Weighted draws
        get weighted moments and quantiles, the Monte Carlo error of the mean, Kish's ``ess`` and
        the Pareto ``khat`` of the weights; R-hat says nothing about them. Independent draws get
        the error that follows from independence.

        Parameters
        ----------
        names
            Names to show; all by default.
        quantiles
            Between 0 and 1; columns are called ``q5``, ``median``, ``q95``.
        round_to
            Decimals; None leaves full precision.

        Returns
        -------
        pandas.DataFrame
        """
        from ppl.diagnostics.table import summarize

        frame = summarize(self, self.select(names), quantiles)
        return frame if round_to is None else frame.round(round_to)

    def select(self, names: str | Sequence[str] | None = None) -> list[str]:
        """Check names against those of the draws; None selects all of them."""
        known = self.names
        chosen = known if names is None else [names] if isinstance(names, str) else list(names)
        for name in chosen:
            if name not in known:
                raise KeyError(unknown_name(name, known))
        return chosen

    @full_precision
    def to_arviz(
        self,
        *,
        rng_key: PRNGKeyArray | int = 0,
        max_bytes: float | int = 1e9,
        groups: Sequence[str] | None = None,
    ) -> Any:
        """As an ArviZ DataTree.

        Groups: posterior and sample_stats; for a NumPyro target with data also observed_data,
        log_likelihood and posterior_predictive, and, where the prior is proper, prior and
        prior_predictive. Weighted draws: ``posterior`` is resampled to equal weights, as its
        attributes say, ``weighted_posterior`` holds the draws as they are and
        ``sample_stats["log_weight"]`` their log weights.

        Parameters
        ----------
        rng_key
            For predictive draws and resampling.
        max_bytes
            A group that would be larger holds evenly spaced draws only, as its attributes say.
        groups
            Which of ``prior``, ``prior_predictive``, ``log_likelihood`` and
            ``posterior_predictive`` to compute; all by default. The others cost nothing.

        Returns
        -------
        xarray.DataTree
        """
        from ppl.datatree import build

        return build(self, rng_key, max_bytes, groups)

    def save(self, path: str | Path) -> None:
        """Write everything but target and sampler to one NetCDF file, all or nothing.

        The file is written under a temporary name beside ``path``, flushed and renamed: when
        anything fails, ``path`` is what it was before. ArviZ opens it as it is.
        """
        from ppl.datatree import write

        write(self, Path(path))


def load(path: str | Path) -> Draws:
    """Read what ``draws.save(path)`` wrote, or the draws so far from a checkpoint directory.

    Target and sampler are functions and are not in the file: ``draws.target`` is None, and
    ``draws.attach(target)`` gives it back.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds no draws of this library.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no draws at {path}: it does not exist")
    if path.is_dir():
        from ppl.checkpoint import load_draws  # pyright: ignore

        return load_draws(path)
    from ppl.datatree import read

    return read(path)


def unknown_name(name: str, names: Sequence[str]) -> str:
    """Message about a name that is not there: the nearest ones first."""
    near = difflib.get_close_matches(str(name), names, n=len(names), cutoff=0.0)
    rest = [other for other in names if other not in near]
    listed = ", ".join([*near, *rest][:20])
    more = "" if len(names) <= 20 else f" and {len(names) - 20} more"
    return f"no values called {name!r}; there are {listed}{more}"


def host_generator(rng_key: PRNGKeyArray | int) -> np.random.Generator:
    """NumPy generator seeded by a JAX key: host work needs no compilation."""
    key = jax.random.key_data(as_key(rng_key))
    return np.random.default_rng(np.asarray(key).ravel().tolist())


# Values of positions --------------------------------------------------------------------------

_BATCH_BYTES = 2**26


@full_precision
def outputs(target: Any, positions: PyTree) -> dict[str, np.ndarray]:
    """Named values of positions with leading axes (chain, draw).

    Rows go through one compiled function in padded batches whose sizes are powers of four, so
    that few shapes exist and growing draws seldom compile; the target is an argument.
    """
    if getattr(target, "outputs_are_positions", False):
        return named(positions)
    leaves = jax.tree.leaves(positions)
    chains, draws = leaves[0].shape[:2]
    total = chains * draws
    if total == 0:
        shapes = _shapes_of(target)
        return {k: np.zeros((chains, draws, *s.shape), s.dtype) for k, s in shapes.items()}
    batch = min(_power_of_four(total, up=True), 4096)
    if total > 4096 or sum(leaf.nbytes for leaf in leaves) > _BATCH_BYTES // 16:
        shapes = _shapes_of(target)
        row = sum(math.prod(s.shape) * s.dtype.itemsize for s in shapes.values())
        batch = min(batch, _power_of_four(_BATCH_BYTES // max(row, 1), up=False))
    flat = jax.tree.map(lambda x: x.reshape(total, *x.shape[2:]), positions)
    result: dict[str, list[np.ndarray]] = {}
    for start in range(0, total, batch):
        part = jax.tree.map(lambda x: _padded(x[start : start + batch], batch), flat)  # noqa: B023
        for name, value in zip(*_outputs(target, part), strict=True):
            result.setdefault(name, []).append(np.asarray(value)[: total - start])
    return {
        name: np.concatenate(parts).reshape(chains, draws, *parts[0].shape[1:])
        for name, parts in result.items()
    }


@eqx.filter_jit
def _outputs(target: Any, positions: PyTree) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    return _batched(target, positions)


def _batched(target: Any, positions: PyTree) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Names and values apart: JAX sorts the keys of a dict, and names keep the model's order."""
    names: list[str] = []

    def one(position: PyTree) -> tuple[Any, ...]:
        named = target.outputs(position)
        names[:] = named
        return tuple(named.values())

    values = jax.vmap(one)(positions)
    return tuple(names), values


def _shapes_of(target: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the named values of one draw."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), target.template)
    names, values = eqx.filter_eval_shape(_batched, target, one)
    shapes = (jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in values)
    return dict(zip(names, shapes, strict=True))


def _padded(x: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(x)
    return x if missing == 0 else np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])


def _power_of_four(size: int, *, up: bool) -> int:
    exponent = math.log(max(size, 1), 4)
    return max(1, 4 ** (math.ceil(exponent - 1e-9) if up else math.floor(exponent + 1e-9)))
