"""What methods that are a rule on the denoised value have in common."""

import jax.numpy as jnp
import numpy as np
import pytest

import gaussian_inverse as g
import ppl
import samplers


@pytest.fixture(scope="module")
def target():
    return g.problem()


def test_problems_that_differ_in_data_and_samplers_in_numbers_share_one_program(compilations):
    """Batched over problems in one compilation."""
    problems = [g.problem(noise=noise, observation=y) for noise, y in ((0.3, g.Y), (0.5, 2 * g.Y))]
    options = {"num_samples": 8, "progress": False}
    for first, second in (
        (samplers.DPS(num_steps=5), samplers.DPS(zeta=0.3, num_steps=5)),
        (samplers.DiffPIR(num_steps=5), samplers.DiffPIR(penalty=2.0, renewed=0.3, num_steps=5)),
    ):
        ppl.sample(first, problems[0], **options)
        with compilations() as count:
            found = ppl.sample_batch(first, ppl.stack(problems), **options)
            ppl.sample(second, problems[1], **options)
        assert not count.of("_draw")
        assert not np.allclose(found[0]["x"], found[1]["x"])


def test_evaluations_are_counted(target):
    sampler = samplers.DPS(num_steps=5, batch_size=8)
    draws = ppl.sample(sampler, target, num_samples=8, progress=False)
    assert draws.num_evaluations == (0, 8 * 5 * 2)


@pytest.mark.parametrize("name", ["PiGDM", "TMPD", "DiffPIR"])
def test_noise_of_zero_is_refused(name):
    with pytest.raises(ppl.TargetError, match=f"{name} needs noise_std > 0"):
        ppl.sample(getattr(samplers, name)(), g.problem(noise=0.0))


@pytest.mark.parametrize("name", ["PiGDM", "TMPD", "DPS", "DiffPIR", "DecomposedDiffusion"])
def test_a_log_likelihood_without_structure_is_refused_and_others_named(name):
    posterior = ppl.posterior(g.prior(), lambda x: -jnp.sum(x**2))
    with pytest.raises(ppl.TargetError, match="uses the structure of a linear.*taken by DPS"):
        ppl.sample(getattr(samplers, name)(), posterior)
