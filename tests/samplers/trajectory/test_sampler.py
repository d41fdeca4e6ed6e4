"""Training through the driver: what it reports, stops at, keeps, and refuses."""

import contextlib
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from numpyro.distributions import constraints
from scipy.special import expit

import ppl
from agreement import t_limit, t_scores
from models.targets.gaussian_mixture import GaussianMixture
from samplers.mcmc.independence import IndependenceMetropolis
from samplers.mcmc.random_walk import RandomWalk
from samplers.networks import MLP
from samplers.smc.tempered import TemperedSMC
from samplers.trajectory import sampler as trajectory
from samplers.trajectory.cmcd import CMCD
from samplers.trajectory.dds import DDS
from samplers.trajectory.dis import DIS
from samplers.trajectory.kernels import along, forward_paths, score, sum_over_paths
from samplers.trajectory.objectives import (
    DetailedBalance,
    ForwardKL,
    ReverseKL,
    SubTrajectoryBalance,
    TrajectoryBalance,
    VarGrad,
)
from samplers.trajectory.pis import PIS
from samplers.trajectory.replay import LocalSearch, Replay
from samplers.trajectory.scld import SCLD

FOUR = GaussianMixture([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]], 0.3**0.5)
SOFT = GaussianMixture([[1.5, 1.5], [1.5, -1.5], [-1.5, 1.5], [-1.5, -1.5]])
LOG_Z = float(FOUR.log_normalizer)
SEARCH = LocalSearch(every=5, num_chains=8, num_steps=4)
SMALL = {"num_steps": 6, "num_paths": 16, "network": partial(MLP, width=8, depth=1)}
# One program serves most of what follows.
FULL = PIS(
    objective=TrajectoryBalance(),
    exploration=0.2,
    replay=Replay(capacity=64, local_search=SEARCH),
    num_updates=12,
    **SMALL,
)


# PIS on trajectory balance, with all that may go with it -------------------------------------


