"""How well and how fast GFlowNets learn, judged by exact sums over all states. Slow."""

import numpy as np
import pytest
import scipy.stats

import ppl
import samplers
from models.environments import linnerud
from models.environments.bit_sequences import BitSequences, some_modes
from models.environments.dags import DAGs, bge
from models.environments.hypergrid import Hypergrid
from models.environments.sets import Sets
from ppl.state_graph import state_graph, total_variation
from samplers.gflownet.gflownet import GFlowNet
from samplers.gflownet.laws import terminal_law

pytestmark = pytest.mark.slow

OBJECTIVES = {
    "TB": {"objective": samplers.TrajectoryBalance()},
    "VarGrad": {"objective": samplers.VarGrad()},
    "DB": {"objective": samplers.DetailedBalance()},
    "SubTB": {"objective": samplers.SubTrajectoryBalance(0.9)},
    "FL-DB": {"objective": samplers.DetailedBalance(), "forward_looking": True},
}


def learned(environment, graph, rng_key=0, **options):
    """Total variation from R / Z, and the draws."""
    gflownet = GFlowNet(**options)
    draws = ppl.sample(gflownet, environment, rng_key, num_samples=1000, progress=False)
    law = terminal_law(draws.sampler, environment, graph)
    return total_variation(law, graph.exact_law()), draws, law


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_small_grid_is_learned_within_a_thousand_updates(name):
    grid = Hypergrid(2, 8)
    options = OBJECTIVES[name] | {"num_updates": 1000, "learning_rate": 1e-2}
    tv, draws, _ = learned(grid, state_graph(grid), **options)
    print(f"\n{name}: total variation {tv:.5f}, log Z {draws.log_evidence.value:.4f}")
    assert tv < 0.01
    assert draws.log_evidence.value == pytest.approx(np.log(22.4), abs=0.01)


LOCAL = {  # environment, what looks forward, its rate, updates of detailed balance
    "sets": (Sets(2 * np.random.default_rng(0).normal(size=10), 5), "DB", 1e-2, 500),
    "grid": (Hypergrid(2, 20), "SubTB", 3e-2, 1000),
}


