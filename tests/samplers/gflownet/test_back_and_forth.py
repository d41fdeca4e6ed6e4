"""Chains over objects: exact on what can be listed, whatever proposes, and as moves of an SMC."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from agreement import t_limit, t_scores
from chains import Known, agrees, scores
from models.environments.bit_sequences import BitSequences
from models.environments.hypergrid import Hypergrid
from ppl.environment import Environment
from ppl.state_graph import state_graph, total_variation
from samplers.gflownet import local_search
from samplers.gflownet.back_and_forth import BackAndForth
from samplers.smc.tempered import TemperedSMC

pytestmark = pytest.mark.usefixtures("unoptimized")
SIDE = 3
LOG_REWARD = jnp.log(jnp.array([1.0, 0.2, 2.0, 0.4, 3.0, 0.1, 0.7, 1.5, 0.5]))


class Cells(Hypergrid):
    """A reward for each cell, none like another."""

    def log_density(self, position):
        return LOG_REWARD[self.index(position)]


CELLS = Cells(2, SIDE)
# Words of two bits, three of them: 64 strings, the modes of which are two and four bits apart.
STRINGS = BitSequences(jnp.array([[0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]), 2)
ENVIRONMENTS = {"grid": CELLS, "bit sequences": STRINGS}


def known(environment):
    """The law of all objects, and the frequency of each."""
    graph = state_graph(environment)
    can = np.flatnonzero(graph.can_stop)
    objects, p = jnp.asarray(graph.states[can]), graph.exact_law()[can]

    def sample(key, n):
        return objects[random.choice(key, len(objects), (n,), p=jnp.asarray(p, jnp.float32))]

    same = lambda x: jnp.all(x == objects, axis=1).astype(float)
    return Known(environment, sample, same, p)


def moving_on(environment):
    return BackAndForth().resolve(environment)


@pytest.mark.parametrize("name", ["grid", pytest.param("bit sequences", marks=pytest.mark.slow)])
def test_every_object_is_visited_as_often_as_it_should(name):
    environment = ENVIRONMENTS[name]
    assert agrees(scores(moving_on(environment), known(environment)))


def test_a_chain_that_forgets_the_number_of_places_is_caught(monkeypatch):
    monkeypatch.setattr(local_search, "_log_size", lambda lengths: jnp.zeros(lengths.shape))
    assert not agrees(scores(moving_on(CELLS), known(CELLS), variant="sizes"))


@pytest.mark.slow
def test_a_trained_network_proposes_and_the_chain_stays_exact():
    """Hardly trained, on the grid."""
    gflownet = samplers.GFlowNet(policy=samplers.TabularPolicy(), num_updates=20)
    trained = ppl.sample(gflownet, CELLS, 0, num_samples=10, progress=False).sampler
    draws = ppl.sample(
        BackAndForth(proposal=trained), CELLS, 1, init=samplers.built, num_chains=64,
        num_samples=500, num_warmup=50, progress=False,
    )  # fmt: skip
    law = known(CELLS)
    found = np.asarray(jax.vmap(jax.vmap(law.functions))(draws["x"])).mean((0, 1))
    print(f"\ntotal variation {total_variation(found, law.truth):.4f}")
    assert total_variation(found, law.truth) < 0.02
    assert draws.num_evaluations[1] == 0


# Tempered SMC -----------------------------------------------------------------------------------


class Uniform(ppl.energy.Energy):
    """Each object of an environment that can be listed alike."""

    objects: jax.Array

    @property
    def template(self):
        return jax.ShapeDtypeStruct(self.objects.shape[1:], self.objects.dtype)

    @property
    def offers(self):
        return frozenset({"log_density", "sample"})

    def log_density(self, position):
        return -jnp.log(float(len(self.objects)))

    def sample(self, rng_key, n):
        return self.objects[random.randint(rng_key, (n,), 0, len(self.objects))]


def tempered(environment: Environment):
    """32 runs: t-scores of the evidence and of the frequency of each object, and their limit."""
    law = known(environment)
    graph = state_graph(environment)
    uniform = Uniform(objects=jnp.asarray(graph.states[graph.can_stop]))  # pyright: ignore
    smc = TemperedSMC(64, BackAndForth(environment), reference=uniform, schedule=(0.5, 1.0),
                      num_moves=2, tune=False)  # fmt: skip
    draws = ppl.sample(smc, environment, 5, num_chains=32, progress=False)
    log_z = np.logaddexp.reduce(graph.log_reward[graph.can_stop])
    evidence = np.exp(draws.history["log_evidence"][:, -1].astype(float) - log_z)
    shares = np.exp(draws.log_weights - np.logaddexp.reduce(draws.log_weights, 1, keepdims=True))
    found = np.asarray(jax.vmap(jax.vmap(law.functions))(draws.positions))
    found = evidence[:, None] * np.einsum("rn,rno->ro", shares, found)  # unbiased, together
    weighty = law.truth > 0.01
    return np.append(t_scores(found[:, weighty], law.truth[weighty]), t_scores(evidence, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_it_moves_the_particles_of_a_tempered_smc(name):
    found = tempered(ENVIRONMENTS[name])
    print(f"\nlargest of {found.size} scores {np.abs(found).max():.2f}")
    assert np.abs(found).max() < t_limit(60, 31)


@pytest.mark.slow
def test_a_tempered_smc_whose_moves_forget_the_number_of_places_is_caught(monkeypatch):
    monkeypatch.setattr(local_search, "_log_size", lambda lengths: jnp.zeros(lengths.shape))
    jax.clear_caches()
    found = tempered(CELLS)
    jax.clear_caches()
    assert np.abs(found).max() > t_limit(60, 31)


# Bad input --------------------------------------------------------------------------------------


def test_what_is_no_environment_or_another_is_refused():
    real = ppl.from_log_density(lambda x: -jnp.sum(x**2), jnp.zeros(2))
    with pytest.raises(ppl.TargetError, match=r"BackAndForth\(environment\); got a LogDensity on"):
        ppl.sample(BackAndForth(), real, progress=False)
    with pytest.raises(ppl.TargetError, match=r"int32\[2\]}; positions of this target are .*\[3\]"):
        ppl.sample(BackAndForth(CELLS), STRINGS, progress=False)


def test_a_start_that_is_no_object_is_said():
    begun = jnp.array([[0, 1, 2], [3, -1, -1]], jnp.int32)
    with pytest.raises(ppl.TargetError, match=r"\[ 3, -1, -1\] is none. Write init=samplers.built"):
        ppl.sample(BackAndForth(), STRINGS, init=begun, num_chains=2, progress=False)


def test_a_proposal_that_is_no_trained_network_is_refused():
    with pytest.raises(TypeError, match=r"or None; got GFlowNet"):
        BackAndForth(proposal=samplers.GFlowNet())