@contextlib.contextmanager
def quickly(yes=True):
    """Compile fast, run slowly, as with `unoptimized`."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", yes)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def compiled(request):
    """All tests compile more than they compute, but for the slow ones."""
    with quickly(request.node.get_closest_marker("slow") is None):
        yield


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def draws(where):
    with quickly():
        return ppl.sample(FULL, SOFT, 3, num_samples=600, progress=False, checkpoint=where)


def test_training_is_reported_update_by_update(draws):
    assert set(draws.history) == {
        "loss", "elbo", "log_evidence", "ess", "clipped", "diverging",
    }  # fmt: skip
    assert draws.history["loss"].shape == (1, 12)
    assert np.isfinite(draws.history["loss"]).all()
    assert (draws.history["elbo"] <= draws.history["log_evidence"] + 1e-5).all()
    assert not draws.history["diverging"].any()


@pytest.mark.slow
def test_evaluations_count_training_search_and_draws(draws):
    searches = 3 * SEARCH.num_chains * (SEARCH.num_steps + 1)
    trained = 12 * 16 * 7 + searches
    assert draws.num_evaluations == (trained + 1024 * 7, trained + 1024 * 7)


def test_draws_are_weighted_and_know_their_evidence(draws):
    assert draws["x"].shape == (1, 600, 2)
    evidence = draws.log_evidence
    assert abs(evidence.value - LOG_Z) < 4.9 * evidence.std_error


def test_a_run_that_is_called_again_gives_the_same_draws(draws, where):
    again = ppl.sample(FULL, SOFT, 3, num_samples=600, progress=False, checkpoint=where)
    np.testing.assert_array_equal(again["x"], draws["x"])


def test_a_trained_sampler_is_saved_and_loaded(draws, tmp_path):
    draws.sampler.save(tmp_path / "trained")
    loaded = ppl.load_sampler(tmp_path / "trained", FULL.untrained(SOFT))
    draw = eqx.filter_jit(lambda s: s.draw(random.key(0), SOFT, 5)[1])
    one, two = draw(draws.sampler), draw(loaded)
    np.testing.assert_array_equal(one, two)


def test_backward_weights_bound_the_evidence_from_above(draws):
    exact = SOFT.sample(random.key(1), 2000)
    back = back_weights(draws.sampler, random.key(2), SOFT, exact)
    a, b = expit(draws.log_weights.ravel() - LOG_Z), expit(LOG_Z - np.asarray(back))
    error = np.sqrt(a.var() / a.size + b.var() / b.size)
    assert abs(a.mean() - b.mean()) < 4.9 * error
    assert back.mean() > LOG_Z


def test_training_stops_early_where_the_weights_are_good_enough():
    easy = PIS(**{n: getattr(FULL, n) for n in ("objective", "exploration", "replay")},
               num_updates=12, enough_ess=1e-6, **SMALL)  # fmt: skip
    draws = ppl.sample(easy, SOFT, 3, num_samples=10, progress=False)
    assert draws.history["loss"].shape == (1, 1)


def test_it_is_a_proposal_of_an_independence_chain_that_stays_exact(draws):
    """From exact draws, twenty steps later: the law is the same, with few accepted."""
    chain = IndependenceMetropolis(draws.sampler)
    start = SOFT.sample(random.key(4), 1500)
    run = ppl.sample(
        chain, SOFT, 5, init=start, num_chains=1500, num_samples=20, num_warmup=0,
        progress=False,
    )  # fmt: skip
    rate = run.stats["acceptance_rate"].mean()
    assert 0.02 < rate < 0.9
    end = run["x"][:, -1]
    for statistic in (lambda x: x[:, 0], lambda x: x[:, 0] * x[:, 1], lambda x: x[:, 1] ** 2):
        value, truth = statistic(end), {0: 0.0, 1: 0.0, 2: 3.25}
        expected = truth[2] if value.min() >= 0 else 0.0
        assert abs(value.mean() - expected) < 4.9 * value.std() / 1500**0.5


def test_a_chain_that_forgets_its_weight_is_caught(draws):
    start = SOFT.sample(random.key(4), 1500)
    run = ppl.sample(
        Forgetful(draws.sampler), SOFT, 6, init=start, num_chains=1500,
        num_samples=20, num_warmup=0, progress=False,
    )  # fmt: skip
    value = run["x"][:, -1, 1] ** 2
    assert abs(value.mean() - 3.25) > 4.9 * value.std() / 1500**0.5


@pytest.mark.slow  # 10 seconds
def test_its_weighted_draws_are_the_first_population_of_an_smc(draws):
    """Hardly trained, it weighs draws unevenly; resampled and moved, they have equal weights."""
    smc = TemperedSMC(512, RandomWalk(step_size=0.5), start=draws.sampler, num_moves=3)
    run = ppl.sample(smc, SOFT, 8, num_chains=16, progress=False)
    evidences = np.exp(run.history["log_evidence"][:, -1].astype(float) - LOG_Z)
    assert abs(t_scores(evidences, 1.0)) < t_limit(60, 15)
    squares = np.mean(run["x"] ** 2, axis=(1, 2))
    assert abs(t_scores(squares, 3.25)) < t_limit(60, 15)
    unweighted = np.mean(draws["x"] ** 2, axis=2)
    assert abs(t_scores(unweighted[0], 3.25)) > t_limit(60, 599)


@pytest.mark.slow  # as tests/ppl/test_continue.py does
def test_weighted_draws_start_a_markov_kernel(draws):
    from samplers.langevin.mala import MALA

    run = ppl.sample(
        MALA(), SOFT, 7, init=draws, num_chains=3, num_samples=2, num_warmup=0, progress=False
    )
    assert run["x"].shape == (3, 2, 2)


@eqx.filter_jit
def back_weights(trained, rng_key, target, positions):
    return trained.log_weights(rng_key, target, positions)


class Forgetful(IndependenceMetropolis):
    """A wrong chain: it takes every proposal that has any weight."""

    def step(self, rng_key, target, state):
        small = jnp.full_like(state.log_weight, -1e3)
        return IndependenceMetropolis.step(self, rng_key, target, state._replace(log_weight=small))


# Objectives on all kernels ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        CMCD(num_updates=2, **SMALL),
        CMCD(objective=VarGrad(), num_updates=2, **SMALL),
        DDS(objective=SubTrajectoryBalance(0.9), num_updates=2, **SMALL),
        DIS(objective=ReverseKL(reparametrized=True), num_updates=2, **SMALL),
        PIS(objective=DetailedBalance(), guided=False, num_updates=2, **SMALL),
    ],
    ids=["CMCD-KL", "CMCD-LV", "DDS-SubTB", "DIS-path", "PIS-DB"],
)
def test_every_objective_moves_the_parameters_of_every_sampler(sampler):
    @jax.jit
    def twice(key):
        state = sampler.init(key, SOFT)
        first = state.parameters
        for t in range(2):
            state, info = sampler.step(random.fold_in(key, t), SOFT, state)
        moved = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), _numbers(first), _numbers(state))
        return info, moved

    info, moved = twice(random.key(0))
    assert np.isfinite(info.loss)
    assert not info.diverging
    assert max(map(float, jax.tree.leaves(moved))) > 1e-4


# Gradients of some paths at a time ------------------------------------------------------------


def off_policy(objective, num_paths=7, num_steps=4):
    """Parameters, and functions of them: paths with loss and gradient; the loss by rescoring."""
    sampler = PIS(objective=objective, num_steps=num_steps, network=SMALL["network"])
    state = sampler.init(random.key(0), SOFT)
    arrays, rest = eqx.partition(state.parameters, eqx.is_inexact_array)
    noisy = jax.tree.map(lambda x: x + 0.3 * random.normal(random.key(1), x.shape), arrays)
    reward = sampler._reward(SOFT)

    def made(arrays, key):
        parameters = eqx.combine(arrays, rest)
        kernels = sampler.kernels(reward, parameters.kernels)
        paths, scores = forward_paths(key, kernels, num_paths, 0.3)
        return (paths, scores), sampler._off_policy(reward, kernels, parameters, paths, scores)

    def plain(arrays, paths):
        parameters = eqx.combine(arrays, rest)
        kernels = sampler.kernels(reward, parameters.kernels)
        steps = jnp.arange(num_steps + 1)
        flow = None
        if parameters.flow is not None:
            flow = along(lambda n, x: parameters.flow(x, n / num_steps))(steps, paths.states)
        scores = score(kernels, paths)
        scores = sampler._with_flow(kernels, scores, paths, flow, parameters.log_z)
        return sampler.objective(sampler._clipped(scores))

    return noisy, made, plain


@pytest.mark.parametrize(
    "objective",
    [TrajectoryBalance(), pytest.param(SubTrajectoryBalance(0.9), marks=pytest.mark.slow)],
    ids=["TB", "SubTB"],
)
def test_the_gradient_of_some_paths_at_a_time_is_that_of_all(objective, monkeypatch):
    """Seven paths, two at a time, and of the last two one was there before."""
    arrays, made, plain = off_policy(objective)
    monkeypatch.setattr(trajectory, "ROWS", 10)
    (paths, _), (loss, gradient) = jax.jit(made)(arrays, random.key(2))
    expected = jax.jit(jax.value_and_grad(plain))(arrays, paths)
    assert loss == pytest.approx(float(expected[0]), rel=1e-4)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max() + 1e-7)


def test_paths_are_counted_once():
    paths = (jnp.ones((3, 7)), jnp.arange(21.0).reshape(3, 7))
    fn = lambda learned, part: learned * jnp.vdot(*part)
    for per in (1, 2, 3, 7, 9):
        assert sum_over_paths(fn, jnp.ones(()), paths, per) == 210


@pytest.mark.parametrize("bounded", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_memory_of_a_gradient_does_not_grow_with_the_steps(bounded, monkeypatch):
    """But for what is stored of the paths; the twin differentiates at all states at once."""
    monkeypatch.setattr(trajectory, "ROWS", 256 if bounded else 10**6)

    def needed(num_steps):
        arrays, made, _ = off_policy(TrajectoryBalance(), 64, num_steps)
        (paths, scores), _ = jax.eval_shape(made, arrays, random.key(2))
        stored = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((paths, scores)))
        compiled = jax.jit(made).lower(arrays, random.key(2)).compile()
        return stored, compiled.memory_analysis().temp_size_in_bytes

    (stored, short), (longer, long) = needed(24), needed(48)
    assert (long - short < 2 * (longer - stored)) == bounded


@pytest.mark.parametrize("again", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_memory_of_reverse_kl_grows_by_the_states_alone(again, monkeypatch):
    """Twice as much as they are, where each step is computed again; the twin keeps networks too."""
    if not again:
        monkeypatch.setattr(jax, "checkpoint", lambda fn, **_: fn)

    def needed(num_steps):
        objective = ReverseKL(reparametrized=True)
        sampler = PIS(objective=objective, num_steps=num_steps, network=SMALL["network"])
        learned = sampler.first(random.key(0), 2, jnp.float32)
        arrays, rest = eqx.partition(learned, eqx.is_inexact_array)

        def made(arrays, key):
            kernels = sampler.kernels(sampler._reward(SOFT), eqx.combine(arrays, rest))
            return forward_paths(key, kernels, 64, through=True)

        loss = lambda arrays, key: sampler.objective(made(arrays, key)[1])
        out = jax.tree.leaves(jax.eval_shape(made, arrays, random.key(2)))
        compiled = jax.jit(jax.grad(loss)).lower(arrays, random.key(2)).compile()
        memory = compiled.memory_analysis().temp_size_in_bytes
        return sum(x.size * x.dtype.itemsize for x in out), memory

    (stored, short), (longer, long) = needed(24), needed(48)
    assert (long - short < 2.5 * (longer - stored)) == again


def _numbers(state):
    parameters = getattr(state, "parameters", state)
    return [x for x in jax.tree.leaves(parameters) if hasattr(x, "shape")]


class Rectified(eqx.Module):
    """A network of the user's own, that holds a function among its leaves."""

    mlp: eqx.nn.MLP

    def __init__(self, rng_key, shape, *, out_shape=None, dtype=None):
        self.mlp = eqx.nn.MLP(shape[0] + 1, shape[0], 8, 1, jnp.tanh, key=rng_key)

    def __call__(self, x, t):
        return self.mlp(jnp.append(x, t))


