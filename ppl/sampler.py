"""The four contracts a sampler can fulfil, and warm-up.

A sampler is a final Equinox module whose fields are its hyperparameters: numbers are arrays, so a
new step size does not compile again; sizes are Python ints. It has no state of its own. ``State``
and ``Info`` are tuples of arrays: the state is what the next step needs, the info is what a
reader of diagnostics needs. Every info has ``num_evaluations``, the (log-density, gradient)
evaluations the step spent; its other fields appear in ``draws.stats`` under their own names.
"""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position
from ppl.weights import Estimate

type Exactness = Literal["exact", "asymptotically exact", "biased"]


class Sampler(eqx.Module):
    """What every sampler says about itself, before anything runs.

    Attributes
    ----------
    needs
        Capabilities a target must offer (see `ppl.energy.Energy`); checked before compilation.
    exactness
        ``"exact"``: leaves the target invariant, or draws from it; ``"asymptotically exact"``:
        consistent as its budget grows; ``"biased"``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness]

    @property
    def counted(self) -> tuple[str, str]:
        """Evaluations of what: the words for the two numbers of ``num_evaluations``."""
        if "denoise" in self.needs:
            return ("log-likelihood", "denoiser")
        if "unmask" in self.needs:
            return ("log-likelihood", "network")
        return ("log-density", "gradient")

    def check(self, target: Energy) -> None:
        """Raise an error about this target that ``needs`` cannot express; by default none."""

    def resolve(self, target: Energy) -> "Sampler":
        """Fill what the user left open (a metric chosen by dimension), before compilation."""
        return self

    def save(self, path: str | Path) -> None:
        """Write the arrays of the sampler (tuned step size, metric, weights of a network)."""
        eqx.tree_serialise_leaves(path, self)


def load_sampler[S: Sampler](path: str | Path, like: S) -> S:
    """Read what ``sampler.save(path)`` wrote, into the structure of ``like``."""
    # Equinox takes templates for arrays to be read, though it writes none of them.
    is_template = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    templates, rest = eqx.partition(like, is_template)
    return eqx.combine(eqx.tree_deserialise_leaves(path, rest), templates)


class WarmUp(eqx.Module):
    """Adaptation of a Markov kernel as a state machine, statistics pooled over chains.

    The driver runs the kernel and calls, in this order:

    1. ``init`` once, with the states of all chains (leading axis ``chain``);
    2. ``step`` after every kernel step, inside the compiled loop: only cheap work;
    3. ``end_chunk`` after every chunk, with the chunk's record: moments, metrics.

    ``windows(num_steps)`` gives the lengths of the windows after which ``end_chunk`` is called
    with ``window_ends`` true. After the last window the kernel that comes back is final.
    """

    @abstractmethod
    def windows(self, num_steps: int) -> list[int]:
        """Lengths that add up to ``num_steps``; plain Python, never traced."""

    @abstractmethod
    def init(
        self, rng_key: PRNGKeyArray, target: Energy, kernel: Any, states: Any
    ) -> tuple[Any, Any]:
        """Return the kernel to start with and the adaptation state."""

    @abstractmethod
    def step(self, kernel: Any, adaptation: Any, infos: Any) -> tuple[Any, Any]:
        """Cheap update after one step of all chains; ``infos`` has a leading chain axis."""

    @abstractmethod
    def end_chunk(
        self,
        rng_key: PRNGKeyArray,
        target: Energy,
        kernel: Any,
        adaptation: Any,
        states: Any,
        record: "Record",
        count: Int[Array, ""],
        window_ends: Bool[Array, ""],
        is_last: Bool[Array, ""],
    ) -> tuple[Any, Any, Any]:
        """Return kernel, adaptation state and chain states.

        ``record`` has leading axes ``(capacity, chain)``, of which the first ``count`` rows are
        this chunk's steps. When the kernel's meaning changes (a new metric), so may the states.
        """


class OnePieceWarmUp(eqx.Module):
    """A tuner that runs in one piece and counts as one chunk (MCLMC's)."""

    @abstractmethod
    def run(
        self, rng_key: PRNGKeyArray, target: Energy, kernel: Any, states: Any, num_steps: int
    ) -> tuple[Any, Any, Int[Array, "2"]]:
        """Return tuned kernel, chain states, and the evaluations spent."""


class Record(eqx.Module):
    """What one step of all chains leaves behind: the draw, its info, and what warm-up watches.

    ``info`` holds the fields of the kernel's Info by name, and ``lp`` where the state knows it.
    """

    position: PyTree
    info: dict[str, Array]
    watched: Any = ()


class MarkovKernel(Sampler):
    """``x' ~ K(x, .)``, leaving the target invariant (or nearly). One draw a step.

    ``init`` and ``step`` are written for a single chain; the driver vmaps them. The state has a
    field ``position`` shaped like ``target.template``; a field ``log_density``, when there is
    one, is reported as ``lp``.
    """

    fixed_length: ClassVar[bool] = True  # every step costs the same: batches are vmapped
    usual_chains: ClassVar[int] = 4  # of `ppl.sample`, where the user names no number
    fewest_chains: ClassVar[int] = 1  # that warm-up can learn from
    # Class of the states, where these are ``(position, log_density)`` of the target and no more, or
    # ``(position, log_density, gradient)`` for a kernel that needs a gradient: who knows these
    # makes a state without an evaluation.
    plain_state: ClassVar[Any] = None

    def check_start(self, target: Energy, positions: Position | None) -> None:
        """Raise an error about where chains are to start, before compilation; by default none.

        ``positions`` has a leading chain axis; None: the user gave none, so that chains start at
        finite points, uniform on (-2, 2).
        """

    @abstractmethod
    def init(self, rng_key: PRNGKeyArray, target: Energy, position: Position) -> Any:
        """State of a chain that starts at ``position``."""

    @abstractmethod
    def step(self, rng_key: PRNGKeyArray, target: Energy, state: Any) -> tuple[Any, Any]:
        """One transition: ``(state, info)``."""

    def warmup(self, target: Energy) -> WarmUp | OnePieceWarmUp | None:
        """The adaptation this kernel asks for; None: it has nothing to tune."""
        return None

    def watch(self, state: Any) -> Any:
        """Arrays of the state, beside the position, that warm-up wants recorded each step."""
        return ()

    def retune(
        self, particles: Position, log_weights: Float[Array, " n"], info: Any, watched: Any = ()
    ) -> "MarkovKernel":
        """Same kernel, tuned to weighted particles; shapes are kept. By default unchanged.

        ``info`` is the info of the last moves (leading axis: particles), or None before any;
        ``watched`` what `watch` finds in the states of the particles, or () where these are not
        known.
        """
        return self

    def log_evidence(self, stats: dict[str, np.ndarray]) -> Estimate | None:
        """Log-evidence of a run, where its stats tell (a kernel on an extended space may know).

        ``stats`` are those of the draws, leading axes (chain, draw); this kernel is the tuned one.
        """
        return None

    def notes(self, stats: dict[str, np.ndarray]) -> list[str]:
        """What a reader of the results should hear about a run; ``stats`` as in `log_evidence`."""
        return []


class ParticleSampler(Sampler):
    """A population with weights: ``step`` until ``done``, then ``collect``."""

    draws_apart: ClassVar[bool] = False  # the particles never meet: their weights are independent

    @abstractmethod
    def init(self, rng_key: PRNGKeyArray, target: Energy) -> Any:
        """First population of one run."""

    @abstractmethod
    def step(self, rng_key: PRNGKeyArray, target: Energy, state: Any) -> tuple[Any, Any]:
        """One generation: ``(state, info)``."""

    @abstractmethod
    def done(self, state: Any) -> Bool[Array, ""]:
        """Whether the run has arrived."""

    @abstractmethod
    def collect(
        self, rng_key: PRNGKeyArray, target: Energy, state: Any, history: Any
    ) -> tuple[Position, Float[Array, " n"] | None, Float[Array, ""] | None]:
        """``(positions, log_weights, log_evidence)`` of one run; ``history``: its infos."""

    def log_evidence_error(self, history: dict[str, np.ndarray]) -> float | None:
        """Standard error of the log-evidence of one run, where the run itself can tell."""
        return None

    @property
    def bounds_evidence(self) -> bool:
        """Whether ``log_evidence_given(rng_key, target, exact_draw)`` bounds it from above.

        A run of the same law and cost, one of whose particles ends in the exact draw. Where targets
        draw from themselves, ``draws.log_evidence`` then has bounds.
        """
        return False

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        """What a reader of the results should hear about one run, once it is over.

        ``history`` holds the fields of its infos, leading axis: step. An error raised here says
        that the run has no result.
        """
        return []


class DirectSampler(Sampler):
    """Independent draws, with weights or without, in fixed batches."""

    batch_size: ClassVar[int] = 1024
    # With a normalized proposal the mean weight is an unbiased estimate of Z.
    weights_estimate_evidence: ClassVar[bool] = True
    draws_together: ClassVar[int] = 1

    @abstractmethod
    def draw(
        self, rng_key: PRNGKeyArray, target: Energy, n: int
    ) -> tuple[Position, Float[Array, " n"] | None]:
        """``n`` positions (leading axis) and their unnormalized log-weights, or None."""

    def evaluations(self, n: int) -> tuple[int, int]:
        """(log-density, gradient) evaluations that ``n`` draws cost."""
        return (0, 0)

    def log_weights(
        self, rng_key: PRNGKeyArray, target: Energy, positions: Position
    ) -> Float[Array, " n"] | None:
        """Log-weights that draws at these positions carry, where the sampler can tell."""
        return None


class LearnedSampler(Sampler):
    """A sampler that is trained first: ``step`` is one optimizer update."""

    num_updates: eqx.AbstractVar[int]
    weights_estimate_evidence: ClassVar[bool] = True
    batch_size: ClassVar[int] = 1024
    # Draws depend on each other in groups of this many, the populations of an SMC.
    draws_together: ClassVar[int] = 1

    @abstractmethod
    def init(self, rng_key: PRNGKeyArray, target: Energy) -> Any:
        """State before training."""

    @abstractmethod
    def step(self, rng_key: PRNGKeyArray, target: Energy, state: Any) -> tuple[Any, Any]:
        """One update: ``(state, info)``; an info field ``loss`` is shown while training."""

    def done(self, state: Any) -> Bool[Array, ""]:
        """Early stopping; by default training runs ``num_updates`` updates."""
        return jnp.zeros((), bool)

    @abstractmethod
    def draw(
        self, rng_key: PRNGKeyArray, target: Energy, state: Any, n: int
    ) -> tuple[Position, Float[Array, " n"] | None]:
        """``n`` positions and log-weights from the trained state."""

    def prior(self, state: Any) -> Any:
        """The law that was learned, as a target, where there is one."""
        raise AttributeError(f"{type(self).__name__} learns no law that is a target of its own")

    def untrained(self, target: Energy) -> "Trained":
        """What ``draws.sampler`` is like before training: `load_sampler` reads into it."""
        sampler: Any = self.resolve(target)
        return Trained(sampler, eqx.filter_jit(sampler.init)(jax.random.key(0), target))

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        """What a reader of the results should hear about one run, once it is over.

        ``history`` holds the fields of its infos, leading axis: step. An error raised here says
        that the run has no result.
        """
        return []

    def evaluations(self, n: int) -> tuple[int, int]:
        """(log-density, gradient) evaluations that ``n`` draws cost, training apart."""
        return (0, 0)

    def log_weights(
        self, rng_key: PRNGKeyArray, target: Energy, state: Any, positions: Position
    ) -> Float[Array, " n"] | None:
        """Log-weights that draws at these positions carry, where the sampler can tell.

        Where a draw has a random path, each weight is that of one path to the position, drawn from
        the law that these have under the target.
        """
        return None


class Trained(DirectSampler):
    """A trained `LearnedSampler` with its state: draws without training."""

    sampler: LearnedSampler
    state: Any

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the sampler it came from."""
        return self.sampler.needs

    @property
    def exactness(self) -> Exactness:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the sampler it came from."""
        return self.sampler.exactness

    @property
    def prior(self) -> Any:
        """The law that was learned: a `samplers.DiffusionPrior`, where it was trained on data."""
        return self.sampler.prior(self.state)

    @property
    def weights_estimate_evidence(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As those of the sampler it came from."""
        return self.sampler.weights_estimate_evidence

    @property
    def batch_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the sampler it came from."""
        return self.sampler.batch_size

    @property
    def draws_together(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As those of the sampler it came from."""
        return self.sampler.draws_together

    def draw(
        self, rng_key: PRNGKeyArray, target: Energy, n: int
    ) -> tuple[Position, Float[Array, " n"] | None]:
        """As the trained sampler draws."""
        return self.sampler.draw(rng_key, target, self.state, n)

    def evaluations(self, n: int) -> tuple[int, int]:
        """As the trained sampler counts."""
        return self.sampler.evaluations(n)

    def log_weights(
        self, rng_key: PRNGKeyArray, target: Energy, positions: Position
    ) -> Float[Array, " n"] | None:
        """As the trained sampler tells them."""
        return self.sampler.log_weights(rng_key, target, self.state, positions)


# Fields ---------------------------------------------------------------------------------------


def _number(name: str, value: Any, fits: Callable[[np.ndarray], Any], expected: str) -> Any:
    if isinstance(value, Tracer) or type(value) is object:
        return value  # inside a transformation: values were checked at the door
    if value is None or isinstance(value, bool | str):
        raise ValueError(f"{name} must be {expected}; got {value!r}")
    try:
        array = np.asarray(value)
        good = array.dtype.kind in "iuf" and bool(np.all(fits(array)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be {expected}; got {value!r}") from error
    if not good:
        raise ValueError(f"{name} must be {expected}; got {value}")
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating):
        return value
    return jnp.asarray(array, jnp.result_type(float))


def positive(name: str, **options: Any) -> Any:
    """Field: a positive, finite number, stored as an array."""

    def convert(value: ArrayLike) -> Any:
        return _number(name, value, lambda x: np.isfinite(x) & (x > 0), "a positive number")

    return eqx.field(converter=convert, **options)


def nonnegative(name: str, **options: Any) -> Any:
    """Field: a finite number, zero or more, stored as an array."""

    def convert(value: ArrayLike) -> Any:
        fits = lambda x: np.isfinite(x) & (x >= 0)
        return _number(name, value, fits, "a number that is not negative")

    return eqx.field(converter=convert, **options)


def fraction(name: str, **options: Any) -> Any:
    """Field: a number strictly between 0 and 1, stored as an array."""

    def convert(value: ArrayLike) -> Any:
        return _number(name, value, lambda x: (x > 0) & (x < 1), "a number between 0 and 1")

    return eqx.field(converter=convert, **options)


def share(name: str, **options: Any) -> Any:
    """Field: a number from 0 to 1, both allowed, stored as an array."""

    def convert(value: ArrayLike) -> Any:
        return _number(name, value, lambda x: (x >= 0) & (x <= 1), "a number from 0 to 1")

    return eqx.field(converter=convert, **options)


def size(name: str, minimum: int = 1, **options: Any) -> Any:
    """Field: a static Python int, at least ``minimum``."""

    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
            raise ValueError(f"{name} must be an integer, at least {minimum}; got {value!r}")
        return int(value)

    return eqx.field(converter=convert, static=True, **options)


def where(condition: Bool[Array, ""], yes: PyTree, no: PyTree) -> PyTree:
    """Elementwise ``jnp.where`` over two pytrees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
