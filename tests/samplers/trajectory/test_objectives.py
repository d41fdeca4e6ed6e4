"""Objectives on a graph that is small enough to list every path: a 3 x 3 grid with a stop action.

Expectations over paths are sums over all nineteen of them, and those over batches sums over all
pairs and triples, so that the identities between gradients hold to rounding.
"""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.flatten_util import ravel_pytree

from samplers.trajectory import objectives
from samplers.trajectory.objectives import (
    DetailedBalance,
    ForwardKL,
    ReverseKL,
    Scores,
    SubTrajectoryBalance,
    TrajectoryBalance,
    VarGrad,
    fl_shift,
    log_weights,
    residuals,
)

pytestmark = pytest.mark.usefixtures("unoptimized")

SIDE, STOP = 3, 2
LONGEST = 2 * SIDE - 1  # four increments and the stop
REWARD = np.array([[0.2, 1.0, 0.5], [2.0, 0.1, 0.7], [1.5, 0.3, 3.0]])
LOG_Z = np.log(REWARD.sum())
LEGAL = np.array([[[i < 2, j < 2, True] for j in range(SIDE)] for i in range(SIDE)])
PARENTS = np.array([[[i > 0, j > 0] for j in range(SIDE)] for i in range(SIDE)])


def all_paths():
    """States (path, T+1, 2), actions (path, T), lengths (path,); padded with the last state."""
    found, open_ends = [], [([(0, 0)], [])]
    while open_ends:
        states, actions = open_ends.pop()
        i, j = states[-1]
        found.append(([*states, (i, j)], [*actions, STOP]))
        if i < 2:
            open_ends.append(([*states, (i + 1, j)], [*actions, 0]))
        if j < 2:
            open_ends.append(([*states, (i, j + 1)], [*actions, 1]))
    lengths = np.array([len(actions) for _, actions in found])
    states = [s + [s[-1]] * (LONGEST + 1 - len(s)) for s, _ in found]
    actions = [a + [STOP] * (LONGEST - len(a)) for _, a in found]
    return np.array(states), np.array(actions), lengths


STATES, ACTIONS, LENGTHS = all_paths()


def test_there_are_nineteen_paths():
    assert len(LENGTHS) == 19


def tables(rng_key, dtype=float):
    """Random logits of P_F and P_B, a random flow of each cell, a random log Z."""
    keys = random.split(rng_key, 4)
    cells = (SIDE, SIDE)
    return {
        "forward": random.normal(keys[0], (*cells, 3), dtype),
        "backward": random.normal(keys[1], (*cells, 2), dtype),
        "flow": random.normal(keys[2], cells, dtype),
        "log_z": random.normal(keys[3], (), dtype),
    }


def score(tables, states=STATES, actions=ACTIONS, lengths=LENGTHS):
    """Scores of paths under tables; what is beyond the end of a path is rubbish on purpose."""
    states, actions = jnp.swapaxes(jnp.asarray(states), 0, 1), jnp.asarray(actions).T
    i, j = states[..., 0], states[..., 1]
    at, to = (i[:-1], j[:-1]), (i[1:], j[1:])
    forward = jax.nn.log_softmax(jnp.where(LEGAL, tables["forward"], -1e9))
    backward = jax.nn.log_softmax(jnp.where(PARENTS, tables["backward"], -1e9))
    log_pf = forward[(*at, actions)]
    log_pb = jnp.where(actions == STOP, 0.0, backward[(*to, jnp.minimum(actions, 1))])
    mask = jnp.arange(LONGEST)[:, None] < jnp.asarray(lengths)[None]
    log_flow = tables["flow"][i, j].at[0].set(tables["log_z"])
    log_reward = jnp.log(REWARD)[i[-1], j[-1]]
    zeros, ones = jnp.zeros(mask.shape[1]), jnp.ones(mask.shape[1], bool)
    log_pf, log_pb = (jnp.where(mask, x, jnp.nan) for x in (log_pf, log_pb))
    return Scores(log_pf, log_pb, log_flow, log_reward, zeros, mask, ones)


