"""Tables of coefficients: what a solver of the reverse equation is, before anything is compiled.

A row is one call of the denoiser and one linear step of two registers u = (u_0, u_1):

    D = denoiser(u_0, level),    q = G_0 u_0 + G_1 D,    q := F q + (1 - F) q_previous
    h = (q, q_previous, q_before, ...)
    u' = A u + B h + S z,        z ~ N(0, I)

With G the history holds denoised values, noises or anything linear in them; F filters it. What is
usually a loop of its own is an entry here: a multistep method has weights B on older q; a stage of
a Runge-Kutta method reads its anchor from u_1; a corrector that uses the same q again (no second
call) moves u_0 by weights that add up to zero before the next step, so it is merged into B; noise
that is added again is part of S; methods that carry two copies use both registers. Rules write
their rows in NumPy float64, and every table is checked here before it is used. Anchors are taken
out again: where a step began is where the point is, less what q have moved it by since, and a
register less is a third of the time of a row.
"""

from typing import Any, NamedTuple

import numpy as np

from samplers.diffusion.paths import Level, NoisePath

IN_BETWEEN = -1  # `arrives` of a row in the middle of a step


class Rows(NamedTuple):
    """R rows for K registers, P values of history and M noises.

    ``index`` counts the rows, whose noise is that of ``fold_in(key, index)``; ``arrives`` is the
    place in the table's grid that u_0 is at after the row, or `IN_BETWEEN`. F has no column where
    nothing is filtered.
    """

    index: Any  # (R,)
    arrives: Any  # (R,)
    level: Level  # (R,) each
    G: Any  # (R, 2)
    F: Any  # (R, 0) or (R, 1)
    A: Any  # (R, K, K)
    B: Any  # (R, K, P)
    S: Any  # (R, K, M)


class Table(NamedTuple):
    """The rows of a run, and the levels that it arrives at; entry 0 is where it begins."""

    grid: Level
    rows: Rows


class Grid:
    """Levels of a path from noise to data, in float64: what a rule writes its rows from."""

    def __init__(self, path: NoisePath, t: Any) -> None:
        self.path = path
        self.level = path.level(np.asarray(t, np.float64))

    @property
    def num_steps(self) -> int:
        """Number of intervals."""
        return len(self.level.t) - 1

    @property
    def alpha(self) -> np.ndarray:
        """Share of the data at each level."""
        return self.level.alpha

    @property
    def sigma(self) -> np.ndarray:
        """Noise at each level."""
        return self.level.sigma

    @property
    def kappa(self) -> np.ndarray:
        """Noise in units of the data."""
        return self.level.kappa

    @property
    def log_snr(self) -> np.ndarray:
        """``log(alpha / sigma)`` at each level."""
        return -np.log(self.kappa)

    def at(self, index: int) -> Level:
        """One level of the grid."""
        return Level(*(value[index] for value in self.level))

    def between(self, log_snr: float) -> Level:
        """A level that is not on the grid, for a stage."""
        return self.path.level(self.path.time(np.float64(log_snr)))


DENOISED = (0.0, 1.0)  # G: the history holds denoised values


def noises(level: Level) -> tuple[float, float]:
    """G of a history that holds noises."""
    return 1 / level.sigma, -level.alpha / level.sigma


