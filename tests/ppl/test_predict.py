"""`predict` runs a fitted model on new arguments, for every draw, and says why where it cannot."""

from importlib import import_module
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random

import ppl
from ppl.draws import Draws, Run
from ppl.energy import TargetError

pytestmark = pytest.mark.usefixtures("unoptimized")

X = np.linspace(-1, 1, 8)


def line(x, y=None, scale=0.5):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    mean = numpyro.deterministic("mean", slope * x)
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(mean, scale * sd), obs=y)


TARGET = ppl.from_numpyro(line, X, X)


def made(target, values, **changes):
    """Draws of known values (chain, draw)."""
    positions = target_positions(target, values)
    lead = next(iter(positions.values())).shape[:2]
    run = Run("", "", "exact", "markov", "", {}, *lead, 0, 1)
    return Draws(positions, target=target, sampler=None, stats={}, run=run, **changes)


def target_positions(target, values):
    lead = next(iter(values.values())).shape[:2]
    out = {name: np.empty(np.shape(v), np.float32) for name, v in values.items()}
    for index in np.ndindex(*lead):
        one = target.unconstrain({name: jnp.asarray(v[index]) for name, v in values.items()})
        for name, z in one.items():
            out[name][index] = z
    return out


rng = np.random.default_rng(0)
VALUES = {"slope": rng.normal(size=(2, 30)), "sd": 0.1 + rng.uniform(size=(2, 30))}
DRAWS = made(TARGET, VALUES)
NEW = np.array([10.0, -20.0, 5.0])


def test_deterministic_sites_follow_the_new_inputs_and_data_scatter_about_them():
    predicted = ppl.predict(DRAWS, NEW)
    assert list(predicted) == ["mean", "y"]
    assert predicted["y"].shape == (2, 30, 3)
    np.testing.assert_allclose(predicted["mean"], VALUES["slope"][..., None] * NEW, rtol=1e-4)
    z = (predicted["y"] - predicted["mean"]) / (0.5 * VALUES["sd"][..., None])
    assert abs(z.mean()) < 4.9 / np.sqrt(z.size)
    assert abs((z**2).mean() - 1) < 4.9 * np.sqrt(2 / z.size)


def test_placeholders_of_the_data_are_not_looked_at():
    without, with_them = ppl.predict(DRAWS, NEW), ppl.predict(DRAWS, NEW, np.full(3, 99.0))
    np.testing.assert_array_equal(without["y"], with_them["y"])


def test_keyword_arguments_reach_the_model():
    narrow = ppl.predict(DRAWS, x=NEW, scale=1e-6)
    np.testing.assert_allclose(narrow["y"], narrow["mean"], rtol=1e-4)


def test_without_arguments_the_data_are_replicated():
    assert ppl.predict(DRAWS)["y"].shape == (2, 30, 8)


def test_draws_do_not_depend_on_the_batch():
    whole, parts = ppl.predict(DRAWS, NEW), ppl.predict(DRAWS, NEW, batch_size=7)
    np.testing.assert_allclose(whole["y"], parts["y"], rtol=1e-5, atol=1e-6)
    other = ppl.predict(DRAWS, NEW, rng_key=1)
    assert not np.array_equal(whole["y"], other["y"])


def test_new_inputs_of_equal_shape_compile_nothing(compilations):
    ppl.predict(DRAWS, NEW)
    with compilations() as count:
        ppl.predict(DRAWS, NEW + 1)
    assert count.compiled == []


def test_weighted_draws_are_resampled_first():
    """All weight on one draw: all predictions are its own."""
    log_weights = np.full((2, 30), -np.inf)
    log_weights[1, 3] = 0
    predicted = ppl.predict(made(TARGET, VALUES, log_weights=log_weights), NEW)
    assert predicted["mean"].shape == (1, 60, 3)
    expected = np.broadcast_to(VALUES["slope"][1, 3] * NEW, (60, 3))
    np.testing.assert_allclose(predicted["mean"][0], expected, rtol=1e-4)


def choices(x, y=None):
    weight = numpyro.sample("weight", dist.Normal(0, 1))
    numpyro.sample("y", dist.Bernoulli(logits=weight * x), obs=y)


def test_discrete_data_are_predicted_without_being_observed():
    target = ppl.from_numpyro(choices, X, (X > 0).astype(int))
    draws = made(target, {"weight": np.full((1, 500), 2.0)})
    share = np.mean(ppl.predict(draws, np.array([1.0, -0.5]))["y"], axis=(0, 1))
    truth = 1 / (1 + np.exp(-2 * np.array([1.0, -0.5])))
    assert np.all(np.abs(share - truth) < 4.9 * np.sqrt(truth * (1 - truth) / 500))


def groups(group, num_groups, y=None):
    with numpyro.plate("group", num_groups):
        effect = numpyro.sample("effect", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(effect[group], 1), obs=y)


def test_another_number_of_groups_is_refused_by_name():
    target = ppl.from_numpyro(groups, np.array([0, 1, 1]), 2, np.zeros(3))
    draws = made(target, {"effect": np.zeros((1, 5, 2))})
    assert ppl.predict(draws, np.array([1, 1, 0, 0]), 2)["y"].shape == (1, 5, 4)
    with pytest.raises(TargetError, match=r"'effect' has the shape \(3,\), but its draws have"):
        ppl.predict(draws, np.array([2]), 3)


def test_arguments_that_do_not_fit_the_model_are_refused():
    with pytest.raises(TargetError, match=r"model line\(.*was given 0 positional .*'z'"):
        ppl.predict(DRAWS, z=NEW)
    with pytest.raises(TargetError, match="model line fails"):
        ppl.predict(DRAWS, {"no": NEW})


def test_targets_without_a_model_are_refused():
    target = ppl.from_log_density(lambda x: -jnp.sum(x["a"] ** 2), {"a": jnp.zeros(())})
    with pytest.raises(TargetError, match="which has none. Apply a function of your own"):
        ppl.predict(made(target, {"a": np.zeros((1, 3))}), NEW)
    loaded = made(TARGET, VALUES)
    loaded.target = None
    with pytest.raises(TargetError, match=r"write draws\.attach\(target\)"):
        ppl.predict(loaded, NEW)


def constant():
    numpyro.sample("x", dist.Normal(0, 1))


@pytest.mark.filterwarnings("ignore:model constant observes nothing")
def test_a_model_with_nothing_else_is_refused():
    draws = made(ppl.from_numpyro(constant), {"x": np.zeros((1, 3))})
    with pytest.raises(TargetError, match="model constant has nothing to predict"):
        ppl.predict(draws)


def test_the_module_and_the_function_are_one_name():
    by_module: Any = import_module("ppl.predict")
    np.testing.assert_array_equal(
        by_module(DRAWS, NEW)["y"], ppl.predict(DRAWS, NEW, rng_key=random.key(0))["y"]
    )
