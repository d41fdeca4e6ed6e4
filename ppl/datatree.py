"""Draws as an ArviZ DataTree, and as a NetCDF file.

The file is that tree with four groups more: ``positions``, ``history``, ``weighted_posterior`` for
weighted draws, and the description of the run as one JSON attribute, since NetCDF attributes hold
neither dicts nor booleans. ArviZ and xarray open it as it is.
"""

import json
import os
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ppl import weights
from ppl.draws import Draws, Run, host_generator
from ppl.keys import as_key
from ppl.weights import Estimate

FORMAT = 1
PRIOR_DRAWS = 1000
PREDICTIVE = ("prior", "prior_predictive", "log_likelihood", "posterior_predictive")
_ATTRIBUTE = "ppl"
_OWN = ("posterior", "weighted_posterior", "sample_stats", "positions", "history")


# Datasets -------------------------------------------------------------------------------------


class _Namer:
    """Names that xarray accepts: no slash, and no variable called like one of its axes."""

    def __init__(self, dims: Mapping[str, list[str]], coords: Mapping[str, Any]):
        self.dims = {name: [self._plain(dim) for dim in axes] for name, axes in dims.items()}
        self.coords = {self._plain(dim): np.asarray(x) for dim, x in coords.items()}
        self._axes = {
            "chain",
            "draw",
            *self.coords,
            *(d for axes in self.dims.values() for d in axes),
        }
        self.stored: dict[str, str] = {}

    @staticmethod
    def _plain(name: str) -> str:
        name = name.replace("/", ".")
        return f"{name}_axis" if name in ("chain", "draw") else name

    def __call__(self, name: str) -> str:
        if name not in self.stored:
            stored = name.replace("/", ".")
            while stored in self._axes or stored in self.stored.values():
                stored += "_"
            self.stored[name] = stored
        return self.stored[name]

    @property
    def renamed(self) -> dict[str, str]:
        """From stored names to real ones, where they differ."""
        return {stored: name for name, stored in self.stored.items() if stored != name}

    def axes(self, name: str, shape: tuple[int, ...]) -> list[str]:
        """Names of the axes of one value; those of the model where they fit."""
        known = self.dims.get(name, [])
        fits = len(known) == len(shape) and len(set(known)) == len(known)
        fits = fits and all(
            len(self.coords.get(dim, range(size))) == size
            for dim, size in zip(known, shape, strict=True)
        )
        return known if fits else [f"{self(name)}_dim_{i}" for i in range(len(shape))]