@pytest.mark.parametrize(
    "make", [partial(PIS, objective=TrajectoryBalance()), PIS, SCLD], ids=["PIS-TB", "PIS", "SCLD"]
)
def test_a_network_may_hold_functions(make):
    """Traced, not compiled: the chunk of the driver carries arrays alone."""
    sampler = make(network=Rectified)
    state = eqx.filter_eval_shape(sampler.init, random.key(0), SOFT)
    step = lambda state: sampler.step(random.key(0), SOFT, state)[1].loss
    assert eqx.filter_eval_shape(step, state).shape == ()


# What is refused, and what is said ----------------------------------------------------------------


def refused(sampler, target=FOUR):
    with pytest.raises((ValueError, TypeError)) as error:
        ppl.sample(sampler, target, progress=False)
    return str(error.value)


def test_a_target_without_a_gradient_is_refused_where_one_is_needed():
    discrete = ppl.from_log_density(lambda x: -jnp.sum(x) * 1.0, jnp.zeros(2, int))
    assert "PIS needs 'gradient'" in refused(PIS(), discrete)
    blind = PIS(objective=TrajectoryBalance(), guided=False)
    assert blind.needs == {"log_density"}
    assert "positions must be floating; these are {x: int32[2]}" in refused(blind, discrete)
    assert PIS(guided=False).needs == {"log_density"}  # so is the default, by the log-derivative
    through = PIS(objective=ReverseKL(reparametrized=True), guided=False)
    assert through.needs == {"log_density", "gradient"}


