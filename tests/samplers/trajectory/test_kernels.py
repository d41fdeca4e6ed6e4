"""The engine: weights of paths against truths, rescoring, exploration, the one shared objective."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import random
from jax.flatten_util import ravel_pytree
from scipy.special import expit

from models.targets.benchmark_mixtures import gmm25
from models.targets.gaussian_mixture import GaussianMixture
from models.targets.particles import DoubleWellParticles
from samplers.equivariant import EGNN
from samplers.networks import MLP
from samplers.trajectory import cmcd, dds, dis, objectives, pis
from samplers.trajectory.cmcd import CMCD
from samplers.trajectory.control import tamed, to_the_end
from samplers.trajectory.dds import DDS
from samplers.trajectory.dis import DIS
from samplers.trajectory.kernels import (
    Law,
    Paths,
    Reward,
    backward_paths,
    flattened,
    forward_paths,
    join,
    score,
)
from samplers.trajectory.objectives import log_weights
from samplers.trajectory.pis import PIS

FOUR = GaussianMixture([[1.5, 1.5], [1.5, -1.5], [-1.5, 1.5], [-1.5, -1.5]])
LOG_Z = float(FOUR.log_normalizer)
TINY = partial(MLP, width=8, depth=1)
N = 10_000
BARE = {"num_steps": 6, "network": TINY}
pytestmark = pytest.mark.usefixtures("unoptimized")
SAMPLERS = {
    "PIS": PIS(**BARE),
    "PIS, not guided, widths learned": PIS(guided=False, learned_widths=True, **BARE),
    "DDS": DDS(**BARE),
    "DIS": DIS(fastest=4.0, **BARE),
    "CMCD": CMCD(**BARE),
}


def perturbed(sampler, target=FOUR):
    """Parameters of the kernels, moved off zero: what training might have made of them."""
    template = flattened(target).template
    learned = sampler._untrained(random.key(0), template.shape[0], template.dtype)
    arrays, rest = eqx.partition(learned, eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(arrays)
    keys = random.split(random.key(1), len(leaves))
    moved = [x + 0.07 * random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return eqx.combine(jax.tree.unflatten(treedef, moved), rest)


def kernels_of(sampler, learned, target=FOUR):
    return sampler._kernels(Reward(flattened(target), sampler.gradient_clip), learned)


@eqx.filter_jit
def both_ways(kernels, draws):
    """Paths and scores forward, and backward from these draws; and the former scored again."""
    paths, scores = forward_paths(random.key(2), kernels, len(draws))
    back = backward_paths(random.key(3), kernels, draws)
    return paths, scores, score(kernels, paths), *back, score(kernels, back[0])


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow if "not guided" in name else ())
        for name in SAMPLERS
    ],
)
def made(request):
    """All that the tests look at, of a sampler whose parameters are random."""
    sampler = SAMPLERS[request.param]
    kernels = kernels_of(sampler, perturbed(sampler))
    return kernels, both_ways(kernels, FOUR.sample(random.key(4), N))


def z_score(forward, backward, log_z=LOG_Z):
    """Of the identity E_F sigmoid(w - log Z) = E_B sigmoid(log Z - w)."""
    a, b = expit(np.asarray(forward) - log_z), expit(log_z - np.asarray(backward))
    return (a.mean() - b.mean()) / np.sqrt(a.var() / a.size + b.var() / b.size)


def test_weights_of_random_kernels_obey_the_bounded_identity(made):
    _, (_, forward, _, _, backward, _) = made
    assert abs(z_score(log_weights(forward), log_weights(backward))) < 4.9


def test_a_wrong_term_breaks_the_identity(made):
    _, (_, forward, _, _, backward, _) = made
    for wrong in (
        lambda s: s._replace(log_pb=1.05 * s.log_pb),
        lambda s: s._replace(log_pf=s.log_pf.at[-1].add(0.2)),
        lambda s: s._replace(log_reward=s.log_reward + 0.2),
    ):
        assert abs(z_score(log_weights(wrong(forward)), log_weights(wrong(backward)))) > 4.9


def test_scores_of_stored_paths_are_those_they_were_made_with(made):
    _, (_, forward, again, _, backward, back_again) = made
    for a, b in ((forward, again), (backward, back_again)):
        np.testing.assert_allclose(a.log_pf, b.log_pf, atol=2e-3)
        np.testing.assert_allclose(a.log_pb, b.log_pb, atol=2e-3)
        np.testing.assert_allclose(log_weights(a), log_weights(b), atol=1e-2)


def test_paths_begin_and_end_where_they_should(made):
    kernels, (paths, scores, _, back, _, _) = made
    np.testing.assert_array_equal(back.states[-1], FOUR.sample(random.key(4), N))
    np.testing.assert_allclose(
        scores.log_reward, jax.vmap(FOUR.log_density)(paths.states[-1]), rtol=1e-4, atol=1e-4
    )
    start = paths.states[0]
    is_point = bool(jnp.all(scores.log_start == 0))
    assert np.all(start == 0) == is_point
    if is_point:
        np.testing.assert_array_equal(back.states[0], 0)
        np.testing.assert_array_equal(scores.log_pb[0], 0)


# Before anything is learned ------------------------------------------------------------------


def untrained_weights(make):
    """Of 500 paths to 25 modes, thirteen times as narrow as the reference, against log Z."""
    sampler, target = make(scale=7.5, network=TINY), gmm25()
    kernels = kernels_of(sampler, sampler.first(random.key(0), 2, jnp.float32), target)
    scores = eqx.filter_jit(lambda k: forward_paths(random.key(1), k, 500)[1])(kernels)
    return np.asarray(log_weights(scores)) - float(target.log_normalizer)


def evidence(w):
    return np.logaddexp.reduce(w) - np.log(w.size)


@pytest.mark.parametrize(
    "make", [PIS, DDS, *(pytest.param(make, marks=pytest.mark.slow) for make in (DIS, CMCD))]
)
def test_weights_are_finite_before_training_where_modes_are_narrow(make):
    w = untrained_weights(make)
    assert w.mean() > -15
    assert abs(evidence(w)) < 3


@pytest.mark.parametrize(
    ("make", "module", "least"),
    [
        (PIS, pis, 500),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(DDS, dds, 5000), (DIS, dis, 5000), (CMCD, cmcd, 5)]
        ),
    ],
)
def test_by_the_plain_gradient_they_are_not(make, module, least, monkeypatch):
    monkeypatch.setattr(module, "tamed", lambda gradient, variance, **_: gradient)
    w = untrained_weights(make)
    assert w.mean() < -50
    assert evidence(w) < -least


def test_a_shortened_gradient_is_nearly_the_control_of_one_mode():
    """Nearly: within 16 %, at typical points; and never longer than the noise to come allows."""
    left, variance = jnp.linspace(0.0, 1.0, 11), jnp.geomspace(1e-4, 1.0, 9)
    x = jnp.sqrt(variance + left[:, None])
    push = np.asarray(jax.vmap(tamed)(-x / variance, left))
    np.testing.assert_allclose(push[0], (-x / variance)[0], rtol=1e-6)
    ratio = push * -(variance + left[:, None]) / x
    assert ratio.min() > 1 - 1e-5
    assert ratio.max() < 2 / 3**0.5 + 1e-5
    assert np.all(np.abs(push[1:]) < 1 / np.sqrt(left[1:, None]) * (1 + 1e-6))


@pytest.mark.parametrize(
    "make", [PIS, *(pytest.param(m, marks=pytest.mark.slow) for m in (DDS, DIS, CMCD))]
)
def test_steps_of_a_network_that_turns_turn_as_the_particles_do(make, monkeypatch):
    """Means and widths, as all are turned and in another order; by coordinate they do not."""
    target = DoubleWellParticles()
    network = partial(EGNN, num_particles=4, num_space=2, width=4, depth=1)
    sampler = make(num_steps=6, network=network, gradient_clip=1e9, learned_widths=True)
    basis, angle = target.basis, 0.7
    turn = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]])
    move = lambda x: basis @ (basis.T @ x)[np.array([2, 0, 3, 1])] @ turn
    x = np.asarray(3 * random.normal(random.key(1), (3, 2)))

    def off():
        kernels = kernels_of(sampler, perturbed(sampler, target), target)

        @eqx.filter_jit
        def law(kernels, x):
            n, look = jnp.int32(3), kernels.reward.with_gradient(x)
            return kernels.forward(n, x, kernels.control(n, x, look), look)

        here, there = (law(kernels, jnp.ravel(jnp.asarray(z))) for z in (x, move(x)))
        off = np.reshape(there.mean, (3, 2)) - move(np.reshape(here.mean, (3, 2)))
        return max(np.abs(off).max(), np.abs(there.sd - here.sd).max())

    assert off() < 1e-4
    monkeypatch.setattr(EGNN, "turns", False)
    assert off() > 1e-2


def test_of_a_state_that_shrinks_the_rest_is_kept():
    np.testing.assert_allclose(
        to_the_end(jnp.array([1.0, 2.0, 4.0])), np.exp([-7.0, -6.0, -4.0, 0.0]), rtol=1e-6
    )


@pytest.fixture(scope="module")
def explored():
    """The same paths with noise and without, and two sets of them joined."""
    sampler = SAMPLERS["PIS"]
    kernels = kernels_of(sampler, perturbed(sampler))

    @eqx.filter_jit
    def program(kernels, noise):
        paths, scores = forward_paths(random.key(6), kernels, 2000, noise)
        some = Paths(
            *jax.tree.map(lambda x: x[:, :9], paths[:2]),
            jax.tree.map(lambda x: x[:9], paths.ends),
        )
        joined = join(*[(some, jax.tree.map(lambda x: x[..., :9], scores))] * 2)
        return paths, scores, score(kernels, paths), score(kernels, joined[0]), joined[1]

    return kernels, program(kernels, 0.0), program(kernels, 1.0)


def test_exploration_widens_the_draws_and_is_never_scored(explored):
    kernels, (plain, *_), (noisy, scores, again, *_) = explored
    assert noisy.states[1].std() > 1.3 * plain.states[1].std()
    np.testing.assert_allclose(again.log_pf, scores.log_pf, rtol=1e-4, atol=1e-3)
    # By hand, with the sampler's own sd: with the sd that was drawn from it would be another.
    x, y, look = noisy.states[0, 0], noisy.states[1], jax.tree.map(lambda x: x[0, 0], noisy.looks)
    n = jnp.int32(0)  # all paths are at the source
    law = kernels.forward(n, x, kernels.control(n, x, look), look)
    np.testing.assert_allclose(scores.log_pf[0], normal(y, law.mean, law.sd), rtol=1e-4, atol=1e-3)
    wider = normal(y, law.mean, 2**0.5 * law.sd)
    assert not np.allclose(scores.log_pf[0], wider, atol=0.1)


def normal(y, mean, sd):
    return scipy.stats.norm(np.asarray(mean), np.asarray(sd)).logpdf(np.asarray(y)).sum(1)


def test_joined_paths_score_as_they_do_alone(explored):
    _, (_, scores, _, joined, kept), _ = explored
    for part in (joined.log_pf[:, :9], joined.log_pf[:, 9:]):
        np.testing.assert_allclose(part, scores.log_pf[:, :9], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(joined.log_reward[9:], scores.log_reward[:9], rtol=1e-4)
    np.testing.assert_array_equal(kept.log_pf[:, 9:], scores.log_pf[:, :9])


def test_a_law_of_a_point_has_no_density_and_no_gradient():
    law = lambda sd: Law(jnp.zeros(2), sd).log_density(jnp.ones(2))
    assert law(jnp.zeros(())) == 0
    assert jax.grad(law)(jnp.zeros(())) == 0


# Gradients: reverse KL and trajectory balance on the same paths --------------------------------


@pytest.fixture(scope="module")
def gradients():
    """Of reverse KL through the states, of its log-derivative form, of TB and VarGrad."""
    sampler = DDS(num_steps=3, network=TINY, guided=False)
    learned = perturbed(sampler)
    arrays, rest = eqx.partition(learned, eqx.is_inexact_array)
    num, batches = 1000, 40

    def flat(objective, through):
        def loss(arrays, key):
            kernels = kernels_of(sampler, eqx.combine(arrays, rest))
            paths, scores = forward_paths(key, kernels, num, through=through)
            scores = scores if through else score(kernels, jax.lax.stop_gradient(paths))
            flow = scores.log_flow.at[0].set(LOG_Z + 2 + scores.log_start)
            return objective(scores._replace(log_flow=flow))

        return jax.grad(loss)

    # One program for all: each set of paths is made once, and differentiated in four ways.
    ways = {
        "KL": flat(objectives.reverse_kl, through=True),
        "LD": flat(objectives.reverse_kl_log_derivative, through=False),
        "TB": flat(objectives.trajectory_balance, through=False),
        "VarGrad": flat(objectives.vargrad, through=False),
    }

    @jax.jit
    def program(keys):
        one = lambda key: {n: ravel_pytree(fn(arrays, key))[0] for n, fn in ways.items()}
        return jax.lax.map(one, keys)

    found = jax.tree.map(np.asarray, program(random.split(random.key(9), batches)))
    factors = {"KL": 1, "LD": 1, "TB": 1 / 2, "VarGrad": num / (num - 1) / 2}
    return {name: found[name] * factor for name, factor in factors.items()}


@pytest.mark.parametrize("name", ["LD", "TB", "VarGrad"])
def test_gradients_of_the_objectives_agree_on_a_diffusion(gradients, name):
    """The identities of the grid hold here too: the same functions, continuous states."""
    a, b = gradients["KL"], gradients[name]
    error = np.sqrt((a.var(0) + b.var(0)) / len(a)) + 1e-6
    assert np.max(np.abs(a.mean(0) - b.mean(0)) / error) < 5.5  # of several hundred numbers
    cosine = a.mean(0) @ b.mean(0) / np.linalg.norm(a.mean(0)) / np.linalg.norm(b.mean(0))
    assert cosine > 0.99
    assert np.max(np.abs(a.mean(0) - 2 * b.mean(0)) / error) > 5.5
