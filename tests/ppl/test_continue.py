"""``init=draws``: a run goes on from earlier draws, with the sampler they tuned."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import samplers
from agreement import Reference, disagreements
from ppl.energy import TargetError

pytestmark = pytest.mark.usefixtures("unoptimized")

SCALES = np.array([1.0, 20.0])
TARGET = ppl.from_log_density(
    lambda x, scales: -0.5 * jnp.sum((x / scales) ** 2), jnp.zeros(2), SCALES
)
OPTIONS: dict[str, Any] = {"progress": False, "num_chains": 4}


@pytest.fixture(scope="module")
def first():
    return ppl.sample(samplers.NUTS(), TARGET, num_warmup=300, num_samples=400, **OPTIONS)


def further(draws, **changes):
    options: dict[str, Any] = {"num_warmup": 0, "num_samples": 400, **OPTIONS} | changes
    return ppl.sample(draws.sampler, TARGET, init=draws, **options)


def test_the_tuned_sampler_goes_on_with_its_program_and_stays_as_it_is(first, compilations):
    with compilations() as count:
        second = further(first)
    assert not [name for name in count.traced if name in ("_chunk", "one_step", "_end_chunk")]
    assert not count.of("_chunk")
    for before, after in zip(*map(jax.tree.leaves, (first.sampler, second.sampler)), strict=True):
        np.testing.assert_array_equal(before, after)
    assert "warmup" not in second.run.seconds
    assert second.run.num_warmup == 0
    assert second["x"].shape == (4, 400, 2)


@pytest.mark.slow
def test_both_parts_together_are_one_long_run(first):
    second = third = further(first)
    third = further(second)
    whole = np.concatenate([first["x"], second["x"], third["x"]], axis=1)
    names = {"x0": whole[..., 0], "x1": whole[..., 1]}
    references = {"x0": Reference(0, 1.0), "x1": Reference(0, 20.0)}
    assert disagreements(names, references) == []


def test_the_first_step_starts_where_the_chain_ended():
    """A random walk of tiny steps: nothing jumps at the seam, and chains stay apart."""
    walk = samplers.RandomWalk(step_size=1e-3)
    options: dict[str, Any] = {"num_warmup": 0, "num_samples": 20, **OPTIONS}
    first = ppl.sample(walk, TARGET, **options)
    second = ppl.sample(first.sampler, TARGET, init=first, **options)
    assert np.abs(second["x"][:, 0] - first["x"][:, -1]).max() < 0.01
    assert np.abs(second["x"][:, 0] - first["x"][::-1, -1]).max() > 0.1


def test_random_numbers_are_new_with_the_same_key():
    """With the same noise the second part would be the first one, moved."""
    walk = samplers.RandomWalk(step_size=1e-3)
    options: dict[str, Any] = {"num_warmup": 0, "num_samples": 50, **OPTIONS}
    first = ppl.sample(walk, TARGET, **options)
    second = ppl.sample(walk, TARGET, init=first, **options)
    third = ppl.sample(walk, TARGET, init=second, **options)
    steps = [np.diff(d["x"], axis=1).ravel() for d in (first, second, third)]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert abs(np.corrcoef(steps[one], steps[other])[0, 1]) < 0.3
    again = ppl.sample(walk, TARGET, init=first, **options)
    np.testing.assert_array_equal(second["x"], again["x"])


def test_weighted_draws_and_other_numbers_of_chains_start_from_resampled_draws():
    weighted = ppl.sample(samplers.Laplace(), TARGET, progress=False, num_samples=200)
    walk = samplers.RandomWalk(step_size=1e-4)
    options: dict[str, Any] = {
        "num_warmup": 0,
        "num_samples": 1,
        "progress": False,
        "num_chains": 3,
    }
    draws = ppl.sample(walk, TARGET, init=weighted, **options)
    distance = np.abs(draws["x"][:, 0, None] - weighted["x"][0]).max(axis=-1).min(axis=1)
    assert np.all(distance < 1e-2)


def test_draws_of_another_target_are_refused(first):
    other = ppl.from_log_density(lambda p: -(p["a"] ** 2), {"a": jnp.zeros(())})
    with pytest.raises(TargetError, match="these draws are of another target"):
        ppl.sample(samplers.RandomWalk(), other, init=first, **OPTIONS)