def test_fewer_steps_than_one_are_refused():
    with pytest.raises(ValueError, match="num_steps must be an integer, at least 1; got 0"):
        PIS(num_steps=0)


def test_a_buffer_smaller_than_a_batch_is_refused():
    sampler = PIS(objective=TrajectoryBalance(), replay=Replay(capacity=100))
    assert "the replay buffer holds 100 ends, fewer than the 128 paths" in refused(sampler)


def test_objectives_that_do_not_fit_are_refused():
    assert "takes neither replay nor exploration" in refused(PIS(exploration=0.1))
    assert "has no draws of the target to go backward from" in refused(PIS(objective=ForwardKL()))
    assert "such as TrajectoryBalance(); got 'TB'" in refused(PIS(objective="TB"))


def test_an_energy_that_explodes_is_clipped_and_the_clip_is_named():
    """1 / r^12 at the origin, where the reference is: infinite there, and never NaN."""
    steep = ppl.from_energy(lambda x: jnp.sum(x**-12.0) + 0.5 * jnp.vdot(x, x), jnp.zeros(2))
    draws = ppl.sample(PIS(num_updates=5, **SMALL), steep, num_samples=50, progress=False)
    assert np.isfinite(draws.history["loss"]).all()
    (note,) = [note for note in draws.run.notes if "clipped" in note]
    assert "gradient_clip=100 a coordinate or an energy clipped at energy_clip=100000" in note
    assert np.isfinite(draws["x"]).all()