def exact_tables(backward):
    """Flows from the far corner back to the source, and the P_F they make."""
    log_pb = jax.nn.log_softmax(jnp.where(PARENTS, backward, -1e9))
    flow = np.zeros((SIDE + 1, SIDE + 1))
    forward = np.full((SIDE, SIDE, 3), -1e9)
    for i, j in sorted(product(range(SIDE), range(SIDE)), reverse=True):
        edges = [
            flow[i + 1, j] * np.exp(log_pb[i + 1, j, 0]) if i < 2 else 0.0,
            flow[i, j + 1] * np.exp(log_pb[i, j + 1, 1]) if j < 2 else 0.0,
            REWARD[i, j],
        ]
        flow[i, j] = sum(edges)
        forward[i, j] = np.log(np.maximum(edges, 1e-300)) - np.log(flow[i, j])
    assert flow[0, 0] == pytest.approx(REWARD.sum(), abs=1e-12)
    log_flow = np.log(flow[:SIDE, :SIDE])
    return {
        "forward": jnp.asarray(forward),
        "backward": backward,
        "flow": jnp.asarray(log_flow),
        "log_z": jnp.asarray(LOG_Z),
    }


def take(scores, chosen):
    """The paths with these numbers."""
    return jax.tree.map(lambda x: x[..., jnp.asarray(chosen)], scores)


ALL = {
    "TB": TrajectoryBalance(),
    "VarGrad": VarGrad(),
    "DB": DetailedBalance(),
    "SubTB": SubTrajectoryBalance(0.9),
    "SubTB(2)": SubTrajectoryBalance(2.0),
}


# Exact flows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backward", ["uniform", "random"])
def test_exact_flows_make_every_objective_vanish(x64, backward):
    logits = tables(random.key(0))["backward"] * (backward == "random")
    scores = score(exact_tables(logits))
    np.testing.assert_allclose(log_weights(scores), LOG_Z, atol=1e-12)
    np.testing.assert_allclose(residuals(scores), 0, atol=1e-12)
    for name, objective in ALL.items():
        assert objective(scores) < 1e-20, name
    # KL itself is zero: what is left of both divergences is log Z and an entropy.
    assert ReverseKL()(scores) == pytest.approx(-LOG_Z)


@pytest.mark.parametrize("name", ALL)
def test_a_wrong_reward_or_kernel_is_seen_by_every_objective(x64, name):
    right = score(exact_tables(jnp.zeros((SIDE, SIDE, 2))))
    worse = right._replace(log_reward=right.log_reward + 0.1 * jnp.arange(19.0))
    assert ALL[name](worse) > 1e-3
    worse = right._replace(log_pf=right.log_pf.at[0].add(jnp.linspace(0, 0.5, 19)))
    assert ALL[name](worse) > 1e-3


def test_at_the_optimum_the_gradient_of_every_batch_is_zero(x64):
    """Zero variance at the optimum: off-policy losses and reverse KL with states as data."""
    exact = exact_tables(jnp.zeros((SIDE, SIDE, 2)))
    for objective in (*ALL.values(), ReverseKL()):

        def loss(forward, objective=objective):
            return objective(take(score(exact | {"forward": forward}), [0, 3, 7]))

        np.testing.assert_allclose(jax.grad(loss)(exact["forward"]), 0, atol=1e-12)


def test_log_weights_average_to_z_whatever_the_kernels(x64):
    scores = score(tables(random.key(1)))
    probability = np.exp(np.where(scores.mask, scores.log_pf, 0).sum(0))
    assert probability.sum() == pytest.approx(1)
    assert probability @ np.exp(log_weights(scores)) == pytest.approx(REWARD.sum())


# Gradients: sums over all batches ----------------------------------------------------------------


def expected_gradient(objective, params, size, forward_only, law="forward"):
    """Of E objective over batches of ``size`` paths of the forward law, states as data."""
    fixed = score(params)
    log_p = jnp.sum(jnp.where(fixed.mask, fixed.log_pf, 0), 0)
    log_p = log_p if law == "forward" else jnp.full(19, -jnp.log(19.0))
    batches = jnp.array(list(product(range(19), repeat=size)))
    probability = jnp.exp(jnp.sum(log_p[batches], 1))

    def loss(part):
        scores = score(params | part)
        return probability @ jax.vmap(lambda batch: objective(take(scores, batch)))(batches)

    names = ["forward"] if forward_only else ["backward"]
    return ravel_pytree(jax.grad(loss)({n: params[n] for n in names}))[0]


def kl_gradient(params, names):
    """Of sum_path P_F (-w), by differentiating the sum itself."""

    def kl(part):
        scores = score(params | part)
        log_p = jnp.sum(jnp.where(scores.mask, scores.log_pf, 0), 0)
        return -jnp.exp(log_p) @ log_weights(scores)

    return ravel_pytree(jax.grad(kl)({n: params[n] for n in names}))[0]


