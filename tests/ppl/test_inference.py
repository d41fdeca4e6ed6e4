"""The driver: one loop for four contracts, same draws whatever the chunks, clear refusals."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random

import ppl
from ppl import markov
from ppl.door import at_least, fit
from ppl.energy import TargetError
from samplers.direct import ExactDraws
from samplers.mcmc.random_walk import RandomWalk
from samplers.smc.importance import ImportanceSampling
from samplers.variational.gaussian import GaussianVI

pytestmark = pytest.mark.usefixtures("unoptimized")


def log_density(x, location, scale):
    return -0.5 * jnp.sum(((x - location) / scale) ** 2)


def gaussian(location=0.0, scale=1.0, dim=2):
    return ppl.from_log_density(log_density, jnp.zeros(dim), jnp.full(dim, location), scale)


def run(sampler=None, target=None, rng_key=3, **options):
    sizes = {"num_samples": 60, "num_chains": 2, "num_warmup": 40, "progress": False}
    target = gaussian() if target is None else target
    return ppl.sample(sampler or RandomWalk(), target, rng_key, **sizes | options)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of a few steps, as a slow kernel would have them."""
    monkeypatch.setattr(markov, "MAX_ROWS", 16)
    monkeypatch.setattr(
        markov.Pace, "steps", lambda self, limit, thin, capacity: min(limit, 7 * thin)
    )


# Draws ----------------------------------------------------------------------------------------


def test_draws_do_not_depend_on_the_chunks(monkeypatch):
    whole = run()["x"]
    monkeypatch.setattr(markov.Pace, "steps", lambda self, limit, thin, capacity: min(limit, 7))
    assert np.array_equal(run()["x"], whole)


def test_draws_do_not_depend_on_their_number():
    assert np.array_equal(run(num_samples=25)["x"], run()["x"][:, :25])


def test_thinning_keeps_every_third_draw_and_counts_every_step():
    thinned, full = run(num_samples=20, thin=3), run()
    assert np.array_equal(thinned["x"], full["x"][:, 2::3])
    assert thinned.num_evaluations == full.num_evaluations


def test_evaluations_are_counted_exactly():
    # two chains: one start, one kernel.init, 40 + 60 steps of one density each
    assert run().num_evaluations == (2 * (1 + 1 + 100), 0)


def test_the_same_key_in_any_form_gives_the_same_draws():
    typed = run(rng_key=random.key(3))["x"]
    raw = run(rng_key=random.key_data(random.key(3)))["x"]
    assert np.array_equal(typed, run(rng_key=3)["x"])
    assert np.array_equal(raw, typed)


def test_new_values_neither_trace_nor_compile(compilations):
    targets = [gaussian(m, s) for m, s in ((0.0, 1.0), (5.0, 2.0))]
    kernels = [RandomWalk(step_size=h) for h in (0.5, 0.7)]
    paths = [ppl.tempered(gaussian(0.0, 9.0), gaussian(1.0), b) for b in (0.2, 0.9)]
    run(kernels[0], targets[0])["x"]
    run(kernels[0], paths[0])["x"]
    with compilations() as count:
        run(kernels[0], targets[1])["x"]
        run(kernels[1], targets[1], num_samples=37, num_warmup=20, rng_key=9)["x"]
        run(kernels[1], paths[1])["x"]
    assert (count.traces, count.compilations) == (0, 0), (count.traced, count.compiled)


def test_device_memory_does_not_grow_with_the_draws():
    def peak(num_samples):
        seen = []

        def watch(draws):
            seen.append(sum(x.nbytes for x in jax.live_arrays()))
            return False

        run(num_samples=num_samples, num_warmup=0, until=watch)
        return max(seen)

    assert peak(100_000) <= peak(1_000) * 1.01


def test_float64_chains_are_float64(x64):
    assert run(target=gaussian())["x"].dtype == np.float64


# The other three contracts --------------------------------------------------------------------


def test_direct_draws_do_not_depend_on_their_number():
    target = ppl.from_distribution(dist.Normal(jnp.ones(2), 0.5))
    few, many = (
        ppl.sample(ExactDraws(), target, 1, num_samples=n, num_chains=2, progress=False)
        for n in (10, 1500)
    )
    assert many["x"].shape == (2, 1500, 2)
    assert np.array_equal(few["x"], many["x"][:, :10])
    # 4.9 s.e.
    assert np.all(abs(many["x"].mean((0, 1)) - 1.0) < 4.9 * 0.5 / np.sqrt(3000))


