"""Fitted schedules are the best there is by their own measure, and better where they claim it."""

from itertools import combinations

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import samplers as s
import toy_mixture
from samplers.diffusion.fitted_schedules import AlignYourSteps, cheapest
from samplers.diffusion.integrate import integrate
from samplers.diffusion.schedules import grid

PATH = s.EDM(t_min=toy_mixture.LAST, t_max=toy_mixture.FIRST)


def prior():
    return s.DiffusionPrior(PATH, toy_mixture.denoise, jnp.zeros(2))


@pytest.mark.parametrize("gamma", [1.0, 1.25])
def test_dynamic_programming_finds_the_cheapest_of_all_schedules(gamma):
    cost = np.abs(np.random.default_rng(0).normal(size=(9, 9)))

    def total(places):
        jumps = [cost[a, b] for a, b in zip(places[:-1], places[1:], strict=True)]
        return sum(c * gamma**n for n, c in enumerate(jumps))

    best = min(((0, *middle, 8) for middle in combinations(range(1, 8), 3)), key=total)
    np.testing.assert_array_equal(cheapest(cost, 5, gamma), best)


def test_too_many_levels_are_refused():
    with pytest.raises(ValueError, match="fitted on 9 levels has 2 to 9 of them; got 10"):
        cheapest(np.ones((9, 9)), 10)


def ddim_error(schedule, num_steps=6):
    rows = s.DDIM().table(PATH, schedule, num_steps, denoise_last=False).rows
    denoiser = lambda x, level: toy_mixture.denoise(x, level.sigma)
    x = integrate(random.key(0), denoiser, jnp.asarray(toy_mixture.starts()), rows)[0].x
    return np.sqrt(np.mean((x - toy_mixture.ends()) ** 2))


def test_gits_brings_ddim_nearer_in_few_steps():
    fitted = s.GITS.fit(prior(), random.key(0))
    error = ddim_error(fitted)
    for schedule in (s.EDMSchedule(), s.LogSNRUniform(), s.TimeUniform()):
        assert error < 0.95 * ddim_error(schedule)


def klub(kappa, scale):
    """Of the first-order discretization on Gaussian data, by its definition and quadrature."""
    mmse = lambda k: scale**2 * k**2 / (scale**2 + k**2)
    total = 0.0
    for high, low in zip(kappa[:-1], kappa[1:], strict=True):
        k = np.exp(np.linspace(np.log(low), np.log(high), 400))
        total += np.trapezoid((mmse(high) - mmse(k)) / k**3, k)
    return total


def test_align_your_steps_has_the_smallest_klub_on_a_gaussian():
    scale, path = 0.5, s.EDM()
    log_snr = np.linspace(*path.log_snr(np.array([path.t_max, path.t_min])), 200)
    kappa = np.exp(-log_snr)
    fitted = AlignYourSteps.of_curve(log_snr, scale**2 * kappa**2 / (scale**2 + kappa**2))
    best = klub(grid(path, fitted, 10).kappa, scale)
    for schedule in (s.EDMSchedule(), s.LogSNRUniform(), s.Arctan(scale)):
        assert best < klub(grid(path, schedule, 10).kappa, scale)


def test_the_curve_is_measured_on_data():
    data = jnp.asarray(toy_mixture.sample(np.random.default_rng(0), 4000))
    fitted = AlignYourSteps.fit(prior(), data, random.key(0), num_levels=40)
    u = np.exp(2 * fitted.log_snr)
    mmse = 2 * fitted.cost[0, 1] / (u[1] - u[0])
    # At much noise it is the variance of the data, in total.
    assert mmse == pytest.approx(np.var(np.asarray(data), axis=0).sum(), rel=0.05)
    assert np.all(np.diff(fitted(PATH, 8)) < 0)
