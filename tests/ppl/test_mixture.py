"""Parameters of a mixture: normalized shares, one width for all, and what is none."""

import numpy as np
import pytest

from ppl.mixture import mixture


def test_shares_add_up_and_one_width_is_that_of_all():
    means, sds, log_shares = mixture([[0, 1], [2, 3], [4, 5]], 0.5, [1, 2, 5])
    assert means.shape == (3, 2)
    np.testing.assert_allclose(sds, [0.5, 0.5, 0.5])
    np.testing.assert_allclose(np.exp(log_shares), [1 / 8, 1 / 4, 5 / 8], rtol=1e-6)
    np.testing.assert_allclose(np.exp(mixture([[0.0], [1.0]], 1.0, None)[2]), 0.5, rtol=1e-6)


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