def test_a_learned_sampler_trains_reports_its_loss_and_draws_again():
    target = gaussian(2.0, 0.5)
    sampler = GaussianVI(num_updates=300)
    draws = ppl.sample(sampler, target, 0, num_samples=400, num_chains=2, progress=False)
    assert draws.history["loss"].shape == (2, 300)
    truth = 2 * 0.5 * np.log(2 * np.pi * 0.25)
    assert abs(draws.log_evidence.value - truth) < 4.9 * draws.log_evidence.std_error + 1e-3
    again = ppl.sample(draws.sampler, target, 0, num_samples=10, progress=False)
    assert again["x"].shape == (1, 10, 2)
    assert not again.history


def conjugate():
    """Prior N(0, I_2), one observation 1 with variance 1: posterior N(1/2, I/2)."""
    return ppl.posterior(
        ppl.from_distribution(dist.Normal(jnp.zeros(2), 1.0)),
        lambda x: -0.5 * jnp.sum((x - 1.0) ** 2 + jnp.log(2 * jnp.pi)),
    )


def test_particle_runs_carry_weights_history_and_an_evidence_with_its_error():
    sampler = ImportanceSampling(num_particles=2000)
    draws = ppl.sample(sampler, conjugate(), 2, num_chains=4, progress=False)
    assert draws["x"].shape == (4, 2000, 2)
    assert draws.log_weights.shape == (4, 2000)
    assert np.all(np.diff(draws.history["inverse_temperature"], axis=1) >= 0)
    truth = 2 * (-0.5 * np.log(2 * np.pi * 2) - 0.25)
    estimate = draws.log_evidence
    assert abs(estimate.value - truth) < 7 * estimate.std_error  # t with three degrees of freedom
    assert draws.num_evaluations == (8000, 0)
    weighted = np.average(
        draws["x"].reshape(-1, 2), axis=0, weights=np.exp(draws.log_weights).ravel()
    )
    # The broken twin drops the weights and lands on the prior mean, 0.
    assert np.all(abs(weighted - 0.5) < 0.1)
    assert np.all(abs(draws["x"].mean((0, 1))) < 0.1)


def test_particle_runs_do_not_depend_on_one_another():
    sampler = ImportanceSampling(num_particles=500)
    four = ppl.sample(sampler, conjugate(), 2, num_chains=4, progress=False)
    one = ppl.sample(sampler, conjugate(), 2, num_chains=1, progress=False)
    assert np.allclose(one["x"][0], four["x"][0], atol=1e-6)


def test_particle_samplers_refuse_num_samples():
    with pytest.raises(ValueError, match="num_particles= in the sampler"):
        ppl.sample(ImportanceSampling(), conjugate(), num_samples=10, progress=False)


def test_sizes_that_a_contract_has_no_use_for_are_refused():
    target = gaussian()
    with pytest.raises(ValueError, match="no num_warmup="):
        ppl.sample(GaussianVI(num_updates=1), target, num_warmup=10, progress=False)
    with pytest.raises(ValueError, match="no init="):
        ppl.sample(GaussianVI(num_updates=1), target, init=jnp.zeros(2), progress=False)
    with pytest.raises(ValueError, match="thin=2 has no use"):
        ppl.sample(GaussianVI(num_updates=1), target, thin=2, progress=False)


# Stopping -------------------------------------------------------------------------------------


def test_until_is_asked_at_geometric_times():
    asked = []

    def enough(draws):
        asked.append(draws.num_samples)
        return draws.num_samples >= 225

    draws = run(num_samples=1000, until=enough)
    assert asked == [100, 150, 225]
    assert draws.num_samples == 225
    assert draws.run.stopped == "until"


def train(**options):
    sizes = {"num_samples": 50, "progress": False}
    return ppl.sample(GaussianVI(num_updates=400), gaussian(3.0), 3, **sizes | options)


def test_until_is_shown_draws_of_what_is_learned_by_then():
    asked = []

    def enough(draws):
        asked.append((draws.history["loss"].shape, draws["x"].shape, draws["x"].mean()))
        return draws.history["loss"].shape[1] >= 225

    draws = train(until=enough)
    assert [shapes for *shapes, _ in asked] == [[(1, n), (1, 50, 2)] for n in (100, 150, 225)]
    assert draws.history["loss"].shape == (1, 225)
    assert draws.run.stopped == "until"
    assert any("ended training after 225 of 400 updates" in note for note in draws.run.notes)
    assert draws.run.evaluations["train"] == [225 * 16 + 3 * 64, 225 * 16]
    means = [mean for *_, mean in asked]
    assert sorted(means) == means
    assert means[0] < 2 < means[2], "draws of what is learned by then, from 0 on the way to 3"


