"""MAP finds modes, in the coordinates that were asked for, and says when it did not."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import ppl
import samplers
from ppl.energy import LogDensity, TargetError

pytestmark = pytest.mark.usefixtures("unoptimized")


def fit(sampler, target, **sizes):
    return ppl.sample(sampler, target, progress=False, **sizes)


SCALES = np.array([1.0, 1e-2, 30.0, 5.0])
MEAN = np.array([0.5, -0.1, 30.0, 7.0])
BOWL = ppl.from_log_density(
    lambda x, mean, scales: 3.0 - 0.5 * jnp.sum(((x - mean) / scales) ** 2),
    jnp.zeros(4),
    MEAN,
    SCALES,
)


def test_the_mode_of_a_gaussian_is_its_mean_one_draw_a_run():
    draws = fit(samplers.MAP(), BOWL, num_chains=2)
    assert draws["x"].shape == (2, 1, 4)
    np.testing.assert_allclose((draws["x"] - MEAN) / SCALES, 0, atol=5e-3)
    np.testing.assert_allclose(draws.history["log_density"][:, -1], 3.0, atol=1e-5)
    assert draws.log_weights is None
    assert draws.log_evidence is None
    assert draws.run.exactness == "biased"
    assert draws.run.notes == []
    assert np.isfinite(draws.summary()["mean"]).all()


GAMMA = ppl.from_log_density(
    lambda x, a: (a - 1) * jnp.log(x) - x, jnp.ones(()), 3.0, support=constraints.positive
)


def test_by_default_the_mode_is_that_of_the_density_as_the_user_wrote_it():
    assert fit(samplers.MAP(), GAMMA)["x"].item() == pytest.approx(2.0, abs=5e-3)


def test_with_the_jacobian_the_mode_is_that_of_the_unconstrained_density():
    assert fit(samplers.MAP(jacobian=True), GAMMA)["x"].item() == pytest.approx(3.0, abs=5e-3)


def test_a_jacobian_that_is_forgotten_is_caught(monkeypatch):
    monkeypatch.setattr(LogDensity, "log_jacobian", lambda target, position: jnp.zeros(()))
    # Another number of starts: else the program compiled before would run.
    found = fit(samplers.MAP(num_starts=9, jacobian=True), GAMMA)["x"].item()
    assert abs(found - 3.0) > 0.5


def rosenbrock(x):
    return -((1 - x[0]) ** 2) - 100 * (x[1] - x[0] ** 2) ** 2


def test_a_curved_valley_is_followed_to_its_end():
    draws = fit(samplers.MAP(), ppl.from_log_density(rosenbrock, jnp.zeros(2)))
    np.testing.assert_allclose(draws["x"].ravel(), 1.0, atol=2e-2)
    assert draws.run.notes == []


def test_a_search_that_is_cut_short_says_how_far_it_was():
    draws = fit(samplers.MAP(max_iterations=2), ppl.from_log_density(rosenbrock, jnp.zeros(2)))
    assert any("MAP: the optimization did not converge" in note for note in draws.run.notes)


def test_a_density_without_a_maximum_is_said():
    target = ppl.from_log_density(lambda x: x[0] - x[1] ** 2, jnp.zeros(2))
    assert any("did not converge" in note for note in fit(samplers.MAP(), target).run.notes)


def test_of_two_modes_the_higher_one_counts_and_disagreement_is_said():
    """Weight 0.9 at 1.5 with sd 0.1 where few starts lead, 0.1 at -1."""

    def log_density(x):
        far = -2 - 0.5 * ((x + 1) / 0.5) ** 2
        return jnp.logaddexp(-0.5 * ((x - 1.8) / 0.1) ** 2, far)

    draws = fit(samplers.MAP(), ppl.from_log_density(log_density, jnp.zeros(())))
    assert draws["x"].item() == pytest.approx(1.8, abs=0.01)
    assert any("starts reached the highest mode" in note for note in draws.run.notes)


def below(x, wall):
    return jnp.where(x < wall, 0.5 * jnp.log(wall - x) - (x - wall) ** 2, jnp.nan)


def walled(wall):
    return ppl.from_log_density(below, jnp.zeros(()), wall)


def test_where_the_density_is_nan_the_line_search_steps_back():
    # d/du of log(u) / 2 - u^2 is zero at u = 1/2.
    assert fit(samplers.MAP(), walled(5.0))["x"].item() == pytest.approx(4.5, abs=1e-2)


def test_a_density_that_is_nowhere_finite_is_refused():
    with pytest.raises(TargetError, match="MAP found no start with a finite log-density"):
        fit(samplers.MAP(), walled(-np.inf))


def test_the_number_of_draws_is_refused():
    with pytest.raises(ValueError, match="it takes no num_samples="):
        fit(samplers.MAP(), BOWL, num_samples=10)
