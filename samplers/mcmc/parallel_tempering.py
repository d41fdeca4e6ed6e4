"""Parallel tempering, non-reversible: chains at all temperatures at once, which trade places.

    pi_b(x) = r(x) exp(b V(x)),   0 = b_0 < b_1 < ... < b_N = 1,   V = log target - log r

    one scan:  x_0 ~ r;   x_k ~ K_k(x_k, .) for k = 1..N;   V_k = V(x_k)
               for k = 0, 2, ..  in even scans, k = 1, 3, .. in odd ones, exchange x_k and x_{k+1}
               with probability min(1, exp((b_{k+1} - b_k) (V_k - V_{k+1})))      (eq. 5 of [2])

K_k leaves pi_{b_k} invariant; the reference (the prior, as a rule) is drawn from exactly; so that a
scan leaves the product of all pi_b invariant, and the draws are those of the last one. What comes
from the reference is a fresh start, in whatever mode: chains at b = 1 need not cross.

Even and odd scans alternate [1]. A state that has been exchanged goes on in the same direction
until it is refused, where random pairs would walk at random: with r_k the rates of refusal, the
share of scans in which a state completes its way from the reference to the target and back is

    1 / (2 + 2 sum_k r_k / (1 - r_k))                                            (theorem 1 of [2])

if the moves forget at once. Its sum of r_k hardly depends on the number of temperatures: the global
barrier Lambda is the least length of the path, and equal r_k are best, at about 2 Lambda steps.
Warm-up moves the temperatures to equal r_k (`samplers.mcmc.temperature_ladder`).

The values of V at all temperatures give the evidence, forward and backward
(`samplers.smc.stepping_stones`).

References
----------
.. [1] T. Okabe, M. Kawata, Y. Okamoto, M. Mikami, "Replica-exchange Monte Carlo method for the
   isobaric-isothermal ensemble", Chem. Phys. Lett. 335, 2001, doi:10.1016/S0009-2614(01)00055-0.
.. [2] S. Syed, A. Bouchard-Cote, G. Deligiannidis, A. Doucet, "Non-reversible parallel tempering: a
   scalable highly parallel MCMC scheme", J. R. Stat. Soc. B 84, 2022, arXiv:1905.02939.
"""

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl import weights
from ppl.energy import Energy, Position
from ppl.sampler import Exactness, MarkovKernel, OnePieceWarmUp, size, where
from ppl.template import float_dtype
from ppl.weights import Estimate
from samplers.mcmc.hmc import HMC
from samplers.mcmc.temperature_ladder import TemperingWarmUp, each, log_odds, refusals
from samplers.mcmc.windows import MOST_NUMBERS, WindowWarmUp, flag
from samplers.smc.along_path import check_move, check_path
from samplers.smc.moves import densities_of, plain_states
from samplers.smc.path import Known, Path, as_reference, as_schedule
from samplers.smc.stepping_stones import SteppingStones, stepping_stones

POWER = 4  # of the ladder that nothing is known about: dense near 0
COARSE = 0.85  # rate of refusal from which on a ladder has too few rungs
FORGET = 2  # scans a rung, in which states from the reference have come to all of them
FEW = 10  # round trips, up to which little has come from the reference


class ParallelTemperingState(NamedTuple):
    """The state at b = 1 with its log-density (nats), and what the next scan needs.

    ``positions`` are those of the rungs above the reference, which carry ``known`` with them: V and
    its like, so that no density is asked for anew at another temperature. ``moved`` holds the
    states of their kernels after the moves, before states were exchanged; ``log_ratios`` is V by
    then, of all rungs (at the start, V of as many draws of the reference). ``legs`` says where each
    rung's state is on its way: 1, it comes from the reference; 2, from the target, and from the
    reference before that; 0, from neither.
    """

    position: PyTree
    log_density: Float[Array, ""]
    positions: PyTree
    known: Known
    moved: Any
    log_ratios: Float[Array, " rung"]
    legs: Int[Array, " rung"]
    round_trips: Int[Array, ""]
    scan: Int[Array, ""]