def test_training_that_until_has_ended_ends_there_again(tmp_path):
    enough = lambda draws: draws.history["loss"].shape[1] >= 150
    first = train(until=enough, checkpoint=tmp_path)
    again = train(until=enough, checkpoint=tmp_path)
    assert again.history["loss"].shape == (1, 150)
    assert np.array_equal(first["x"], again["x"])
    # Looking changes nothing of what is learned or drawn.
    never = train(until=lambda draws: False)
    assert np.array_equal(never["x"], train()["x"])


def test_each_run_of_a_learned_sampler_has_the_budget_for_itself():
    draws = train(until=ppl.evaluations(1), num_chains=2)
    assert draws.history["loss"].shape == (2, 100)


def test_a_sampler_that_ends_by_itself_takes_no_until():
    with pytest.raises(ValueError, match="ImportanceSampling ends by itself: until="):
        ppl.sample(ImportanceSampling(), conjugate(), until=ppl.elapsed(1))


def test_ctrl_c_returns_the_draws_so_far():
    def interrupt(draws):
        if draws.num_samples == 150:
            raise KeyboardInterrupt
        return False

    draws = run(num_samples=1000, until=interrupt)
    assert draws.num_samples == 150
    assert draws.run.stopped == "interrupted"
    assert np.array_equal(draws["x"], run(num_samples=150)["x"])


def test_ctrl_c_in_warmup_returns_no_draws_and_does_not_crash(monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(markov, "_chunk", interrupt)
    draws = run()
    assert draws.num_samples == 0
    assert draws["x"].shape == (2, 0, 2)


# Starts ---------------------------------------------------------------------------------------


def test_init_takes_one_position_one_a_chain_draws_or_a_function():
    here = jnp.array([5.0, 6.0])
    still = RandomWalk(step_size=1e-6)
    options = {"num_warmup": 0, "num_samples": 1}
    assert np.allclose(run(still, init=here, **options)["x"], here, atol=1e-4)
    each = jnp.stack([here, -here])
    assert np.allclose(run(still, init=each, **options)["x"][:, 0], each, atol=1e-4)
    first = run()
    go_on = run(still, init=first, **options)
    assert np.allclose(go_on["x"][:, 0], first["x"][:, -1], atol=1e-4)
    made = run(still, init=lambda key, target, n: jnp.zeros((n, 2)) + here, **options)
    assert np.allclose(made["x"], here, atol=1e-4)


def test_init_that_does_not_fit_is_refused():
    with pytest.raises(TargetError, match="stacked along a leading chain axis"):
        run(init=jnp.zeros(3))
    with pytest.raises(TargetError, match="target.unconstrain"):
        run(init={"x": jnp.zeros(2)})
    other = run(target=gaussian(dim=3))
    with pytest.raises(TargetError, match="must be one position"):
        run(init=other)


def test_starts_are_drawn_again_where_the_density_is_not_finite():
    target = ppl.from_log_density(
        lambda x: jnp.where(x[0] > 1.0, -jnp.sum(x**2), jnp.nan), jnp.zeros(2)
    )
    draws = run(target=target)
    assert np.all(draws["x"][..., 0] > 1.0)


def test_starts_avoid_densities_that_rounding_hides():
    # Beyond 1 the density is 1e8 and flat in float32, as a diverging recursion makes it.
    def cliff(x, depth):
        return -0.5 * x**2 - jnp.where(jnp.abs(x) > 1, depth, 0.0)

    def starts(depth):
        target = ppl.from_log_density(cliff, jnp.zeros(()), depth)
        return run(RandomWalk(step_size=1e-6), target, num_samples=1, num_warmup=0, num_chains=8)

    assert np.all(abs(starts(1e8)["x"]) < 1)
    # A difference that rounding does not hide is left alone: starts stay overdispersed.
    assert np.any(abs(starts(1e4)["x"]) > 1)


def test_no_finite_start_says_where_and_what_to_do():
    target = ppl.from_log_density(lambda p: p["mu"] * jnp.nan, {"mu": jnp.zeros(())})
    with pytest.raises(TargetError, match=r"nan at the start of chain 0.*100 jittered.*\n.*mu = "):
        run(target=target)
    with pytest.raises(TargetError, match="Pass other positions"):
        run(target=target, init={"mu": jnp.zeros(())})


def test_no_finite_start_of_a_model_names_the_site_its_value_and_the_last_finite_term():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        scale = numpyro.sample("scale", dist.HalfNormal(1))
        numpyro.sample("y", dist.Normal(mu, jnp.log(scale - 100.0)), obs=y)

    with pytest.raises(TargetError) as refusal:
        run(target=ppl.from_numpyro(model, jnp.ones(3)))
    message = str(refusal.value)
    assert "likelihood site 'y'" in message
    assert "at value [1. 1. 1.]" in message
    assert "last finite term: scale (" in message


def test_a_gradient_that_is_not_finite_names_the_part():
    from samplers.langevin.ula import ULA

    target = ppl.from_log_density(
        lambda p: jnp.where(p["a"] > 9, jnp.sqrt(p["a"] - 9), 0.0) - p["b"] ** 2,
        {"a": jnp.zeros(()), "b": jnp.zeros(())},
    )
    with pytest.raises(TargetError, match="gradient not finite in: a"):
        run(ULA(step_size=0.1), target)


# Batches --------------------------------------------------------------------------------------


def test_a_batch_of_targets_is_one_compilation_and_each_gets_its_own_draws(compilations):
    locations = [0.0, 10.0, -20.0]
    stack = ppl.stack([gaussian(m) for m in locations])
    options = {"num_samples": 400, "num_chains": 2, "num_warmup": 100, "progress": False}
    kernel = RandomWalk()
    batch = ppl.sample_batch(kernel, stack, 3, **options)
    for location, draws in zip(locations, batch, strict=True):
        assert draws["x"].shape == (2, 400, 2)
        assert abs(draws["x"].mean() - location) < 1.0
        assert draws.target.data[0][0] == location
    more = ppl.stack([gaussian(m) for m in (1.0, 2.0, 3.0)])
    with compilations() as count:
        ppl.sample_batch(kernel, more, 4, **options)
    assert (count.traces, count.compilations) == (0, 0)


def test_a_stack_and_a_target_are_not_confused():
    with pytest.raises(TargetError, match="sample_batch"):
        run(target=ppl.stack([gaussian()]))


# Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chains": 0}, "num_chains must be an integer, at least 1; got 0"),
        ({"num_samples": 0}, "num_samples must be"),
        ({"num_warmup": -1}, "num_warmup must be an integer, at least 0"),
        ({"thin": 0}, "thin must be"),
        ({"rng_key": random.split(random.key(0), 4)}, "one key; got a batch"),
        ({"rng_key": "seed"}, "rng_key must be"),
        ({"rng_key": -1}, "at least 0; got -1"),
        ({"rng_key": jnp.zeros(3)}, "float32"),
    ],
)
def test_sizes_and_keys_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_what_is_no_sampler_or_no_target_is_refused():
    with pytest.raises(TypeError, match=r"RandomWalk\(\) instead of RandomWalk"):
        fit(RandomWalk, gaussian())
    with pytest.raises(TypeError, match="sampler comes first"):
        fit(gaussian(), RandomWalk())
    with pytest.raises(TargetError, match="from_distribution"):
        run(target=dist.Normal(0, 1))
    with pytest.raises(TypeError, match="no sampler"):
        fit("NUTS", gaussian())
    with pytest.raises(ValueError, match="num_samples must be an integer, at least 1; got 2.5"):
        at_least(1, "num_samples", 2.5, 1000)


