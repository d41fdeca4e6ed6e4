"""Conditional runs leave the law of paths invariant and bound the evidence from above.

The first model is a chain of three states whose paths, their law and Z can be enumerated, with
potentials of pairs of states; the kernel is held against the Kalman smoother.
"""

from itertools import product
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats
from jax import random

import ppl
import samplers
from agreement import RATE, Reference, disagreements, t_limit, t_scores
from kalman import TURNING, Linear, guided, guided_initial, kalman, simulated, state_space
from ppl.energy import TargetError
from samplers.smc import conditional
from samplers.smc import feynman_kac as fk
from samplers.smc.conditional import ConditionalSMC, conditional_run
from samplers.smc.resampling import multinomial, systematic

pytestmark = pytest.mark.usefixtures("unoptimized")

NUM_CHECKS = 100
START = np.array([0.5, 0.3, 0.2])
MOVE = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6]])
LAST = np.array([0.02, 0.1, 1.0])


class Chain(fk.FeynmanKac):
    """Three states; log G_t(x, y) = log twist_t(y) - log twist_{t-1}(x), which is kept with x."""

    log_start: Any
    log_move_table: Any

    def start(self, rng_key, n):
        particles = {"x": random.categorical(rng_key, self.log_start, shape=(n,))}
        particles |= {"log_twist": jnp.zeros(n)}
        return particles, self.log_start_potential(particles)

    def advance(self, rng_key, particles, row):
        x = random.categorical(rng_key, self.log_move_table[particles["x"]])
        after = {"x": x, "log_twist": row[x]}
        return after, self.log_potential(particles, after, row)

    def log_start_potential(self, particles):
        return jnp.zeros(particles["x"].shape)

    def log_potential(self, before, particles, row):
        return particles["log_twist"] - before["log_twist"]

    def log_move(self, before, particles, row):
        return self.log_move_table[before["x"], particles["x"]]


CHAIN = Chain(jnp.log(jnp.asarray(START)), jnp.log(jnp.asarray(MOVE)))


def enumerated(twists):
    """All paths and their weights, which add up to Z; ``twists`` are those of times 1 to T."""
    paths = np.array(list(product(range(3), repeat=len(twists) + 1)))
    weights = START[paths[:, 0]] * MOVE[paths[:, :-1], paths[:, 1:]].prod(axis=1)
    return paths, weights * twists[-1][paths[:, -1]]


def as_reference(path, twists):
    """A path with what the model keeps."""
    log_twists = jnp.log(jnp.concatenate([jnp.ones((1, 3)), twists]))
    return {"x": path, "log_twist": jax.vmap(lambda row, x: row[x])(log_twists, path)}


@eqx.filter_jit
def sweeps(twists, starts, n, options, *, seed=1, variant="right"):
    """Path that comes out and log-evidence of a conditional run from each start."""

    def one(key, path):
        reference = as_reference(path, twists)
        new, run = conditional_run(key, CHAIN, jnp.log(twists), n, reference, **options)
        return new["x"], run.log_evidence

    return jax.vmap(one)(random.split(random.key(seed), len(starts)), starts)


def exact_paths(twists, num):
    paths, weights = enumerated(twists)
    chosen = np.random.default_rng(3).choice(len(paths), num, p=weights / weights.sum())
    return jnp.asarray(paths[chosen], jnp.int32)


# Invariance ---------------------------------------------------------------------------------------

# Potentials that pull to and fro.
SHORT = np.array([[0.02, 1.0, 0.2], [1.0, 0.02, 0.2]])
NUM_SWEEPS = 400_000