@pytest.fixture(scope="module")
def params():
    with jax.enable_x64(True):
        return tables(random.key(2))


def test_on_policy_tb_has_twice_the_gradient_of_reverse_kl_whatever_log_z(x64, params):
    expected = 2 * kl_gradient(params, ["forward"])
    assert np.linalg.norm(expected) > 0.1
    for log_z in (0.0, 5.0):
        moved = params | {"log_z": jnp.asarray(log_z)}
        gradient = expected_gradient(TrajectoryBalance(), moved, 1, forward_only=True)
        np.testing.assert_allclose(gradient, expected, atol=1e-10)


def test_off_policy_it_has_another(x64, params):
    gradient = expected_gradient(TrajectoryBalance(), params, 1, forward_only=True, law="uniform")
    assert np.linalg.norm(gradient - 2 * kl_gradient(params, ["forward"])) > 0.1


@pytest.mark.parametrize("size", [2, 3])
def test_vargrad_has_that_gradient_times_one_minus_one_over_the_batch(x64, params, size):
    expected = (size - 1) / size * 2 * kl_gradient(params, ["forward"])
    gradient = expected_gradient(VarGrad(), params, size, forward_only=True)
    np.testing.assert_allclose(gradient, expected, atol=1e-10)


@pytest.mark.parametrize("size", [1, 2])
def test_the_log_derivative_gradient_of_reverse_kl_is_unbiased(x64, params, size):
    objective = ReverseKL()
    for forward_only, names in ((True, ["forward"]), (False, ["backward"])):
        gradient = expected_gradient(objective, params, size, forward_only)
        np.testing.assert_allclose(gradient, kl_gradient(params, names), atol=1e-10)


def test_for_a_learned_backward_kernel_tb_and_reverse_kl_differ(x64, params):
    gradient = expected_gradient(TrajectoryBalance(), params, 1, forward_only=False)
    assert np.linalg.norm(gradient - 2 * kl_gradient(params, ["backward"])) > 0.1


def test_the_log_derivative_form_has_the_value_of_the_other(x64, params):
    scores = score(params)
    value = ReverseKL()(scores)
    assert value == pytest.approx(float(ReverseKL(reparametrized=True)(scores)))


def test_forward_kl_is_the_cross_entropy_of_paths(x64, params):
    scores = score(params)
    log_p = np.where(scores.mask, scores.log_pf, 0).sum(0)
    assert ForwardKL()(scores) == pytest.approx(-log_p.mean())


def test_vargrad_does_not_see_a_constant_in_the_reward(x64, params):
    loss = lambda forward, c: VarGrad()(
        (s := score(params | {"forward": forward}))._replace(log_reward=s.log_reward + c)
    )
    for fn in (loss, jax.grad(loss)):
        here, there = fn(params["forward"], 0.0), fn(params["forward"], 7.0)
        np.testing.assert_allclose(here, there, atol=1e-10)
    tb = lambda c: TrajectoryBalance()((s := score(params))._replace(log_reward=s.log_reward + c))
    assert abs(tb(0.0) - tb(7.0)) > 1


# Forward-looking, subtrajectories, windows -------------------------------------------------------


@pytest.mark.parametrize("name", ["DB", "SubTB"])
def test_forward_looking_is_the_same_loss_with_shifted_flows(x64, params, name):
    """Ftilde = F / e^a in tables: equal losses and equal gradients after the shift."""
    objective = ALL[name]
    a = random.normal(random.key(3), (SIDE, SIDE)).at[0, 0].set(0.0)
    i, j = np.swapaxes(STATES, 0, 1)[..., 0], np.swapaxes(STATES, 0, 1)[..., 1]

    def plain(flow):
        return objective(score(params | {"flow": flow}))

    def looking(tilde, sign=1.0):
        return objective(fl_shift(score(params | {"flow": tilde}), sign * a[i, j]))

    flow = params["flow"]
    np.testing.assert_allclose(looking(flow - a), plain(flow), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(looking)(flow - a), jax.grad(plain)(flow), atol=1e-12)
    assert abs(looking(flow - a, -1.0) - plain(flow)) > 0.1


