"""A NumPyro model as a target: its terms, its spaces, its draws, and what it refuses."""

import functools
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.infer.reparam import CircularReparam, LocScaleReparam
from numpyro.infer.util import log_likelihood, potential_energy

from agreement import z_limit
from ppl.algebra import stack
from ppl.energy import Energy, TargetError
from ppl.program import Program, from_numpyro

# Much is compiled here and little computed.
pytestmark = pytest.mark.usefixtures("unoptimized")

Y = np.array([2.8, 0.8, -0.3, 0.7, -0.1])


# Models -----------------------------------------------------------------------------------------


def schools(y, sigma, num_schools=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", num_schools or len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.deterministic("effect", theta - mu)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def triangle(y):
    """The support of b depends on a, and the support of c on the data."""
    a = numpyro.sample("a", dist.Beta(1, 2))
    b = numpyro.sample("b", dist.Uniform(0, 1 - a))
    c = numpyro.sample("c", dist.TruncatedNormal(0.0, 1.0, low=jnp.min(y) + b))
    numpyro.sample("y", dist.Normal(c, a + b).expand((len(y),)).to_event(1), obs=y)


def shapes(y):
    """Bijections that change the shape, inside and outside plates."""
    with numpyro.plate("group", 2):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    chol = numpyro.sample("chol", dist.LKJCholesky(3, 2.0))
    ordered = dist.transforms.OrderedTransform()
    base = dist.Normal(0, 1).expand((3,)).to_event(1)
    cut = numpyro.sample("cut", dist.TransformedDistribution(base, ordered))
    numpyro.deterministic("corr", chol @ chol.T)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.MultivariateNormal(cut + weights.sum(0), scale_tril=chol), obs=y)