def distance(n, *, variant="right", **options):
    """Chi-squared of the path frequencies after one sweep from exact paths, and its limit."""
    paths, weights = enumerated(SHORT)
    # As many of each path as there should be: the noise of random starts would hide what a sweep
    # does. (What is left of it is less than the statistic allows for.)
    num = np.round(weights / weights.sum() * NUM_SWEEPS).astype(int)
    starts = jnp.asarray(np.repeat(paths, num, axis=0), jnp.int32)
    found, _ = sweeps(jnp.asarray(SHORT), starts, n, options, variant=variant)
    code = np.asarray(found) @ (3 ** np.arange(len(SHORT), -1, -1))
    after = np.bincount(code, minlength=len(paths))
    statistic = ((after - num) ** 2 / num).sum()
    return statistic, scipy.stats.chi2.isf(RATE / NUM_CHECKS, len(paths) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("ancestor_sampling", [False, True])
def test_paths_keep_their_law(n, ancestor_sampling):
    for threshold in jnp.array([1.0, 0.7]):
        found, limit = distance(n, threshold=threshold, ancestor_sampling=ancestor_sampling)
        assert found < limit


right_resample = conditional._resample


def not_pinned(log_potential, particles, log_potentials, pinned):
    return particles, log_potentials


def free_ancestor(rng_key, population, own, threshold):
    """Slot 0 takes a parent like everyone else."""
    parent = multinomial(random.fold_in(rng_key, 1), population.log_weights, 1)
    return right_resample(rng_key, population, parent, threshold)


def first_of_the_sorted(rng_key, log_weights, n):
    """All slots' ancestors in order, of which the first is laid aside."""
    return multinomial(rng_key, log_weights, n + 1)[1:]


def without_the_move(rng_key, model, population, row, pinned):
    return multinomial(rng_key, population.log_weights, 1)


def without_the_potential(rng_key, model, population, row, pinned):
    n = len(population.log_weights)
    everywhere = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), pinned)
    log_move = model.log_move(population.particles, everywhere, row)
    return multinomial(rng_key, population.log_weights + log_move, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mutant", "n", "ancestor_sampling"),
    [
        ("_pin", not_pinned, 2, False),
        ("_resample", free_ancestor, 2, False),
        ("multinomial", systematic, 4, False),
        ("multinomial", first_of_the_sorted, 4, False),
        ("_ancestor", without_the_move, 2, True),
        ("_ancestor", without_the_potential, 2, True),
    ],
)
def test_what_does_not_keep_it_is_caught(monkeypatch, name, mutant, n, ancestor_sampling):
    monkeypatch.setattr(conditional, name, mutant)
    found, limit = distance(n, ancestor_sampling=ancestor_sampling, variant=mutant.__name__)
    assert found > limit


def early_moves(ancestor_sampling):
    """How often the first state of a path changes in a sweep."""
    twists = jnp.ones((30, 3)).at[-1].set(jnp.asarray(LAST))
    starts = jnp.zeros((1000, 31), jnp.int32)
    found, _ = sweeps(twists, starts, 4, {"ancestor_sampling": ancestor_sampling})
    return float(np.mean(np.asarray(found)[:, 0] != 0))


@pytest.mark.slow
def test_ancestor_sampling_moves_what_is_early():
    assert early_moves(ancestor_sampling=True) > 0.2
    assert early_moves(ancestor_sampling=False) < 0.1


# Evidence -----------------------------------------------------------------------------------------

# A poor guess of what is to come: 1 early, then a hint, then the truth.
TWISTS = np.array([np.ones(3)] * 2 + [[0.3, 0.5, 1.0]] * 3 + [LAST])
NUM_RUNS = 2000
LIMIT = t_limit(NUM_CHECKS, NUM_RUNS - 1)


def log_ratios(n, starts=None, *, variant="right", **options):
    """Log Zhat / Z of conditional runs, given exact paths."""
    if starts is None:
        starts = exact_paths(TWISTS, NUM_RUNS)
    _, found = sweeps(jnp.asarray(TWISTS), starts, n, options, seed=5, variant=variant)
    return np.asarray(found, float) - np.log(enumerated(TWISTS)[1].sum())


@pytest.mark.parametrize("ancestor_sampling", [False, True])
def test_one_over_the_evidence_is_unbiased_and_the_evidence_an_upper_bound(ancestor_sampling):
    for threshold in jnp.array([1.0, 0.5]):
        found = log_ratios(16, threshold=threshold, ancestor_sampling=ancestor_sampling)
        assert abs(t_scores(np.exp(-found), 1.0)) < LIMIT
        assert t_scores(found, 0.0) > LIMIT


def test_a_run_that_is_not_conditional_is_caught(monkeypatch):
    monkeypatch.setattr(conditional, "_pin", not_pinned)
    found = log_ratios(16, variant="not pinned")
    assert abs(t_scores(np.exp(-found), 1.0)) > LIMIT


def test_a_path_of_another_law_is_caught():
    wrong = exact_paths(TWISTS[:3], NUM_RUNS)[:, -1:] * jnp.ones((1, len(TWISTS) + 1), jnp.int32)
    options = {"threshold": jnp.array(1.0), "ancestor_sampling": False}
    assert abs(t_scores(np.exp(-log_ratios(16, wrong, **options)), 1.0)) > LIMIT


# Bad input ----------------------------------------------------------------------------------------


def one_run(model, n=8, path=(0, 2, 2), rng_key=None, **options):
    rng_key = random.key(0) if rng_key is None else rng_key
    reference = as_reference(jnp.asarray(path), jnp.asarray(SHORT))
    rows = jnp.log(jnp.asarray(SHORT))
    return conditional_run(rng_key, model, rows, n, reference, **options)


def test_one_particle_is_refused():
    with pytest.raises(ValueError, match="at least 2 particles, the reference and another; got 1"):
        one_run(CHAIN, 1)


