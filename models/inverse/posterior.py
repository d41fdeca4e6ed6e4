"""What every posterior in closed form is: a target that draws from itself, data and all.

    log density = log p(x) + log p(y | x),    log normalizer = log p(y) + the constant of the prior

as `ppl.posterior` has it.
"""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from models.targets.known import Known
from ppl.linear_gaussian import LinearGaussian


class ExactPosterior(Known):
    """A posterior whose evidence is known; one defines ``sample``, ``modes``, ``log_evidence``."""

    prior: eqx.AbstractVar[Any]
    likelihood: eqx.AbstractVar[LinearGaussian]

    @property
    @abstractmethod
    def log_evidence(self) -> Float[Array, ""]:
        """Log p(y), of a normalized prior."""

    @property
    def offers(self) -> frozenset[str]:
        return super().offers | {"log_likelihood"}

    @property
    def observes_nothing(self) -> bool:
        """Whether ``sample`` draws from the target: it does, data and all."""
        return True

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        return self.prior.template

    @property
    def log_normalizer(self) -> Float[Array, ""]:
        return self.log_evidence + self.prior.log_normalizer

    def log_likelihood(self, position: Float[Array, "..."]) -> Float[Array, ""]:
        """Of the observation."""
        return self.likelihood(position)

    def log_density(self, position: Float[Array, "..."]) -> Float[Array, ""]:
        return self.prior.log_density(position) + self.likelihood(position)
