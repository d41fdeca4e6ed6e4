"""Whether a building block of a particle method preserves the measure, its mass included.

A population of particles x_i with weights w_i, and a log-evidence l banked from its past, stands
for the measure

    m(h) = exp(l) mean_i w_i h(x_i)

It is properly weighted for a measure mu if E m(h) = mu(h) for every function h of the state. A
block (weigh, resample, move, extend) is right if it makes of every population that is properly
weighted for mu one that is so for the measure it should give: mu itself for resampling and for
moves that leave mu invariant, G mu for weights, mu M for an extension [1]_. What is composed of
right blocks is right, evidence and all, for any number of particles; a check of normalized means
alone would let the evidence go wrong.

On a finite space this is checked for all h at once, by the indicators of the states and the
constant 1. All populations of a few particles are gone through, each with its probability, where
particle i is drawn from a law q_i of its own and weighs mu / q_i: neither are weights equal nor
does the order of the particles cancel anything. The randomness of the block itself is gone through
as well where it says which choices it makes, and is sampled by keys where not; a block without
randomness is checked to rounding either way.

References
----------
.. [1] A. Scibior, O. Kammar, M. Vakar, S. Staton, H. Yang, Y. Cai, K. Ostermann, S. K. Moss,
   C. Heunen, Z. Ghahramani, "Denotational validation of higher-order Bayesian inference", POPL
   2018, arXiv:1711.03219.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Float, PyTree

from ppl import keys
from ppl.template import named

MOST_POPULATIONS = 4096
MOST_OUTCOMES = 1_000_000
ROUNDING = 200  # units in the last place of the mass


@dataclass(frozen=True, eq=False, repr=False)
class MeasureCheck:
    """What a block did to the measure.

    Attributes
    ----------
    functions
        What was integrated: ``"mass"`` for the constant 1, an indicator for each state, and
        ``"elsewhere"`` for what is no state at all.
    expected, found
        Integrals of these functions: as they should be, and their mean over all populations.
    std_error
        Of ``found``, from the block's own randomness; 0 where that was enumerated.
    scores
        Standard errors between the two, beyond rounding; infinite where there is no error.
    limit
        Score that a right block exceeds, for any function, with probability ``rate``.
    about
        How the check was made, in words.
    """

    functions: tuple[str, ...]
    expected: Float[np.ndarray, " h"]
    found: Float[np.ndarray, " h"]
    std_error: Float[np.ndarray, " h"]
    scores: Float[np.ndarray, " h"]
    limit: float
    about: str

    @property
    def passed(self) -> bool:
        """Whether every integral is as it should be."""
        return bool((np.abs(self.scores) <= self.limit).all())

    @property
    def verdict(self) -> str:
        """What is off, and by how much, the worst first; or that nothing is."""
        if self.passed:
            largest = float(np.abs(self.scores).max())
            how = "to rounding" if not self.std_error.any() else f"largest score {largest:.1f}"
            return f"The measure is as it should be ({how}; {self.about})."
        wrong = [i for i, score in enumerate(self.scores) if not abs(score) <= self.limit]
        off = np.nan_to_num(np.abs([self.scores, self.found - self.expected]), nan=np.inf)
        wrong.sort(key=lambda i: tuple(-off[:, i]))
        lines = [self._line(i) for i in wrong]
        return "\n".join([f"The measure is not as it should be ({self.about}):", *lines])

    def _line(self, i: int) -> str:
        expected, found, error = self.expected[i], self.found[i], self.std_error[i]
        line = f"- {self.functions[i]}: {found:.4g} where {expected:.4g} is due"
        if expected and np.isfinite(found):
            line += f", {found / expected - 1:+.1%}"
        return line + (f" ({abs(self.scores[i]):.0f} standard errors)" if error else "")

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return self.verdict

    def __repr__(self) -> str:
        return f"MeasureCheck: {self.verdict}"


def preserves_measure(
    block: Any,
    measure: Any,
    states: PyTree | None = None,
    *,
    after: Any = None,
    states_after: PyTree | None = None,
    num_particles: int = 3,
    enumerate_choices: bool = False,
    num_keys: int = 1000,
    rng_key: Any = 0,
    rate: float = 1e-4,
) -> MeasureCheck:
    """Check that a block preserves a measure on a finite space, or turns it into another one.

    Parameters
    ----------
    block
        ``block(rng_key, particles, log_weights) -> (particles, log_weights)``, or with a third
        value, the log-evidence that was taken out of the weights; an object with attributes
        ``particles``, ``log_weights`` and ``log_evidence`` will do. Written in JAX. The number of
        particles may change.
    measure
        Masses of the states; they need not add up to one.
    states
        The states: a pytree of arrays with a leading axis as long as ``measure``, of which a
        population has ``num_particles`` rows. By default the integers from 0.
    after
        Masses that the block should give. None: those of ``measure``.
    states_after
        States of ``after``, where an extension changes the space.
    num_particles
        Of a population. With one, a kernel is checked to leave ``measure`` invariant.
    enumerate_choices
        Give the block, in place of a key, a function ``choose``: ``choose(probabilities)`` returns
        an index. The block is then run once for each sequence of choices, with NumPy arrays of
        double precision, and the check is exact.
    num_keys
        Keys for each population, where choices are not enumerated.
    rng_key
        A key or an int.
    rate
        Probability with which a right block fails; where all was enumerated, none does.

    Returns
    -------
    MeasureCheck
        True or false, with a ``verdict`` in words.

    Raises
    ------
    ValueError
        For masses that are none, states of another number, more populations than 4096, or a block
        that returns something else.

    Examples
    --------
    >>> import numpy as np, ppl
    >>> def resample(choose, particles, log_weights):
    ...     w = np.exp(log_weights)
    ...     ancestors = [choose(w / w.sum()) for _ in w]
    ...     return particles[ancestors], np.zeros(len(w)), np.log(w.mean())
    >>> check = ppl.diagnostics.preserves_measure(resample, [0.5, 1, 2], enumerate_choices=True)
    >>> print(check)
    The measure is as it should be (to rounding; 27 populations of 3 particles, all choices).
    >>> def forgets(choose, particles, log_weights):
    ...     return resample(choose, particles, log_weights)[:2]
    >>> print(ppl.diagnostics.preserves_measure(forgets, [0.5, 1, 2], enumerate_choices=True))
    The measure is not as it should be (27 populations of 3 particles, all choices):
    - mass: 1 where 3.5 is due, -71.4%
    - x = 2: 0.5029 where 2 is due, -74.9%
    - x = 1: 0.3064 where 1 is due, -69.4%
    - x = 0: 0.1907 where 0.5 is due, -61.9%
    """
    if not callable(block):
        raise ValueError(f"block must be a function (rng_key, particles, log_weights); got {block}")
    masses = _masses(measure, "measure")
    states = np.arange(len(masses)) if states is None else jax.tree.map(np.asarray, states)
    _require_length(states, len(masses), "states")
    due = masses if after is None else _masses(after, "after")
    ends = states if states_after is None else jax.tree.map(np.asarray, states_after)
    _require_length(ends, len(due), "states" if states_after is None else "states_after")
    num_populations = len(masses) ** num_particles
    if num_particles < 1 or num_populations > MOST_POPULATIONS:
        raise ValueError(
            f"{len(masses)} states and {num_particles} particles make {num_populations} "
            f"populations; between 1 and {MOST_POPULATIONS} can be gone through"
        )

    index, shares, log_weights = _populations(masses, num_particles)
    if enumerate_choices:
        means, variances, eps = _by_choices(block, states, index, log_weights, ends, shares)
    else:
        means, variances, eps = _by_keys(block, states, index, log_weights, ends, num_keys, rng_key)
    found = shares @ means
    error = np.sqrt(shares**2 @ variances)
    expected = np.array([due.sum(), *due, 0.0])
    beyond = np.sign(found - expected) * np.maximum(
        np.abs(found - expected) - ROUNDING * eps * due.sum(), 0
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.where(beyond == 0, 0.0, beyond / error)
    limit = -NormalDist().inv_cdf(rate / (2 * len(expected)))
    about = f"{num_populations} populations of {num_particles} particle" + (
        "s" if num_particles > 1 else ""
    )
    about += ", all choices" if enumerate_choices else f", {num_keys} keys each"
    functions = ("mass", *_labels(ends, len(due)), "elsewhere")
    return MeasureCheck(functions, expected, found, error, scores, limit, about)


# Populations ------------------------------------------------------------------------------------


def _populations(masses: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All populations of n particles: which states, how likely, and log weights."""
    # Parts of multiples of the golden ratio: as uneven as one likes, between 1 and 2.
    golden = np.arange(1, n * len(masses) + 1) * (math.sqrt(5) - 1) / 2
    laws = 1 + np.modf(golden)[0].reshape(n, len(masses))
    laws /= laws.sum(axis=1, keepdims=True)
    index = np.array(list(itertools.product(range(len(masses)), repeat=n)))
    chances = laws[np.arange(n), index]
    with np.errstate(divide="ignore"):
        return index, np.prod(chances, axis=1), np.log(masses[index] / chances)