class Bare(fk.FeynmanKac):
    """Can be run, and no more."""

    def start(self, rng_key, n):
        return CHAIN.start(rng_key, n)

    def advance(self, rng_key, particles, row):
        return CHAIN.advance(rng_key, particles, row)


class Weighed(Bare):
    """Its potentials are known, the density of its moves is not."""

    def log_start_potential(self, particles):
        return CHAIN.log_start_potential(particles)

    def log_potential(self, before, particles, row):
        return CHAIN.log_potential(before, particles, row)


def test_a_model_that_lacks_a_density_is_refused_by_name():
    with pytest.raises(NotImplementedError, match=r"run of Bare needs .* log_start_potential"):
        one_run(Bare())
    with pytest.raises(NotImplementedError, match=r"Weighed needs .* log_move.*ancestor_sampling="):
        one_run(Weighed(), ancestor_sampling=True)
    path, run = jax.eval_shape(lambda: one_run(Weighed()))
    assert path["x"].shape == (3,)
    assert run.history.ancestors.shape == (2, 8)


class Deadly(Weighed):
    """Potentials are NaN in state 1."""

    def advance(self, rng_key, particles, row):
        after, _ = CHAIN.advance(rng_key, particles, row)
        return after, self.log_potential(particles, after, row)

    def log_potential(self, before, particles, row):
        return jnp.where(particles["x"] == 1, jnp.nan, CHAIN.log_potential(before, particles, row))

    def log_move(self, before, particles, row):
        return CHAIN.log_move(before, particles, row)


def test_a_particle_that_is_nan_dies_is_counted_and_is_never_part_of_the_path():
    # In half of the runs the reference itself cannot be; it is left.
    references = jnp.where((jnp.arange(200) % 2)[:, None], jnp.array([0, 2, 2]), 1)

    def run(key, path):
        return one_run(Deadly(), 8, path, key, ancestor_sampling=True)

    keys = random.split(random.key(0), len(references))
    paths, runs = jax.jit(jax.vmap(run))(keys, references)
    alive = np.isfinite(runs.log_evidence)
    assert alive[1::2].all()
    assert alive[::2].mean() > 0.9
    assert (np.asarray(paths["x"])[alive, 1:] != 1).all()
    assert runs.history.num_illegal.sum() > 0


# The kernel ---------------------------------------------------------------------------------------

Y = simulated(TURNING, 10)
Y[4] = np.nan
SMOOTHED = kalman(TURNING, Y)
MODEL = state_space(TURNING, Y)
REFERENCES = {
    f"x[{t}, {i}]": Reference(SMOOTHED.mean[t, i], np.sqrt(SMOOTHED.cov[t, i, i]))
    for t in range(10)
    for i in range(2)
}


def smoothing(kernel, *, num_samples=1250, num_chains=4, ess=400):
    """Where the draws of a kernel are not those of the Kalman smoother."""
    draws = ppl.sample(
        kernel, MODEL, num_samples=num_samples, num_chains=num_chains, num_warmup=100,
        progress=False,
    )  # fmt: skip
    values = {
        name: draws["x"][..., t, i]
        for name, (t, i) in zip(REFERENCES, np.ndindex(10, 2), strict=True)
    }
    return disagreements(values, REFERENCES, ess=ess, num_checks=NUM_CHECKS)


def test_with_twenty_particles_it_smooths_as_kalman_does():
    assert smoothing(ConditionalSMC(num_particles=20)) == []


@pytest.mark.slow  # 60 seconds
def test_two_particles_guided_ones_and_no_ancestor_sampling_are_right_as_well():
    guide = ConditionalSMC(10, proposal=guided, initial_proposal=guided_initial)
    assert smoothing(guide) == []
    assert smoothing(ConditionalSMC(num_particles=2), num_samples=20_000) == []
    kernel = ConditionalSMC(num_particles=50, ancestor_sampling=False)
    assert smoothing(kernel, num_samples=10_000) == []


def test_ancestors_drawn_by_their_weights_alone_are_caught(monkeypatch):
    monkeypatch.setattr(conditional, "_ancestor", without_the_move)
    # Another number of chains: else the program compiled before would run.
    found = smoothing(ConditionalSMC(num_particles=20), num_chains=5)
    assert any("z of the" in line for line in found)


def mixed():
    """A state of two parts, one positive and one of integers, whose data have two parts."""
    return ppl.StateSpaceModel(
        lambda: {"level": dist.LogNormal(0.0, 0.3), "regime": dist.Bernoulli(0.5)},
        lambda t, x: {
            "level": dist.LogNormal(0.5 * jnp.log(x["level"]), 0.3),
            "regime": dist.Bernoulli(jnp.where(x["regime"] == 1, 0.8, 0.3)),
        },
        lambda t, x: {
            "y": dist.Normal(x["level"] + 2.0 * x["regime"], 0.5),
            "n": dist.Poisson(x["level"]),
        },
        {"y": np.array([0.8, 3.2, 2.7]), "n": np.array([1, 2, 0])},
    )


