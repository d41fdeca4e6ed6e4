"""A GFlowNet learns R / Z, its weights are right before and after, and bad input is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from models.environments.hypergrid import Hypergrid
from ppl.state_graph import state_graph, total_variation
from samplers.gflownet.gflownet import GFlowNet
from samplers.gflownet.laws import terminal_law
from samplers.gflownet.policies import Even
from samplers.trajectory import replay
from samplers.trajectory.objectives import ReverseKL

GRID = Hypergrid()


@pytest.fixture(scope="module")
def drawn():
    gflownet = GFlowNet(policy=samplers.TabularPolicy(), num_updates=400, learning_rate=0.1)
    return ppl.sample(gflownet, GRID, rng_key=0, num_samples=2000, progress=False)


def test_it_learns_the_law(drawn):
    graph = state_graph(GRID)
    law = terminal_law(drawn.sampler, GRID, graph)
    assert total_variation(law, graph.exact_law()) < 0.01


def test_its_weights_give_the_evidence_and_are_flat_once_it_has_learned(drawn):
    log_z = np.log(22.4)
    assert drawn.log_evidence.value == pytest.approx(log_z, abs=0.01)
    assert np.std(drawn.log_weights) < 0.05
    assert drawn.sampler.state.log_z + drawn.sampler.state.learned.log_z == pytest.approx(
        log_z, abs=0.01
    )


def test_it_counts_its_rewards_and_says_how_training_went(drawn):
    # Draws come in batches of a fixed size.
    assert drawn.num_evaluations == (400 * 64 + 2 * 1024, 0)
    history = drawn.history
    assert history["loss"].shape == (1, 400)
    assert history["loss"][0, -10:].mean() < 0.01 * history["loss"][0, :10].mean()
    assert history["ess"][0, -1] > 0.9 * 64
    assert history["elbo"][0, -1] == pytest.approx(np.log(22.4), abs=0.1)


def test_draws_are_cells_of_the_grid(drawn):
    assert drawn["x"].shape == (1, 2000, 2)
    corner = np.asarray(2 * (drawn["x"][0, :, 0] > 3) + (drawn["x"][0, :, 1] > 3))
    assert np.abs(np.bincount(corner) / 2000 - 0.25).max() < 4.9 * np.sqrt(0.25 * 0.75 / 2000)


def test_a_trained_one_is_saved_and_draws_again(drawn, tmp_path):
    drawn.sampler.save(tmp_path / "gflownet.eqx")
    like = GFlowNet(policy=samplers.TabularPolicy(), num_updates=400).untrained(GRID)
    again = ppl.load_sampler(tmp_path / "gflownet.eqx", like)
    draws = ppl.sample(again, GRID, rng_key=0, num_samples=100, progress=False)
    assert draws.log_evidence.value == pytest.approx(np.log(22.4), abs=0.02)


@pytest.mark.slow
def test_it_learns_from_objects_of_a_buffer_and_counts_the_rewards_of_their_search(unoptimized):
    gflownet = GFlowNet(
        objective=samplers.SubTrajectoryBalance(),
        policy=samplers.TabularPolicy(),
        backward=samplers.LearnedBackward(),
        num_updates=301,
        num_paths=32,
        learning_rate=0.1,
        revisit=samplers.Revisit(every=3, capacity=40, num_rounds=2),
    )
    small = Hypergrid(2, 4)
    draws = ppl.sample(gflownet, small, rng_key=0, num_samples=500, progress=False)
    graph = state_graph(small)
    law = terminal_law(draws.sampler, small, graph)
    assert total_variation(law, graph.exact_law()) < 0.02
    # Two updates of three build 32 objects, the third looks at 2 x 32; draws come 512 at a time.
    assert draws.num_evaluations == (201 * 32 + 100 * 64 + 512, 0)


# Bad input -------------------------------------------------------------------------------------


class Barren(Hypergrid):
    """No reward anywhere."""

    def log_density(self, position):
        return jnp.full((), -jnp.inf)


def test_a_reward_of_zero_everywhere_is_said(unoptimized):
    gflownet = GFlowNet(policy=samplers.TabularPolicy(), num_updates=3, num_paths=4)
    with pytest.raises(ppl.TargetError, match="every object that was built had a reward of zero"):
        ppl.sample(gflownet, Barren(2, 3), progress=False)


class Plain(ppl.environment.Environment):
    """An environment that gives only what it must: bits, one after the other."""

    num_actions, max_length = 2, 3

    @property
    def template(self):
        return jax.ShapeDtypeStruct((3,), jnp.int32)

    def initial(self):
        return jnp.full(3, -1)

    def log_density(self, position):
        return jnp.zeros(())

    def forward_mask(self, state):
        full = state[-1] >= 0
        return jnp.stack([~full, ~full, full])

    def backward_mask(self, state):
        last = state[jnp.maximum(jnp.sum(state >= 0) - 1, 0)]
        return last == jnp.arange(2)

    def apply(self, state, action):
        return state.at[jnp.sum(state >= 0)].set(action)

    def undo(self, state, action):
        return state.at[jnp.sum(state >= 0) - 1].set(-1)


REFUSED = {
    "a small buffer": (
        {"revisit": samplers.Revisit(capacity=63)},
        "must hold the 64 objects of an update at least; got capacity=63",
    ),
    "needs an index": ({"policy": samplers.TabularPolicy()}, "Plain has no index"),
    "needs ways": ({"backward": samplers.MaxEntBackward()}, "Plain has no log_num_paths"),
    "needs energies": (
        {"objective": samplers.DetailedBalance(), "forward_looking": True},
        r"asks for partial_energy\(state\), and Plain has none",
    ),
    "has no flows": ({"forward_looking": True}, "flows of states, and TrajectoryBalance has none"),
    "needs whole paths": (
        {"incomplete": 0.5},
        "TrajectoryBalance needs complete paths, and incomplete=0.5 cuts",
    ),
    "needs whole paths too": (
        {"incomplete": 1, "objective": samplers.VarGrad()},
        "VarGrad needs complete paths",
    ),
    "explores": (
        {"objective": ReverseKL(reparametrized=False)},
        "ReverseKL asks for forward paths alone",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_do_is_refused_before_it_compiles(what):
    options, message = REFUSED[what]
    with pytest.raises(ppl.TargetError, match=message):
        ppl.sample(GFlowNet(**options), Plain(), progress=False)


def test_a_target_that_is_no_environment_is_refused():
    target = ppl.from_log_density(lambda x: -x @ x, jnp.zeros(2))
    with pytest.raises(ppl.TargetError, match="environment"):
        ppl.sample(GFlowNet(), target, progress=False)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="num_paths must be an integer, at least 2; got 1"):
        GFlowNet(num_paths=1)
    with pytest.raises(ValueError, match="exploration must be a number from 0 to 1; got 2"):
        GFlowNet(exploration=2)
    with pytest.raises(ValueError, match="uphill must be True or False; got 'yes'"):
        samplers.Revisit(uphill="yes")
    with pytest.raises(ValueError, match="width must be a multiple of num_heads; got 10 and 4"):
        samplers.TransformerPolicy(width=10)


def test_the_plain_environment_is_right():
    assert ppl.environment.check(Plain()) == (15, True)


class Trapped(Hypergrid):
    """A cell without a way out."""

    def forward_mask(self, state):
        return super().forward_mask(state) & ~jnp.all(state == 1)


class Looped(Hypergrid):
    """Every move leads to where building began, and it may not stop there."""

    def forward_mask(self, state):
        return jnp.array([True, True, False])

    def apply(self, state, action):
        return state * 0


BROKEN = {
    "no move": (Trapped(2, 3), r"forward_mask leaves no move at the state \[1, 1\], nor the stop"),
    "a loop": (
        Looped(2, 3),
        r"a way is longer than max_length = 4, as in a loop; it is at \[0, 0\]",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_ways_that_do_not_end_are_said_before_training(what, unoptimized):
    broken, message = BROKEN[what]
    with pytest.raises(ppl.TargetError, match=message):
        ppl.sample(GFlowNet(policy=samplers.TabularPolicy()), broken, progress=False)


class Rare(Hypergrid):
    """A cell without a way out at the end of a long way."""

    def forward_mask(self, state):
        return super().forward_mask(state) & ~jnp.all(state == jnp.array([0, self.side - 1]))


@pytest.mark.slow
def test_paths_that_do_not_end_are_said_after_training_if_not_before(unoptimized):
    gflownet = GFlowNet(policy=samplers.TabularPolicy(), num_updates=200, exploration=1.0)
    with pytest.raises(ppl.TargetError, match="paths of the training did not end in an object"):
        ppl.sample(gflownet, Rare(2, 9), progress=False)


class Undefined(Hypergrid):
    """A reward that is not a number, and one that is infinite."""

    def log_density(self, position):
        far = jnp.where(jnp.all(position == 2), jnp.inf, 0.0)
        return jnp.where(jnp.all(position == 0), jnp.nan, far)


def test_rewards_that_are_none_are_counted_and_have_no_weight(unoptimized):
    gflownet = GFlowNet(policy=samplers.TabularPolicy(), num_updates=3, num_paths=32)
    draws = ppl.sample(gflownet, Undefined(2, 3), num_samples=200, progress=False)
    assert draws.history["num_illegal"].sum() > 0
    assert np.isfinite(draws.history["loss"]).all()
    assert any("is NaN or +inf; they counted as without a reward" in x for x in draws.run.notes)
    nothing = np.all(draws["x"][0] == 0, axis=1)
    assert nothing.any()
    assert not np.isfinite(draws.log_weights[0][nothing]).any()
    assert np.isfinite(draws.log_evidence.value)


@pytest.mark.slow
def test_a_kernel_moves_the_objects_of_a_buffer_and_is_counted(unoptimized):
    revisit = samplers.Revisit(capacity=8, num_rounds=5, kernel=samplers.SiteMetropolis(8))
    start = random.randint(random.key(0), (8, 2), 0, 8)
    rewards = jax.vmap(GRID.log_density)(start)
    buffer = replay.insert(revisit.empty(GRID), start, rewards, jnp.ones(8, bool))
    backward = samplers.UniformBackward()
    paths, log_reward, after, cost = eqx.filter_jit(revisit.paths)(
        random.key(1), GRID, Even(), backward, buffer, 6
    )
    np.testing.assert_allclose(log_reward, jax.vmap(GRID.log_density)(paths.objects), rtol=1e-6)
    assert cost == 6 * 7  # the start, five steps, and where they lead
    kept = {tuple(x) for x in np.asarray(after.items).tolist()}
    arrived = {tuple(x) for x in np.asarray(paths.objects).tolist()}
    assert arrived <= kept
    assert arrived - {tuple(x) for x in np.asarray(start).tolist()}


def test_a_kernel_that_cannot_move_objects_is_refused():
    with pytest.raises(TypeError, match="kernel must be a Markov kernel"):
        samplers.Revisit(kernel="walk", num_rounds=3)
    with pytest.raises(ValueError, match="makes num_rounds steps, by its own rule"):
        samplers.Revisit(kernel=samplers.SiteMetropolis(8))
    walk = samplers.Revisit(kernel=samplers.RandomWalk(), num_rounds=3)
    with pytest.raises(ppl.TargetError, match="RandomWalk"):
        ppl.sample(GFlowNet(revisit=walk), GRID, progress=False)
