"""What methods that move in a way of their own have in common."""

import pytest

import gaussian_inverse as g
import ppl
import samplers


@pytest.fixture(scope="module")
def target():
    return g.problem()


@pytest.mark.parametrize("name", ["DAPS", "PnPDM", "REDDiff", "STSL"])
def test_noise_of_zero_is_refused(name):
    with pytest.raises(ppl.TargetError, match=f"{name} needs noise_std > 0"):
        ppl.sample(getattr(samplers, name)(), g.problem(noise=0.0))


def test_levels_off_the_path_are_refused(target):
    with pytest.raises(ValueError, match="noise goes from 20 to 0.02.*rho_max=30"):
        ppl.sample(samplers.PnPDM(rho_max=30.0), target)
    with pytest.raises(ValueError, match="DAPS adds noise, and the noises of two levels of PFGM"):
        ppl.sample(samplers.DAPS(), g.problem(samplers.PFGM()))
    with pytest.raises(ValueError, match="num_steps must be an integer, at least 2; got 1"):
        ppl.sample(samplers.DDRM(num_steps=1), target)