class ParallelTemperingInfo(NamedTuple):
    """A scan: V of every rung, before states were exchanged, and round trips so far.

    ``acceptance_rate`` is the mean over the moves of all rungs; ``diverging`` is about the move at
    b = 1; ``scan`` counts scans from the start, as ``round_trips`` does, so that thinned draws tell
    as much.
    """

    acceptance_rate: Float[Array, ""]
    diverging: Bool[Array, ""]
    log_ratios: Float[Array, " rung"]
    round_trips: Int[Array, ""]
    scan: Int[Array, ""]
    infos: tuple[Any, ...]
    num_evaluations: Int[Array, "2"]


class Communication(NamedTuple):
    """How well states travel along the ladder, over all chains.

    ``rejection_rates`` has an entry for each step of the ladder; they add up to ``barrier``.
    ``ideal_rate`` is the rate of round trips, in ``round_trips`` of ``num_scans``, where moves
    forget at once.
    """

    inverse_temperatures: Float[np.ndarray, " rung"]
    rejection_rates: Float[np.ndarray, " step"]
    round_trips: int
    num_scans: int

    @property
    def barrier(self) -> float:
        """The global barrier Lambda."""
        return float(self.rejection_rates.sum())

    @property
    def ideal_rate(self) -> float:
        """``1 / (2 + 2 sum r / (1 - r))``."""
        r = np.minimum(self.rejection_rates, 1 - 1e-12)
        return float(1 / (2 + 2 * np.sum(r / (1 - r))))