def by_hand(scores, weight):
    """Weighted mean of squared D over the pieces of each path, in plain loops."""
    lengths, total = np.sum(scores.mask, 0), 0.0
    for b, length in enumerate(lengths):
        flow = np.array(scores.log_flow[: length + 1, b])
        if scores.complete[b]:
            flow[length] = scores.log_reward[b]
        steps = np.array((scores.log_pb - scores.log_pf)[:length, b])
        top = bottom = 0.0
        for i in range(length):
            for j in range(i + 1, length + 1):
                residual = flow[i] - flow[j] - steps[i:j].sum()
                top += weight(j - i) * residual**2
                bottom += weight(j - i)
        total += top / bottom / len(lengths)
    return total


@pytest.mark.parametrize("lam", [0.5, 0.9, 2.0])
def test_subtrajectory_balance_is_the_sum_over_all_pieces(x64, params, lam):
    scores = score(params)
    scores = scores._replace(complete=scores.complete.at[4].set(False))
    expected = by_hand(scores, lambda gap: lam**gap)
    assert SubTrajectoryBalance(lam)(scores) == pytest.approx(expected, rel=1e-10)


def test_its_limits_are_detailed_and_trajectory_balance(x64, params):
    scores = score(params)
    assert SubTrajectoryBalance(1e-12)(scores) == pytest.approx(float(DetailedBalance()(scores)))
    assert SubTrajectoryBalance(1e12)(scores) == pytest.approx(float(TrajectoryBalance()(scores)))


def test_a_large_base_on_long_paths_does_not_overflow():
    log_pf, log_pb, flow = jnp.split(random.normal(random.key(0), (901, 2)), [300, 600])
    ends, mask = jnp.zeros(2), jnp.ones((300, 2), bool)
    scores = Scores(log_pf, log_pb, flow, ends, ends, mask, jnp.ones(2, bool))
    for lam in (0.5, 2.0, 10.0):
        assert np.isfinite(SubTrajectoryBalance(lam)(scores))


def test_windows_of_exact_paths_balance_and_the_reward_is_not_read(x64):
    exact = exact_tables(jnp.zeros((SIDE, SIDE, 2)))
    scores = score(exact)
    scores = scores._replace(
        mask=scores.mask.at[2:].set(False),
        complete=scores.complete & (LENGTHS <= 2),
        log_reward=jnp.where(LENGTHS <= 2, scores.log_reward, jnp.nan),
    )
    for objective in (DetailedBalance(), SubTrajectoryBalance(0.9)):
        assert objective(scores) < 1e-20
        assert np.isnan(objective(scores._replace(complete=jnp.ones(19, bool))))


def test_incomplete_paths_are_refused_or_left_out():
    scores = score(tables(random.key(4)))
    part = scores._replace(
        complete=scores.complete.at[0].set(False), log_reward=scores.log_reward.at[0].set(jnp.nan)
    )
    for objective in (TrajectoryBalance(), VarGrad(), ReverseKL(), ForwardKL()):
        with pytest.raises(ValueError, match=r"got 1 incomplete of 19. Write DetailedBalance"):
            objective(part)
        traced = jax.jit(objective)(part)
        np.testing.assert_allclose(traced, objective(take(scores, range(1, 19))), rtol=1e-5)


def test_padding_never_makes_a_gradient_nan():
    """The scores beyond the end of a path are NaN here; no value and no gradient sees them."""
    params = tables(random.key(5))
    for objective in (*ALL.values(), ReverseKL(), ReverseKL(reparametrized=True), ForwardKL()):
        gradient = jax.grad(lambda p, objective=objective: objective(score(p)))(params)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_objectives_say_what_they_ask_for():
    assert (TrajectoryBalance().flow, VarGrad().flow) == ("source", "none")
    assert (DetailedBalance().takes_windows, TrajectoryBalance().takes_windows) == (True, False)
    assert ReverseKL(reparametrized=True).through_states
    assert not ReverseKL().through_states
    assert (ReverseKL().law, ForwardKL().law) == ("forward", "backward")


def test_bad_fields_are_refused():
    with pytest.raises(ValueError, match="lam must be a positive number; got -1"):
        SubTrajectoryBalance(-1)
    with pytest.raises(ValueError, match="reparametrized must be True or False; got 'no'"):
        ReverseKL(reparametrized="no")  # pyright: ignore[reportArgumentType]


def test_scores_do_not_depend_on_how_the_functions_are_named():
    """The modules are the functions: a GFlowNet and a diffusion sampler import either."""
    scores = score(tables(random.key(6)))
    assert TrajectoryBalance()(scores) == objectives.trajectory_balance(scores)
    assert VarGrad()(scores) == objectives.vargrad(scores)
