"""Rows of multistep methods, with a corrector or without."""

from collections.abc import Callable

import numpy as np

from samplers.diffusion.tables import DENOISED, Grid, Writer, noises


def predict_and_correct(
    writer: Writer,
    grid: Grid,
    A: np.ndarray,
    predictor: list[np.ndarray],
    corrector: list[np.ndarray] | None = None,
    S: np.ndarray | None = None,
) -> None:
    """Rows in denoised values: ``x' = A x + predictor . (D_i, D_(i-1), ..) + S z``.

    ``corrector[i]`` holds the weights of ``(D_(i+1), D_i, ..)`` in the same step, with the same A
    and the same noise. On arrival x therefore moves by the difference of the two sums, which is
    linear in the history: it is folded into the next row, and costs nothing.
    """
    S = np.zeros(grid.num_steps) if S is None else S
    for i in range(grid.num_steps):
        B = predictor[i]
        if corrector is not None and i > 0:
            move = _sum(corrector[i - 1], -np.append(0.0, predictor[i - 1]))
            B = _sum(A[i] * move, B)
        writer.add(grid.at(i), A[i], B, S[i], G=DENOISED, arrives=grid.at(i + 1))


def predict_noise(writer: Writer, grid: Grid, weights: Callable[[int], np.ndarray]) -> None:
    """Rows in noises: ``x' = alpha' / alpha x + weights(i) . (eps_i, eps_(i-1), ..)``."""
    for i in range(grid.num_steps):
        level, arrives = grid.at(i), grid.at(i + 1)
        A = grid.alpha[i + 1] / grid.alpha[i]
        writer.add(level, A, weights(i), G=noises(level), arrives=arrives)


def recent(values: np.ndarray, i: int, order: int) -> np.ndarray:
    """Entry i and those before it, newest first: ``order`` of them, or as many as there are."""
    return values[max(0, i - order + 1) : i + 1][::-1]


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total = np.zeros(max(len(a), len(b)))
    total[: len(a)] += a
    total[: len(b)] += b
    return total