class ParallelTempering(MarkovKernel):
    """Non-reversible parallel tempering: exact, with the evidence.

    Parameters
    ----------
    num_temperatures
        Rungs of the ladder, reference and target included. About twice the global barrier is best,
        which the run reports.
    move
        Any exact Markov kernel. None: `HMC`. Each temperature has its own step size and metric.
    reference
        Where the path starts, if not from the prior of the target: a NumPyro distribution or a
        target that can be sampled, on the unconstrained space, wider than the target.
    schedule
        Inverse temperatures that rise to 1, that of the reference left out, in place of those that
        warm-up finds.
    num_moves
        Moves at each temperature between exchanges.
    ladder, moves
        Inverse temperatures from 0 to 1 and a kernel for each but the first: set by `resolve` and
        by warm-up.
    warm
        Whether there has been a warm-up, which sets it.

    Raises
    ------
    TargetError
        If the target says no prior and there is no reference, if that cannot be sampled, if the
        move needs a gradient that the target lacks.
    ValueError
        If the move is not exact, tunes itself in one piece, or needs many chains to do so.

    Notes
    -----
    ``draws.sampler.communication(draws.stats)`` gives refusals, barrier and round trips,
    ``draws.sampler.stepping_stones(draws.stats)`` the evidence from below, from above and from both
    sides, of which the last is ``draws.log_evidence``. Each chain is a ladder of its own; at all
    rungs it starts where it is told to. That is no draw of any temperature but the last: a run that
    goes on without a warm-up (``init=draws, num_warmup=0``) makes `FORGET` scans a rung before its
    first draw.

    Differences from the paper
    --------------------------
    Rates of refusal are averaged over all pairs in each scan, tried or not. The ladder is
    interpolated in log b, in b below the first rung; the paper has monotone cubics in b. It starts
    from a geometric one, whose first rung is what draws of the reference can bear.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness] = "exact"
    fixed_length: ClassVar[bool] = False

    num_temperatures: int = size("num_temperatures", minimum=2, default=16)
    move: Any = None  # a MarkovKernel
    reference: Any = eqx.field(default=None, converter=as_reference)
    schedule: Any = eqx.field(default=None, converter=as_schedule)
    num_moves: int = size("num_moves", default=1)
    ladder: Any = None
    moves: Any = None
    warm: Bool[Array, ""] = eqx.field(default=False, converter=flag)

    def __check_init__(self) -> None:
        check_move(self.move)
        if not isinstance(self.move, MarkovKernel):
            return
        name = type(self.move).__name__
        if self.move.exactness != "exact":
            raise ValueError(
                f"ParallelTempering is exact only if its moves are: {name} is "
                f"{self.move.exactness}. Use samplers.HMC(), MALA() or RandomWalk()"
            )
        if self.move.fewest_chains > 1:
            raise ValueError(
                f"ParallelTempering cannot move by {name}, which learns from many chains side by "
                "side. Use samplers.HMC(), MALA() or RandomWalk()"
            )

    def check(self, target: Energy) -> None:
        check_path(type(self).__name__, Path(target, self.reference), self.move)
        if self.move is not None and isinstance(self.move.warmup(target), OnePieceWarmUp):
            raise ValueError(
                f"ParallelTempering: {type(self.move).__name__} tunes itself in one piece"
            )

    def resolve(self, target: Energy) -> "ParallelTempering":
        if self.moves is not None:
            return self  # tuned already
        dtype = float_dtype(target.template)
        if self.schedule is not None:
            above = self.schedule.astype(dtype)
        else:
            steps = self.num_temperatures - 1
            above = (jnp.arange(1, steps + 1, dtype=dtype) / steps) ** POWER
        move = (HMC() if self.move is None else self.move).resolve(target)
        arrays, rest = eqx.partition(move, eqx.is_array)
        arrays = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(above), *x.shape)), arrays)
        ladder = jnp.concatenate([jnp.zeros(1, dtype), above])
        return eqx.tree_at(
            lambda s: (s.ladder, s.moves), self, (ladder, eqx.combine(arrays, rest)), is_leaf=_none
        )

    def warmup(self, target: Energy) -> TemperingWarmUp:
        move = (HMC() if self.move is None else self.move).resolve(target)
        of_move = move.warmup(target)
        if isinstance(of_move, WindowWarmUp):
            # All rungs together remember no more than a kernel by itself.
            num_rungs = len(self.resolve(target).ladder) - 1
            of_move = replace(of_move, most_numbers=MOST_NUMBERS // num_rungs)
        return TemperingWarmUp(of_move)

    def watch(self, state: ParallelTemperingState) -> PyTree:
        return state.moved.position, self.moves.watch(state.moved)

    # The chain --------------------------------------------------------------------------------

    def init(
        self, rng_key: PRNGKeyArray, target: Energy, position: Position
    ) -> ParallelTemperingState:
        path, num_rungs = Path(target, self.reference), len(self.ladder)
        key_reference, key_init = random.split(rng_key)
        one = jax.tree.map(lambda x: jnp.asarray(x)[None], position)
        positions, known = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (num_rungs - 1, *x.shape[1:])),
            (one, path.known(one, self.moves)),
        )
        moved = self._begin(key_init, path, positions, known)
        log_ratios = path.log_ratios(path.sample(key_reference, num_rungs))
        legs = jnp.zeros(num_rungs, jnp.int32).at[0].set(1)
        return ParallelTemperingState(
            position, known.log_density[-1], positions, known, moved, log_ratios, legs,
            jnp.int32(0), jnp.int32(0),
        )  # fmt: skip

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: ParallelTemperingState
    ) -> tuple[ParallelTemperingState, ParallelTemperingInfo]:
        before = jnp.where(self.warm & (state.scan == 0), FORGET * len(self.ladder), 0)

        def one(carry: Any) -> Any:
            i, state, info = carry
            key = where(i == 0, rng_key, random.fold_in(rng_key, i))
            state, new = self.one_scan(key, target, state)
            spent = info.num_evaluations + new.num_evaluations
            return i - 1, state, new._replace(num_evaluations=spent)

        _, info = jax.eval_shape(lambda key: self.one_scan(key, target, state), rng_key)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), info)
        _, state, info = lax.while_loop(lambda carry: carry[0] >= 0, one, (before, state, nothing))
        return state, info

    def one_scan(
        self, rng_key: PRNGKeyArray, target: Energy, state: ParallelTemperingState
    ) -> tuple[ParallelTemperingState, ParallelTemperingInfo]:
        """Move all rungs, then exchange."""
        path, num_rungs = Path(target, self.reference), len(self.ladder)
        key_reference, key_begin, key_move, key_swap = random.split(rng_key, 4)

        # States have been exchanged: density and gradient are those of another temperature.
        moved = self._begin(key_begin, path, state.positions, state.known)
        moved, infos, spent = self._move(key_move, path, moved)
        fresh = path.sample(key_reference, 1)
        positions, known = jax.tree.map(
            lambda x, y: jnp.concatenate([x, y]),
            (fresh, path.known(fresh, self.moves)), (moved.position, self._known(path, moved)),
        )  # fmt: skip
        log_ratios = weights.clean(known.log_ratio)

        order = exchange(key_swap, log_ratios, self.ladder, state.scan)
        positions, known = jax.tree.map(lambda x: x[order], (positions, known))
        legs = state.legs[order]
        returned = legs[0] == 2
        legs = legs.at[0].set(1).at[-1].set(jnp.where(legs[-1] == 1, 2, legs[-1]))

        uses_gradient = int("gradient" in self.moves.needs)
        if self.moves.plain_state is None:
            begun = jnp.array([num_rungs - 1, (num_rungs - 1) * uses_gradient], jnp.int32)
            asked, first = begun + jnp.array([num_rungs, 0]), begun + jnp.array([num_rungs + 1, 0])
        else:  # of the draw of the reference alone; at the start, of one position
            asked = jnp.array([1, uses_gradient], jnp.int32)
            first = asked + jnp.array([num_rungs, 0])
        # The driver counts steps, so the first one pays for the start.
        spent = (spent + asked + first * (state.scan == 0)).astype(jnp.int32)
        rates = getattr(infos, "acceptance_rate", jnp.ones(num_rungs - 1, log_ratios.dtype))
        diverging = getattr(infos, "diverging", jnp.zeros(num_rungs - 1, bool))
        after = ParallelTemperingState(
            jax.tree.map(lambda x: x[-1], positions),
            known.log_density[-1],
            jax.tree.map(lambda x: x[1:], positions),
            jax.tree.map(lambda x: x[1:], known),
            moved,
            log_ratios,
            legs,
            state.round_trips + returned,
            state.scan + 1,
        )
        return after, ParallelTemperingInfo(
            acceptance_rate=jnp.mean(rates),
            diverging=diverging[-1],
            log_ratios=log_ratios,
            round_trips=after.round_trips,
            scan=after.scan,
            infos=(infos,),
            num_evaluations=spent,
        )

    def _begin(self, rng_key: PRNGKeyArray, path: Path, positions: PyTree, known: Known) -> Any:
        """States of the kernels at these positions."""
        if self.moves.plain_state is not None:
            return plain_states(self.moves, positions, jax.vmap(Known.at)(known, self.ladder[1:]))

        def one(key: PRNGKeyArray, move: Any, b: Array, position: Position) -> Any:
            return move.init(key, path.at(b), position)

        keys = random.split(rng_key, len(self.ladder) - 1)
        return each(one)(keys, self.moves, self.ladder[1:], positions)

    def _known(self, path: Path, moved: Any) -> Known:
        """V and its like, where the moves have led."""
        densities = densities_of(self.moves, moved)
        if densities is None:
            return path.known(moved.position, self.moves)
        return path.known_from(moved.position, self.ladder[1:], *densities)

    def _move(
        self, rng_key: PRNGKeyArray, path: Path, states: Any
    ) -> tuple[Any, Any, Int[Array, "2"]]:
        """``num_moves`` moves of each rung: states, the last infos, evaluations."""

        def one(key: PRNGKeyArray, move: Any, b: Array, state: Any) -> Any:
            return move.step(key, path.at(b), state)

        def all_rungs(states: Any, key: PRNGKeyArray) -> Any:
            keys = random.split(key, len(self.ladder) - 1)
            return each(one)(keys, self.moves, self.ladder[1:], states)

        if self.num_moves == 1:
            states, infos = all_rungs(states, rng_key)
            return states, infos, jnp.sum(infos.num_evaluations, axis=0, dtype=jnp.int32)
        keys = random.split(rng_key, self.num_moves)
        states, infos = lax.scan(all_rungs, states, keys)
        spent = jnp.sum(infos.num_evaluations, axis=(0, 1), dtype=jnp.int32)
        return states, jax.tree.map(lambda x: x[-1], infos), spent

    # What a run found -------------------------------------------------------------------------

    def communication(self, stats: dict[str, np.ndarray]) -> Communication:
        """Refusals, barrier and round trips of a run."""
        ladder = np.asarray(self.ladder, np.float64)
        rates = refusals(np.asarray(stats["log_ratios"], np.float64), ladder).mean(axis=(0, 1))
        trips, scans = stats["round_trips"].astype(int), stats["scan"].astype(int)
        return Communication(
            ladder,
            rates,
            int((trips[:, -1] - trips[:, 0]).sum()),
            int((scans[:, -1] - scans[:, 0]).sum()),
        )

    def stepping_stones(self, stats: dict[str, np.ndarray]) -> SteppingStones:
        """Log-evidence from below, from above, and from both sides of each stone."""
        return stepping_stones(stats["log_ratios"], np.asarray(self.ladder))

    def log_evidence(self, stats: dict[str, np.ndarray]) -> Estimate:
        return self.stepping_stones(stats).both

    def notes(self, stats: dict[str, np.ndarray]) -> list[str]:
        found, stones = self.communication(stats), self.stepping_stones(stats)
        rates, steps = found.rejection_rates, len(found.rejection_rates)
        notes = [
            f"global barrier {found.barrier:.2f} in {steps} steps of temperature, refused at rates "
            f"of {rates.min():.2f} to {rates.max():.2f}; {found.round_trips} round trips in "
            f"{found.num_scans} scans ({found.round_trips / max(found.num_scans, 1):.3g} a scan; "
            f"{found.ideal_rate:.3g} if moves forgot at once)",
            f"log evidence forward {_shown(stones.forward)}, backward {_shown(stones.backward)}",
        ]
        if rates.max() > COARSE:
            notes.append(
                f"states are refused at a rate of {rates.max():.2f} at some step of temperature: "
                f"write num_temperatures={2 * int(np.ceil(found.barrier)) + 2} or more"
            )
        if found.round_trips < FEW:
            notes.append(
                f"only {found.round_trips} states came from the reference and went back: modes in "
                "which no chain started may be missing. Draw longer, or write more num_moves"
            )
        return notes


def _none(x: Any) -> bool:
    return x is None


def _shown(estimate: Estimate) -> str:
    error = "" if estimate.std_error is None else f" +- {estimate.std_error:.2g}"
    return f"{estimate.value:.3f}{error}"


# Exchanges ----------------------------------------------------------------------------------------


def tried(scan: Int[Array, ""], num_steps: int) -> Bool[Array, " step"]:
    """Which pairs of neighbors: even ones in even scans, odd ones in odd scans."""
    return jnp.arange(num_steps) % 2 == scan % 2


def exchange(
    rng_key: PRNGKeyArray,
    log_ratios: Float[Array, " rung"],
    ladder: Float[Array, " rung"],
    scan: Int[Array, ""],
) -> Int[Array, " rung"]:
    """Which rung each rung gets its state from."""
    odds = log_odds(log_ratios, ladder)
    uniform = random.uniform(rng_key, odds.shape, odds.dtype)
    yes = (uniform < jnp.exp(jnp.minimum(odds, 0))) & tried(scan, len(odds))
    up = jnp.pad(yes.astype(jnp.int32), (0, 1))
    return jnp.arange(len(ladder)) + up - jnp.roll(up, 1)
