"""The linear-Gaussian likelihood: its adjoint, its equations, its law, and what it refuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random
from scipy import stats

import ppl
from ppl import linear_operators
from ppl.energy import TargetError

pytestmark = pytest.mark.usefixtures("unoptimized")
MATRIX = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
OBSERVATION = jnp.array([0.3, -1.0, 2.0])
NOISE = 0.5


def by_decomposition(noise_std=NOISE):
    return ppl.LinearGaussian(MATRIX, OBSERVATION, noise_std)


def by_conjugate_gradients(noise_std=NOISE):
    return ppl.LinearGaussian(
        lambda x: MATRIX @ x, OBSERVATION, noise_std, template=jnp.zeros(5), tolerance=1e-7
    )


class Basis(eqx.Module):
    """A decomposition that is no matrix: equations are solved coordinate by coordinate."""

    matrix: linear_operators.Dense

    @property
    def singular_values(self):
        return self.matrix.values

    def v(self, coefficients):
        return self.matrix.v(coefficients)

    def v_adjoint(self, position):
        return self.matrix.v_adjoint(position)

    def u(self, coefficients):
        return self.matrix.u(coefficients)

    def u_adjoint(self, observation):
        return self.matrix.u_adjoint(observation)


def by_basis(noise_std=NOISE):
    svd = Basis(linear_operators.dense(MATRIX))
    operator = lambda x: MATRIX @ x
    return ppl.LinearGaussian(operator, OBSERVATION, noise_std, template=jnp.zeros(5), svd=svd)


ALL = pytest.mark.parametrize("make", [by_decomposition, by_basis, by_conjugate_gradients])


def test_the_density_is_that_of_scipy():
    x = np.arange(5.0) / 5
    expected = stats.norm.logpdf(OBSERVATION, MATRIX @ x, NOISE).sum()
    assert np.isclose(by_decomposition()(jnp.asarray(x, jnp.float32)), expected, rtol=1e-5)
    sds = jnp.array([0.1, 1.0, 2.0])
    expected = stats.norm.logpdf(OBSERVATION, MATRIX @ x, sds).sum()
    assert np.isclose(by_decomposition(sds)(jnp.asarray(x, jnp.float32)), expected, rtol=1e-5)


def test_it_is_the_likelihood_of_a_posterior_and_new_data_do_not_compile_again(compilations):
    prior = dist.Normal(jnp.zeros(5), 1.0).to_event(1)
    evaluate = eqx.filter_jit(lambda target, x: target.log_density(x))
    first, second = by_decomposition(), by_decomposition(0.1).given(OBSERVATION + 1)
    x = jnp.ones(5)
    value = evaluate(ppl.posterior(prior, first), x)
    assert np.isclose(value, stats.norm.logpdf(np.ones(5)).sum() + first(x), rtol=1e-5)
    with compilations() as count:
        evaluate(ppl.posterior(prior, second), x)
    assert count.compilations == 0


@ALL
def test_equations_are_solved(make):
    likelihood = make()
    assert (likelihood.svd is None) == (make is by_conjugate_gradients)
    rhs, w = jnp.arange(5.0), jnp.array([1.0, 2.0, -1.0])
    normal, gram = MATRIX.T @ MATRIX, MATRIX @ MATRIX.T
    assert np.allclose(
        likelihood.solve(rhs, 0.7), np.linalg.solve(normal + 0.7 * np.eye(5), rhs), atol=1e-4
    )
    assert np.allclose(
        likelihood.solve_observed(w, 0.3),
        np.linalg.solve(0.3 * gram + NOISE**2 * np.eye(3), w),
        atol=1e-4,
    )
    assert np.allclose(likelihood.pseudo_inverse(w), np.linalg.pinv(MATRIX) @ w, atol=1e-4)
    assert np.allclose(likelihood.adjoint(w), MATRIX.T @ w, atol=1e-5)


def test_noise_of_several_levels_enters_the_equations():
    sds = jnp.array([0.1, 1.0, 2.0])
    likelihood = ppl.LinearGaussian(MATRIX, OBSERVATION, sds, tolerance=1e-7)
    w = jnp.array([1.0, 2.0, -1.0])
    expected = np.linalg.solve(0.3 * MATRIX @ MATRIX.T + np.diag(sds**2), w)
    assert np.allclose(likelihood.solve_observed(w, 0.3), expected, rtol=1e-3)


@pytest.mark.parametrize("make", [by_decomposition, by_basis])
def test_a_variance_far_above_the_noise_leaves_no_rounding(make):
    likelihood, center, variance = make(0.01), jnp.full(5, 300.0), 1e6
    matrix = MATRIX.astype(float)
    gram = variance * matrix @ matrix.T + 1e-4 * np.eye(3)
    weights = np.linalg.solve(gram, OBSERVATION - matrix @ np.full(5, 300.0))
    found = likelihood.mean_given(center, variance)
    assert np.allclose(found, 300 + variance * matrix.T @ weights, atol=0.01)
    solved = likelihood.solve_observed(likelihood.residual(center), variance)
    assert np.allclose(solved, weights, rtol=0.02)
    # The broken twin: what rounding leaves of the seen part is divided by the noise.
    residual = likelihood.residual(center)
    unseen = residual - likelihood.svd.u(likelihood.svd.u_adjoint(residual))
    assert not np.allclose(np.asarray(unseen) / 1e-4 + weights, weights, rtol=0.02)


@ALL
def test_draws_given_a_normal_have_its_posterior_law(make):
    likelihood, center, variance = make(), jnp.arange(5.0) / 3, 0.8
    precision = MATRIX.T @ MATRIX / NOISE**2 + np.eye(5) / variance
    covariance = np.linalg.inv(precision)
    mean = covariance @ (MATRIX.T @ OBSERVATION / NOISE**2 + center / variance)
    assert np.allclose(likelihood.mean_given(center, variance), mean, atol=1e-4)
    draw = jax.jit(jax.vmap(lambda key: likelihood.draw_given(key, center, variance)))
    draws = np.asarray(draw(random.split(random.key(1), 40_000)), np.float64)
    chol = np.linalg.cholesky(covariance)
    white = np.linalg.solve(chol, (draws - mean).T)
    moments = white @ white.T / white.shape[1]
    assert np.all(np.abs(white.mean(1)) < 4.9 / 200)
    assert np.all(np.abs(moments - np.eye(5)) < 4.9 * np.sqrt(2) / 200)
    # The broken twin: a tenth less noise.
    less = make(0.9 * NOISE)
    draw = jax.jit(jax.vmap(lambda key: less.draw_given(key, center, variance)))
    twin = draw(random.split(random.key(1), 40_000))
    white = np.linalg.solve(chol, (np.asarray(twin, np.float64) - mean).T)
    assert np.any(np.abs(white @ white.T / white.shape[1] - np.eye(5)) > 4.9 * np.sqrt(2) / 200)


@pytest.mark.parametrize("make", [by_decomposition, by_basis])
def test_without_noise_the_equations_have_their_limit(make):
    exact = make(0.0)
    x = exact.mean_given(jnp.zeros(5), 1.0)
    assert np.allclose(x, np.linalg.pinv(MATRIX) @ OBSERVATION, atol=1e-4)
    assert exact(x) == -np.inf
    with pytest.raises(TargetError, match="PiGDM needs noise_std > 0"):
        exact.require_noise("PiGDM")
    by_decomposition().require_noise("PiGDM")


def test_a_decomposition_has_coordinates_for_what_is_not_seen():
    svd = by_decomposition().svd
    x, y = jnp.arange(5.0), OBSERVATION
    assert np.array_equal(np.asarray(svd.singular_values)[3:], [0, 0])
    assert np.allclose(svd.v(svd.v_adjoint(x)), x, atol=1e-5)
    assert np.allclose(svd.u(svd.singular_values * svd.v_adjoint(x)), MATRIX @ x, atol=1e-5)
    assert np.allclose(svd.u(svd.u_adjoint(y)), y, atol=1e-5)


def test_the_adjoint_of_a_complex_operator_is_conjugated():
    maps = random.normal(random.key(0), (2, 4)) + 1j * random.normal(random.key(1), (2, 4))
    forward = lambda x: jnp.fft.fft(maps * x, norm="ortho")
    y = (random.normal(random.key(2), (2, 4)) + 0.5j).astype(jnp.complex64)
    on_complex = ppl.LinearGaussian(forward, y, 0.1, template=jnp.zeros(4, jnp.complex64))
    explicit = jnp.sum(jnp.conj(maps) * jnp.fft.ifft(y, norm="ortho"), axis=0)
    assert np.allclose(on_complex.adjoint(y), explicit, atol=1e-5)
    on_real = ppl.LinearGaussian(forward, y, 0.1, template=jnp.zeros(4))
    assert np.allclose(on_real.adjoint(y), explicit.real, atol=1e-5)
    assert on_real.num_observed == 16
    # Noise in the real and in the imaginary part, each with the full standard deviation.
    parts = jnp.stack([(y - forward(jnp.ones(4))).real, (y - forward(jnp.ones(4))).imag])
    expected = stats.norm.logpdf(parts, 0, 0.1).sum()
    assert np.isclose(on_real(jnp.ones(4)), expected, rtol=1e-5)
    solved = on_real.solve(jnp.ones(4), 0.5)
    assert np.allclose(on_real.adjoint(forward(solved)) + 0.5 * solved, 1.0, atol=1e-4)


def test_operators_of_lineax_and_pytrees():
    y = {"a": jnp.ones(2), "b": jnp.zeros(3)}
    function = lineax.FunctionLinearOperator(
        lambda p: {"a": 2 * p["u"], "b": p["v"] - p["u"][0]},
        jax.eval_shape(lambda: {"u": jnp.zeros(2), "v": jnp.zeros(3)}),
    )
    likelihood = ppl.LinearGaussian(function, y, {"a": 0.1, "b": jnp.ones(3)})
    adjoint = likelihood.adjoint({"a": jnp.array([1.0, 0.0]), "b": jnp.ones(3)})
    assert np.allclose(adjoint["u"], [-1.0, 0.0])
    assert np.allclose(adjoint["v"], 1.0)
    diagonal = lineax.DiagonalLinearOperator(jnp.array([1.0, 2.0, 0.0]))
    assert np.allclose(
        ppl.LinearGaussian(diagonal, jnp.ones(3), 1.0).adjoint(jnp.ones(3)), [1, 2, 0]
    )
    matrix = lineax.MatrixLinearOperator(jnp.asarray(MATRIX))
    assert ppl.LinearGaussian(matrix, OBSERVATION, 1.0).svd is not None


def test_one_compilation_serves_a_stack_of_problems(compilations):
    def pulled(likelihood):
        return likelihood.mean_given(jnp.zeros(5), 1.0)

    many = [by_decomposition().given(OBSERVATION + k) for k in range(3)]
    arrays, rest = zip(*(eqx.partition(one, eqx.is_array) for one in many), strict=True)
    stacked = eqx.combine(jax.tree.map(lambda *x: jnp.stack(x), *arrays), rest[0])
    means = eqx.filter_vmap(pulled)(stacked)
    assert np.allclose(means[2], pulled(many[2]), atol=1e-5)


def test_one_may_be_made_inside_a_compiled_function():
    scale = lambda a, x: ppl.LinearGaussian(lambda x: a * x, x, 1.0, template=jnp.zeros(3))
    pulled = jax.jit(lambda a, x: scale(a, x).adjoint(x))(2.0, jnp.ones(3))
    assert np.allclose(pulled, 2.0)


class Squares(eqx.Module):
    """Nonlinear, with an adjoint that hides it from transposition."""

    def __call__(self, x):
        return x + 0.1 * x**2

    def adjoint(self, y):
        return y


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (jnp.square, "no adjoint by transposition"),
        (lambda x: jnp.maximum(x, 0), "no adjoint by transposition"),
        (lambda x: x + 1e-3, "maps zero to an observation of norm 0.00173"),
        (Squares(), r"fails the dot test: .* nonlinear or its adjoint is another"),
    ],
)
def test_a_nonlinear_operator_is_refused(operator, message):
    with pytest.raises(TargetError, match=message):
        ppl.LinearGaussian(operator, jnp.zeros(3), 1.0, template=jnp.zeros(3))


def test_a_wrong_adjoint_is_refused():
    class Twice(Squares):
        def __call__(self, x):
            return 2 * x

    with pytest.raises(TargetError, match="fails the dot test"):
        ppl.LinearGaussian(Twice(), jnp.zeros(3), 1.0, template=jnp.zeros(3))


def test_a_row_of_terms_that_cancel_is_linear():
    """Where the point of the dot test is nearly orthogonal to it, rounding is large beside A x."""
    x = np.asarray(
        linear_operators.normal_like(random.split(random.key(0))[0], jnp.zeros(80)), np.float64
    )
    row = np.cos(np.arange(80.0))
    row = row - (1 - 1e-5) * (row @ x) / (x @ x) * x
    ppl.LinearGaussian(jnp.asarray(row[None], jnp.float32), jnp.zeros(1), 1.0)


def test_shapes_that_do_not_fit_draw_the_chain():
    with pytest.raises(
        TargetError,
        match=r"operator Dense from \{x: float32\[5\]\} to \{x: float32\[3\]\} -> observation "
        r"\{x: float32\[4\]\}",
    ):
        ppl.LinearGaussian(MATRIX, jnp.zeros(4), 1.0)
    with pytest.raises(
        TargetError,
        match=r"prior \{x: float32\[2,2\]\} -> operator Dense from \{x: float32\[5\]\} to "
        r"\{x: float32\[3\]\} -> observation \{x: float32\[3\]\}".replace(",", ", "),
    ):
        ppl.posterior(dist.Normal(jnp.zeros((2, 2)), 1.0).to_event(2), by_decomposition())
    with pytest.raises(TargetError, match="the observation is complex and the operator's output"):
        ppl.LinearGaussian(MATRIX, OBSERVATION + 1j, 1.0)
    with pytest.raises(TargetError, match="5 columns does not act on"):
        ppl.LinearGaussian(MATRIX, OBSERVATION, 1.0, template=jnp.zeros((2, 3)))
    with pytest.raises(TargetError, match="operator fails on the position .* from"):
        ppl.LinearGaussian(lambda x: MATRIX @ x, OBSERVATION, 1.0, template=jnp.zeros(4))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((lambda x: x, OBSERVATION, 1.0), {}, "does not say what it acts on"),
        ((3.0, OBSERVATION, 1.0), {}, "a Lineax operator or a linear function; got 3.0"),
        ((MATRIX[0], OBSERVATION, 1.0), {}, r"got an array of shape \(5,\)"),
        ((MATRIX, OBSERVATION, -1.0), {}, "not negative, or such numbers; got -1.0"),
        ((MATRIX, OBSERVATION, float("nan")), {}, "not negative, or such numbers; got nan"),
        ((MATRIX, OBSERVATION, jnp.ones(2)), {}, "noise_std is one number, or like the obs"),
        ((MATRIX, OBSERVATION, 1.0), {"svd": "yes"}, "svd must have singular_values, u"),
        ((MATRIX * 1j, OBSERVATION, 1.0), {"template": jnp.zeros(5)}, "stack its parts"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises(TargetError, match=message):
        ppl.LinearGaussian(*arguments, **options)


def test_inner_products_are_of_real_numbers():
    z = {"a": jnp.array([1 + 2j]), "b": jnp.array([3.0])}
    assert linear_operators.squared_norm(z) == 14
    assert linear_operators.num_reals(z) == 3
