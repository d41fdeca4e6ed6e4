"""Parameters of a mixture: normalized shares, one width for all, and what is none."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from ppl.mixture import denoised, mixture


def test_shares_add_up_and_one_width_is_that_of_all():
    means, sds, log_shares = mixture([[0, 1], [2, 3], [4, 5]], 0.5, [1, 2, 5])
    assert means.shape == (3, 2)
    np.testing.assert_allclose(sds, [0.5, 0.5, 0.5])
    np.testing.assert_allclose(np.exp(log_shares), [1 / 8, 1 / 4, 5 / 8], rtol=1e-6)
    np.testing.assert_allclose(np.exp(mixture([[0.0], [1.0]], 1.0, None)[2]), 0.5, rtol=1e-6)


def test_the_denoiser_is_the_mean_of_what_was_there(x64):
    """Against the formula in NumPy, from no noise to more than all of it; and far away."""
    rng = np.random.default_rng(0)
    means, sds, log_shares = mixture(rng.normal(size=(5, 3)), rng.uniform(0.1, 2, 5), range(1, 6))
    for sigma in (0.0, 0.3, 40.0):
        for y in (rng.normal(size=3), 50 * rng.normal(size=3)):
            total = np.asarray(sds) ** 2 + sigma**2
            squares = np.sum((y - np.asarray(means)) ** 2, axis=1)
            r = scipy.special.softmax(log_shares - 1.5 * np.log(total) - squares / (2 * total))
            parts = (np.asarray(sds) ** 2)[:, None] * y + sigma**2 * np.asarray(means)
            found = denoised(means, sds, log_shares, jnp.asarray(y), sigma)
            np.testing.assert_allclose(found, r @ (parts / total[:, None]), rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (([0.0, 1.0], 1.0, None), r"^means have the shape \(components, d\); got \(2,\)"),
        (
            ([[0.0], [1.0]], [1.0], None),
            r"^sds are 2 positive numbers, .*; got \[1.\]",
        ),
        (([[0.0]], -1.0, None), "^sds are 1 positive numbers"),
        (([[0.0], [1.0]], 1.0, [1.0, 0.0]), "^weights are 2 positive numbers"),
        (([[0.0], [1.0]], 1.0, [1.0]), "^weights are 2 positive numbers"),
    ],
)
def test_a_mixture_that_is_none_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mixture(*options)