@pytest.mark.slow
def test_a_bounded_support_is_learned_in_the_unconstrained_space():
    """A log-normal law: draws are positive, and the log-Jacobian is in log Z once."""
    target = ppl.from_log_density(
        lambda x: -0.5 * (jnp.log(x) - 0.5) ** 2 - jnp.log(x), jnp.ones(()),
        support=constraints.positive,
    )  # fmt: skip
    sampler = DDS(scale=1.5, num_updates=5, **SMALL)
    draws = ppl.sample(sampler, target, num_samples=1000, progress=False)
    assert (draws["x"] > 0).all()
    evidence = draws.log_evidence
    assert abs(evidence.value - 0.5 * np.log(2 * np.pi)) < 4.9 * evidence.std_error


# The budget of a minute ------------------------------------------------------------------------


@pytest.mark.slow  # about a minute each on an idle core
@pytest.mark.parametrize(
    "sampler",
    [PIS(), PIS(objective=TrajectoryBalance()), DDS(), DIS(), CMCD(), CMCD(objective=VarGrad())],
    ids=["PIS", "TB", "DDS", "DIS", "CMCD", "CMCD-LV"],
)
def test_defaults_learn_four_modes_in_a_minute(sampler):
    draws = ppl.sample(sampler, FOUR, num_samples=50_000, progress=False)
    log_weights = draws.log_weights.ravel()
    shares = ppl.weights.probabilities(log_weights)
    found = np.asarray(FOUR.component(jnp.asarray(draws["x"][0])))
    masses = np.bincount(found, shares, minlength=4)
    ess = ppl.weights.ess(log_weights) / 50_000
    print(f"log Z {draws.log_evidence.value - LOG_Z:+.4f}, ESS {ess:.2f}, masses {masses}")
    assert abs(draws.log_evidence.value - LOG_Z) < 0.02
    assert ess > 0.5
    assert np.max(np.abs(masses - 0.25)) < 0.03
    back = back_weights(draws.sampler, random.key(1), FOUR, FOUR.sample(random.key(2), 50_000))
    a, b = expit(log_weights - LOG_Z), expit(LOG_Z - np.asarray(back))
    assert abs(a.mean() - b.mean()) < 4.9 * np.sqrt((a.var() + b.var()) / 50_000)
