"""State-space models as targets: densities by hand, draws by their law, errors in words."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from jax import random

import ppl
import samplers
from agreement import z_limit
from kalman import TURNING, kalman, simulated, state_space
from ppl.energy import TargetError

Y = simulated(TURNING, 6)
Y[2] = np.nan
MODEL = state_space(TURNING, Y)
NORMAL = scipy.stats.multivariate_normal


def by_hand(path):
    """Log prior and log-likelihood of a path, by SciPy."""
    log_prior = NORMAL.logpdf(path[0], TURNING.m, TURNING.p)
    for before, x in zip(path[:-1], path[1:], strict=True):
        log_prior += NORMAL.logpdf(x, TURNING.a @ before, TURNING.q)
    seen = ~np.isnan(Y[:, 0])
    log_likelihood = sum(
        NORMAL.logpdf(y, TURNING.c @ x, TURNING.r) for x, y in zip(path[seen], Y[seen], strict=True)
    )
    return log_prior, log_likelihood


@pytest.mark.slow
def test_the_density_of_a_path_is_that_of_its_steps_and_of_the_data_that_are_there():
    path = np.random.default_rng(0).normal(size=(6, 2))
    np.testing.assert_allclose(MODEL.log_parts(jnp.asarray(path)), by_hand(path), rtol=1e-5)
    gradient = jax.grad(MODEL.log_density)(jnp.asarray(path))
    assert np.isfinite(gradient).all()
    assert "gradient" in MODEL.offers


def test_missing_entries_of_a_row_of_independent_ones_count_as_nothing():
    def model(y):
        return ppl.StateSpaceModel(
            lambda: dist.Normal(0.0, 1.0),
            lambda t, x: dist.Normal(x, 1.0),
            lambda t, x: dist.Exponential(jnp.exp(x) * jnp.ones(2)),
            y,
        )

    y = np.array([[0.5, np.nan], [np.nan, np.nan]])
    found = model(y).log_likelihood(jnp.array([0.3, -0.2]))
    np.testing.assert_allclose(found, 0.3 - np.exp(0.3) * 0.5, rtol=1e-5)
    gradient = jax.grad(model(y).log_likelihood)(jnp.array([0.3, -0.2]))
    np.testing.assert_allclose(gradient, [1 - np.exp(0.3) * 0.5, 0], rtol=1e-5)


def test_paths_are_drawn_by_their_law():
    n = 20_000
    paths = np.asarray(MODEL.sample(random.key(0), n), float)
    mean, cov = TURNING.m, TURNING.p
    for _ in range(5):
        mean, cov = TURNING.a @ mean, TURNING.a @ cov @ TURNING.a.T + TURNING.q
    errors = (paths[:, -1].mean(0) - mean) / np.sqrt(np.diag(cov) / n)
    assert np.abs(errors).max() < z_limit(200)
    squares = (paths[:, -1] - mean) ** 2
    errors = (squares.mean(0) - np.diag(cov)) / (np.sqrt(2 / n) * np.diag(cov))
    assert np.abs(errors).max() < z_limit(200)


@pytest.mark.usefixtures("unoptimized")
def test_simulated_data_belong_to_the_path_and_are_missing_where_the_data_are():
    keys = random.split(random.key(1), 4000)
    paths, rows = jax.vmap(lambda key: _simulated(MODEL, key))(keys)
    residuals = np.asarray(rows)[..., 0] - np.asarray(paths) @ TURNING.c[0]
    assert np.isnan(residuals[:, 2]).all()
    seen = np.delete(residuals, 2, axis=1)
    assert np.abs(seen.mean(0) / np.sqrt(0.25 / len(seen))).max() < z_limit(200)
    assert np.abs((seen**2).mean(0) / 0.25 - 1).max() < z_limit(200) * np.sqrt(2 / len(seen))


def _simulated(model, key):
    path, target = model.simulate(key)
    return path, target.data


def test_data_and_parameters_are_arguments(compilations):
    density = eqx.filter_jit(lambda target, position: target.log_density(position))
    path = jnp.zeros((6, 2))
    first = density(MODEL, path)
    other = state_space(TURNING._replace(r=np.array([[1.0]])), Y + 1)
    with compilations() as count:
        second = density(other, path)
    assert count.compiled == []
    assert first != second


POSITIVE = ppl.StateSpaceModel(
    lambda: dist.LogNormal(0.0, 0.5),
    lambda t, x: dist.Gamma(3.0, 3.0 / x),
    lambda t, x: dist.Poisson(x),
    np.array([1, 0, 2]),
)


def test_positive_states_are_moved_on_the_reals_with_one_jacobian():
    z = jnp.array([0.2, -0.3, 0.1])
    x = np.exp(np.asarray(z, float))
    expected = scipy.stats.lognorm.logpdf(x[0], 0.5) + x[0] * 0
    expected += sum(scipy.stats.gamma.logpdf(x[t], 3, scale=x[t - 1] / 3) for t in (1, 2))
    expected += scipy.stats.poisson.logpmf([1, 0, 2], x).sum() + np.asarray(z, float).sum()
    np.testing.assert_allclose(POSITIVE.log_density(z), expected, rtol=1e-5)
    np.testing.assert_allclose(POSITIVE.unconstrain(POSITIVE.constrain(z)), z, rtol=1e-4)


def test_time_reaches_the_functions():
    drift = np.array([0.0, 5.0, -2.0])
    model = ppl.StateSpaceModel(
        lambda u: dist.Normal(0.0, 1e-4),
        lambda t, x, u: dist.Normal(x + u[t], 1e-4),
        lambda t, x, u: dist.Normal(x + t, 1.0),
        np.zeros(3),
        drift,
    )
    np.testing.assert_allclose(model.sample(random.key(0), 1)[0], [0, 5, 3], atol=0.01)
    path = jnp.array([0.0, 5.0, 3.0])
    expected = scipy.stats.norm.logpdf([0, 6, 5]).sum()
    np.testing.assert_allclose(model.log_likelihood(path), expected, rtol=1e-5)


@pytest.mark.slow  # 30 seconds: it compiles NUTS
def test_nuts_on_the_path_smooths_as_kalman_does():
    draws = ppl.sample(samplers.NUTS(), MODEL, num_samples=4000, progress=False)
    truth = kalman(TURNING, Y)
    error = np.abs(draws["x"].mean((0, 1)) - truth.mean)
    assert (error < 0.05).all()


# Refusals -----------------------------------------------------------------------------------------


def normal(center, scale=1.0):
    return dist.Normal(center, scale)


def start():
    return normal(jnp.zeros(2))


def walk(t, x):
    return normal(x)


def seen(t, x):
    return normal(x)


@pytest.mark.parametrize(
    ("initial", "transition", "observation", "data", "message"),
    [
        (normal(0.0), walk, seen, np.zeros(3), r"initial must be a function .*; got Normal"),
        (lambda: 0.0, walk, seen, np.zeros(3), "initial must return a NumPyro dist.*got float"),
        (start, lambda t, x: normal(jnp.zeros(3)), seen, np.zeros((4, 2)),
         r"transition returns Normal of shape \(3,\); a state, .* has shape \(2,\)"),
        (start, lambda t, x: lambda key: jnp.zeros(3), seen, np.zeros((4, 2)),
         r"transition draws {x: float32\[3\]} from a state {x: float32\[2\]}"),
        (start, lambda t, x: normal(jnp.zeros((3, 4)) @ x), seen, np.zeros((4, 2)),
         r"transition fails on \(int32\[\], float32\[2\]\)"),
        (start, lambda t: normal(0.0), seen, np.zeros((4, 2)), "transition fails on .* takes 1"),
        (start, walk, seen, np.zeros(4),
         r"observation returns Normal of shape \(2,\); the data of one time has shape \(\)"),
        (start, walk, lambda t, x: {"a": normal(x)}, np.zeros((4, 2)),
         "observation returns laws of structure .*'a'"),
        (start, walk, lambda t, x: lambda y: x + y, np.zeros((4, 2)),
         r"observation must give one log-density .*; got float32\[2\]"),
        (start, walk, seen, np.float64(1.0), r"data must be .* leading axis, time; got .*\(\)"),
        (start, walk, seen, {"a": np.zeros(3), "b": np.zeros(4)}, r"got leading axes \[\(3,\), "),
        (lambda: normal(0.0), lambda t, x: dist.HalfNormal(1.0), seen, np.zeros(3),
         "initial lives on Real.*, transition on Positive"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name_and_shape(
    initial, transition, observation, data, message
):
    with pytest.raises(TargetError, match=message):
        ppl.StateSpaceModel(initial, transition, observation, data)


def test_without_a_density_or_with_integers_it_says_what_to_use():
    simulator = ppl.StateSpaceModel(
        start, lambda t, x: lambda key: x + random.normal(key, (2,)), seen, np.zeros((4, 2))
    )
    assert "log_density" not in simulator.offers
    with pytest.raises(TargetError, match=r"only draws, no distribution.*ParticleFilter\(\)"):
        ppl.sample(samplers.NUTS(), simulator)
    chain = ppl.StateSpaceModel(
        lambda: dist.Bernoulli(0.5),
        lambda t, x: dist.Bernoulli(0.2 + 0.5 * x),
        lambda t, x: dist.Normal(1.0 * x, 1.0),
        np.zeros(3),
    )
    with pytest.raises(TargetError, match="its states are integers"):
        ppl.sample(samplers.NUTS(), chain)
    odd = ppl.StateSpaceModel(
        start, walk, lambda t, x: lambda y: -jnp.sum((x - y) ** 2), np.zeros((4, 2))
    )
    with pytest.raises(TargetError, match="no data can be drawn"):
        ppl.calibrate(odd, samplers.NUTS())


# Parameters ---------------------------------------------------------------------------------------


def prior():
    numpyro.sample("drift", dist.Normal(0.0, 1.0))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.deterministic("variance", scale**2)


def local_level(parameters, y):
    return ppl.StateSpaceModel(
        lambda p: dist.Normal(0.0, 1.0),
        lambda t, x, p: dist.Normal(x + p["drift"], p["scale"]),
        lambda t, x, p: dist.Normal(x, 0.5),
        y,
        parameters,
    )


TARGET = ppl.StateSpacePosterior(prior, local_level, np.array([0.1, np.nan, 0.9]))


def test_the_joint_density_is_that_of_parameters_path_and_data():
    position = {
        "parameters": {"drift": jnp.asarray(0.3), "scale": jnp.asarray(-0.5)},
        "path": jnp.array([0.2, 0.4, 1.1]),
    }
    norm, s = scipy.stats.norm, np.exp(-0.5)
    expected = norm.logpdf(0.3) + scipy.stats.halfnorm.logpdf(s) - 0.5
    expected += norm.logpdf(0.2) + norm.logpdf([0.4, 1.1], [0.5, 0.7], s).sum()
    expected += norm.logpdf([0.1, 0.9], [0.2, 1.1], 0.5).sum()
    np.testing.assert_allclose(TARGET.log_density(position), expected, rtol=1e-5)
    outputs = TARGET.outputs(position)
    assert sorted(outputs) == ["drift", "scale", "variance", "x"]
    np.testing.assert_allclose(outputs["variance"], s**2, rtol=1e-5)
    again = TARGET.unconstrain(TARGET.constrain(position))
    np.testing.assert_allclose(again["parameters"]["scale"], -0.5, rtol=1e-5)


def test_at_parameters_it_is_a_model_of_the_path():
    model = TARGET.at({"drift": 0.0, "scale": 1.0})
    assert isinstance(model, ppl.StateSpaceModel)
    assert model.template.shape == (3,)


@pytest.mark.usefixtures("unoptimized")
def test_simulated_targets_hold_their_data_and_are_stacked():
    positions, data = jax.vmap(lambda key: _joint(key))(random.split(random.key(0), 3000))
    assert np.isnan(data[:, 1]).all()
    residual = np.asarray(data)[:, 2] - np.asarray(positions["path"])[:, 2]
    assert abs(residual.std() / 0.5 - 1) < 0.1
    _, target = TARGET.simulate(random.key(1))
    stacked = ppl.stack([TARGET.simulate(random.key(i))[1] for i in range(2)])
    assert len(stacked) == 2
    assert "simulate" in target.offers


def _joint(key):
    position, target = TARGET.simulate(key)
    return position, target.simulated


@pytest.mark.parametrize(
    ("prior", "model", "message"),
    [
        (3.0, local_level, "the prior of the parameters must be a NumPyro model .*; got float"),
        (TARGET, local_level, "has data of its own"),
        (ppl.from_log_density(lambda x: -(x**2), 0.0), local_level, "prior of the .*'sample'"),
        (prior, 3.0, "model must be a function"),
        (prior, lambda p, y: p["drift"], "model must return a ppl.StateSpaceModel; got"),
        (prior, lambda p, y: p["slope"], r"model fails on parameters .*KeyError: 'slope'"),
        (
            lambda: numpyro.sample("x", dist.Normal(0.0, 1.0)),
            lambda p, y: local_level({"drift": p["x"], "scale": 1.0}, y),
            "'x' is the name of a parameter and of a part of the state",
        ),
    ],
)
def test_what_is_no_joint_law_is_refused(prior, model, message):
    with pytest.raises(TargetError, match=message):
        ppl.StateSpacePosterior(prior, model, np.zeros(3))