def masks(y, on):
    """Two plates, masks on data and on a latent, a factor, a scale on data."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("column", 2, dim=-1), numpyro.plate("row", len(y), dim=-2):
        with handlers.mask(mask=on):
            rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
            numpyro.sample("y", dist.Normal(rate, scale), obs=y)
        with handlers.scale(scale=0.5):
            numpyro.sample("again", dist.Cauchy(rate, scale), obs=y)
    numpyro.factor("penalty", -(scale**2))


def walk(y):
    """A latent series with positive increments inside a NumPyro scan."""

    def step(level, y_t):
        jump = numpyro.sample("jump", dist.Exponential(1.0))
        numpyro.sample("y", dist.Normal(level + jump, 1.0), obs=y_t)
        return level + jump, None

    first = numpyro.sample("first", dist.HalfNormal(1.0))
    scan(step, first, y)


def imputed(y, seen):
    """A latent site that obs_mask makes."""
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(0.0, spread), obs=y, obs_mask=seen)


DATA = {
    schools: {"y": Y, "sigma": np.full(5, 0.7)},
    triangle: {"y": Y},
    shapes: {"y": np.stack([Y[:3], Y[1:4], Y[2:], -Y[:3]])},
    masks: {"y": np.stack([Y, -Y], 1), "on": np.arange(10).reshape(5, 2) % 3 != 0},
    walk: {"y": np.cumsum(np.abs(Y))},
    imputed: {"y": Y, "seen": Y > 0},
}


def a_position(target, key=0):
    leaves, treedef = jax.tree.flatten(target.template)
    keys = random.split(random.key(key), len(leaves))
    drawn = [0.5 * random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, drawn)


class Evaluated:
    """One model at one position, compiled once for all tests that look at it."""

    def __init__(self, model):
        self.target = from_numpyro(model, **DATA[model])
        self.position = a_position(self.target)

        @eqx.filter_jit
        def ours(target, z):
            values = target.constrain(z)
            return {
                "log_density": target.log_density(z),
                "log_parts": target.log_parts(z),
                "log_jacobian": target.log_jacobian(z),
                "pointwise": target.pointwise_log_likelihood(z),
                "values": values,
                "back": target.unconstrain(values),
                "outputs": target.outputs(z),
            }

        @eqx.filter_jit
        def numpyros(kwargs, z, values):
            known = log_likelihood(model, values, batch_ndims=0, **kwargs)
            return -potential_energy(model, (), kwargs, z), known

        results = ours(self.target, self.position)
        known = numpyros(self.target.kwargs, self.position, results["values"])
        self.ours, known = jax.tree.map(np.asarray, (results, known))
        self.numpyros_density, self.numpyros_likelihood = known


@functools.cache
def evaluated(model, x64):
    with jax.enable_x64(x64):
        return Evaluated(model)


each_model = pytest.mark.parametrize("model", DATA, ids=lambda model: model.__name__)
each_dtype = pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
TOLERANCE = {False: 2e-5, True: 1e-12}


# The density ------------------------------------------------------------------------------------


@each_dtype
@each_model
def test_log_density_is_minus_numpyros_potential_energy(model, x64):
    case = evaluated(model, x64)
    np.testing.assert_allclose(case.ours["log_density"], case.numpyros_density, rtol=TOLERANCE[x64])
    assert case.ours["log_density"].dtype == (jnp.float64 if x64 else jnp.float32)


@each_dtype
@each_model
def test_log_parts_sum_to_the_log_density_exactly(model, x64):
    case = evaluated(model, x64)
    log_prior, log_likelihood = case.ours["log_parts"]
    assert log_prior + log_likelihood == case.ours["log_density"]


@each_dtype
@each_model
def test_log_likelihood_is_the_sum_over_observed_sites(model, x64):
    case = evaluated(model, x64)
    rows = case.numpyros_likelihood
    scaled = {name: np.float64(0.5 if name == "again" else 1) for name in rows}  # NumPyro drops it
    rows = {name: scaled[name] * row for name, row in rows.items()}
    expected = sum(np.sum(row) for row in rows.values())
    np.testing.assert_allclose(case.ours["log_parts"][1], expected, rtol=TOLERANCE[x64])
    for name, row in case.ours["pointwise"].items():
        np.testing.assert_allclose(row, rows[name], rtol=TOLERANCE[x64])


@each_dtype
@each_model
def test_unconstrain_inverts_constrain(model, x64):
    case = evaluated(model, x64)
    assert list(case.ours["back"]) == list(case.position)
    for name, z in case.position.items():
        np.testing.assert_allclose(case.ours["back"][name], z, atol=100 * TOLERANCE[x64])


@pytest.mark.parametrize("model", [schools, triangle, walk, imputed])
def test_log_jacobian_is_that_of_constrain(model):
    case = evaluated(model, x64=True)
    with jax.enable_x64(True):
        flat, rebuild = jax.flatten_util.ravel_pytree(case.position)
        constrain = jax.jit(
            lambda x: jax.flatten_util.ravel_pytree(case.target.constrain(rebuild(x)))[0]
        )
        expected = jnp.linalg.slogdet(jax.jacfwd(constrain)(flat))[1]
    np.testing.assert_allclose(case.ours["log_jacobian"], expected, rtol=1e-10)


def test_scaling_observed_sites_would_temper_the_jacobian():
    """The split by a scale on observed sites, which this library does not do, is another one."""
    case = evaluated(schools, x64=True)
    beta = 0.3

    class ScaleObserved(numpyro.primitives.Messenger):
        def process_message(self, msg):
            if msg["type"] == "sample" and msg["is_observed"]:
                msg["scale"] = beta

    with jax.enable_x64(True):
        twin = -potential_energy(ScaleObserved(schools), (), case.target.kwargs, case.position)
    log_prior, log_likelihood = case.ours["log_parts"]
    tempered = log_prior + beta * log_likelihood
    dropped = (1 - beta) * case.ours["log_jacobian"]
    assert abs(dropped) > 0.1
    np.testing.assert_allclose(twin, tempered - dropped, rtol=1e-10)


def test_a_scale_on_a_latent_site_does_not_scale_its_jacobian():
    def model(y):
        with handlers.scale(scale=3.0):
            rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        numpyro.sample("y", dist.Poisson(rate), obs=y)

    target, z = from_numpyro(model, jnp.array(4)), jnp.array(0.3)
    expected = 3 * dist.Gamma(2.0, 1.0).log_prob(jnp.exp(z)) + z
    np.testing.assert_allclose(target.log_prior({"rate": z}), expected, rtol=1e-6)
    assert "sample" not in target.offers
    assert "handlers.scale" in target.refuse("sample")


def test_factors_are_likelihood_unless_they_are_declared_prior():
    case = evaluated(masks, x64=False)
    moved = case.target.with_prior_factors("penalty")
    before, after = case.ours["log_parts"], moved.log_parts(case.position)
    penalty = case.ours["pointwise"]["penalty"]
    np.testing.assert_allclose(after[0], before[0] + penalty, rtol=1e-6)
    np.testing.assert_allclose(after[1], before[1] - penalty, rtol=1e-6)
    assert "penalty" in " ".join(case.target.notes)
    again = moved.with_prior_factors("again")
    np.testing.assert_allclose(
        again.log_parts(case.position)[1], case.ours["pointwise"]["y"].sum(), rtol=1e-5
    )
    with pytest.raises(TargetError, match="'oops' is no factor .* which has 'penalty'"):
        case.target.with_prior_factors("oops")


def test_a_prior_factor_is_not_in_prior_draws():
    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("wall", -(x**4))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    target = from_numpyro(model, 1.0)
    assert "sample" in target.offers
    assert target.with_prior_factors("wall").log_prior({"x": jnp.array(0.0)}) < 0
    refusal = target.with_prior_factors("wall").refuse("sample")
    assert "counts 'wall' as prior: drawing its sites one by one does not draw from" in refusal


def test_the_factor_of_a_reparametrized_prior_is_prior():
    def model(y):
        angle = numpyro.sample("angle", dist.VonMises(0.0, 2.0))
        numpyro.sample("y", dist.Normal(jnp.cos(angle), 1.0), obs=y)

    target = from_numpyro(handlers.reparam(model, config={"angle": CircularReparam()}), 0.5)
    assert target.latent_names == ("angle_unwrapped",)
    z = {"angle_unwrapped": jnp.array(0.4)}
    np.testing.assert_allclose(
        target.log_prior(z), dist.VonMises(0.0, 2.0).log_prob(0.4), rtol=1e-5
    )
    np.testing.assert_allclose(target.outputs(z)["angle"], 0.4, rtol=1e-6)
    assert "cut open at -pi and pi" in " ".join(from_numpyro(model, 0.5).notes)


def test_handlers_around_the_model_are_kept():
    decentered = handlers.reparam(schools, config={"theta": LocScaleReparam(0)})
    target = from_numpyro(decentered, **DATA[schools])
    assert target.latent_names == ("mu", "tau", "theta_decentered")
    assert list(target.outputs(a_position(target))) == [
        "mu",
        "tau",
        "theta_decentered",
        "theta",
        "effect",
    ]
    conditioned = handlers.condition(schools, data={"tau": jnp.array(1.0)})
    assert from_numpyro(conditioned, **DATA[schools]).latent_names == ("mu", "theta")


# A target is a pytree ---------------------------------------------------------------------------


def test_new_data_neither_run_the_model_nor_compile(compilations):
    runs = []

    def model(y, shift):
        runs.append(1)
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(rate + shift, 1.0), obs=y)

    @eqx.filter_jit
    def evaluate(target, z):
        return target.log_density(z), target.outputs(z)

    first = from_numpyro(model, Y, 1.0).with_coords({"row": list("abcde")})
    second = from_numpyro(model, Y + 1, 2.0).with_coords({"row": list("vwxyz")})
    z = a_position(first)
    a = evaluate(first, z)[0]
    before = len(runs)
    with compilations() as count:
        target = from_numpyro(model, Y + 1, 2.0)
        b = evaluate(second, z)[0]
        c = evaluate(target, z)[0]
    assert (len(runs), count.traces, count.compilations) == (before, 0, 0)
    np.testing.assert_allclose(a, b, rtol=1e-6)  # both data and mean move by one
    assert b == c
    from_numpyro(model, Y[:3], 1.0)
    assert len(runs) > before


def test_ints_are_static_and_size_plates():
    target = from_numpyro(schools, Y, 1.0, num_schools=5)
    assert target.kwargs == {"num_schools": 5}
    assert target.template["theta"].shape == (5,)


def test_a_program_can_be_made_and_stacked_inside_compiled_code():
    z = a_position(from_numpyro(triangle, Y))

    @jax.jit
    @jax.vmap
    def inside(y):
        return from_numpyro(triangle, y).log_density(z)

    data = [Y, Y + 0.1]
    expected = [from_numpyro(triangle, y).log_density(z) for y in data]
    np.testing.assert_allclose(inside(jnp.stack(data)), expected, rtol=1e-5)
    pair = stack([from_numpyro(triangle, y) for y in data])
    np.testing.assert_allclose(pair[1].log_density(z), expected[1], rtol=1e-5)


@each_dtype
def test_template_follows_the_default_dtype(x64):
    target = evaluated(shapes, x64).target
    dtype = jnp.float64 if x64 else jnp.float32
    assert {name: x.shape for name, x in target.template.items()} == {
        "weights": (2, 2),
        "chol": (3,),
        "cut": (3,),
    }
    assert {x.dtype for x in target.template.values()} == {jnp.dtype(dtype)}
    assert isinstance(target, Energy)


# Draws ------------------------------------------------------------------------------------------


def test_prior_draws_follow_the_prior():
    def model(y):
        scale = numpyro.sample("scale", dist.Gamma(3.0, 2.0))
        low = numpyro.sample("low", dist.Normal(1.0, 2.0))
        numpyro.sample("between", dist.Uniform(low, low + scale))
        numpyro.sample("y", dist.Normal(low, scale), obs=y)

    target, n = from_numpyro(model, 100.0), 20_000
    draws = target.sample(random.key(0), n)
    values = jax.jit(jax.vmap(target.constrain))(draws)
    share = (values["between"] - values["low"]) / values["scale"]
    checks = {
        "scale": (values["scale"], 1.5, 3**0.5 / 2),
        "log scale": (draws["scale"], float(jax.scipy.special.digamma(3.0)) - np.log(2), None),
        "low": (values["low"], 1.0, 2.0),
        "share": (share, 0.5, 12**-0.5),
    }
    for name, (x, mean, sd) in checks.items():
        x = np.asarray(x, float)
        error = x.std() / n**0.5
        assert abs(x.mean() - mean) < z_limit(100) * error, name
        if sd is not None:
            squares = (x - mean) ** 2
            assert abs(squares.mean() - sd**2) < z_limit(100) * squares.std() / n**0.5, name
    assert np.corrcoef(share, values["scale"])[0, 1] < 0.05


def test_a_prior_draw_on_the_edge_of_its_support_is_a_finite_position():
    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(0.01, 1.0))
        numpyro.sample("y", dist.Normal(rate, 1.0), obs=y)

    target = from_numpyro(model, 0.0)
    draws = target.sample(random.key(0), 500)["rate"]
    assert jnp.sum(draws == draws.min()) > 10
    assert jnp.all(jnp.isfinite(draws))
    assert jnp.all(jnp.isfinite(jax.vmap(lambda z: target.log_density({"rate": z}))(draws)))


def test_prior_predictive_draws_are_joint_draws():
    target = evaluated(schools, x64=False).target
    draws = target.prior_predictive(random.key(1), 4000)
    assert list(draws) == ["mu", "tau", "theta", "effect", "y"]
    assert draws["y"].shape == (4000, 5)
    noise = np.asarray((draws["y"] - draws["theta"]) / 0.7)
    assert abs(noise.mean()) < z_limit(100) / noise.size**0.5
    assert abs((noise**2).mean() - 1) < z_limit(100) * (2 / noise.size) ** 0.5


def test_posterior_predictive_draws_do_not_depend_on_the_batch_size():
    target = evaluated(schools, x64=False).target
    prior = target.prior_predictive(random.key(2), 14)
    values = {n: np.asarray(x).reshape(2, 7, *x.shape[1:]) for n, x in prior.items()}
    whole = target.posterior_predictive(random.key(3), values)
    parts = target.posterior_predictive(random.key(3), values, batch_size=4)
    assert list(whole) == ["y"]
    assert whole["y"].shape == (2, 7, 5)
    np.testing.assert_array_equal(whole["y"], parts["y"])
    assert np.abs(whole["y"] - values["theta"]).max() < 0.7 * 5
    rows = target.log_likelihood_of_draws(values, batch_size=5)
    expected = dist.Normal(values["theta"], 0.7).log_prob(Y)
    np.testing.assert_allclose(rows["y"], expected, rtol=1e-5)
    with pytest.raises(TargetError, match=r"values of 'mu' are missing.*'theta'; got 'tau'"):
        target.unconstrain({"tau": 1.0, "theta": Y})
    with pytest.raises(TargetError, match=r"'tau' should have the shape \(chain, draw\)"):
        target.posterior_predictive(random.key(3), {**values, "tau": values["tau"][0]})


def test_outputs_keep_the_order_of_the_model_when_compiled():
    case = evaluated(schools, x64=False)
    assert list(case.ours["outputs"]) == ["mu", "tau", "theta", "effect"]


def test_observed_data_are_the_data():
    data = evaluated(masks, x64=False).target.observed_data
    assert list(data) == ["y", "again"]
    np.testing.assert_array_equal(data["y"], DATA[masks]["y"].astype(np.float32))


def test_data_observed_inside_a_scan_are_not_predicted():
    target = evaluated(walk, x64=False).target
    assert "posterior_predictive" not in target.offers
    assert "inside a NumPyro scan" in target.refuse("posterior_predictive")
    assert target.outputs(a_position(target))["jump"].shape == (5,)
    assert target.sample(random.key(0), 3)["jump"].shape == (3, 5)


# Minibatches ------------------------------------------------------------------------------------


def regression(x, y, batch=None):
    slope = numpyro.sample("slope", dist.HalfNormal(1.0))
    with numpyro.plate("row", len(y), subsample_size=batch) as rows:
        numpyro.sample("y", dist.Normal(slope * x[rows], 1.0), obs=y[rows])


def whole_regression(x, y):
    slope = numpyro.sample("slope", dist.HalfNormal(1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


def subsampled_regression(x, y):
    slope = numpyro.sample("slope", dist.HalfNormal(1.0))
    with numpyro.plate("row", len(y), subsample_size=2):
        x, y = numpyro.subsample(x, 0), numpyro.subsample(y, 0)
        numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


X = np.linspace(-1, 1, 5)


@pytest.mark.parametrize(
    ("model", "batch", "follows"),
    [
        (regression, None, True),
        (regression, 2, True),
        (subsampled_regression, None, True),
        (whole_regression, None, False),
    ],
)
def test_log_likelihood_at_is_the_sum_over_the_rows(model, batch, follows):
    kwargs = {} if batch is None else {"batch": batch}
    target = from_numpyro(model, X, Y, **kwargs)
    z = {"slope": jnp.array(0.2)}
    rows = dist.Normal(jnp.exp(0.2) * X, 1.0).log_prob(Y)
    for indices in ([3], [0, 4], [1, 1], [4, 2, 0]):
        indices = jnp.array(indices)
        value = eqx.filter_jit(lambda t, z, i: t.log_likelihood_at(z, i))(target, z, indices)
        np.testing.assert_allclose(value, rows[indices].sum(), rtol=1e-6)
    assert target.num_data == 5
    assert target.structure.follows_rows is follows
    np.testing.assert_allclose(
        target.log_prior(z), dist.HalfNormal(1.0).log_prob(jnp.exp(0.2)) + 0.2, rtol=1e-6
    )
    np.testing.assert_array_equal(target.observed_data["y"], Y.astype(np.float32))


def test_all_rows_are_the_log_likelihood():
    target = from_numpyro(whole_regression, X, Y)
    z = {"slope": jnp.array(-0.4)}
    np.testing.assert_allclose(
        target.log_likelihood_at(z, jnp.arange(5)), target.log_likelihood(z), rtol=1e-6
    )


def test_a_subsampled_plate_has_minibatches_only():
    target = from_numpyro(regression, X, Y, batch=2)
    z = {"slope": jnp.array(0.2)}
    assert target.offers == {"log_likelihood_at", "log_prior"}
    message = r"plate 'row' uses 2 of 5 rows; densities need all rows. Remove subsample_size"
    for method in (target.log_density, target.log_parts, target.explain):
        with pytest.raises(TargetError, match=message):
            method(z)
    assert "SGLD" in target.refuse("gradient")
    with pytest.raises(TargetError, match="fewer rows than the 5 of plate 'row'; got 5"):
        target.log_likelihood_at(z, jnp.arange(5))
    np.testing.assert_allclose(target.constrain(z)["slope"], jnp.exp(0.2), rtol=1e-6)
    np.testing.assert_allclose(target.unconstrain({"slope": 1.0})["slope"], 0.0, atol=1e-7)


def test_a_prior_factor_outside_the_plate_does_not_stop_minibatches():
    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("wall", -(x**2))
        with numpyro.plate("row", len(y)):
            observe(x, y)

    target = from_numpyro(model, Y)
    assert "log_likelihood_at" not in target.offers
    assert target.with_prior_factors("wall").num_data == 5


def test_log_likelihood_at_needs_one_plate_around_all_data():
    target = evaluated(shapes, x64=False).target
    assert target.num_data == 4
    refusal = evaluated(masks, x64=False).target.refuse("log_likelihood_at")
    assert "need exactly one numpyro.plate that holds every observed site" in refusal
    with pytest.raises(TargetError, match="need exactly one numpyro.plate"):
        _ = evaluated(triangle, x64=False).target.num_data


# Axes -------------------------------------------------------------------------------------------


def test_axes_are_named_after_plates():
    target = evaluated(masks, x64=False).target
    assert target.dims == {
        "scale": [],
        "rate": ["row", "column"],
        "y": ["row", "column"],
        "again": ["row", "column"],
    }
    assert {name: list(x) for name, x in target.coords.items()} == {
        "column": [0, 1],
        "row": [0, 1, 2, 3, 4],
    }
    assert evaluated(schools, x64=False).target.dims["effect"] == ["school"]


def test_axes_without_a_plate_can_be_named():
    target = evaluated(shapes, x64=False).target
    assert target.dims == {
        "weights": ["group", "weights_dim_1"],
        "chol": ["chol_dim_0", "chol_dim_1"],
        "cut": ["cut_dim_0"],
        "corr": ["corr_dim_0", "corr_dim_1"],
        "y": ["row", "y_dim_1"],
    }
    named = target.with_coords({"part": ["a", "b", "c"]}, {"weights": ["part"], "y": ["at", "of"]})
    assert named.dims["weights"] == ["group", "part"]
    assert named.dims["y"] == ["at", "of"]
    assert list(named.coords["part"]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("coords", "dims", "message"),
    [
        ({"group": ["a"]}, {}, r"'group' has 2 entries; got labels of shape \(1,\)"),
        ({"grup": ["a", "b"]}, {}, "no axis is called 'grup'; .* the axes 'group'"),
        ({}, {"nu": ["part"]}, "'nu' is no site of model shapes, which has 'weights'"),
        ({}, {"chol": ["a"]}, r"shape \(3, 3\) has 2 axes, of which 2 have no name yet"),
    ],
)
def test_labels_that_fit_nothing_are_refused(coords, dims, message):
    with pytest.raises(TargetError, match=message):
        evaluated(shapes, x64=False).target.with_coords(coords, dims)


def test_event_dims_of_numpyro_are_read():
    def model(y):
        total = dist.Normal(0, 1).expand((5,)).to_event(1)
        beta = numpyro.sample("beta", total, infer={"event_dims": ["feature"]})
        numpyro.sample("y", dist.Normal(beta, 1.0).to_event(1), obs=y)

    target = from_numpyro(model, Y)
    assert target.dims == {"beta": ["feature"], "y": ["y_dim_0"]}


# Errors at a position ---------------------------------------------------------------------------


def test_explain_lists_every_term():
    case = evaluated(schools, x64=False)
    terms = case.target.explain(case.position)
    assert [(term.site, term.kind) for term in terms] == [
        ("mu", "prior"),
        ("tau", "log_jacobian"),
        ("tau", "prior"),
        ("theta", "prior"),
        ("y", "likelihood"),
    ]
    total = sum(float(term.log_prob) for term in terms)
    np.testing.assert_allclose(total, case.ours["log_density"], rtol=1e-5)
    np.testing.assert_allclose(terms[2].value, jnp.exp(case.position["tau"]), rtol=1e-6)


def test_explain_finds_the_site_that_is_not_finite():
    case = evaluated(schools, x64=False)
    terms = case.target.explain(case.position | {"tau": jnp.array(200.0)})
    bad = [term for term in terms if not np.isfinite(term.log_prob)]
    assert bad[0].site == "tau"
    assert bad[0].value == np.inf


# Refusals ---------------------------------------------------------------------------------------


def observe(value, y):
    numpyro.sample("y", dist.Normal(value, 1.0), obs=y)


def flipped(y):
    observe(numpyro.sample("coin", dist.Bernoulli(0.5)), y)


def counted(y):
    observe(numpyro.sample("count", dist.Poisson(3.0)), y)


def optimized(y):
    observe(numpyro.sample("x", dist.Normal(0, 1)) + numpyro.param("shift", 1.0), y)


def known(y):
    numpyro.sample("y", dist.Normal(0, 1), obs=y)


def point(y):
    observe(numpyro.sample("x", dist.Delta(1.0)), y)


def branching(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    observe(x if x > 0 else -x, y)


def numpying(y):
    observe(numpyro.sample("x", dist.Normal(np.log(y)[0], 1)), y)


def sized(y):
    with numpyro.plate("row", int(y)):
        observe(numpyro.sample("x", dist.Normal(0, 1)), y)


def twice(y):
    observe(numpyro.sample("x", dist.Normal(0, 1)) + numpyro.sample("x", dist.Normal(0, 1)), y)


def site_and_plate(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    with numpyro.plate("x", 5):
        observe(x, y)


def grouped(y):
    observe(numpyro.sample("posterior", dist.Normal(0, 1)), y)


def chained(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    with numpyro.plate("draw", 5):
        observe(x, y)


def spherical(y):
    observe(numpyro.sample("x", dist.ProjectedNormal(jnp.zeros(3)))[0], y)


def local(y):
    with numpyro.plate("row", 20, subsample_size=5):
        observe(numpyro.sample("x", dist.Normal(0, 1)), y[:5])


def given_batch(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    with numpyro.plate("row", 20, subsample_size=5):
        observe(x, y)


def failing(y):
    observe(numpyro.sample("x", dist.Normal(0, 1)), y["nothing"])


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        (counted, (1.0,), "'count' has the support IntegerNonnegative.*GammaPoisson.*logsumexp"),
        (optimized, (1.0,), "numpyro.param 'shift': .*random_flax_module"),
        (known, (1.0,), r"model known has no latent site.*\('y'\)"),
        (point, (1.0,), "'x' is latent with a Delta distribution.*numpyro.deterministic"),
        (branching, (1.0,), "branching branches in Python.*jnp.where or jax.lax.cond"),
        (numpying, (Y,), "hands a latent value or data to NumPy; write jax.numpy"),
        (sized, (1.0,), "only shapes are known.*Sizes and flags are passed as Python ints"),
        (twice, (1.0,), "uses the name 'x' twice"),
        (site_and_plate, (Y,), "uses the name 'x' twice; every site and every plate"),
        (grouped, (1.0,), "'posterior': ArviZ uses this name"),
        (chained, (Y,), "'draw': ArviZ uses this name .* rename the site or plate"),
        (spherical, (1.0,), "'x' .ProjectedNormal. has the support Sphere.*ProjectedNormalReparam"),
        (local, (Y,), "'row' uses 5 of 20 rows and holds the latent 'x'.*Remove subsample_size"),
        (given_batch, (Y,), "5 of 20 rows of plate 'row': a density needs all rows"),
        (failing, (Y,), "model failing fails: "),
        (
            schools,
            (Y,),
            r"schools\(y, sigma, num_schools=None\) was given 1 .* no keywords: .*sigma",
        ),
        (schools, (Y, Y, 5, 6), "was given 4 positional.*too many positional"),
        (known, ({1, 2},), "holds a set, which is neither data"),
        (3.0, (), "a NumPyro model is a function; got 3.0"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_no_density_is_refused(model, args, message):
    with pytest.raises(TargetError, match=f"(?s){message}"):
        from_numpyro(model, *args)


def test_a_misspelt_argument_is_named():
    with pytest.raises(TargetError, match="the keywords 'y', 'sgima': .*'sgima'|sigma"):
        from_numpyro(schools, y=Y, sgima=Y)


def test_discrete_latent_sites_without_funsor_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "funsor", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"(?s)'coin' \(Bernoulli\).*pip install funsor.*Mixture"):
        from_numpyro(flipped, 1.0)


def test_an_improper_prior_is_a_density_without_draws():
    def model(y):
        mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
        with numpyro.plate("row", len(y)):
            observe(mu, y)

    target = from_numpyro(model, Y)
    assert {"log_density", "gradient", "log_parts", "posterior_predictive"} <= target.offers
    assert not {"sample", "prior_predictive"} & target.offers
    for draw in (target.sample, target.prior_predictive):
        with pytest.raises(
            TargetError,
            match="'mu' of model model has no proper prior.*evidence, prior predictive draws and "
            "simulation-based calibration are undefined.*use MCMC",
        ):
            draw(random.key(0), 3)
    assert target.log_prior({"mu": jnp.array(2.0)}) == 0


def test_imputation_is_noted():
    target = evaluated(imputed, x64=False).target
    assert target.latent_names == ("spread", "y_unobserved")
    assert "'y_unobserved' imputes with obs_mask: 5 latent numbers" in " ".join(target.notes)
    assert "a mask takes part of its prior away" in target.refuse("sample")


def test_a_model_that_observes_nothing_warns():
    def model(y=None):
        numpyro.sample("y", dist.Normal(0, 1), obs=y)

    with pytest.warns(UserWarning, match="model observes nothing: its posterior is its prior"):
        target = from_numpyro(model)
    assert target.log_parts({"y": jnp.array(0.0)})[1] == 0
    assert "posterior_predictive" not in target.offers


def test_hidden_noise_warns():
    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        observe(x + random.normal(numpyro.prng_key()), y)

    with pytest.warns(UserWarning, match="one fixed key, the same noise at every position"):
        target = from_numpyro(model, 1.0)
    z = {"x": jnp.array(0.1)}
    assert target.log_density(z) == target.log_density(z)


def test_broadcast_observations_warn():
    def model(y):
        mean = numpyro.sample("mean", dist.Normal(0, 1).expand((5, 1)).to_event(2))
        numpyro.sample("y", dist.Normal(mean, 1), obs=y)

    with pytest.warns(UserWarning, match="5 observations make 25 terms"):
        from_numpyro(model, Y)


# Enumeration ------------------------------------------------------------------------------------


def mixture(y):
    weight = numpyro.sample("weight", dist.Beta(2.0, 2.0))
    mean = numpyro.sample("mean", dist.Normal(0, 1))
    with numpyro.plate("row", len(y)):
        which = numpyro.sample("which", dist.Bernoulli(weight))
        numpyro.deterministic("shifted", mean + which)
        numpyro.sample("y", dist.Normal(jnp.where(which == 1, mean, -mean), 1.0), obs=y)


def mixture_by_hand(y):
    weight = numpyro.sample("weight", dist.Beta(2.0, 2.0))
    mean = numpyro.sample("mean", dist.Normal(0, 1))
    parts = dist.Normal(jnp.stack([-mean, mean]), 1.0)
    law = dist.MixtureSameFamily(dist.Categorical(jnp.stack([1 - weight, weight])), parts)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", law, obs=y)


def test_discrete_latent_sites_are_summed_out():
    pytest.importorskip("funsor")
    target, by_hand = from_numpyro(mixture, Y), from_numpyro(mixture_by_hand, Y)
    z = {"weight": jnp.array(0.4), "mean": jnp.array(0.7)}
    evaluate = eqx.filter_jit(lambda target: (target.log_density(z), *target.log_parts(z)))
    np.testing.assert_allclose(evaluate(target), evaluate(by_hand), rtol=1e-5)
    assert target.template == by_hand.template
    assert list(target.outputs(z)) == ["weight", "mean"]
    assert "couples the rows" in target.refuse("pointwise_log_likelihood")
    assert target.sample(random.key(0), 2).keys() == z.keys()
    values = {name: np.full((1, 3), 0.5) for name in z}
    assert target.posterior_predictive(random.key(0), values)["y"].shape == (1, 3, 5)
    assert [term.kind for term in target.explain(z)] == ["prior", "likelihood"]


def test_enumeration_asks_for_plates():
    pytest.importorskip("funsor")

    def model(y):
        which = numpyro.sample("which", dist.Bernoulli(0.5 * jnp.ones(5)))
        mean = numpyro.sample("mean", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mean + which, 1.0), obs=y)

    with pytest.raises(TargetError, match="needs a numpyro.plate for every batch dimension"):
        from_numpyro(model, Y)


def test_enumeration_refuses_a_scale_on_a_latent_site():
    pytest.importorskip("funsor")
    with pytest.raises(TargetError, match="handlers.scale around the latent 'weight', 'mean'"):
        from_numpyro(handlers.scale(mixture, scale=2.0), Y)


def test_program_is_final():
    assert Program.__subclasses__() == []


def test_observations_without_a_plate_are_all_predicted():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    program = from_numpyro(model, jnp.arange(3.0))
    predicted = program.posterior_predictive(random.key(0), {"mu": np.zeros((2, 50))})["y"]
    assert predicted.shape == (2, 50, 3)
    # Each observation is drawn on its own.
    assert abs(np.corrcoef(predicted.reshape(-1, 3).T)[0, 1]) < 0.5
