"""Classifier two-sample test: whether a classifier can tell two sets of draws apart.

    f = ridge regression of the labels (+1 for x, -1 for y) on features of a draw
    accuracy = share of the draws whose label the fit without that draw predicts

Equal laws cannot be told apart: the accuracy is 1/2 give or take a few per cent, and as much above
as the laws differ. Features are the coordinates, standardized; their squares and products (squares
only, where products are many against the draws); and random waves cos(w.z + b), for shape and
modes.

Null distribution: by permuting the labels. The fit is linear in them, so that all permutations
share one matrix H of predictions, and prediction without draw i needs no new fit,
``(H y - h y)_i / (1 - h_i)``. Every label is predicted by a fit that has not seen it, and the
p-value is exact for independent draws at any size; chains are thinned for it.

Limits: it sees what its features see; differences of high order in many dimensions are missed.
With some hundred draws a small difference is not seen at all: the accuracy says how large it is.
Modes that both sets miss leave no trace.

Differences from the paper: leave-one-out instead of one held-out half, so that all draws count; the
test statistic is the mean signed margin, which has more power than the accuracy; and the
permutation instead of the binomial null, which is wrong under cross-fitting.

References
----------
.. [1] D. Lopez-Paz, M. Oquab, "Revisiting classifier two-sample tests", ICLR 2017,
   arXiv:1610.06545.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ppl.diagnostics.thinning import two_sets

MIN_DRAWS = 50
MAX_DRAWS = 4000
NUM_WAVES = 50
RIDGE = 1.0


class ClassifierTest(NamedTuple):
    """Balanced accuracy without the draw at hand, its p-value, and the draws used of each set."""

    accuracy: float
    p_value: float
    num_draws: tuple[int, int]


def classifier_test(
    x: Any, y: Any, *, seed: int = 0, num_permutations: int = 199
) -> ClassifierTest:
    """Test whether two sets of draws have one law, by a classifier.

    Parameters
    ----------
    x, y
        Independent rows ``(n, d)``, chains ``(chain, draw, d)``, or `Draws`; chains are thinned
        until their draws are nearly independent.
    seed
        Of waves and permutations.
    num_permutations
        The p-value is at least ``1 / (num_permutations + 1)``.

    Raises
    ------
    ValueError
        For fewer than 50 draws in a set after thinning, more than 4,000 in both, different
        scalars, weighted or resampled draws, or draws that are not finite.
    """
    x, y = two_sets(x, y, "classifier test", MIN_DRAWS)
    size = len(x) + len(y)
    if size > MAX_DRAWS:
        raise ValueError(
            f"the classifier test takes {MAX_DRAWS} draws together, its cost grows with their "
            f"square; got {len(x)} and {len(y)}: thin them"
        )
    generator = np.random.default_rng(seed)
    hat = _predictor(_features(np.concatenate([x, y]), generator))
    labels = np.where(np.arange(size) < len(x), 1 / len(x), -1 / len(y)) * size / 2
    columns = [labels, *(generator.permutation(labels) for _ in range(num_permutations))]
    signed = np.stack(columns, axis=1)
    # Labels weigh 1 / n and -1 / m: each set counts as one half, whatever its size.
    margins = _without_own(hat, signed)
    scores = (signed * margins).mean(axis=0)
    above = int((scores[1:] >= scores[0] - 1e-12).sum())
    right = margins[:, 0] * labels > 0
    accuracy = (right[: len(x)].mean() + right[len(x) :].mean()) / 2
    p_value = (1 + above) / (1 + num_permutations)
    return ClassifierTest(float(accuracy), p_value, (len(x), len(y)))


def _features(z: Float[np.ndarray, "n d"], generator: np.random.Generator) -> np.ndarray:
    """Standardized columns: linear, quadratic, waves of the typical distance's length."""
    size, d = z.shape
    sd = z.std(axis=0)
    z = (z - z.mean(axis=0)) / np.where(sd > 0, sd, 1.0)
    upper = np.triu_indices(d)
    products = z[:, upper[0]] * z[:, upper[1]] if len(upper[0]) <= size / 10 else z**2
    i, j = generator.integers(size, size=(2, 500))
    distance = np.sqrt(np.median(((z[i] - z[j]) ** 2).sum(axis=1)) + 1e-12)
    waves = generator.normal(size=(d, min(NUM_WAVES, size // 10))) * 2 / distance
    phases = generator.uniform(0, 2 * np.pi, size=waves.shape[1])
    features = np.concatenate([z, products, np.cos(z @ waves + phases)], axis=1)
    features = features - features.mean(axis=0)
    sd = features.std(axis=0)
    return features / np.where(sd > 0, sd, 1.0)


def _predictor(features: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n n"]:
    """Matrix H with ``H y`` the ridge fit. Labels and features have mean 0: no intercept."""
    size, k = features.shape
    gram = features.T @ features / size + RIDGE * k / size * np.eye(k)
    return features @ np.linalg.solve(gram, features.T) / size


def _without_own(
    hat: Float[np.ndarray, "n n"], labels: Float[np.ndarray, "n num"]
) -> Float[np.ndarray, "n num"]:
    """Predictions of each label by the fit to all others."""
    own = np.diag(hat)[:, None]
    return (hat @ labels - own * labels) / (1 - own)