class Writer:
    """Collects rows; short lists of weights are filled up with zeros."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []

    def add(
        self,
        level: Level,
        A: Any,
        B: Any,
        S: Any = 0.0,
        *,
        G: tuple[float, float] = DENOISED,
        F: float = 1.0,
        arrives: Level | None = None,
    ) -> None:
        """One row. Plain numbers and lists are those of the only register, or of u_0.

        ``arrives`` is the level that the point is at after the row, where that ends a step.
        """
        A = np.atleast_2d(np.asarray(A, np.float64))
        B = np.atleast_2d(np.asarray(B, np.float64))
        S = np.asarray(S, np.float64)
        S = S.reshape(-1, 1) if S.ndim < 2 else S
        self.rows.append((arrives, level, G, F, A, B, S))

    def table(self, start: Level) -> Table:
        """All rows, of one shape, and the levels they arrive at."""
        arrives, levels, G, F, A, B, S = zip(*self.rows, strict=True)
        A, B, S = without_anchor(A, B, S) or (A, B, S)
        count = np.cumsum([level is not None for level in arrives])
        arrived = [
            n if level is not None else IN_BETWEEN for n, level in zip(count, arrives, strict=True)
        ]
        visited = [start, *(level for level in arrives if level is not None)]
        registers = max(a.shape[0] for a in A)
        history = max(b.shape[1] for b in B)
        filtered = any(f != 1.0 for f in F)
        num_noises = max(s.shape[1] for s in S) if any(np.any(s) for s in S) else 0
        rows = Rows(
            np.arange(len(A), dtype=np.int32),
            np.asarray(arrived, np.int32),
            _columns(levels),
            np.asarray(G, np.float64),
            np.asarray(F, np.float64)[:, None][:, : int(filtered)],
            np.stack([_identity(a, registers) for a in A]),
            np.stack([_zeros(b, registers, max(history, 1 + filtered)) for b in B]),
            np.stack([_zeros(s[:, :num_noises], registers, num_noises) for s in S]),
        )
        return Table(_columns(visited), rows)


def _columns(levels: Any) -> Level:
    return Level(*(np.asarray(values, np.float64) for values in zip(*levels, strict=True)))


def _zeros(entries: np.ndarray, *shape: int) -> np.ndarray:
    filled = np.zeros(shape)
    filled[tuple(slice(n) for n in entries.shape)] = entries
    return filled


def _identity(entries: np.ndarray, size: int) -> np.ndarray:
    filled = np.eye(size)
    filled[: len(entries), : len(entries)] = entries
    return filled


def without_anchor(A: Any, B: Any, S: Any) -> tuple[list[np.ndarray], ...] | None:
    """The same rows with u_0 alone, where u_1 only remembers where a step began, or None.

    Before each row ``u_1 = a u_0 + c . (q_previous, q_before, ..)``, at first the point itself. Of
    the next row follows the next one, by ``u_0 = (u_0' - B h - S z) / A``. Noise hides u_1, which
    does no harm at the end of a step, where it is set anew. If the sum grows beyond the history,
    u_1 is more than an anchor.
    """
    if max(own.shape[0] for own in A) != 2:
        return None
    history = max(weights.shape[1] for weights in B)
    anchor, rows = np.eye(1, 1 + history)[0], []  # a, c
    for own, weights, noise in zip(A, B, S, strict=True):
        own, weights = _identity(own, 2), _zeros(weights, 2, history)
        lost = np.isnan(anchor[0]) or anchor[-1] != 0
        if np.any(weights[1]) or np.any(noise[1:]) or (lost and own[0, 1]):
            return None
        point, memory = np.insert(weights, 0, own[:, 0], axis=1)  # of u_0 and h, so far
        seen = np.insert(anchor[:-1], 1, 0.0)  # u_1 in the same terms
        point = point + own[0, 1] * seen if own[0, 1] else point
        memory = memory + own[1, 1] * seen if own[1, 1] else memory
        rows.append((point[:1][None], point[1:][None], noise[:1]))
        if memory[0] and (point[0] == 0 or np.any(noise[0])):
            anchor = np.full(1 + history, np.nan)
        else:
            ratio = memory[0] / point[0] if memory[0] else 0.0
            anchor = np.insert((memory - ratio * point)[1:], 0, ratio)
    return tuple(map(list, zip(*rows, strict=True)))


def padded(rows: Rows, length: int, registers: int = 1, history: int = 1) -> Rows:
    """More rows that change nothing, and room for more: so that tables share one program."""
    num, k, p = len(rows.F), max(registers, rows.A.shape[1]), max(history, rows.B.shape[2])
    extra = length - num
    if extra < 0:
        raise ValueError(f"a table of {num} rows cannot be padded to {length}")
    more = lambda x: np.concatenate([x, np.repeat(x[-1:], extra, axis=0)])
    A = np.stack([*(_identity(a, k) for a in rows.A), *[np.eye(k)] * extra])
    B = np.stack([_zeros(b, k, p) for b in rows.B] + [np.zeros((k, p))] * extra)
    S = np.stack([_zeros(s, k, rows.S.shape[2]) for s in rows.S])
    S = np.concatenate([S, np.zeros((extra, *S.shape[1:]))])
    index = np.arange(length, dtype=np.int32)
    arrives = np.concatenate([rows.arrives, np.full(extra, IN_BETWEEN, np.int32)])
    level = Level(*map(more, rows.level))
    return Rows(index, arrives, level, more(rows.G), more(rows.F), A, B, S)


# What a table does to a Gaussian ----------------------------------------------------------------


class Moments(NamedTuple):
    """Mean and variance of u_0 at each arrival, in the order of the rows."""

    arrives: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def propagate(rows: Rows, gain: Any, offset: Any, mean: float, variance: float) -> Moments:
    """Exact moments under a table where ``D = gain x + offset`` in each row, for scalar x.

    Everything is linear then, history and noises included, so that nothing is simulated: the
    denoiser of a Gaussian has this form. The covariance is carried by a factor, one column for the
    start and one for each noise: a step over many orders of magnitude subtracts noises that are
    nearly equal, and squares of them would leave no digit.
    """
    num, k = rows.A.shape[:2]
    p, num_noises = rows.B.shape[2], rows.S.shape[2]
    gain, offset = np.broadcast_to(gain, num), np.broadcast_to(offset, num)
    size = k + p - 1  # registers, then the older values of the history
    state, factor = np.zeros(size), np.zeros((size, 1 + num * num_noises))
    state[:k], factor[:k, 0] = mean, np.sqrt(variance)
    result = []
    for i in range(num):
        q = np.zeros(size)
        share = rows.F[i, 0] if rows.F.shape[1] else 1.0
        q[0] = share * (rows.G[i, 0] + rows.G[i, 1] * gain[i])
        if p > 1:
            q[k] = 1 - share
        shift = share * rows.G[i, 1] * offset[i]
        step, move = np.zeros((size, size)), np.zeros(size)
        step[:k, :k] = rows.A[i]
        step[:k, k:] = rows.B[i, :, 1:]
        step[:k] += np.outer(rows.B[i, :, 0], q)
        move[:k] = rows.B[i, :, 0] * shift
        if p > 1:
            step[k], move[k] = q, shift
            step[k + 1 :, k:-1] = np.eye(p - 2)
        state, factor = step @ state + move, step @ factor
        factor[:k, 1 + i * num_noises : 1 + (i + 1) * num_noises] = rows.S[i]
        if rows.arrives[i] != IN_BETWEEN:
            result.append((rows.arrives[i], state[0], np.sum(factor[0] ** 2)))
    return Moments(*(np.asarray(column) for column in zip(*result, strict=True)))


def check(table: Table, name: str) -> None:
    """Assert what holds for every consistent rule, whatever its order.

    Data that are a single point, D constant, are carried along exactly; and from pure noise, where
    D is zero, the noise has the variance of its level, stochastic or not.
    """
    grid, rows = table
    point = propagate(rows, 0.0, 1.0, grid.alpha[0], 0.0)
    noise = propagate(rows, 0.0, 0.0, 0.0, grid.sigma[0] ** 2)
    for what, got, expected in (
        ("a single point of data", point.mean, grid.alpha[point.arrives]),
        ("the variance of the noise", noise.variance, grid.sigma[noise.arrives] ** 2),
    ):
        scale = grid.alpha[point.arrives] if what.startswith("a") else expected
        wrong = np.abs(got - expected) > 1e-7 * scale + 1e-12
        if np.any(wrong):
            first = int(np.argmax(wrong))
            raise AssertionError(
                f"{name}: the table does not keep {what}: at level {point.arrives[first]} it gives "
                f"{got[first]:.9g} instead of {expected[first]:.9g}"
            )
