"""Independent, exact draws from a target that can be sampled.

For priors and references, for targets whose law is known, and as the truth that other samplers
are held against: the draws are independent and carry no weights.
"""

from typing import Any, ClassVar

from jaxtyping import PRNGKeyArray

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import DirectSampler, Exactness


class ExactDraws(DirectSampler):
    """Independent draws by ``target.sample``: exact.

    Raises
    ------
    TargetError
        For a model with data, whose ``sample`` draws from the prior.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"sample"})
    exactness: ClassVar[Exactness] = "exact"

    def check(self, target: Energy) -> None:
        if "log_likelihood" in target.offers and not getattr(target, "observes_nothing", False):
            raise TargetError(
                "ExactDraws: this target has a likelihood, and its sample() draws from the prior. "
                "Use a sampler of the posterior such as samplers.NUTS(); for prior draws sample "
                "target.prior, or call target.sample(rng_key, n)"
            )

    def draw(self, rng_key: PRNGKeyArray, target: Any, n: int) -> tuple[Position, None]:
        return target.sample(rng_key, n), None
