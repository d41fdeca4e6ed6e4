"""The accelerated sampler is equation 9 of its paper, in the paper's coordinates."""

import numpy as np

import samplers as s
from row_by_row import Walk, eps


def test_it_is_the_rule_of_two_scores():
    walk = Walk(s.AcceleratedDDIM())  # variance-preserving, as the paper's
    x, grid = walk.start, walk.grid
    score = lambda x, i: -eps(x, grid.at(i)) / grid.sigma[i]
    a = (grid.alpha[:-1] / grid.alpha[1:]) ** 2
    for i in range(walk.num_steps):
        here = score(x, i)
        new = x + (1 - a[i]) / 2 * here
        if i:
            b = a[i - 1]
            back = np.sqrt(b) * (x - (1 - b) / 2 * here)
            change = here - np.sqrt(b) * score(back, i - 1)
            new = new + (1 - a[i]) ** 2 / (4 * (1 - b)) * change
        x = new / np.sqrt(a[i])
    walk.agrees_with(x)
