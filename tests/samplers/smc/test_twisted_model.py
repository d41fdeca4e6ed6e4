"""The model of twisted SMC on all sequences: its proposal is a law, its weights telescope."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from samplers.smc import twisted_model
from samplers.smc.twisted_model import Twist, TwistedModel

pytestmark = pytest.mark.usefixtures("unoptimized")

# A chain of three states, three long; phi looks at the last one.
START = np.array([0.5, 0.3, 0.2])
MOVE = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6]])
LAST = np.array([0.02, 0.1, 1.0])
BEST = np.stack([MOVE @ MOVE @ LAST, MOVE @ LAST, LAST])
POOR = np.array([[1.0, 1.0, 1.0], [0.3, 0.5, 1.0], [9.0, 9.0, 9.0]])  # of phi nothing is believed
ALL = jnp.asarray(list(itertools.product(range(3), repeat=3)), jnp.int32)


def after(params, tokens):
    """Row t of a table of what follows what; its row 0 begins."""
    return params[jnp.concatenate([jnp.zeros(1, jnp.int32), tokens[:-1] + 1])]


PRIOR = ppl.SequenceModel(after, np.log(np.vstack([START, MOVE])), 3)
TARGET = ppl.tilt(PRIOR, lambda tokens, log_last: log_last[tokens[-1]], np.log(LAST))


@eqx.filter_jit
def along(log_psi, *, twisted_proposal=True, variant="right"):
    """Log p / q, the log-weight of a run along it, and log p phi of every sequence."""
    twist = Twist(lambda params, tokens: params, None, log_psi)
    model = TwistedModel(TARGET, twist, twisted_proposal)

    def one(tokens):
        log_ratio, _ = model.along(tokens)
        path = model.path(tokens)
        before = jax.tree.map(lambda x: x[:-1, None], path)
        then = jax.tree.map(lambda x: x[1:, None], path)
        steps = jax.vmap(model.log_potential)(before, then, model.places)
        return log_ratio.sum(), steps.sum(), TARGET.log_density(tokens)

    return jax.vmap(one)(ALL)


@pytest.mark.parametrize("twisted_proposal", [True, False])
def test_the_proposal_is_a_law_and_weights_are_what_it_leaves_of_the_target(twisted_proposal):
    log_ratio, log_w, log_target = along(np.log(POOR), twisted_proposal=twisted_proposal)
    log_phi = np.log(LAST)[ALL[:, -1]]
    log_q = log_target - log_phi - log_ratio
    np.testing.assert_allclose(np.exp(log_q).sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(log_w, log_target - log_q, atol=1e-5)
    assert twisted_proposal == (np.std(log_ratio) > 0.1)


def test_with_the_best_twists_all_weights_are_z():
    np.testing.assert_allclose(along(np.log(BEST))[1], np.log(START @ BEST[0]), atol=1e-5)


def test_a_step_that_forgets_the_twist_before_is_caught(monkeypatch):
    monkeypatch.setattr(twisted_model, "_step", lambda before, after: after.log_twist)
    assert np.ptp(along(np.log(BEST), variant="forgets")[1]) > 0.5
