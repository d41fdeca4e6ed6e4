"""Checkpoints: a directory from which a killed run goes on as if nothing had happened.

    run/
      meta.json            what the run is: fingerprint, versions, sizes
      chunk-00000123.npz   draws of one chunk, named by its first draw
      state.npz            everything the next step needs, and the counters

A file is written under a temporary name, flushed, and renamed, so that a name stands for a
complete file. A chunk is written before the state that follows it: a kill between the two redoes
that one chunk, with the same keys and so with the same draws.
"""

import hashlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import PyTree

META, STATE, SCHEMA = "meta.json", "state.npz", 1


class CheckpointError(ValueError):
    """A checkpoint that belongs to another run."""


# Files ----------------------------------------------------------------------------------------


def write_atomically(path: Path, write: Callable[[Any], None]) -> None:
    """Write under a temporary name in the same directory, flush to disk, rename."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), _file_mode())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@cache
def _file_mode() -> int:
    """What ``open`` would give; ``mkstemp`` makes files for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


# Fingerprint ----------------------------------------------------------------------------------


def fingerprint(sampler: Any, target: Any, rng_key: Any, sizes: dict[str, Any]) -> dict[str, str]:
    """Hashes of what must not change between a run and its continuation, by name."""
    from ppl.about import versions

    return {
        "target": target_digest(target),
        "sampler": _digest(_describe(sampler), *_leaf_bytes(sampler)),
        "rng_key": _digest(
            str(random.key_impl(rng_key)), np.asarray(random.key_data(rng_key)).tobytes()
        ),
        **{name: str(value) for name, value in sizes.items()},
        "version of ppl": versions()["ppl"],
        "version of jax": versions()["jax"],
    }


def target_digest(target: Any) -> str:
    """Hash of the traced log-density and of the data: equal for targets that are the same."""
    return _digest(_density_text(target), *_leaf_bytes(target))


def _density_text(target: Any) -> str:
    """Text of the traced log-density, without the addresses of the functions in it."""
    text = _describe(target)
    if "log_density" in getattr(target, "offers", ()):
        arrays, rest = eqx.partition(target, eqx.is_array)
        traced = jax.make_jaxpr(lambda a, z: eqx.combine(a, rest).log_density(z))
        text += str(traced(arrays, target.template))
    return text


def _describe(module: Any) -> str:
    """Structure and static fields; arrays enter by their bytes."""
    _, rest = eqx.partition(module, eqx.is_array)
    return re.sub(r"0x[0-9a-f]+", "", f"{type(module).__name__} {rest}")


def _leaf_bytes(module: Any) -> Iterator[bytes]:
    for leaf in jax.tree.leaves(eqx.filter(module, eqx.is_array)):
        array = np.asarray(leaf)
        yield f"{array.dtype}{array.shape}".encode()
        yield array.tobytes()


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:16]


# A run's directory ----------------------------------------------------------------------------


