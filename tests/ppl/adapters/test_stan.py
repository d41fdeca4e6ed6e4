"""Stan models through a stand-in with BridgeStan's interface, whose density is known."""

import itertools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import samplers
from agreement import Reference, disagreements
from ppl.adapters import from_stan, stan

SHIFT = np.array([0.5, -1.0])


class StanModel:
    """``tau ~ Exponential(1)`` on the log scale, ``beta ~ N(SHIFT, 1)``; a 2 x 2 by-product."""

    def __init__(self):
        self.calls = 0

    def name(self):
        return "stand_in_model"

    def param_unc_num(self):
        return 3

    def param_names(self, *, include_tp=False, include_gq=False):
        square = [f"square.{j}.{i}" for i, j in itertools.product((1, 2), repeat=2)]
        return ["tau", "beta.1", "beta.2"] + (square if include_tp else [])

    def param_constrain(self, x, *, include_tp=False, include_gq=False):
        values = [math.exp(x[0]), x[1], x[2]]
        # Stan's order: the first index runs fastest.
        return np.array(values + [x[1] ** 2, x[1] * x[2], -1.0, x[2] ** 2][: 4 * include_tp])

    def param_unconstrain(self, theta):
        return np.array([math.log(theta[0]), theta[1], theta[2]])

    def log_density(self, x, *, propto=True, jacobian=True):
        return self.log_density_gradient(x, propto=propto, jacobian=jacobian)[0]

    def log_density_gradient(self, x, *, propto=True, jacobian=True):
        assert x.dtype == np.float64
        self.calls += 1
        if x[0] > 20:
            raise RuntimeError("tau is not finite")
        lp = -math.exp(x[0]) + jacobian * x[0] - 0.5 * ((x[1:] - SHIFT) ** 2).sum()
        return lp, np.append(-math.exp(x[0]) + jacobian, SHIFT - x[1:])


def target():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return from_stan(StanModel())


def test_slowness_is_said():
    with pytest.warns(
        UserWarning, match="on the CPU, one chain after the other: expect it to be sl"
    ):
        from_stan(StanModel())


def test_density_and_gradient_are_stans_alone_vmapped_and_compiled():
    energy, x = target(), jnp.array([0.3, 1.0, -2.0])
    lp, gradient = StanModel().log_density_gradient(np.asarray(x, np.float64))
    for function in (energy.log_density, jax.jit(energy.log_density)):
        assert float(function(x)) == pytest.approx(lp, rel=1e-6)
        np.testing.assert_allclose(jax.grad(function)(x), gradient, rtol=1e-5)
        np.testing.assert_allclose(jax.jvp(function, (x,), (x,))[1], gradient @ x, rtol=1e-5)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(energy.log_density)))(
        jnp.stack([x, x + 1, x])
    )
    assert values[0] == values[2] != values[1]
    np.testing.assert_allclose(gradients[0], gradient, rtol=1e-5)


def test_values_have_stans_shapes_and_order():
    energy, x = target(), jnp.array([0.3, 1.0, -2.0])
    outputs = energy.outputs(x)
    assert {name: value.shape for name, value in outputs.items()} == {
        "tau": (), "beta": (2,), "square": (2, 2),
    }  # fmt: skip
    np.testing.assert_allclose(outputs["square"], [[1, -1], [-2, 4]])
    values = energy.constrain(x)
    assert set(values) == {"tau", "beta"}
    np.testing.assert_allclose(energy.unconstrain(values), x, rtol=1e-6)
    assert float(energy.log_jacobian(x)) == pytest.approx(0.3, rel=1e-5)


@pytest.mark.slow
def test_samplers_draw_from_it():
    draws = ppl.sample(
        samplers.MALA(), target(), rng_key=0, num_samples=1500, num_warmup=300, progress=False
    )
    values = {"tau": draws["tau"], "beta0": draws["beta"][..., 0], "beta1": draws["beta"][..., 1]}
    references = {
        "tau": Reference(1.0, 1.0), "beta0": Reference(0.5, 1.0), "beta1": Reference(-1.0, 1.0),
    }  # fmt: skip
    assert disagreements(values, references, r_hat=1.02, ess=200) == []
    # The broken twin: without Stan's log-Jacobian tau would be another variable.
    assert disagreements(values | {"tau": values["tau"] * 1.3}, references, r_hat=1.02, ess=200)
    assert draws["square"].shape == (4, 1500, 2, 2)


def test_an_exception_of_stan_is_a_density_of_zero():
    energy, x = target(), jnp.array([25.0, 0.0, 0.0])
    assert float(energy.log_density(x)) == -math.inf
    assert np.isfinite(jax.grad(energy.log_density)(x)).all()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("mu", ("mu", ())),
        ("Sigma.2.1", ("Sigma", (1, 0))),
        ("pair:1.2", ("pair:1", (1,))),
        ("z.real", ("z.real", ())),
    ],
)
def test_names_of_stan_are_read(name, place):
    assert stan._place(name) == place


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Stan model at .*nowhere.stan"):
        from_stan(tmp_path / "nowhere.stan")
    with pytest.raises(ppl.TargetError, match="holds its data already"):
        from_stan(StanModel(), {"N": 3})
    with pytest.raises(
        ppl.TargetError, match="path of a .stan file or a bridgestan.StanModel; got d"
    ):
        from_stan({})

    class Empty(StanModel):
        def param_unc_num(self):
            return 0

    with pytest.raises(ppl.TargetError, match="no parameters"):
        from_stan(Empty())


def test_a_missing_bridgestan_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bridgestan", None)
    path = tmp_path / "model.stan"
    path.write_text("parameters { real x; } model { x ~ normal(0, 1); }")
    with pytest.raises(ppl.TargetError, match="pip install bridgestan. It needs a C.. compiler"):
        from_stan(path)
