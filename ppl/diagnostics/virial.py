"""Two identities of Stein for every coordinate: the mean force is zero, and the virial is one.

    E s_i = 0,    -E s_i (x_i - m_i) = 1,    s = grad log p, m any constant

They hold for draws of the target, by integration by parts, and need its score only. For a normal
target the second is the variance of the draws over that of the target, and the first the distance
of the means: so they say *what* is wrong where `stein` says that something is, and they see the
wrong scale of a single coordinate among many, or a small one with few draws. In physics the second
is the virial theorem.

Null distribution: the z-score of each mean is standard normal, its error from the effective number
of draws of that very series; the p-value is Bonferroni's over all coordinates and both identities.

Limits: two moments a coordinate, no shape, no correlation; a mode that no draw has found is not
seen. A density that does not go to zero at the edge of its unconstrained space has no identities.
Scores with very heavy tails make the z-scores smaller than they should be.

References
----------
.. [1] C. Stein, "A bound for the error in the normal approximation to the distribution of a sum of
   dependent random variables", Sixth Berkeley Symposium 2, 1972.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from ppl.diagnostics.rhat_ess import ess_mean
from ppl.diagnostics.stein import flat_rows, opened, scores
from ppl.diagnostics.thinning import every
from ppl.template import named

MIN_DRAWS = 50  # effective
MAX_DRAWS = 4000


class Virial(NamedTuple):
    """Result of `virial_test`, per coordinate of the position.

    Attributes
    ----------
    labels
        Names of the coordinates, unconstrained.
    ratio
        ``-E s_i (x_i - m_i)``: 1; for normal targets the variance over the true one.
    force
        ``E s_i`` times the sd of the draws: 0; for normal targets of the right scale the distance
        to the true mean in sd.
    z
        The larger one of the two z-scores, in absolute value.
    p_value
        Of all coordinates together.
    """

    labels: list[str]
    ratio: Float[np.ndarray, " d"]
    force: Float[np.ndarray, " d"]
    z: Float[np.ndarray, " d"]
    p_value: float

    @property
    def words(self) -> str:
        """One clause about the worst coordinate."""
        worst = int(self.z.argmax())
        width = 100 * (np.sqrt(max(self.ratio[worst], 0.0)) - 1)
        side = "wide" if width > 0 else "narrow"
        return (
            f"{self.labels[worst]} seems {abs(width):.0f} % too {side} and "
            f"{abs(self.force[worst]):.2g} sd off its place"
        )


def virial_test(draws: Any, target: Any = None, *, max_draws: int = MAX_DRAWS) -> Virial:
    """Test the two identities for every coordinate.

    Parameters
    ----------
    draws, target
        As in `ppl.diagnostics.stein.stein_test`; without weights.
    max_draws
        More are thinned to this number; each costs a gradient.

    Raises
    ------
    TargetError
        If the target has no gradient, or does not fit the draws.
    ValueError
        For weighted or resampled draws, fewer than 50 effective ones, or gradients that are not
        finite.
    """
    from scipy import stats

    positions, target, log_weights, is_chain = opened(draws, target, None)
    if log_weights is not None:
        raise ValueError("the virial test takes draws without weights; use the Stein test")
    x = flat_rows(positions, 2)
    size = x.shape[0] * x.shape[1]
    if size < MIN_DRAWS:
        raise _too_few(size)
    kept = every(x, min(-(-size // max_draws), x.shape[1]))
    x = x[:, kept]
    score = scores(target, jax.tree.map(lambda leaf: leaf[:, kept], positions)).reshape(x.shape)
    sd = x.std(axis=(0, 1))
    series = np.concatenate([-score * (x - x.mean(axis=(0, 1))), score * sd], axis=2)
    number = np.full(series.shape[2], float(x.shape[0] * x.shape[1]))
    if is_chain:
        # More than the draws there are, as antithetic chains have, is not counted on.
        number = np.fmin(ess_mean(series), number)
        if number.min() < MIN_DRAWS:
            raise _too_few(number.min())
    mean, error = series.mean(axis=(0, 1)), series.std(axis=(0, 1)) / np.sqrt(number)
    d = x.shape[2]
    expected = np.repeat([1.0, 0.0], d)
    # A coordinate that does not move, or has no force on it, is infinitely far from the identity.
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(mean == expected, 0.0, np.abs(mean - expected) / error)
    p_value = min(1.0, float(2 * stats.norm.sf(z.max()) * 2 * d))
    return Virial(_labels(target), mean[:d], mean[d:], np.maximum(z[:d], z[d:]), p_value)


def _too_few(number: float | int) -> ValueError:
    return ValueError(
        f"the virial test needs {MIN_DRAWS} effective draws; there are {number:.0f}. Run longer"
    )


def _labels(target: Any) -> list[str]:
    return [
        f"{name}[{', '.join(map(str, index))}]" if index else name
        for name, leaf in named(target.template).items()
        for index in np.ndindex(*leaf.shape)
    ]