@pytest.mark.slow
def test_states_may_have_parts_of_which_some_are_positive_and_some_integers():
    """Against the particles of a filter, weighted."""
    model = mixed()
    draws = ppl.sample(ConditionalSMC(), model, num_samples=1000, num_warmup=50, progress=False)
    many = ppl.sample(samplers.ParticleFilter(10_000), model, progress=False)
    shares = ppl.weights.probabilities(many.log_weights[0].astype(float))
    for name in ("level", "regime"):
        for t in range(3):
            x, y = draws[name][..., t].astype(float), many[name][0, :, t].astype(float)
            mean = shares @ y
            # Particles of a filter share ancestors: a tenth of them, to be safe.
            known = Reference(mean, np.sqrt(shares @ (y - mean) ** 2), num_draws=1000)
            assert disagreements({name: x}, {name: known}, num_checks=NUM_CHECKS) == []
    assert draws["regime"].dtype.kind == "i"
    assert (draws["level"] > 0).all()


def walk(scale, y):
    return ppl.StateSpaceModel(
        lambda s: dist.Normal(0.0, 1.0),
        lambda t, x, s: dist.Normal(x, s),
        lambda t, x, s: dist.Normal(x, 1.0),
        y,
        scale,
    )


@pytest.mark.parametrize("name", ["ConditionalSMC", "ParticleMetropolis"])
def test_particle_kernels_keep_the_contract(name, compilations):
    """Fields, keys, precision, and no compilation for new data."""
    kernel, y = getattr(samplers, name)(num_particles=8), np.zeros(3, np.float32)
    target = ppl.StateSpacePosterior(dist.HalfNormal(1.0), walk, y)
    other = ppl.StateSpacePosterior(dist.HalfNormal(1.0), walk, y + 1)

    @eqx.filter_jit
    def program(target, key):
        tuned = kernel.resolve(target)
        start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), target.template)
        return tuned.step(key, target, tuned.init(key, target, start))

    state, info = program(target, random.key(0))
    assert jax.tree.structure(state.position) == jax.tree.structure(target.template)
    assert info.num_evaluations.dtype == jnp.int32
    assert info.diverging.dtype == bool
    assert 0 <= info.acceptance_rate <= 1
    with compilations() as count:
        again, _ = program(target, random.key(0))
        others = [program(other, random.key(i))[0].position["path"] for i in range(1, 9)]
    assert count.compiled == []
    assert (again.position["path"] == state.position["path"]).all()
    assert len(np.unique(others, axis=0)) > 1
    # In double precision all is double, where the data or the distributions are.
    with jax.enable_x64(True):
        target = ppl.StateSpacePosterior(dist.HalfNormal(1.0), walk, np.zeros(3))
        state, _ = eqx.filter_eval_shape(program, target, random.key(0))
    assert {x.dtype for x in jax.tree.leaves(state.position)} == {np.dtype(np.float64)}


def test_a_transition_without_density_is_refused_where_ancestors_are_drawn():
    simulator = ppl.StateSpaceModel(
        lambda: dist.Normal(0.0, 1.0),
        lambda t, x: lambda key: x + random.normal(key),
        lambda t, x: dist.Normal(x, 1.0),
        np.array([0.5, 1.0]),
    )
    message = r"a function that only draws.*ConditionalSMC\(ancestor_sampling=False\)"
    with pytest.raises(TargetError, match=message):
        ppl.sample(ConditionalSMC(), simulator)
    kernel = ConditionalSMC(50, ancestor_sampling=False)
    draws = ppl.sample(kernel, simulator, num_samples=500, num_warmup=10, progress=False)
    linear = Linear(*(np.array(x) for x in ([0], [[1]], [[1]], [[1]], [[1]], [[1]])))
    truth = kalman(linear, np.array([[0.5], [1.0]]))
    values = {f"{t}": draws["x"][..., t] for t in range(2)}
    known = {f"{t}": Reference(truth.mean[t, 0], np.sqrt(truth.cov[t, 0, 0])) for t in range(2)}
    assert disagreements(values, known, num_checks=NUM_CHECKS) == []


def test_a_target_without_a_path_and_one_particle_are_refused():
    with pytest.raises(TargetError, match="ConditionalSMC needs 'state_space'"):
        ppl.sample(ConditionalSMC(), ppl.from_log_density(lambda x: -0.5 * x**2, jnp.zeros(())))
    with pytest.raises(ValueError, match="num_particles must be an integer, at least 2; got 1"):
        ConditionalSMC(num_particles=1)