@pytest.mark.parametrize("name", LOCAL)
def test_local_credit_halves_the_updates(name):
    """Forward-looking, on paths half of which are cut short, with half the updates.

    Of 0.003, 0.01 and 0.03 the rates are the best of each. Rewards on the way are paid for where
    building might have stopped.
    """
    environment, ahead, rate, num_updates = LOCAL[name]
    graph = state_graph(environment)
    plain = OBJECTIVES["DB"] | {"num_updates": num_updates, "learning_rate": 1e-2}
    local = OBJECTIVES[ahead] | {"num_updates": num_updates // 2, "learning_rate": rate}
    local |= {"forward_looking": True, "incomplete": 0.5}
    off, rewards = [], []
    for options in (plain, local):
        runs = [learned(environment, graph, key, **options) for key in range(3)]
        off.append(np.mean([run[0] for run in runs]))
        rewards.append(runs[0][1].num_evaluations[0])
    print(f"\nDB {off[0]:.4f}, forward-looking {ahead} {off[1]:.4f}; rewards {rewards}")
    assert off[1] < off[0]
    if name == "sets":
        assert rewards[0] - rewards[1] == num_updates // 2 * 64
    else:
        assert rewards[1] > 5 * rewards[0]


def test_without_exploration_corners_are_missed_and_the_sum_says_so():
    grid = Hypergrid(2, 16, rewards=(1e-5, 0.5, 2.0))
    graph = state_graph(grid)
    tv, _, law = learned(grid, graph, exploration=0.0, num_updates=500)
    corner = 2 * (graph.states[:, 0] > 7) + (graph.states[:, 1] > 7)
    mass = np.bincount(corner, weights=law)
    print(f"\nmass of the corners {mass.round(3)}, total variation {tv:.3f}")
    assert (mass < 0.05).any()
    assert tv > 0.2


def test_edges_of_five_variables_have_the_posterior_of_enumeration():
    names = ("weight", "waist", "chins", "situps", "jumps")
    environment = DAGs(bge(linnerud.standardized(*names)))
    graph = state_graph(environment)
    assert len(graph.level) == 29281
    gflownet = GFlowNet(num_updates=2000, learning_rate=5e-3)
    draws = ppl.sample(gflownet, environment, 0, num_samples=20_000, progress=False)
    law = terminal_law(draws.sampler, environment, graph)
    weights = np.exp(draws.log_weights[0] - draws.log_weights[0].max())
    states = graph.states.reshape(len(law), -1).astype(float)
    exact = (graph.exact_law() @ states).reshape(5, 5)
    built = (law @ states).reshape(5, 5)
    weighted = np.average(draws["x"][0], weights=weights, axis=0)
    errors = [np.abs(edges - exact).max() for edges in (built, weighted)]
    print(f"\nedge marginals off by {errors[0]:.4f} as built, {errors[1]:.4f} with weights")
    assert max(errors) < 0.02


def test_basins_of_bit_sequences_have_their_masses():
    """24 bits and eight modes, by chi-square, as those of exact draws; 20 seconds."""
    environment = BitSequences(some_modes(8, 3), word=4)
    rng = np.random.default_rng(0)
    log_z, _, masses = environment.truth(rng, 200_000)

    def chi_square(strings):
        counts = np.bincount(environment.basins(strings)[0], minlength=8)
        expected = len(strings) * masses
        return ((counts - expected) ** 2 / expected).sum()

    limit = scipy.stats.chi2.isf(1e-6, 7)
    exact = environment.exact(rng, 20_000)[:6000]
    assert chi_square(exact) < limit
    assert chi_square(exact[rng.random(6000) > 0.3 * (environment.basins(exact)[0] == 0)]) > limit

    gflownet = GFlowNet(num_updates=3000, learning_rate=5e-3, exploration=0.05)
    draws = ppl.sample(gflownet, environment, 0, num_samples=6000, progress=False)
    found = chi_square(np.asarray(draws["x"][0]))
    print(f"\nlog Z {draws.log_evidence} (true {log_z:.4f}), chi-square {found:.1f} of 7")
    assert found < limit
    assert abs(draws.log_evidence.value - log_z) < 4.9 * draws.log_evidence.std_error + 1e-3


def test_the_modes_of_long_bit_sequences_have_equal_basins():
    """Of 120 bits and 60 modes; by exact draws, and by a network in two minutes.

    Not without one of the modes.
    """
    environment, rng = BitSequences(), np.random.default_rng(0)
    _, error, masses = environment.truth(rng, 200_000)
    assert error < 0.01
    assert np.abs(60 * masses - 1).max() < 0.1
    exact = environment.exact(rng, 10_000)[:6000]
    nearest = environment.basins(exact)[0]

    def chi_square(found):
        return scipy.stats.chisquare(np.bincount(found, minlength=60)).statistic

    limit = scipy.stats.chi2.isf(1e-6, 59)
    assert chi_square(nearest) < limit
    assert chi_square(nearest[nearest > 0]) > limit

    gflownet = GFlowNet(
        objective=samplers.VarGrad(),
        policy=samplers.MixturePolicy(192, spread=0.15),
        revisit=samplers.Revisit(
            capacity=4096,
            priority=samplers.ByReward(0),
            num_rounds=400,
            kernel=samplers.SiteMetropolis(16),
        ),
        num_updates=2000,
        learning_rate=0.03,
    )
    words = BitSequences(word=4)
    draws = ppl.sample(gflownet, words, 0, num_samples=6000, progress=False)
    found = words.basins(np.asarray(draws["x"][0]))[0]
    log_z, error, _ = words.truth(rng, 200_000)
    print(f"\nlog Z {draws.log_evidence} (true {log_z:.4f}), chi-square {chi_square(found):.1f}")
    assert chi_square(found) < limit
    error = np.hypot(error, draws.log_evidence.std_error)
    assert abs(draws.log_evidence.value - log_z) < 4.9 * error
