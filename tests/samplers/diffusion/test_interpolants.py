"""Interpolants end in the law of the data under any noise, and networks learn their fields."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from models.targets.gaussian_mixture import GaussianMixture
from samplers.diffusion.interpolants import (
    Fields,
    InterpolantPrior,
    LinearInterpolant,
    StochasticInterpolant,
    TrigonometricInterpolant,
)

MEANS, SDS, SHARES = np.array([-1.2, 0.6]), np.array([0.3, 0.5]), np.array([0.3, 0.7])
BASE_MEAN, BASE_SD = 0.4, 1.1  # not the standard normal: the base is a law of its own
small = partial(samplers.MLP, width=32, depth=1)


def moments():
    """First four moments of the mixture."""
    m, s = MEANS, SDS
    each = [m, m**2 + s**2, m**3 + 3 * m * s**2, m**4 + 6 * m**2 * s**2 + 3 * s**4]
    return np.array([SHARES @ values for values in each])


class ClosedForm(eqx.Module):
    """v and f of a Gaussian and a mixture: given a component, all is jointly Gaussian."""

    interpolant: Any
    scale: Any  # of f
    slip: Any  # of v

    def both(self, x, t):
        w = self.interpolant(t)
        center = w.a * BASE_MEAN + w.b * MEANS
        variance = (w.a * BASE_SD) ** 2 + (w.b * SDS) ** 2 + w.gamma**2
        offset = x - center  # (components,) for x of shape (1,)
        shares = jax.nn.softmax(jnp.log(SHARES) - jnp.log(variance) / 2 - offset**2 / 2 / variance)
        start = BASE_MEAN + w.a * BASE_SD**2 * offset / variance
        end = MEANS + w.b * SDS**2 * offset / variance
        velocity = shares @ (w.a_rate * start + (1 + self.slip) * w.b_rate * end)
        return velocity[None], self.scale * (shares @ (offset / variance))[None]

    def velocity(self, x, t):
        return self.both(x, t)[0]

    def pull(self, x, t):
        return self.both(x, t)[1]


def closed_form(interpolant, *, pull=1.0, slip=0.0):
    exact = ClosedForm(interpolant, jnp.asarray(pull), jnp.asarray(slip))
    return Fields(exact.velocity, exact.pull, jnp.zeros(1), jnp.ones(()))


class Start(GaussianMixture):
    """The base: one Gaussian."""


def law(interpolant, diffusion, *, num_steps=60, **slips):
    base = Start([[BASE_MEAN]], BASE_SD)
    fields = closed_form(interpolant, **slips)
    return InterpolantPrior(base.template, fields, base, interpolant, diffusion, num_steps)


@eqx.filter_jit
def drawn(prior, rng_key, n):
    return prior.sample(rng_key, n)


def scores(prior, n=40_000):
    """Errors of four moments, in standard errors of exact draws."""
    x = np.asarray(drawn(prior, random.key(0), n), np.float64)
    powers = x ** np.arange(1, 5)
    return (powers.mean(0) - moments()) / (powers.std(0, ddof=1) / np.sqrt(n))


NOISES = {"no noise": 0.0, "noise": 0.5, "noise that fades": lambda t: 2 * (1 - t)}
INTERPOLANTS = {"linear": LinearInterpolant(), "trigonometric": TrigonometricInterpolant(0.5)}


@pytest.mark.parametrize(
    ("kind", "noise"),
    [
        ("linear", "no noise"),
        ("linear", "noise"),
        ("trigonometric", "noise that fades"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in [
                ("linear", "noise that fades"),
                ("trigonometric", "no noise"),
                ("trigonometric", "noise"),
            ]
        ),
    ],
)
def test_the_law_at_the_end_is_that_of_the_data_whatever_the_noise(kind, noise):
    assert np.all(np.abs(scores(law(INTERPOLANTS[kind], NOISES[noise]))) < 4.9)


def test_a_wrong_score_a_wrong_velocity_and_noise_without_score_are_seen():
    linear = LinearInterpolant()
    broken = [
        law(linear, 0.5, pull=-1.0),
        law(linear, 0.5, pull=0.9),
        law(linear, 0.0, slip=0.1),
    ]
    for prior in broken:
        assert np.max(np.abs(scores(prior))) > 9.8
    without = law(linear, 0.5)
    drift = lambda self, x, t: law(linear, 0.0).drift(x, t)  # that of the flow, with the noise
    unscored = type("Unscored", (InterpolantPrior,), {"drift": drift})
    names = ("template", "fields", "base", "interpolant", "diffusion", "num_steps")
    assert np.max(np.abs(scores(unscored(*(getattr(without, name) for name in names))))) > 9.8


def test_steps_are_of_second_order():
    """Of the flow, from the same starts."""
    ends = [
        np.asarray(law(LinearInterpolant(), 0.0, num_steps=n).sample(random.key(0), 200))
        for n in (20, 40, 640)
    ]
    coarse, fine = (np.sqrt(np.mean((x - ends[-1]) ** 2)) for x in ends[:2])
    assert coarse / fine == pytest.approx(4, abs=0.6)


@pytest.mark.parametrize("kind", INTERPOLANTS)
def test_rates_are_those_of_the_weights(kind, x64):
    interpolant, t, h = INTERPOLANTS[kind], jnp.asarray(0.3), 1e-6
    low, here, high = interpolant(t - h), interpolant(t), interpolant(t + h)
    for name in ("a", "b"):
        slope = (getattr(high, name) - getattr(low, name)) / (2 * h)
        assert getattr(here, f"{name}_rate") == pytest.approx(float(slope), rel=1e-6)
    assert here.pull == pytest.approx(float((high.gamma**2 - low.gamma**2) / (4 * h)), rel=1e-6)
    for end, expected in ((0.0, (1, 0, 0)), (1.0, (0, 1, 0))):
        np.testing.assert_allclose(interpolant(jnp.asarray(end))[:3], expected, atol=1e-12)


def data(n=2000):
    rng = np.random.default_rng(0)
    component = rng.choice(2, n, p=SHARES)
    return jnp.asarray(MEANS[component] + SDS[component] * rng.normal(size=n), float)[:, None]


@pytest.fixture(scope="module")
def trained():
    """On positions that are a pytree."""
    sampler = StochasticInterpolant(small, num_updates=400, num_rows=128, num_steps=30)
    target = ppl.from_samples({"a": data()[:, 0]})
    return ppl.sample(sampler, target, num_samples=4000, progress=False)


@pytest.mark.slow
def test_networks_learn_the_law_and_one_training_serves_every_noise(trained):
    rows = np.asarray(data(), np.float64)
    others = trained.sampler.prior.with_diffusion(1.0).sample(random.key(1), 4000)
    for x in (np.asarray(trained["a"][0], np.float64), np.asarray(others["a"], np.float64)):
        assert abs(x.mean() - rows.mean()) < 0.1
        assert x.std() == pytest.approx(rows.std(), rel=0.1)
        assert np.mean(x > -0.4) == pytest.approx(np.mean(rows > -0.4), abs=0.06)


def test_draws_count_their_evaluations_and_the_loss_falls(unoptimized, trained):
    spent = np.asarray(trained.num_evaluations)
    assert spent[1] == 400 * 128 + 2 * 30 * 4096
    loss = trained.history["loss"][0]
    assert loss[-50:].mean() < 0.9 * loss[:10].mean()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"diffusion must be a number of at least 0, or a func"):
        StochasticInterpolant(diffusion=-1.0)
    fit = lambda target, **options: ppl.sample(StochasticInterpolant(**options), target)
    with pytest.raises(ppl.TargetError, match="the data must be floating"):
        fit(ppl.from_samples(jnp.arange(4)))
    rows = ppl.from_samples(data(20))
    with pytest.raises(ppl.TargetError, match=r"base must have the data's template, .*\[1\]"):
        fit(rows, base=GaussianMixture([[0.0, 0.0]]))
    with pytest.raises(ppl.TargetError, match="base is a law with exact draws"):
        fit(rows, base=ppl.from_log_density(lambda x: -jnp.sum(x**2), jnp.zeros(1)))


@pytest.mark.slow
def test_trained_fields_come_near_the_closed_forms():
    sampler = StochasticInterpolant(num_updates=6000, base=Start([[BASE_MEAN]], BASE_SD))
    target = ppl.from_samples(data(100_000))
    draws = ppl.sample(sampler, target, num_samples=10, progress=False)
    prior = draws.sampler.prior
    mean, sd = prior.fields.mean, prior.fields.sd
    exact = closed_form(LinearInterpolant(sd**2))
    key_start, key_end, key_time, key_noise = random.split(random.key(5), 4)
    t = random.uniform(key_time, (4000,), minval=0.02, maxval=0.98)
    start = prior.starts(key_start, 4000)
    rows = (data(100_000)[random.randint(key_end, (4000,), 0, 100_000)] - mean) / sd
    w = jax.vmap(LinearInterpolant())(t)
    noise = random.normal(key_noise, start.shape)
    x = w.a[:, None] * start + w.b[:, None] * rows + w.gamma[:, None] * noise

    def off(ours, truth, scale):
        """Mean square of the difference, over that of the truth."""
        wanted = jax.vmap(truth)(sd * x + mean, t) * scale
        return float(jnp.mean((jax.vmap(ours)(x, t) - wanted) ** 2) / jnp.mean(wanted**2))

    # The coordinates move by the mean, which a + b = 1 keeps.
    assert off(prior.fields.velocity, exact.velocity, 1 / sd) < 0.02
    assert off(prior.fields.pull, exact.pull, sd) < 0.05