def test_a_target_without_what_the_sampler_needs_is_refused_before_compilation(compilations):
    target = ppl.from_samples(np.zeros((5, 2)))
    with (
        compilations() as count,
        pytest.raises(TargetError, match="RandomWalk needs 'log_density'"),
    ):
        run(target=target)
    assert count.compilations == 0
    with pytest.raises(TargetError, match="ExactDraws needs 'sample'"):
        ppl.sample(ExactDraws(), gaussian())


SHARDED = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
import jax.numpy as jnp, numpy as np, ppl
from ppl.sharding import chains_mesh
from samplers.mcmc.random_walk import RandomWalk
from samplers.smc.importance import ImportanceSampling

target = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
options = dict(num_samples=50, num_chains=8, num_warmup=20, progress=False)
mesh = chains_mesh()
assert mesh.size == 4
spread = ppl.sample(RandomWalk(), target, 1, mesh=mesh, **options)
alone = ppl.sample(RandomWalk(), target, 1, **options)
assert np.allclose(spread["x"], alone["x"], atol=1e-4)
try:
    ppl.sample(RandomWalk(), target, 1, mesh=mesh, **options | {"num_chains": 6})
except ValueError as error:
    assert "pass num_chains=8" in str(error), error
else:
    raise AssertionError("6 chains over 4 devices were not refused")
"""


@pytest.mark.slow
def test_chains_over_four_devices_draw_what_one_device_draws():
    subprocess.run([sys.executable, "-c", SHARDED], check=True, timeout=120)
