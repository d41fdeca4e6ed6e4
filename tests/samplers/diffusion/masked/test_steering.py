"""Steered reveals have the law and the Z of the tilted table; without their weights they do not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random

import ppl
import samplers
from agreement import t_limit, t_scores
from ppl.sampler import where
from samplers.smc import feynman_kac as fk
from token_laws import probabilities, table

pytestmark = pytest.mark.usefixtures("unoptimized")
RUNS = 32
LIMIT = t_limit(100, RUNS - 1)


def reward(tokens):
    """Likes 2 at the ends, and neighbors that differ; no gradient."""
    ends = (tokens[0] == 2) + (tokens[-1] == 2)
    return 1.2 * ends + 0.8 * jnp.sum(tokens[1:] != tokens[:-1])


PRIOR = table(3)
SHAPE = PRIOR.log_table.shape
TARGET = ppl.tilt(PRIOR, reward)
TILTED = PRIOR.tilted(reward)
LAW, BEFORE = probabilities(TILTED), probabilities(PRIOR)
LOG_Z = float(TILTED.log_normalizer - PRIOR.log_normalizer)
STATISTICS = np.stack(  # of all sequences: ones at each place, equal neighbors, and the reward
    [*(TILTED.sequences == 2).T, (TILTED.sequences[:, 1:] == TILTED.sequences[:, :-1]).sum(1)]
    + [np.asarray(jax.vmap(reward)(jnp.asarray(TILTED.sequences)))]
).astype(np.float32)


class SoftValue(eqx.Module):
    """Log E[exp(r) | tokens], from the table."""

    def __call__(self, tokens):
        masked = tokens == 3
        fits = jnp.all((TILTED.sequences == tokens) | masked, axis=1)
        over = lambda log_p: jax.nn.logsumexp(jnp.where(fits, log_p.ravel(), -jnp.inf))
        return over(TILTED.log_table) - over(PRIOR.log_table)


@eqx.filter_jit
def run_side_by_side(model, n, threshold, drops):
    def step(population, at):
        key, row = at
        forgotten = population._replace(log_weights=jnp.zeros_like(population.log_weights))
        low = fk.is_low(population, threshold)
        population = where(drops & ~low, forgotten, population)
        population, info = fk.step(key, model, population, row, fk.Resampler(threshold))
        return population, info.resampled

    def one(key):
        key_start, key_steps = random.split(key)
        population = fk.begin(*model.start(key_start, n))
        rows = model.steps
        at = (random.split(key_steps, len(rows.index)), rows)
        population, resampled = lax.scan(step, population, at)
        w = jax.nn.softmax(population.log_weights)
        tokens = population.particles.tokens
        number = jnp.ravel_multi_index(tuple(tokens.T), SHAPE, mode="clip")
        means = jnp.asarray(STATISTICS)[:, number] @ w
        z = jnp.exp(fk.log_evidence(population) - LOG_Z)
        return jnp.append(means, z), jnp.mean(resampled)

    return lax.map(one, random.split(random.key(0), RUNS))


def runs(sampler, threshold=0.0, n=400, *, drops=False):
    """Weighted means of the statistics, and Z over the truth, of independent runs.

    With ``drops`` weights are forgotten where none resamples.
    """
    found, resampled = run_side_by_side(
        sampler.on_levels(TARGET), n, jnp.asarray(threshold), jnp.asarray(drops)
    )
    assert drops or threshold == 0 or 0 < jnp.mean(resampled) < 1, jnp.mean(resampled)
    return found


def scores(found, law=LAW):
    """Of the means and of Z, which is unbiased."""
    return t_scores(np.asarray(found), np.append(STATISTICS @ law, 1.0))


# Each with an ESS, as a share, below which to resample: some steps do, and some carry weights on.
STEERED = {
    "difference": (samplers.MaskedFKSteering(), 0.8),
    "max": (samplers.MaskedFKSteering(potential="max"), 0.8),
    "sparse": (samplers.MaskedFKSteering(every=2), 0.9),
    "soft": (samplers.MaskedFKSteering(value=SoftValue()), 0.9),
    "nested": (samplers.MaskedNestedSVDD(num_candidates=3), 0.9),
    "nested, soft": (samplers.MaskedNestedSVDD(num_candidates=3, value=SoftValue()), 0.99),
}
FAST = ("difference", "nested")


@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in STEERED],
)
def test_the_law_is_the_tilted_one_and_z_is_unbiased(name):
    found = scores(runs(*STEERED[name]))
    assert np.max(np.abs(found)) < LIMIT, found


@pytest.mark.parametrize("name", FAST)
def test_dropped_weights_are_caught(name):
    assert np.max(np.abs(scores(runs(*STEERED[name], drops=True))[:-1])) > LIMIT


@pytest.mark.slow
def test_candidates_without_weights_are_another_law_than_either():
    found = runs(samplers.MaskedSVDD(num_candidates=3))
    assert np.max(np.abs(scores(found)[:-1])) > LIMIT
    assert np.max(np.abs(scores(found, BEFORE)[:-1])) > LIMIT


@pytest.mark.slow
def test_one_candidate_is_the_prior_and_many_with_the_soft_value_the_tilted_law():
    one = runs(samplers.MaskedSVDD(num_candidates=1))
    assert np.max(np.abs(scores(one, BEFORE)[:-1])) < LIMIT
    errors = {}
    for m in (4, 16):
        sampler = samplers.MaskedSVDD(num_candidates=m, value=SoftValue())
        errors[m] = np.asarray(runs(sampler, n=2000))[:, -2] - STATISTICS[-1] @ LAW
    # M times the error of the mean reward is the same, but for what is of second order.
    ratio = errors[16].mean() / errors[4].mean()
    noise = errors[16].std(ddof=1) / np.sqrt(RUNS) / abs(errors[4].mean())
    assert abs(ratio - 0.25) < LIMIT * noise + 0.05, (ratio, noise)


@pytest.mark.slow
def test_a_run_gives_weighted_sequences_and_counts_what_it_asked():
    sampler = samplers.MaskedFKSteering(num_particles=8)
    draws = ppl.sample(sampler, TARGET, progress=False)
    assert draws["x"].shape == (1, 8, 3)
    assert draws["x"].max() < 3
    assert draws.log_weights.shape == (1, 8)
    assert draws.log_evidence.std_error > 0
    assert draws.num_evaluations == (8 * 3, 8 * 3 + 1)


@pytest.mark.slow
def test_a_biased_run_has_no_weights_and_counts_all_candidates():
    sampler = samplers.MaskedSVDD(num_particles=8, num_candidates=3, tokens_per_step=2)
    draws = ppl.sample(sampler, TARGET, progress=False)
    assert draws.num_evaluations == (8 * 3 * 2, 8 * 3 * 2 + 1)
    assert draws.log_weights is None
    assert draws.log_evidence is None
    assert draws["x"].max() < 3


# Refusals ---------------------------------------------------------------------------------------


def test_a_reward_on_something_else_is_refused():
    other = ppl.tilt(ppl.energy.distributions.Normal(0, 1), lambda x: x)
    with pytest.raises(ppl.energy.TargetError, match=r"samplers\.MaskedPrior"):
        ppl.sample(samplers.MaskedFKSteering(), other, progress=False)


def test_a_reward_that_is_no_number_is_refused():
    nan = ppl.tilt(PRIOR, lambda tokens: jnp.where(tokens[0] < 3, jnp.nan, 0.0))
    with pytest.raises(ppl.energy.TargetError, match=r"the reward is nan at the first sequence th"):
        ppl.sample(samplers.MaskedSVDD(), nan, progress=False)


@pytest.mark.slow
def test_a_reward_that_rules_everything_out_is_reported():
    never = ppl.tilt(PRIOR, lambda tokens: jnp.where(tokens[0] < 3, -jnp.inf, 0.0))
    with pytest.raises(
        ppl.energy.TargetError, match="no particle has any weight. The reward is -inf"
    ):
        ppl.sample(samplers.MaskedNestedSVDD(num_particles=4), never, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tokens_per_step": 5},
            "at most the length of a sequence, 3; got 5",
        ),
        ({"potential": "best"}, r"potential must be one of \['difference', 'max', 'sum'\]"),
        ({"resampling": "best"}, "the resampling scheme must be one of"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ppl.sample(samplers.MaskedFKSteering(**options), TARGET, progress=False)
