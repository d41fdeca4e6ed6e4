"""`ppl.reference`: draws that two unrelated samplers certify, or none."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import samplers
from models.targets.bimodal import bimodal
from models.targets.gaussian import Gaussian
from ppl.reference import NotCertified
from ppl.sampler import DirectSampler, Exactness

SIZES: dict[str, Any] = {"num_samples": 4000, "num_chains": 4, "progress": False}


class Scaled(DirectSampler):
    """Draws of a standard Gaussian, times ``scale``."""

    exactness: ClassVar[Exactness] = "exact"
    scale: float = 1.0

    def draw(self, rng_key, target, n):
        return self.scale * jax.random.normal(rng_key, (n, 2)), None


class OneMode(DirectSampler):
    """Draws of the mode at 0 of a bimodal target."""

    exactness: ClassVar[Exactness] = "exact"

    def draw(self, rng_key, target, n):
        return jax.random.normal(rng_key, (n, 2)), None


def density():
    return ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))


@pytest.fixture(scope="module")
def certified():
    return ppl.reference(
        density(), {"MALA": samplers.MALA(), "walk": samplers.RandomWalk()}, 1, **SIZES
    )


def test_two_samplers_that_agree_certify_draws(certified):
    note = certified.run.notes[-1]
    assert note.startswith("certified: MALA and walk agree, the largest of 8 differences is")
    assert "energy distance p =" in note
    assert certified.run.sampler_name == "MALA"  # it has more effective draws
    assert certified["x"].shape == (4, 4000, 2)


def test_the_certificate_is_kept_in_a_file(certified, tmp_path):
    certified.save(tmp_path / "reference.nc")
    assert ppl.load(tmp_path / "reference.nc").run.notes == certified.run.notes


def test_certified_draws_are_a_reference_for_compare(certified):
    entered = {"MALA": samplers.MALA(), "ULA": samplers.ULA(step_size=0.8)}
    found = ppl.compare(
        density(), entered, 5, 20_000, num_seeds=2, reference=certified, progress=False
    )
    assert found.recommendation.sampler == "MALA"
    assert not found.table.loc["ULA", "right"]
    assert found.truth.label == "draws of MALA"


def test_a_target_with_exact_draws_needs_no_samplers():
    draws = ppl.reference(Gaussian(2), num_samples=500, num_chains=2)
    assert draws["x"].shape == (1, 1000, 2)
    assert draws.run.notes == ["certified: exact draws of the target"]


@pytest.mark.parametrize(
    ("scale", "agrees"), [(1.0, True), (1.05, False), (0.95, False)], ids=["right", "wide", "thin"]
)
def test_a_scale_that_is_five_percent_off_is_not_certified(scale, agrees):
    pair = {"exact": samplers.ExactDraws(), "other": Scaled(scale=scale)}
    sizes = SIZES | {"num_samples": 5000}
    if agrees:
        assert "agree" in ppl.reference(Gaussian(2), pair, **sizes).run.notes[-1]
        return
    with pytest.raises(NotCertified, match="disagree by .* standard errors .* probabilities") as e:
        ppl.reference(Gaussian(2), pair, **sizes)
    assert set(e.value.draws) == {"exact", "other"}


def test_a_missed_mode_is_not_certified():
    pair = {"exact": samplers.ExactDraws(), "one mode": OneMode()}
    with pytest.raises(NotCertified, match="no reference: exact and one mode disagree"):
        ppl.reference(bimodal(weight=0.9), pair, **SIZES)


def test_a_sampler_that_fails_its_own_diagnostics_is_not_certified():
    pair = {"MALA": samplers.MALA(), "walk": samplers.RandomWalk()}
    short = {"num_samples": 60, "num_chains": 4, "num_warmup": 100, "progress": False}
    with pytest.raises(NotCertified, match=r"no reference: \w+ cannot be used, .*R-hat|effective"):
        ppl.reference(density(), pair, **short)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "this target cannot be drawn from, so a reference needs two unrelated samplers"),
        ({"MALA": samplers.MALA()}, "a reference needs two samplers or more, unrelated, by name"),
        ([samplers.MALA()], "a reference needs two samplers or more"),
        (
            {"a": samplers.MALA(), "b": samplers.MALA(step_size=0.2)},
            "'a' and 'b' are both MALA: a reference needs unrelated samplers",
        ),
        (
            {"MALA": samplers.MALA(), "ULA": samplers.ULA(step_size=0.1)},
            "'ULA' is biased: a reference needs samplers that are not",
        ),
        ({"MALA": samplers.MALA(), "b": np.zeros(3)}, "'b' is no sampler"),
    ],
)
def test_what_cannot_certify_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ppl.reference(density(), given, progress=False)
