"""SCLD: unbiased for Z with resampling, honest about its error, and the better for training."""

from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
from models.targets.benchmark_mixtures import gmm25
from models.targets.funnel import hard_funnel
from models.targets.gaussian_mixture import GaussianMixture
from ppl.weights import evidence
from samplers.networks import MLP
from samplers.smc import feynman_kac as fk
from samplers.trajectory import scld
from samplers.trajectory.kernels import score_steps
from samplers.trajectory.scld import SCLD, Segments, shares_of, variance

pytestmark = pytest.mark.usefixtures("unoptimized")
SOFT = GaussianMixture([[1.5, 1.5], [1.5, -1.5], [-1.5, 1.5], [-1.5, -1.5]])
Z = float(np.exp(SOFT.log_normalizer))
NUM = 1000  # populations of 16
SMALL = SCLD(
    num_segments=3, steps_per_segment=2, num_particles=16, num_updates=3, step_size=0.05,
    ess_threshold=0.9, network=partial(MLP, width=8, depth=1),
)  # fmt: skip


@eqx.filter_jit
def runs(sampler, key, factor):
    """Populations of 16, untrained but with random parameters: log Z, errors, resampling.

    The second error is that of weights which are taken for those of independent draws.
    """
    state = sampler.init(key, SOFT)
    learned = jax.tree.map(
        lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
        if eqx.is_inexact_array(x) else x, state.learned,
    )  # fmt: skip
    kernels = sampler._model(SOFT, learned, state.log_length).kernels
    kernels = eqx.tree_at(lambda k: k.reward.target.target, kernels, SOFT)
    model = Weighed(kernels, sampler.steps_per_segment, factor=factor)

    def one(key):
        run = sampler._run(key, model, 16, keep_path=False)
        error, blind = (
            fk.log_evidence_error(run.population),
            evidence(run.population.log_weights)[1],
        )
        return run.log_evidence, error, blind, jnp.mean(run.history.resampled)

    return jax.lax.map(one, random.split(key, NUM), batch_size=200)


class Weighed(Segments):
    """The model, or one whose backward kernels are multiplied by a power of themselves."""

    factor: float = 1.0

    def log_potentials(self, row, states, looks, log_pf, log_pb):
        return Segments.log_potentials(self, row, states, looks, log_pf, self.factor * log_pb)


@pytest.fixture(scope="module")
def populations():
    return runs(SMALL, random.key(0), jnp.ones(()))


def test_the_mean_weight_of_a_population_is_unbiased_for_z(populations):
    log_evidence, _, _, resampled = populations
    ratio = np.exp(np.asarray(log_evidence)) / Z
    assert resampled.mean() > 0.1  # it was at work
    assert abs(ratio.mean() - 1) < 4.9 * ratio.std() / NUM**0.5


def test_a_wrong_backward_kernel_is_caught():
    log_evidence = runs(SMALL, random.key(0), 1.05 * jnp.ones(()))[0]
    ratio = np.exp(np.asarray(log_evidence)) / Z
    assert abs(ratio.mean() - 1) > 4.9 * ratio.std() / NUM**0.5


def test_common_ancestors_tell_the_error_of_log_z(populations):
    log_evidence, error, blind, _ = map(np.asarray, populations)
    spread = log_evidence.std()
    assert 0.85 < np.sqrt(np.mean(error**2)) / spread < 1.15
    assert np.sqrt(np.mean(blind**2)) / spread < 0.7  # the last weights alone


def off_after_moves(n=4000):
    """Errors of E |x|^2 after three moves from exact draws at the last level, and the mean rate."""
    key, sampler = random.key(0), SCLD(num_segments=1, steps_per_segment=2, step_size=0.4)
    state = sampler.init(key, SOFT)
    model = sampler._model(SOFT, state.learned, state.log_length)
    x = SOFT.sample(key, n)
    here = x, jax.jit(jax.vmap(model.kernels.reward.with_gradient))(x)

    def once(here, key):
        return jax.vmap(model.move, (0, None, 0))(random.split(key, n), jnp.int32(2), here)

    keys = random.split(random.key(1), 3)
    (x, _), rates = jax.jit(lambda here: jax.lax.scan(once, here, keys))(here)
    squares = np.sum(np.asarray(x) ** 2, axis=1)
    truth = 2 * (1.5**2 + float(SOFT.sds[0]) ** 2)
    return abs(squares.mean() - truth) / (squares.std() / n**0.5), rates.mean()


def test_a_move_leaves_the_level_invariant(monkeypatch):
    off, rate = off_after_moves()
    assert off < 4.9
    assert 0.3 < rate < 0.9  # there was something to reject
    always = lambda key, log_ratio, there, here: (there, jnp.ones_like(log_ratio), True)
    monkeypatch.setattr(scld, "accept", always)
    assert off_after_moves()[0] > 4.9