def _by_keys(
    block: Any, states: Any, index: Any, log_weights: Any, ends: Any, num_keys: int, rng_key: Any
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean of every integral, and its variance, for each population."""

    def one(at: Any) -> tuple[Array, Array]:
        key, particles, log_weights = at
        run = lambda key: _integrals(block(key, particles, log_weights), ends)
        found = jax.vmap(run)(random.split(key, num_keys))
        mean = jnp.mean(found, axis=0)
        return mean, jnp.mean((found - mean) ** 2, axis=0) / max(num_keys - 1, 1)

    populations = jax.tree.map(lambda x: jnp.asarray(x[index]), states)
    log_weights = jnp.asarray(log_weights, jnp.result_type(float))
    run_keys = random.split(keys.as_key(rng_key), len(index))
    run = jax.jit(lambda at: lax.map(one, at))
    means, variances = run((run_keys, populations, log_weights))
    eps = float(jnp.finfo(means.dtype).eps)
    return np.asarray(means, np.float64), np.asarray(variances, np.float64), eps


def _by_choices(
    block: Any, states: Any, index: Any, log_weights: Any, ends: Any, shares: Any
) -> tuple[np.ndarray, np.ndarray, float]:
    means, eps, count = [], 0.0, 0
    for rows, log_w in zip(index, log_weights, strict=True):
        particles = jax.tree.map(lambda x: x[rows], states)  # noqa: B023
        mean = 0.0
        for probability, end in _outcomes(lambda choose: block(choose, particles, log_w)):  # noqa: B023
            found = np.asarray(_integrals(end, ends))
            eps = max(eps, float(np.finfo(found.dtype).eps))
            mean = mean + probability * found.astype(np.float64)
            count += 1
            if count > MOST_OUTCOMES:
                raise ValueError(
                    f"the block's choices have more than {MOST_OUTCOMES} outcomes over the "
                    f"{len(index)} populations: take fewer states or particles, or keys"
                )
        means.append(mean)
    return np.array(means), np.zeros((len(means), len(means[0]))), eps


def _outcomes(run: Callable[[Any], Any]) -> Iterator[tuple[float, Any]]:
    """Every outcome of a function of choices, with its probability, by running it anew for each."""
    waiting: list[tuple[int, ...]] = [()]
    while waiting:
        given = waiting.pop()
        made: list[int] = []
        probability = 1.0

        def choose(probabilities: Any) -> int:
            nonlocal probability
            p = np.asarray(probabilities, np.float64)
            if p.ndim != 1 or not (p >= 0).all() or abs(p.sum() - 1) > 1e-5:
                raise ValueError(f"choose takes probabilities that add up to one; got {p}")
            if len(made) < len(given):  # noqa: B023
                pick = given[len(made)]  # noqa: B023
            else:
                pick, *others = (int(i) for i in np.flatnonzero(p))
                waiting.extend((*made, other) for other in others)  # noqa: B023
            made.append(pick)  # noqa: B023
            probability *= p[pick] / p.sum()
            return pick

        end = run(choose)
        yield probability, end


# Integrals --------------------------------------------------------------------------------------


def _integrals(population: Any, states: PyTree) -> Any:
    """Mass, mass of every state, and mass that lies on none."""
    particles, log_weights, log_evidence = _opened(population)
    xp = jnp if isinstance(log_weights, jax.Array) else np
    matches = _matches(xp, particles, states)
    each = xp.exp(log_weights + log_evidence) / len(log_weights)
    masses = xp.sum(xp.where(matches, each[:, None], 0), axis=0)
    elsewhere = xp.sum(xp.where(matches.any(axis=1), 0, each))
    return xp.concatenate([xp.sum(each)[None], masses, elsewhere[None]])


def _opened(population: Any) -> tuple[Any, Any, Any]:
    if hasattr(population, "log_weights"):
        banked = getattr(population, "log_evidence", 0.0)
        return population.particles, population.log_weights, banked
    if isinstance(population, tuple) and len(population) in (2, 3):
        particles, log_weights, *banked = population
        return particles, log_weights, (banked[0] if banked else 0.0)
    raise ValueError(
        "the block must return (particles, log_weights), (particles, log_weights, log_evidence) or "
        f"an object with these attributes; got {type(population).__name__}"
    )


def _matches(xp: Any, particles: PyTree, states: PyTree) -> Any:
    """Which particle is in which state."""
    if jax.tree.structure(particles) != jax.tree.structure(states):
        raise ValueError(
            f"the block returns particles {jax.tree.structure(particles)}, the states are "
            f"{jax.tree.structure(states)}; give states_after= where the block extends them"
        )
    matches = True
    for x, s in zip(jax.tree.leaves(particles), jax.tree.leaves(states), strict=True):
        if xp.shape(x)[1:] != s.shape[1:]:
            raise ValueError(
                f"the block returns particles of shape {xp.shape(x)[1:]}, states have the shape "
                f"{s.shape[1:]}; give states_after= where the block extends them"
            )
        equal = xp.equal if s.dtype.kind in "biu" else xp.isclose
        same = equal(xp.asarray(x)[:, None], xp.asarray(s)[None])
        matches = matches & same.reshape(*same.shape[:2], -1).all(axis=2)
    return matches


def _labels(states: PyTree, size: int) -> list[str]:
    columns = named(states)
    return [
        ", ".join(f"{name} = {np.asarray(x[i]).tolist()}" for name, x in columns.items())
        for i in range(size)
    ]


def _masses(value: Any, name: str) -> np.ndarray:
    masses = np.asarray(value, np.float64)
    fine = masses.ndim == 1 and len(masses) and np.isfinite(masses).all() and (masses >= 0).all()
    if not fine or masses.sum() == 0:
        raise ValueError(f"{name} must be masses of states, such as [0.5, 1.0, 2.0]; got {value}")
    return masses


def _require_length(states: PyTree, size: int, name: str) -> None:
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(states)}
    if lengths != {(size,)}:
        raise ValueError(
            f"{name} must have a leading axis of length {size}, a row for each mass; got "
            f"{sorted(lengths)}"
        )