class Checkpoint:
    """Directory of one run: opened, checked against its fingerprint, written chunk by chunk."""

    def __init__(self, path: str | Path, prints: dict[str, str], about: dict[str, Any]):
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise CheckpointError(f"checkpoint must be a directory; {self.path} is a file")
        self.path.mkdir(parents=True, exist_ok=True)
        meta = self.path / META
        if meta.exists():
            self._compare(json.loads(meta.read_text())["fingerprint"], prints)
        elif any(self.path.iterdir()):
            raise CheckpointError(
                f"{self.path} is not empty and holds no checkpoint; pass a new directory"
            )
        text = json.dumps({"schema": SCHEMA, "fingerprint": prints, **about}, indent=1)
        write_atomically(meta, lambda file: file.write(text.encode()))

    def _compare(self, old: dict[str, str], new: dict[str, str]) -> None:
        changed = [name for name in old | new if old.get(name) != new.get(name)]
        if changed:
            raise CheckpointError(
                f"the checkpoint in {self.path} was made with another {', '.join(changed)}. "
                "Continue it with what it was made with, or pass a new directory."
            )

    def save_chunk(self, first: int, arrays: dict[str, np.ndarray]) -> None:
        """Write the draws of one chunk; ``first`` is the number of its first draw."""
        _save_arrays(self.path / f"chunk-{first:08d}.npz", arrays)

    def save_state(self, state: PyTree, counters: dict[str, Any]) -> None:
        """Write what the next step needs."""
        arrays = {f"leaf{i:04d}": array for i, array in enumerate(_to_host(state))}
        _save_arrays(self.path / STATE, arrays | {"counters": np.array(json.dumps(counters))})

    def resume(self, like: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        """State and counters of the last complete chunk, shaped like ``like``; None: a new run."""
        path = self.path / STATE
        if not path.exists():
            return None
        arrays = _load_arrays(path)
        counters = json.loads(str(arrays.pop("counters")))
        saved = [arrays[f"leaf{i:04d}"] for i in range(len(arrays))]
        return _from_host(saved, like), counters

    def chunks(self, num_draws: int) -> Iterator[dict[str, np.ndarray]]:
        """Draws of the complete chunks, in order, up to the draw the state stands at."""
        yield from _chunks(self.path, num_draws)


def _chunks(path: Path, num_draws: int) -> Iterator[dict[str, np.ndarray]]:
    reached = 0
    for file in sorted(path.glob("chunk-*.npz")):
        if reached >= num_draws:
            return
        if int(file.stem.removeprefix("chunk-")) != reached:
            continue  # left over from before a redone chunk
        arrays = _load_arrays(file)
        rows = next(iter(arrays.values())).shape[0]
        keep = min(rows, num_draws - reached)
        yield {name: array[:keep] for name, array in arrays.items()}
        reached += rows


def _to_host(tree: PyTree) -> list[np.ndarray]:
    return [
        np.asarray(random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    ]


def _from_host(saved: list[np.ndarray], like: PyTree) -> PyTree:
    arrays, rest = eqx.partition(like, eqx.is_array)
    leaves, treedef = jax.tree.flatten(arrays)
    if len(leaves) != len(saved):
        raise CheckpointError(
            f"the checkpoint holds {len(saved)} arrays of state where this run has {len(leaves)}; "
            "it was made by another version"
        )

    def restore(array: np.ndarray, leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return random.wrap_key_data(jnp.asarray(array), impl=random.key_impl(leaf))
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise CheckpointError(
                f"the checkpoint holds an array {array.dtype}{list(array.shape)} where this run "
                f"has {leaf.dtype}{list(leaf.shape)}; it was made with other settings"
            )
        # Committing an array to the only device would compile everything a second time.
        spread = len(leaf.sharding.device_set) > 1
        return jax.device_put(array, leaf.sharding) if spread else jnp.asarray(array)

    restored = [restore(a, x) for a, x in zip(saved, leaves, strict=True)]
    return eqx.combine(jax.tree.unflatten(treedef, restored), rest)


# Names inside a chunk file --------------------------------------------------------------------


def pack(positions: PyTree, stats: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Name the arrays of a chunk: positions by leaf, stats and values by name."""
    leaves = jax.tree.leaves(positions)
    return (
        {f"position/{i:04d}": leaf for i, leaf in enumerate(leaves)}
        | {f"stat/{name}": array for name, array in stats.items()}
        | {f"value/{name}": array for name, array in values.items()}
    )


def unpack(arrays: dict[str, Any], template: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """Positions and stats of a chunk, positions shaped like ``template``."""
    leaves = [arrays[name] for name in sorted(arrays) if name.startswith("position/")]
    stats = {n.removeprefix("stat/"): a for n, a in arrays.items() if n.startswith("stat/")}
    return jax.tree.unflatten(jax.tree.structure(template), leaves), stats


def load_draws(path: str | Path) -> Any:
    """Read the draws of a run's directory, finished or killed; the target is not needed.

    Raises
    ------
    FileNotFoundError
        If the directory holds no checkpoint, or no chunk was completed.
    """
    from ppl.draws import Draws, Run

    path = Path(path)
    if not (path / META).exists():
        raise FileNotFoundError(f"{path} holds no checkpoint ({META} is missing)")
    meta = json.loads((path / META).read_text())
    parts = list(_chunks(path, 2**62))
    if not parts:
        raise FileNotFoundError(f"{path}: the run was killed before its first chunk of draws")
    arrays = {
        name: np.swapaxes(np.concatenate([part[name] for part in parts]), 0, 1) for name in parts[0]
    }
    if not any(name.startswith("value/") for name in arrays):
        warnings.warn(f"{path} holds unconstrained positions only", stacklevel=2)
    values = {n.removeprefix("value/"): a for n, a in arrays.items() if n.startswith("value/")}
    stats = {n.removeprefix("stat/"): a for n, a in arrays.items() if n.startswith("stat/")}
    leaves = {n.removeprefix("position/"): a for n, a in arrays.items() if "position/" in n}
    run = dict(meta["run"])
    state = path / STATE
    counters = json.loads(str(_load_arrays(state)["counters"])) if state.exists() else {}
    evaluations = counters.get("evaluations", {})
    total = np.sum(list(evaluations.values()) or [[0, 0]], axis=0)
    run |= {
        "num_samples": int(next(iter(arrays.values())).shape[1]),
        "evaluations": evaluations,
        "seconds": counters.get("seconds", {}),
        "warmup_divergences": counters.get("warmup_divergences", 0),
    }
    return Draws(
        list(leaves.values()),
        target=None,
        sampler=None,
        stats=stats,
        run=Run(**run),
        num_evaluations=(int(total[0]), int(total[1])),
        values=values,
    )
