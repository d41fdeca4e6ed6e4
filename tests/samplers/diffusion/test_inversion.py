"""EDICT and BDIA are undone exactly; DDIM is not."""

import jax.numpy as jnp
import numpy as np
import pytest

import samplers as s
import toy_mixture

PATH = s.EDM(t_min=toy_mixture.LAST, t_max=toy_mixture.FIRST)


def round_trip(solver, num_steps=50):
    """Relative error of points that are encoded and decoded, and their codes."""
    prior = s.DiffusionPrior(PATH, toy_mixture.denoise, jnp.zeros(2))
    points = jnp.asarray(toy_mixture.sample(np.random.default_rng(0), 128))
    inversion = s.Inversion(prior, solver, s.LogSNRUniform(), num_steps)
    code = inversion.encode(prior, points)
    again = inversion.decode(prior, code)
    return float(jnp.linalg.norm(again - points) / jnp.linalg.norm(points)), code


@pytest.mark.parametrize("solver", [s.EDICT(), s.BDIA()], ids=lambda x: type(x).__name__)
def test_a_round_trip_is_exact_to_rounding(solver):
    error, code = round_trip(solver)
    assert error < 1e-5
    for register in code.registers:  # and the code is noise
        assert np.std(register) == pytest.approx(toy_mixture.FIRST, rel=0.25)


@pytest.mark.parametrize("solver", [s.EDICT(), s.BDIA()], ids=lambda x: type(x).__name__)
def test_a_round_trip_in_float64_is_exact_to_more_digits(solver, x64):
    assert round_trip(solver)[0] < 1e-10


@pytest.mark.slow
def test_ddim_backwards_is_not_exact(x64):
    errors = [round_trip(s.DDIM(), n)[0] for n in (50, 200)]
    assert errors[0] > 1e-2
    assert errors[1] < errors[0] / 3


def test_what_would_lose_all_digits_is_refused(x64):
    prior = s.DiffusionPrior(PATH, toy_mixture.denoise, jnp.zeros(2))
    s.Inversion(prior, s.BDIA(0.5), s.LogSNRUniform(), 50)
    single = s.DiffusionPrior(PATH, toy_mixture.denoise, jnp.zeros(2, jnp.float32))
    with pytest.raises(ValueError, match=r"BDIA\(gamma=0.5\) multiplies rounding errors by 2 each"):
        s.Inversion(single, s.BDIA(0.5), s.LogSNRUniform(), 50)
    with pytest.raises(ValueError, match="EDICT.*which float32 does not have"):
        s.Inversion(single, s.EDICT(), s.LogSNRUniform(), 200)
    with pytest.raises(ValueError, match=r"DDPM\(\) cannot be run backwards; take EDICT"):
        s.Inversion(prior, s.DDPM())