def test_the_variance_is_weighted_by_what_particles_count_after_the_segment():
    log_g = 0.3 * np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    find = jax.jit(lambda log_g, resampled: variance(log_g, shares_of(log_g, resampled)))
    found = find(log_g, np.array([False, False, True]))
    carried = [log_g[0], log_g[0] + log_g[1], log_g[2]]  # the third begins anew
    expected = [np.cov(g, aweights=np.exp(w), ddof=0) for g, w in zip(log_g, carried, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # What counts for nothing teaches nothing; where one counts for all, half of them teach.
    log_g[:, 0] = -1e5
    gradient = jax.grad(lambda x: jnp.sum(find(x, np.ones(3, bool))))
    np.testing.assert_array_equal(gradient(log_g)[:, 0], 0)
    assert np.sum(np.abs(gradient(100 * log_g)) > 0.1) > 60


def test_few_families_are_told_of():
    log_evidence = np.zeros(4)
    few = {"families": np.array([16.0, 2.0, 2.0, 3.0]), "log_evidence": log_evidence}
    assert "descend from 3.0" in SMALL.notes(few)[0]
    assert not SMALL.notes({"families": np.full(4, 12.0), "log_evidence": log_evidence})


@pytest.mark.parametrize(("fall", "told"), [(50.0, True), (2.0, False), (-50.0, False)])
def test_a_log_z_that_falls_in_training_is_told_of(fall, told):
    """By more than its noise, whose sd is 4; and not by populations that have lost all weight."""
    noise = 4 * np.random.default_rng(0).normal(size=100)
    log_evidence = noise - 50 - fall * np.linspace(0, 1, 100)
    log_evidence[::9] = -np.inf
    history = {"families": np.full(100, 12.0), "log_evidence": log_evidence}
    assert any("training made draws worse" in note for note in SMALL.notes(history)) == told
    assert not SMALL.notes({name: x[:24] for name, x in history.items()})  # too few to tell


def off_before_and_after(target, scale, num_updates, key):
    """Root mean square error of log Z of 64 populations of 128, untrained and trained."""
    sampler = SCLD(scale=scale, num_updates=num_updates)
    before = sampler.untrained(target)
    after = ppl.sample(sampler, target, key, num_samples=128, progress=False).sampler
    off = []
    for trained in (before, after):
        drawn = ppl.sample(trained, target, 99, num_samples=64 * 128, progress=False)
        each = ppl.weights.grouped(drawn.log_weights, 128)[0] - float(target.log_normalizer)
        off.append(np.sqrt(np.mean(each**2)))
    print(f"\nlog Z of a population off by {off[0]:.2f} before training, {off[1]:.2f} after")
    return off


@pytest.mark.slow
@pytest.mark.parametrize("key", range(3))
def test_training_brings_log_z_of_25_modes_nearer(key):
    before, after = off_before_and_after(gmm25(), 10.0, 300, key)
    assert after < 0.2 * before


@pytest.mark.slow
@pytest.mark.parametrize("key", range(3))
def test_training_does_no_harm_on_the_funnel(key):
    before, after = off_before_and_after(hard_funnel(), 3.0, 300, key)
    assert after < 1.15 * before


@pytest.mark.slow
def test_a_variance_of_all_particles_alike_does(monkeypatch):
    monkeypatch.setattr(scld, "variance", lambda log_g, _: jnp.var(log_g, axis=1))
    # Another number of updates: else the program compiled before would run.
    before, after = off_before_and_after(hard_funnel(), 3.0, 299, 0)
    assert after > 1.15 * before


@pytest.mark.slow
def test_the_stated_error_holds_over_32_runs():
    """Draws of the untrained sampler, eight populations a run."""
    sampler = SCLD(num_segments=3, steps_per_segment=2, num_particles=128, step_size=0.05)
    trained = sampler.untrained(SOFT)
    drawn = ppl.sample(trained, SOFT, 5, num_samples=1024, num_chains=32, progress=False)
    found = [ppl.weights.evidence_estimate(w[None], 128) for w in drawn.log_weights]
    z = np.array([(each.value - np.log(Z)) / each.std_error for each in found])
    # Of Student's t with 7 degrees of freedom the root mean square is 1.18.
    print(f"\n{np.sqrt(np.mean(z**2)):.2f} errors")
    assert 0.8 < np.sqrt(np.mean(z**2)) < 1.8


@pytest.fixture(scope="module")
def draws():
    return ppl.sample(SMALL, SOFT, num_samples=2048, progress=False)


@pytest.mark.slow
def test_it_trains_and_draws_through_the_driver(draws):
    assert np.isfinite(draws.history["loss"]).all()
    assert not draws.history["diverging"].any()
    assert draws.sampler.state.learned.log_length == 0  # not trained
    assert draws.log_evidence.std_error is not None
    assert draws["x"].shape == (1, 2048, 2)
    assert abs(draws.log_evidence.value - np.log(Z)) < 0.3
    trained = 3 * 16 * (1 + 3 * 3)
    assert draws.num_evaluations == (trained + 2048 * 10,) * 2


@pytest.mark.slow
def test_steps_are_shortened_where_too_few_moves_are_accepted(draws):
    """Of one segment; and they are never longer than at first."""
    sampler = replace(SMALL, num_segments=1, step_size=0.5, num_updates=4)
    found = ppl.sample(sampler, SOFT, num_samples=16, progress=False)
    rates = np.asarray(found.history["acceptance_rate"])[0]
    shorter = float(found.sampler.state.log_length[0])
    np.testing.assert_allclose(shorter, np.sum(rates - 0.85), rtol=1e-4)
    assert shorter < -0.3
    assert np.max(draws.sampler.state.log_length) <= 0


@pytest.mark.slow
def test_segments_are_scored_as_they_were_made():
    state = SMALL.init(random.key(1), SOFT)
    model = SMALL._model(SOFT, state.learned, state.log_length)
    start, _ = model.start(random.key(2), 5)
    after, log_g = model.advance(random.key(3), start, jnp.int32(2))
    states, looks = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (after.trail, after.trail_looks))
    np.testing.assert_array_equal(states[0], start.x)
    scores = score_steps(model.kernels, states, looks, jnp.int32(2))
    again = model.log_potentials(jnp.int32(2), states, looks, *scores)
    np.testing.assert_allclose(log_g, again, rtol=1e-4, atol=1e-3)