def _dataset(
    arrays: Mapping[str, np.ndarray],
    namer: _Namer,
    *,
    lead: tuple[str, ...] = ("chain", "draw"),
    draw: np.ndarray | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    import xarray

    variables, coords = {}, {}
    for name, array in arrays.items():
        axes = namer.axes(name, array.shape[len(lead) :])
        variables[namer(name)] = ([*lead, *axes], _storable(array))
        coords |= {dim: namer.coords[dim] for dim in axes if dim in namer.coords}
    for position, dim in enumerate(lead):
        size = next((a.shape[position] for a in arrays.values()), 0)
        coords[dim] = np.arange(size)
    if draw is not None:
        coords["draw"] = draw
    return xarray.Dataset(variables, coords, {"inference_library": "ppl"} | dict(attrs or {}))


def _storable(array: np.ndarray) -> np.ndarray:
    """NumPy's own types only: bfloat16 and its kin are no NetCDF types."""
    return array.astype(np.float32) if array.dtype.kind == "V" else array


# The tree -------------------------------------------------------------------------------------


def build(
    draws: Draws, rng_key: Any, max_bytes: float | int, groups: Sequence[str] | None = None
) -> Any:
    """Build the DataTree of `Draws.to_arviz`."""
    wanted = PREDICTIVE if groups is None else tuple(groups)
    if unknown := [name for name in wanted if name not in PREDICTIVE]:
        raise ValueError(f"groups are {', '.join(PREDICTIVE)}; got {', '.join(map(str, unknown))}")
    return _build(draws, rng_key, max_bytes, wanted)[0]


def _build(
    draws: Draws, rng_key: Any, max_bytes: float | int, wanted: Sequence[str] = PREDICTIVE
) -> tuple[Any, _Namer]:
    import xarray

    namer = _Namer(*draws.labels)
    stored = draws.groups
    equal, note = _equally_weighted(draws, rng_key)
    groups = {"posterior": _dataset(equal.values, namer, attrs=note)}
    if draws.log_weights is not None:
        if "posterior" in stored:
            groups["posterior"] = stored["posterior"]
        groups["weighted_posterior"] = _dataset(draws.values, namer)
    sizes = (draws.num_chains, draws.num_samples)
    stats = {name: x for name, x in draws.stats.items() if x.shape[:2] == sizes}
    if draws.log_weights is not None:
        stats["log_weight"] = draws.log_weights
    if stats:
        groups["sample_stats"] = _dataset(stats, namer)
    known = {name: dataset for name, dataset in stored.items() if name not in _OWN}
    if not known and draws.target is not None and draws.num_samples:
        known = _model_groups(draws, equal, namer, rng_key, max_bytes, wanted)
    return xarray.DataTree.from_dict({f"/{name}": x for name, x in (groups | known).items()}), namer


def _equally_weighted(draws: Draws, rng_key: Any) -> tuple[Draws, dict[str, Any]]:
    """Draws of equal weight, of the same shape, and what their group says about it."""
    if draws.log_weights is None:
        return draws, {}
    log_weights = draws.pooled_log_weights()
    if not np.isfinite(log_weights).any():
        return draws, {"weighting": "none: no draw has weight, these are draws of the proposal"}
    generator = host_generator(rng_key)
    ancestors = weights.stratified(generator, log_weights.ravel(), log_weights.size)
    ancestors = generator.permutation(ancestors).reshape(log_weights.shape)
    unique = len(np.unique(ancestors))
    return draws.take(ancestors), {
        "weighting": f"resampled to equal weights, {unique} unique ancestors; the weighted draws "
        "are in weighted_posterior, their log weights in sample_stats",
        "unique_ancestors": unique,
    }


def _model_groups(
    original: Draws,
    draws: Draws,
    namer: _Namer,
    rng_key: Any,
    max_bytes: float | int,
    wanted: Sequence[str],
) -> dict[str, Any]:
    """Compute groups of a model with data: what is wanted, offered, and can be computed."""
    target = original.target
    observed = dict(getattr(target, "observed_data", {}))
    if not observed:
        return {}
    numbers = sum(np.size(x) for x in observed.values())
    step = max(1, -(-numbers * 4 * draws.num_chains * draws.num_samples // int(max_bytes)))
    kept = np.arange(0, draws.num_samples, step)
    count = max(1, min(PRIOR_DRAWS, int(max_bytes // (4 * numbers))))
    latent = {name: value[:, kept] for name, value in draws.values.items()}
    attrs = {"thinned_by": step} if step > 1 else {}
    key_prior, key_posterior = jax.random.split(as_key(rng_key))

    def prior() -> dict[str, Any]:
        joint = {
            k: np.asarray(v)[None] for k, v in target.prior_predictive(key_prior, count).items()
        }
        new = {name: joint.pop(name) for name in list(joint) if name in observed}
        return {"prior": _dataset(joint, namer), "prior_predictive": _dataset(new, namer)}

    def likelihood() -> dict[str, Any]:
        values = target.log_likelihood_of_draws(latent)
        return {"log_likelihood": _dataset(values, namer, draw=kept, attrs=attrs)}

    def predictive() -> dict[str, Any]:
        values = target.posterior_predictive(key_posterior, latent)
        return {"posterior_predictive": _dataset(values, namer, draw=kept, attrs=attrs)}

    parts: tuple[tuple[str, set[str], Callable[[], dict[str, Any]]], ...] = (
        ("prior_predictive", {"prior", "prior_predictive"}, prior),
        ("pointwise_log_likelihood", {"log_likelihood"}, likelihood),
        ("posterior_predictive", {"posterior_predictive"}, predictive),
    )
    groups = {"observed_data": _dataset(observed, namer, lead=())}
    # The report and the file ask for the same groups, LOO for one of them.
    reused = isinstance(rng_key, int) and rng_key == 0
    cache = original.cache.setdefault(("groups", step, count), {}) if reused else {}
    for capability, names, compute in parts:
        if capability not in target.offers or not names & set(wanted):
            continue
        try:
            if capability not in cache:
                cache[capability] = compute()
        except Exception as error:  # the user's model runs here; the draws are worth more
            warnings.warn(f"no {capability}: the model failed on it: {error}", stacklevel=4)
            continue
        groups |= {name: group for name, group in cache[capability].items() if name in wanted}
    return groups


# Pytrees of positions -------------------------------------------------------------------------


def _encode(tree: Any) -> Any:
    """Structure of a pytree of dicts, lists and tuples as JSON, its leaves numbered.

    None when it has other nodes; `Draws.attach` restores those.
    """
    structure = jax.tree.structure(tree)

    def one(node: Any) -> Any:
        if isinstance(node, int):
            return node
        if type(node) is dict and all(type(key) in (str, int) for key in node):
            return {"dict": [[key, one(value)] for key, value in node.items()]}
        if type(node) in (list, tuple):
            return {type(node).__name__: [one(value) for value in node]}
        if node is None:
            return {"none": []}
        raise TypeError

    try:
        return one(jax.tree.unflatten(structure, range(structure.num_leaves)))
    except TypeError:
        return None


def _decode(code: Any, leaves: list[np.ndarray]) -> Any:
    if code is None:
        return leaves
    if isinstance(code, int):
        return leaves[code]
    ((kind, parts),) = code.items()
    if kind == "dict":
        return {key: _decode(value, leaves) for key, value in parts}
    if kind == "none":
        return None
    items = [_decode(value, leaves) for value in parts]
    return tuple(items) if kind == "tuple" else items


# Files ----------------------------------------------------------------------------------------


def write(draws: Draws, path: Path) -> None:
    """Write `Draws.save`'s file: a temporary file beside it, flushed, then renamed."""
    if path.is_dir():
        raise IsADirectoryError(f"cannot save draws to {path}: it is a directory; name a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot save draws to {path}: there is no folder {path.parent}")
    tree = archive(draws)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        write_netcdf(tree, temporary)
        _flush(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # h5py has both for a disk that is full
        raise OSError(
            getattr(error, "errno", None) or 0,
            f"could not save draws to {path}: {error}. Nothing was written under that name",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Wait until the disk has a file's bytes, or a folder's names."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_netcdf(tree: Any, path: Path) -> None:
    """Write a DataTree to a new NetCDF file."""
    tree.to_netcdf(path, engine="h5netcdf")


def archive(draws: Draws) -> Any:
    """Everything that `read` needs, as one DataTree."""
    import xarray

    tree, namer = _build(draws, 0, 1e9)
    leaves = [_storable(leaf) for leaf in jax.tree.leaves(draws.positions)]
    tree["positions"] = xarray.Dataset(
        {
            f"leaf_{i}": (
                ["chain", "draw", *(f"leaf_{i}_dim_{j}" for j in range(leaf.ndim - 2))],
                leaf,
            )
            for i, leaf in enumerate(leaves)
        }
    )
    extra = {name: x for name, x in draws.stats.items() if name not in tree.get("sample_stats", {})}
    for group, arrays in (("history", draws.history), ("other_stats", extra)):
        if arrays:
            tree[group] = _loose(arrays, namer)
    tree.attrs[_ATTRIBUTE] = json.dumps(
        {
            "format": FORMAT,
            "run": draws.run.to_json(),
            "num_evaluations": list(draws.num_evaluations),
            "log_evidence": None if draws.log_evidence is None else list(draws.log_evidence),
            "structure": _encode(draws.positions),
            "renamed": namer.renamed,
            "names": draws.names,
            "dims": draws.labels[0],
            "coords": {dim: _plain_coords(x) for dim, x in draws.labels[1].items()},
        }
    )
    return tree


def _plain_coords(entries: Any) -> list[Any]:
    array = np.asarray(entries)
    return array.tolist() if array.dtype.kind in "biuf" else [str(x) for x in array]


def _loose(arrays: Mapping[str, np.ndarray], namer: _Namer) -> Any:
    """Arrays that need not have one axis in common."""
    import xarray

    return xarray.Dataset(
        {
            namer(name): ([f"{namer(name)}_axis_{i}" for i in range(x.ndim)], _storable(x))
            for name, x in arrays.items()
        }
    )


def read(path: Path) -> Draws:
    """Read what `write` wrote."""
    import xarray

    try:
        with xarray.open_datatree(path, engine="h5netcdf", decode_times=False) as opened:
            tree = opened.load()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no NetCDF file, so it holds no draws: {error}") from error
    if _ATTRIBUTE not in tree.attrs:
        raise ValueError(
            f"{path} was not written by draws.save: it has groups {sorted(tree.children)} but no "
            "description of the run. arviz.from_netcdf reads it"
        )
    about = json.loads(tree.attrs[_ATTRIBUTE])
    if about["format"] > FORMAT:
        raise ValueError(
            f"{path} has format {about['format']}, this version reads up to {FORMAT}: upgrade ppl"
        )
    groups = {name: child.to_dataset(inherit=False) for name, child in tree.children.items()}

    def arrays(group: str) -> dict[str, np.ndarray]:
        if group not in groups:
            return {}
        variables = groups[group].data_vars.items()
        return {about["renamed"].get(k, k): v.to_numpy() for k, v in variables}

    stats = arrays("sample_stats")
    log_weights = stats.pop("log_weight", None) if "weighted_posterior" in groups else None
    leaves = arrays("positions")
    values = arrays("posterior" if log_weights is None else "weighted_posterior")
    internal = ("positions", "history", "other_stats")
    return Draws(
        _decode(about["structure"], [leaves[f"leaf_{i}"] for i in range(len(leaves))]),
        target=None,
        sampler=None,
        stats=stats | arrays("other_stats"),
        run=Run(**about["run"]),
        log_weights=log_weights,
        log_evidence=about["log_evidence"] and Estimate(*about["log_evidence"]),
        num_evaluations=tuple(about["num_evaluations"]),
        history=arrays("history"),
        values={name: values[name] for name in about["names"]},
        groups={name: group for name, group in groups.items() if name not in internal},
    ).with_labels(about["dims"], {k: np.asarray(v) for k, v in about["coords"].items()})
